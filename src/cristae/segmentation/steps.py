"""Steps: the tasks of a segmentation. Each reads what earlier steps left and leaves one file.

Every task depends only on the job and its item, so it may be done again, anywhere, at any time.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cristae.grid import Box
from cristae.segmentation.affinity import box_of_edges, edges_of, label_affinities, scan_edges
from cristae.segmentation.batches import Batch
from cristae.segmentation.components import (
    Statistics,
    label_block,
    mass_in,
    mass_of,
    measure_runs,
)
from cristae.segmentation.decoders import Levels, quantise
from cristae.segmentation.flood import flood, labelled_runs
from cristae.segmentation.resolve import NOBODY
from cristae.segmentation.runs import (
    Ints,
    Raster,
    Runs,
    join_owners,
    no_runs,
    number_roots,
    runs_meet,
    runs_of_plane,
    scan_rule,
)
from cristae.segmentation.scanning import copy_values
from cristae.segmentation.scratch import (
    Job,
    load_arrays,
    load_rows,
    load_table,
    save_arrays,
)
from cristae.volumes.volume import Volume

LAYER = 32
"""Planes read at a time, or as many as a chunk has."""


def read_channels(job: Job, box: Box) -> Levels:
    """The channels the decoder reads, as (c, z, y, x) uint8."""
    array = job.prediction.read(box)
    array = array[None] if array.ndim == 3 else array[: job.decoding.channels]
    return quantise(array, f"{job.prediction.name}, box {box}")


def read_layers(job: Job, box: Box) -> Iterator[tuple[Box, Levels]]:
    """The channels of a box, layer by layer: the box of each, and (c, z, y, x) uint8."""
    for layer in layers_of(job.prediction, box):
        yield layer, read_channels(job, layer)


def layers_of(volume: Volume, box: Box) -> list[Box]:
    """Cut a box into layers of whole chunks.

    Arrays of that size are taken and given back without a page fault, those of whole shards not.
    """
    step = layer_depth(volume)
    (first, *_), stop = box.start, box.stop[0]
    cuts = [first, *range((first // step + 1) * step, stop, step), stop]
    return [Box((low, *box.start[1:]), (high, *box.stop[1:])) for low, high in pairwise(cuts)]


def layer_depth(volume: Volume) -> int:
    """Planes of a layer."""
    chunk = volume.chunk_shape[0]
    return -(-LAYER // chunk) * chunk


def label_step(job: Job, index: int, box: Box) -> None:
    """Label one block alone; leaves its table."""
    if job.decoding.affinity is not None:
        table = label_affinities(read_edges(job, box), box, job.raster, job.decoding)
    else:
        table = label_block(read_layers(job, box), box, job.raster, job.decoding)
    save_arrays(job.path(f"label-{index}"), table._asdict())


def read_edges(job: Job, box: Box) -> NDArray[np.uint8]:
    """The edges that end in a block or just behind it (`cristae.segmentation.affinity`)."""
    rule = job.decoding.affinity
    if rule is None:
        raise TypeError(f"{job.decoding.decoder} reads no affinities")
    read = box_of_edges(box, job.prediction.shape, rule)
    return edges_of(read_channels(job, read), read, box, rule)


def sample_density(job: Job, box: Box) -> tuple[float, float]:
    """Runs and foreground a voxel in a box."""
    if job.decoding.affinity is not None:
        pieces, _, _ = scan_edges(read_edges(job, box), box, job.raster, job.decoding)
        return pieces.start.size / box.size, float(pieces.length.sum()) / box.size
    planes = tuple(read_channels(job, box))
    pieces = scan_rule(planes, box, job.raster, job.decoding.foreground)
    seeds = scan_rule(planes, box, job.raster, job.decoding.seed or job.decoding.foreground)
    count = pieces.start.size + seeds.start.size
    return count / box.size, float(pieces.length.sum()) / box.size


class Contested(NamedTuple):
    """Contested pieces in a block: runs, their values, and seeds inside them.

    ``piece`` and ``share_piece`` count within the batch, ``share_seed`` are instances.
    """

    start: Ints
    length: NDArray[np.int32]
    piece: Ints
    value: NDArray[np.uint8]
    share_start: Ints
    share_length: NDArray[np.int32]
    share_piece: Ints
    share_seed: Ints


class Decoded(NamedTuple):
    """A contested piece decoded, as runs of one label each.

    Attributes:
        start: Places of the runs.
        length: Their lengths.
        label: Label of each, from 0.
        source: Index of the contested run each was cut from.
        value: Value of each of their voxels.
    """

    start: Ints
    length: NDArray[np.int32]
    label: NDArray[np.int32]
    source: Ints
    value: NDArray[np.uint8]


def flood_step(job: Job, k: int, batch: Batch) -> None:
    """Flood a batch of contested pieces, each on its own; leaves labelled runs by block."""
    found, block = contested_runs(job, batch)
    instances, name = np.unique(found.share_seed, return_inverse=True)
    order, runs, value, bounds = in_raster_order(found, len(batch.pieces), 1)
    found = found._replace(value=value)  # the only copy from here on
    pieces = (order, runs, bounds)
    results = _flood_pieces(found, pieces, name.astype(np.int32) + 1, batch, job)
    labels = max((int(result.label.max(initial=-1)) + 1 for result in results), default=0)
    instances = np.append(instances, ~np.arange(max(0, labels - instances.size)))
    save_decoded(job, k, batch, results, instances, block)


def contested_runs(job: Job, batch: Batch) -> tuple[Contested, Ints]:
    """The contested pieces of a batch, and for each run which of the batch's blocks it lies in."""
    parts = [_contested_in(job, index, batch) for index in batch.blocks]
    block = np.repeat(np.arange(len(parts)), [part.start.size for part in parts])
    return Contested(*(np.concatenate(field) for field in zip(*parts, strict=True))), block


