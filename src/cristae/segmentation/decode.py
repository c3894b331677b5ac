"""Decode: a prediction in memory becomes instances, by the steps of `cristae.segmentation.segment`.

The tables between the steps stay in memory, and the labels are painted into one array.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.files import temporary_folder
from cristae.engine.kernels import njit
from cristae.engine.memory import Promise, memory_limit
from cristae.engine.progress import ProgressCallback, takes_progress
from cristae.grid import Triple
from cristae.labels.runs import locate
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.segmentation.instances import decide_instances
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.memory import labelling_bytes, sampled_density
from cristae.segmentation.resolve import resolve_pieces
from cristae.segmentation.scratch import MemoryScratch
from cristae.segmentation.segment import leave_tables, segment_volume
from cristae.segmentation.steps import decode_step, label_step
from cristae.segmentation.writing import final_runs
from cristae.volumes.finite import checked_voxels
from cristae.volumes.formats import Source, open_volume
from cristae.volumes.values import settle_prediction
from cristae.volumes.volume import Array, ArrayReader, Volume

ROWS = 64
"""Least extent along y of what a thread labels at a time."""

SMALL = 1 << 21
"""Voxels of a volume that is labelled at once: threads would cost more than they save."""

LABEL_BYTES = 4
"""Of a voxel of the labels."""


@takes_progress
def decode(
    prediction: Source,
    config: SegmentConfig | None = None,
    *,
    resources: Resources | None = None,
    progress: ProgressCallback | None = None,
) -> Array:
    """Decode a prediction into instances in memory.

    The labels are those of `cristae.segmentation.segment.segment_volume`, to the byte. Where its
    tables do not fit beside the labels, they go through temporary files, as there.

    Args:
        prediction: (c, z, y, x) probabilities, or (z, y, x), as `segment_volume` takes them: an
            array, a volume, or the path of one.
        config: Decoder and parameters; ``bc_watershed`` with its own by default.
        resources: Workers and memory; threads, or none.
        progress: Called with a `Progress` as work is done.

    Returns:
        Labels (z, y, x), uint32 (uint64 beyond 2**32 - 1 instances), 0 background, 1..n in order
        of the first voxel.

    Raises:
        ConfigError: A decoder or parameter that cannot be used with this prediction.
        InputError: Probabilities outside [0, 1], or not a number.
        MemoryLimitError: A piece that has to be flooded whole does not fit.
    """
    volume = open_volume(prediction, kind="prediction")
    return decode_volume(volume, config or SegmentConfig(), Promise(resources or Resources()))


def decode_volume(volume: Volume, config: SegmentConfig, promise: Promise) -> Array:
    """Decode as `decode` does, within what a stage has promised.

    Args:
        volume: The prediction.
        config: Decoder and parameters.
        promise: Told of the memory; its resources are used.
    """
    if isinstance(volume.reader, ArrayReader):  # may be read in layers as thin as one likes
        volume = volume.with_(chunk_shape=(1, *volume.shape[1:]))
    resources = replace(promise.resources, executor="threads")
    if volume.box.size <= SMALL:
        resources = replace(resources, executor="serial")
    decoding = resolve(config, volume)
    volume = settle_prediction(volume, resources)
    volume = checked_voxels(volume, resources, probabilities=True)
    job = SegmentJob(volume, decoding, volume.shape, MemoryScratch())
    if volume.box.size > SMALL:
        needed = _needed(job)
        if promise.held + needed > memory_limit(resources):
            return _through_files(volume, config, resources)
        promise("decode", needed)
        job = replace(job, block_shape=_slabs(volume.shape, resources.workers))
    leave = partial(leave_tables, job, resources)
    leave("label", job.blocks, label_step)
    plan = resolve_pieces(job)
    floods = leave("flood", plan.batches, decode_step)
    columns, _ = decide_instances(job, plan, floods, leave, _promise_nothing)
    labels = np.zeros(volume.shape, columns["id"].dtype)
    paint = partial(_paint_block, job, labels)
    for _ in run_tasks(paint, range(len(job.blocks)), resources):
        pass
    return labels


def _slabs(shape: Triple, workers: int) -> Triple:
    """Blocks over the whole of z and x, one a thread."""
    z, y, x = shape
    return z, max(ROWS, -(-y // workers)), x


def _needed(job: SegmentJob) -> int:
    """Memory of the tables of all blocks, and of the labels."""
    tables = labelling_bytes(job, sampled_density(job), False, 1)
    return tables + LABEL_BYTES * job.prediction.box.size


def _through_files(volume: Volume, config: SegmentConfig, resources: Resources) -> Array:
    with temporary_folder() as folder:
        labels = segment_volume(
            volume, folder / "labels.zarr", config=config, pyramid=False, resources=resources
        )
        return labels.read()


def _promise_nothing(*_: object) -> None:
    """What is in memory already needs no promise."""


def _paint_block(job: SegmentJob, labels: Array, index: int) -> None:
    """Paint the instances of a block."""
    runs, name = final_runs(job, index)
    raster = job.raster
    _paint(runs.start, runs.length, name, raster.plane, raster.row, labels)


@njit(nogil=True, cache=True)
def _paint(start, length, name, plane, row, labels):  # type: ignore[no-untyped-def]
    for i in range(start.size):
        z, y, x = locate(start[i], plane, row)
        for u in range(x, x + length[i]):
            labels[z, y, u] = name[i]
