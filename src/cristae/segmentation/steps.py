"""Steps: the tasks of a segmentation. Each reads what earlier steps left and leaves one file.

Every task depends only on the job and its item, so it may be done again, anywhere, at any time.
"""

import numpy as np

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import Ints, Runs, no_runs, runs_meet, runs_of_plane
from cristae.labels.statistics import Statistics, measure_runs, probability_sums_in
from cristae.segmentation.batches import PieceBatch
from cristae.segmentation.job import SegmentJob, load_table, targets_of
from cristae.segmentation.reading import read_channels
from cristae.segmentation.resolve import UNASSIGNED


def label_step(job: SegmentJob, index: int, box: Box) -> None:
    """Label one block alone; leaves its table."""
    job.scratch.save(f"label-{index}", job.decoding.label(job, box)._asdict())


def decode_step(job: SegmentJob, k: int, batch: PieceBatch) -> None:
    """Decode pieces of several seeds, or of several fragments."""
    job.decoding.decode(job, k, batch)


def dilate_step(job: SegmentJob, index: int, box: Box) -> None:
    """Dilate the instances in plane; the larger number wins.

    A block is a core it writes and a halo of ``reach`` voxels along y and x that it reads.
    """
    y, x = job.decoding.reach
    halo = box.grow((0, y, x)).clip(job.prediction.box)
    runs, instance = _own_runs(job, halo, None)
    order = np.argsort(runs.start, kind="stable")
    raster = job.raster
    parts, names = [no_runs()], [np.zeros(0, np.int64)]
    first = np.searchsorted(
        runs.start[order], [z * raster.plane for z in range(box.start[0], box.stop[0] + 1)]
    )
    for z in range(box.start[0], box.stop[0]):
        mine = order[first[z - box.start[0]] : first[z - box.start[0] + 1]]
        if mine.size:
            plane = np.zeros(box.shape[1:], np.int64)
            corner = (z * raster.plane, *box.start[1:])
            at, name = runs.take(mine), instance[mine] + 1
            _dilate(at.start, at.length, name, plane, corner, raster.row, (y, x))
            found, name = runs_of_plane(plane, raster.voxel_index(z, *box.start[1:]), raster)
            parts.append(found)
            names.append(name - 1)
    wide = Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    instances, label = np.unique(np.concatenate(names), return_inverse=True)
    probability_sum = probability_sums_in(wide, read_channels(job, box)[0], box, raster)
    statistics = measure_runs(wide, label, instances.size, probability_sum, raster)
    rows = {**wide._asdict(), "label": label, "instances": instances}
    job.scratch.save(f"wide-{index}", {**rows, **statistics._asdict()})


def _own_runs(job: SegmentJob, box: Box, number: Ints | None) -> tuple[Runs, Ints]:
    """Runs of the blocks that share voxels with a box, and the instance of each; no floods."""
    parts, names = [], []
    for index, block in job.blocks_in(box):
        start, length, piece = load_table(job, index, "start", "length", "piece")
        name = renamed(targets_of(job, index)[0], number)
        own = runs_meet(Runs(start, length), block, box, job.raster)
        own_start, own_length, own_name = _owned(start, length, piece, name, own)
        parts.append(Runs(own_start, own_length))
        names.append(own_name)
    runs = Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    return runs, np.concatenate(names)


def renamed(instance: Ints, number: Ints | None) -> Ints:
    """The number of each instance, or each as it is without numbers; below 0 unassigned."""
    if number is None:
        return instance
    name = np.full(instance.size, UNASSIGNED, np.int64)
    own = instance >= 0
    name[own] = number[instance[own]]
    return name


@njit(nogil=True, cache=True)
def _owned(start, length, piece, name, there):  # type: ignore[no-untyped-def]
    """The runs that are there and whose piece has a name of 0 or more."""
    count = 0
    for i in range(start.size):
        there[i] &= name[piece[i]] >= 0
        count += there[i]
    its_start, its_length = np.empty(count, np.int64), np.empty(count, np.int32)
    its_name = np.empty(count, np.int64)
    n = 0
    for i in range(start.size):
        if there[i]:
            its_start[n], its_length[n], its_name[n] = start[i], length[i], name[piece[i]]
            n += 1
    return its_start, its_length, its_name


@njit(nogil=True, cache=True)
def _dilate(start, length, name, plane, corner, row, reach):  # type: ignore[no-untyped-def]
    ny, nx = plane.shape
    for i in range(start.size):
        rest = start[i] - corner[0]
        y = rest // row - corner[1]
        x = rest - (rest // row) * row - corner[2]
        for v in range(max(0, y - reach[0]), min(ny, y + reach[0] + 1)):
            for u in range(max(0, x - reach[1]), min(nx, x + length[i] + reach[1])):
                plane[v, u] = max(plane[v, u], name[i])


def instance_runs(job: SegmentJob, index: int, number: Ints | None = None) -> tuple[Runs, Ints]:
    """Runs of a block as decoded, in any order, and the instance of each.

    With the number of each instance that number instead, and no runs of instances below 0.
    """
    if job.decoding.reach != (0, 0):
        wide = job.scratch.load(f"wide-{index}", "start", "length", "label", "instances")
        runs, name = Runs(wide[0], wide[1]), renamed(wide[3], number)[wide[2]]
        return (runs, name) if number is None else (runs.take(name >= 0), name[name >= 0])
    runs, instance = _own_runs(job, job.block(index), number)
    starts, lengths, names = [runs.start], [runs.length], [instance]
    spans, fresh = job.scratch.load("spans", "spans", "fresh")
    low, high = np.searchsorted(spans[:, 0], [index, index + 1])
    for _, k, first, last in spans[low:high].tolist():
        rows = job.scratch.rows(f"flood-{k}", "rows", first, last)
        name = np.where(rows[:, 2] < 0, fresh[k] + ~rows[:, 2], rows[:, 2])
        if number is not None:
            name = number[name]
            rows, name = rows[name >= 0], name[name >= 0]
        starts.append(rows[:, 0])
        lengths.append(rows[:, 1].astype(np.int32))
        names.append(name)
    return Runs(np.concatenate(starts), np.concatenate(lengths)), np.concatenate(names)


def runs_around(job: SegmentJob, box: Box) -> tuple[Runs, Ints]:
    """Runs as decoded that have a voxel in a box, in raster order, and the instance of each."""
    parts, names = [no_runs()], [np.zeros(0, np.int64)]
    for index, block in job.blocks_in(box):
        runs, instance = instance_runs(job, index)
        near = runs_meet(runs, block, box, job.raster)
        parts.append(runs.take(near))
        names.append(instance[near])
    runs = Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    order = np.argsort(runs.start, kind="stable")
    return runs.take(order), np.concatenate(names)[order]


def statistics_of(job: SegmentJob, file: str) -> tuple[Ints, Statistics]:
    """Instances of a flood's or a dilation's file, and their statistics."""
    instances, *fields = job.scratch.load(file, "instances", *Statistics._fields)
    return instances, Statistics(*fields)