def save_decoded(
    job: Job,
    k: int,
    batch: Batch,
    results: Sequence[Decoded],
    instances: Ints,
    block: Ints,
    removed: int = 0,
) -> None:
    """Leave the labelled runs of a batch by block, with statistics of its instances.

    Args:
        job: The segmentation.
        k: Number of the batch.
        batch: The batch.
        results: Its pieces decoded; labels count over all of them.
        instances: Instance of each label; ~i for the i-th that only this batch knows.
        block: Which of the batch's blocks each contested run lies in.
        removed: Whole instances that were dropped because they are small.
    """
    start, length, label, source, value = (np.concatenate(f) for f in zip(*results, strict=True))
    runs = Runs(start, length)
    mass = mass_of(length, value)
    statistics = measure_runs(runs, label, instances.size, mass, job.raster)
    order = np.argsort(block[source], kind="stable")
    rows = np.stack([start, length, instances[label]], axis=1)[order]
    first = np.searchsorted(block[source][order], np.arange(len(batch.blocks) + 1))
    found_there = {"blocks": np.array(batch.blocks), "row": first, "rows": rows}
    known = {"instances": instances, "removed": np.array([removed])}
    arrays = {**found_there, **known, **statistics._asdict()}
    save_arrays(job.path(f"flood-{k}"), arrays)


def _contested_in(job: Job, index: int, batch: Batch) -> Contested:
    names = ("start", "length", "piece", "valued", "value", "share", "share_piece")
    start, length, piece, valued, value, share, share_piece = load_table(job, index, *names)
    target, seed = targets_of(job, index)
    members = np.sort(np.array(batch.pieces))
    number = -2 - target
    position = np.minimum(np.searchsorted(members, number), members.size - 1)
    position = np.where(members[position] == number, position, -1)
    width = 1 if job.decoding.affinity is None else 3
    runs, its_piece, its_value = _select(start, length, piece, position, valued, value, width)
    share_seed = seed[share[2]]
    seeds = (position[share_piece] >= 0) & (share_seed != NOBODY)
    return Contested(
        *runs,
        its_piece,
        its_value,
        share[0, seeds],
        share[1, seeds].astype(np.int32),
        position[share_piece[seeds]],
        share_seed[seeds],
    )


