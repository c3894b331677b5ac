"""Multi-seed pieces: gathered from the tables of blocks, flooded, and left as labelled runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.labels.runs import Ints, Runs
from cristae.labels.statistics import measure_runs, probability_sums
from cristae.segmentation.batches import PieceBatch
from cristae.segmentation.job import SegmentJob, load_table, targets_of
from cristae.segmentation.resolve import UNASSIGNED
from cristae.segmentation.scanning import copy_values


class MultiSeedRuns(NamedTuple):
    """Multi-seed pieces in a block: runs, their values, and seeds inside them.

    ``piece`` and ``overlap_piece`` count within the batch, ``overlap_seed`` are instances.
    """

    start: Ints
    length: NDArray[np.int32]
    piece: Ints
    value: NDArray[np.uint8]
    overlap_start: Ints
    overlap_length: NDArray[np.int32]
    overlap_piece: Ints
    overlap_seed: Ints


class Decoded(NamedTuple):
    """A multi-seed piece decoded, as runs of one label each.

    Attributes:
        start: Places of the runs.
        length: Their lengths.
        label: Label of each, from 0.
        source: Index of the multi-seed run each was cut from.
        value: Value of each of their voxels.
    """

    start: Ints
    length: NDArray[np.int32]
    label: NDArray[np.int32]
    source: Ints
    value: NDArray[np.uint8]


def multi_seed_runs(job: SegmentJob, batch: PieceBatch) -> tuple[MultiSeedRuns, Ints]:
    """The multi-seed pieces of a batch, and for each run which of the batch's blocks it lies in."""
    parts = [_multi_seed_in(job, index, batch) for index in batch.blocks]
    block = np.repeat(np.arange(len(parts)), [part.start.size for part in parts])
    return MultiSeedRuns(*(np.concatenate(field) for field in zip(*parts, strict=True))), block


def save_decoded(
    job: SegmentJob,
    k: int,
    batch: PieceBatch,
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
        block: Which of the batch's blocks each multi-seed run lies in.
        removed: Whole instances that were dropped because they are small.
    """
    start, length, label, source, value = (np.concatenate(f) for f in zip(*results, strict=True))
    runs = Runs(start, length)
    probability_sum = probability_sums(length, value)
    statistics = measure_runs(runs, label, instances.size, probability_sum, job.raster)
    order = np.argsort(block[source], kind="stable")
    rows = np.stack([start, length, instances[label]], axis=1)[order]
    first = np.searchsorted(block[source][order], np.arange(len(batch.blocks) + 1))
    found_there = {"blocks": np.array(batch.blocks), "row": first, "rows": rows}
    known = {"instances": instances, "removed": np.array([removed])}
    arrays = {**found_there, **known, **statistics._asdict()}
    job.scratch.save(f"flood-{k}", arrays)


def _multi_seed_in(job: SegmentJob, index: int, batch: PieceBatch) -> MultiSeedRuns:
    names = ("start", "length", "piece", "keeps_values", "value", "seed_overlap", "overlap_piece")
    start, length, piece, keeps_values, value, seed_overlap, overlap_piece = load_table(
        job, index, *names
    )
    target, seed = targets_of(job, index)
    members = np.sort(np.array(batch.pieces))
    number = -2 - target
    position = np.minimum(np.searchsorted(members, number), members.size - 1)
    position = np.where(members[position] == number, position, -1)
    width = job.decoding.width
    runs, its_piece, its_value = _select(start, length, piece, position, keeps_values, value, width)
    overlap_seed = seed[seed_overlap[2]]
    seeds = (position[overlap_piece] >= 0) & (overlap_seed != UNASSIGNED)
    return MultiSeedRuns(
        *runs,
        its_piece,
        its_value,
        seed_overlap[0, seeds],
        seed_overlap[1, seeds].astype(np.int32),
        position[overlap_piece[seeds]],
        overlap_seed[seeds],
    )


def _select(
    start: Ints,
    length: NDArray[np.int32],
    piece: NDArray[np.int32],
    position: Ints,
    keeps_values: NDArray[np.bool_],
    value: NDArray[np.uint8],
    width: int,
) -> tuple[Runs, Ints, NDArray[np.uint8]]:
    """Runs of pieces with a position from 0 on, the position of each, and their values.

    A voxel has ``width`` values.
    """
    mine = np.flatnonzero(position[piece] >= 0)
    its_value = np.empty(width * int(length[mine].sum(dtype=np.int64)), np.uint8)
    _copy_values(length * np.int64(width), piece, position, keeps_values, value, its_value)
    return Runs(start[mine], length[mine]), position[piece[mine]], its_value


@njit(nogil=True, cache=True)
def _copy_values(length, piece, position, keeps_values, value, out):  # type: ignore[no-untyped-def]
    at = begin = 0
    for i in range(length.size):
        p = piece[i]
        if position[p] >= 0:
            copy_values(value[begin : begin + length[i]], out[at : at + length[i]])
            at += length[i]
        if keeps_values[p]:
            begin += length[i]


def in_raster_order(
    found: MultiSeedRuns, pieces: int, width: int
) -> tuple[Ints, Runs, NDArray[np.uint8], list[list[int]]]:
    """Multi-seed runs piece by piece, each in raster order.

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
    first = np.empty(length.size + 1, np.int64)
    first[0] = 0
    for i in range(length.size):
        first[i + 1] = first[i] + length[i]
    at = 0
    for i in order:
        its = value[first[i] : first[i + 1]]
        copy_values(its, out[at : at + its.size])
        at += its.size
