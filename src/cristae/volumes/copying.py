"""Copying a volume shard by shard, or group by group where the source's chunks are larger."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.ledger import Ledger
from cristae.engine.memory import (
    GIB,
    memory_limit,
)
from cristae.engine.tasks import OverlappedTask, Task, block_tasks, run_step
from cristae.errors import InputError
from cristae.grid import Box, Triple, tile
from cristae.volumes.volume import Array, Volume

_GROUP_BYTES = 2 * GIB


Group = tuple[Sequence[Box], Array]
"""Some shards, and the voxels of their hull."""


@dataclass(frozen=True)
class ConvertJob:
    """One conversion: what is read, where to, and how.

    Attributes:
        source: What is read.
        target: What is written, level 0.
        group: Shards read at a time, as an extent (z, y, x) in voxels.
    """

    source: Volume
    target: Volume
    group: Triple

    @property
    def shard(self) -> Triple:
        """Unit of writing (z, y, x) in voxels."""
        return self.target.shard_shape or self.target.chunk_shape


def copy_voxels(job: ConvertJob, ledger: Ledger, resources: Resources) -> None:
    """Write every shard of level 0 that is not written yet."""
    shards = tile(job.target.box, job.shard)
    if job.group == job.shard:
        tasks = block_tasks(shards, task_bytes(job))
        run_step("copy", tasks, partial(_copy_shard, job), record=ledger, resources=resources)
        return
    done, tasks = ledger.done("copy"), []
    for group in tile(job.target.box, job.group):
        missing = tuple(box for box in tile(group, job.shard) if str(box) not in done)
        if missing:
            size = sum(box.size for box in missing)
            names = tuple(map(str, missing))
            tasks.append(Task(missing, names, _hull(missing), size, task_bytes(job)))
    before = job.target.size - sum(task.size for task in tasks)
    work: OverlappedTask | partial[None] = partial(_copy_group, job)
    if resources.executor != "processes":  # one group at a time, its chunks and shards in parallel
        share, resources = resources, replace(resources, executor="serial")
        work = OverlappedTask(
            lambda read: read,
            read=partial(_read_group, job, resources=share),
            write=partial(_write_group, job, resources=share),
        )
    run_step("copy", tasks, work, record=ledger, resources=resources, before=before)


def _copy_shard(job: ConvertJob, box: Box) -> None:
    job.target.write(box, _stored(job, job.source.read(box), box))


def _copy_group(job: ConvertJob, shards: Sequence[Box]) -> None:
    alone = Resources(1, "serial")
    for _ in _write_group(job, _read_group(job, shards, alone), alone):
        pass


def _read_group(job: ConvertJob, shards: Sequence[Box], resources: Resources) -> Group:
    """Read the hull of some shards in parallel."""
    hull = _hull(shards)
    lead = () if job.target.channels is None else (len(job.target.channels),)
    buffer = np.empty((*lead, *hull.shape), job.target.dtype)

    def read(part: Box) -> None:
        array = _stored(job, job.source.read(part), part)
        buffer[(..., *part.relative_to(hull.start).slices())] = array

    for _ in run_tasks(read, tile(hull, job.source.chunk_shape), resources):
        pass
    return shards, buffer


def _write_group(job: ConvertJob, group: Group, resources: Resources) -> Iterator[Box]:
    """Write some shards in parallel; gives each that is written."""
    shards, buffer = group
    corner = _hull(shards).start

    def write(box: Box) -> None:
        array = buffer[(..., *box.relative_to(corner).slices())]
        job.target.write(box, np.ascontiguousarray(array))

    return (box for box, _ in run_tasks(write, shards, resources))


def _stored(job: ConvertJob, array: Array, box: Box) -> Array:
    """Voxels as they are stored: labels checked, and unsigned.

    Raises:
        InputError: Labels that are negative, fractional, or too large for the stored dtype.
    """
    dtype = job.target.dtype
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore"):  # what no integer can hold is told below
        stored = array.astype(dtype)
    if array.size and (array.min() < 0 or not np.array_equal(stored, array)):
        wrong = array[(array < 0) | (stored != array)]
        raise InputError(
            f"{job.source.name}: labels with value {wrong[0]} in {box}, "
            f"expected whole numbers from 0 to {np.iinfo(dtype).max}"
        )
    return stored


def _hull(boxes: Sequence[Box]) -> Box:
    start = np.array([box.start for box in boxes]).min(axis=0)
    stop = np.array([box.stop for box in boxes]).max(axis=0)
    return Box(
        (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))
    )


def group_shape(source: Volume, target: Volume, resources: Resources) -> Triple:
    """Whole shards around one chunk of the source, halved along y, x, z until they fit the budget.

    Depends on the memory, and changes no byte of the output.
    """
    budget = min(_GROUP_BYTES, memory_limit(resources) / 3)
    if resources.executor == "processes":  # each has a group of its own
        budget /= resources.workers
    shard = target.shard_shape or target.chunk_shape
    counts = [-(-c // s) for c, s in zip(source.chunk_shape, shard, strict=True)]
    while (axis := next((a for a in (1, 2, 0) if counts[a] > 1), None)) is not None:
        extent = Box.of(_times(shard, counts)).clip(target.box)
        if extent.size * voxel_bytes(target) <= budget:
            break
        counts[axis] = -(-counts[axis] // 2)
    return _times(shard, counts)


def _times(shard: Triple, counts: list[int]) -> Triple:
    z, y, x = (s * n for s, n in zip(shard, counts, strict=True))
    return z, y, x


def voxel_bytes(volume: Volume) -> int:
    """Bytes of a voxel, all channels together."""
    return int(volume.dtype.itemsize) * len(volume.channels or (0,))


def task_bytes(job: ConvertJob, workers: int = 1) -> int:
    """Memory that copying a shard takes, or a group of shards, by so many workers together."""
    group, shard, chunk = (
        Box.of(extent).clip(job.target.box).size * voxel_bytes(job.target)
        for extent in (job.group, job.shard, job.source.chunk_shape)
    )
    if job.group == job.shard:
        return workers * (3 * shard + 2 * chunk)
    return group + workers * (2 * shard + 3 * chunk)