def targets_of(job: Job, index: int) -> tuple[Ints, Ints]:
    """What each piece, and what each seed of a block becomes (`Plan`)."""
    plan = job.path("plan")
    base = load_rows(plan, "base", index, index + 2)
    return load_rows(plan, "target", *base[:, 0]), load_rows(plan, "seed", *base[:, 1])


def _select(
    start: Ints,
    length: NDArray[np.int32],
    piece: NDArray[np.int32],
    position: Ints,
    valued: NDArray[np.bool_],
    value: NDArray[np.uint8],
    width: int,
) -> tuple[Runs, Ints, NDArray[np.uint8]]:
    """Runs of pieces with a position from 0 on, the position of each, and their values.

    A voxel has ``width`` values.
    """
    mine = np.flatnonzero(position[piece] >= 0)
    its_value = np.empty(width * int(length[mine].sum(dtype=np.int64)), np.uint8)
    _copy_values(length * np.int64(width), piece, position, valued, value, its_value)
    return Runs(start[mine], length[mine]), position[piece[mine]], its_value


@njit(nogil=True, cache=True)
def _copy_values(length, piece, position, valued, value, out):  # type: ignore[no-untyped-def]
    at = begin = 0
    for i in range(length.size):
        p = piece[i]
        if position[p] >= 0:
            copy_values(value[begin : begin + length[i]], out[at : at + length[i]])
            at += length[i]
        if valued[p]:
            begin += length[i]


def _flood_pieces(
    found: Contested,
    pieces: tuple[Ints, Runs, list[list[int]]],
    name: NDArray[np.int32],
    batch: Batch,
    job: Job,
) -> list[Decoded]:
    (order, runs, bounds), most = pieces, int(name.max(initial=0))
    seed_order = np.lexsort((found.share_start, found.share_piece))
    seeds = Runs(found.share_start[seed_order], found.share_length[seed_order])
    name = name[seed_order]
    seed_first = np.searchsorted(found.share_piece[seed_order], np.arange(len(bounds) + 1))
    results = []
    for p, (low, high, first, last) in enumerate(bounds):
        its = slice(seed_first[p], seed_first[p + 1])
        here, piece = found.value[first:last], runs.take(slice(low, high))
        label = flood(piece, here, seeds.take(its), name[its], job.raster)
        if batch.cut:
            label_unreached(piece, label, most, job.raster)
        cut, cut_name, source = labelled_runs(piece, label)
        results.append(Decoded(*cut, cut_name - 1, order[low:high][source], here[label > 0]))
    return results


def label_unreached(piece: Runs, label: NDArray[np.int32], most: int, raster: Raster) -> None:
    """Make the parts of a cut piece that no seed reaches labels of their own, in place.

    Args:
        piece: Runs in raster order.
        label: Label of each voxel, 0 where its seed lies beyond the cut.
        most: The new labels begin behind this one.
        raster: Numbering of the volume.
    """
    rest, _, _ = labelled_runs(piece, (label == 0).astype(np.int32))
    parent = np.arange(rest.start.size, dtype=np.int64)
    join_owners(rest, np.arange(rest.start.size), parent, raster, 6)
    part, _ = number_roots(parent)
    label[label == 0] = np.repeat(part + (most + 1), rest.length)


def in_raster_order(
    found: Contested, pieces: int, width: int
) -> tuple[Ints, Runs, NDArray[np.uint8], list[list[int]]]:
    """Contested runs piece by piece, each in raster order.

    Args:
        found: The runs of a batch.
        pieces: Number of pieces.
        width: Values of a voxel.

    Returns:
        Where each run stood, the runs, the values of their voxels, and for each piece its first
        run, the end of its runs, its first voxel and the end of its voxels.
    """
    order = np.lexsort((found.start, found.piece))
    value = np.empty_like(found.value)
    _reorder(found.length * np.int64(width), order, found.value, value)
    runs = Runs(found.start[order], found.length[order])
    first = np.searchsorted(found.piece[order], np.arange(pieces + 1))
    voxel = np.append(0, np.cumsum(runs.length, dtype=np.int64))[first]
    bounds = np.stack([first[:-1], first[1:], voxel[:-1], voxel[1:]], axis=1)
    return order, runs, value, bounds.tolist()


