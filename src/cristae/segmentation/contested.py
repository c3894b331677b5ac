"""Contested pieces: gathered from the tables of blocks, flooded, and left as labelled runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.labels.runs import Ints, Runs
from cristae.labels.statistics import mass_of, measure_runs
from cristae.segmentation.batches import Batch
from cristae.segmentation.job import Job, load_table, targets_of
from cristae.segmentation.resolve import NOBODY
from cristae.segmentation.scanning import copy_values


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
    job.scratch.save(f"flood-{k}", arrays)


def _contested_in(job: Job, index: int, batch: Batch) -> Contested:
    names = ("start", "length", "piece", "valued", "value", "share", "share_piece")
    start, length, piece, valued, value, share, share_piece = load_table(job, index, *names)
    target, seed = targets_of(job, index)
    members = np.sort(np.array(batch.pieces))
    number = -2 - target
    position = np.minimum(np.searchsorted(members, number), members.size - 1)
    position = np.where(members[position] == number, position, -1)
    width = job.decoding.width
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