@njit(nogil=True, cache=True)
def _reorder(length, order, value, out):  # type: ignore[no-untyped-def]
    """Copy the stretches of values of runs into another order of the runs."""
    first = np.zeros(length.size + 1, np.int64)
    for i in range(length.size):
        first[i + 1] = first[i] + length[i]
    at = 0
    for i in order:
        its = value[first[i] : first[i + 1]]
        copy_values(its, out[at : at + its.size])
        at += its.size


def widen_step(job: Job, index: int, box: Box) -> None:
    """Widen the instances of the connected path in plane; the larger number wins.

    A block is a core it writes and a halo of ``reach`` voxels along y and x that it reads.
    """
    y, x = job.decoding.reach
    halo = box.grow((0, y, x)).clip(job.prediction.box)
    runs, instance = _own_runs(job, halo)
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
            _widen(at.start, at.length, name, plane, corner, raster.row, (y, x))
            found, name = runs_of_plane(plane, raster.place(z, *box.start[1:]), raster)
            parts.append(found)
            names.append(name - 1)
    wide = Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    instances, label = np.unique(np.concatenate(names), return_inverse=True)
    mass = mass_in(wide, read_channels(job, box)[0], box, raster)
    statistics = measure_runs(wide, label, instances.size, mass, raster)
    rows = {**wide._asdict(), "label": label, "instances": instances}
    save_arrays(job.path(f"wide-{index}"), {**rows, **statistics._asdict()})


def _own_runs(job: Job, box: Box) -> tuple[Runs, Ints]:
    """Runs of the blocks that share voxels with a box, and the instance of each; no floods."""
    parts, names = [no_runs()], [np.zeros(0, np.int64)]
    for index, block in job.blocks_in(box):
        start, length, piece = load_table(job, index, "start", "length", "piece")
        instance = targets_of(job, index)[0][piece]
        own = (instance >= 0) & runs_meet(Runs(start, length), block, box, job.raster)
        parts.append(Runs(start[own], length[own]))
        names.append(instance[own])
    runs = Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))
    return runs, np.concatenate(names)


@njit(nogil=True, cache=True)
def _widen(start, length, name, plane, corner, row, reach):  # type: ignore[no-untyped-def]
    ny, nx = plane.shape
    for i in range(start.size):
        rest = start[i] - corner[0]
        y = rest // row - corner[1]
        x = rest - (rest // row) * row - corner[2]
        for v in range(max(0, y - reach[0]), min(ny, y + reach[0] + 1)):
            for u in range(max(0, x - reach[1]), min(nx, x + length[i] + reach[1])):
                plane[v, u] = max(plane[v, u], name[i])


def instance_runs(job: Job, index: int) -> tuple[Runs, Ints]:
    """Runs of a block as decoded, in any order, and the instance of each."""
    if job.decoding.reach != (0, 0):
        wide = load_arrays(job.path(f"wide-{index}"), "start", "length", "label", "instances")
        return Runs(wide[0], wide[1]), wide[3][wide[2]]
    runs, instance = _own_runs(job, job.block(index))
    starts, lengths, names = [runs.start], [runs.length], [instance]
    spans, fresh = load_arrays(job.path("spans"), "spans", "fresh")
    low, high = np.searchsorted(spans[:, 0], [index, index + 1])
    for _, k, first, last in spans[low:high].tolist():
        rows = load_rows(job.path(f"flood-{k}"), "rows", first, last)
        starts.append(rows[:, 0])
        lengths.append(rows[:, 1].astype(np.int32))
        names.append(np.where(rows[:, 2] < 0, fresh[k] + ~rows[:, 2], rows[:, 2]))
    return Runs(np.concatenate(starts), np.concatenate(lengths)), np.concatenate(names)


def runs_around(job: Job, box: Box) -> tuple[Runs, Ints]:
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


def statistics_of(job: Job, file: str) -> tuple[Ints, Statistics]:
    """Instances of a flood's or a widening's file, and their statistics."""
    instances, *fields = load_arrays(job.path(file), "instances", *Statistics._fields)
    return instances, Statistics(*fields)
