"""Overlap tables: exact integer facts of every pair of labels that meet in two label arrays.

A table has one row a pair (first label, second label) that occurs in at least one voxel, both 0
left out. Each row holds integers that add up or take extremes over voxels, so the tables of the
blocks of a volume merge to the table of the whole, whatever the blocks::

    row 6 of two arrays    0 0 7 7 7 7 7 0      runs of equal pairs along x:
                           0 0 0 0 3 3 3 3      (7,0) 2 voxels, (7,3) 3 voxels, (0,3) 1 voxel

Facts of one array by instance are the rows summed over the other label (`collapse`); a single
array is counted against itself. Sums stay below 2**63 for every volume that `check_extent` lets
through, so nothing is ever rounded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.labels.overlap_kernels import FACTS, FIRST, START, STOP, _scan, _scan_runs

Integers = NDArray[np.int64]
Labels = NDArray[np.uint64]


_MERGE_ROWS = 1 << 16


@dataclass(frozen=True)
class OverlapTable:
    """Facts of every pair of labels that meet.

    Attributes:
        labels: (n, 2) uint64, ascending by first label, then by second; no row is (0, 0).
        facts: (n, 12) int64, see `FACTS`.
        voxels: Voxels looked at, those of (0, 0) included.
    """

    labels: Labels
    facts: Integers
    voxels: int

    @classmethod
    def empty(cls) -> "OverlapTable":
        """The table of no voxels."""
        return cls(np.zeros((0, 2), np.uint64), np.zeros((0, FACTS), np.int64), 0)


class LabelRuns(NamedTuple):
    """Stretches of one label along x, in raster order, none overlapping another.

    Attributes:
        row: (n,) int64 row z * ny + y of each, in a volume of ny rows a plane.
        start: (n,) int32 first x.
        stop: (n,) int32 last x, exclusive.
        label: (n,) uint64 labels, none 0.
    """

    row: Integers
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    label: Labels


def check_extent(shape: Triple, name: str, weight: int = 1) -> None:
    """Refuse a volume so large that a sum over it could leave 64-bit integers.

    Args:
        shape: Extent (z, y, x) of the volume.
        name: What messages call it.
        weight: Largest weight of one voxel.

    Raises:
        InputError: Voxels times the longest side, or times the weight, reach 2**63.
    """
    worst = Box.of(shape).size * max(*shape, weight)
    if worst >= 2**63:
        raise InputError(f"{name}: shape {shape} allows sums up to {worst:.3g}, at most 2**63 - 1")


def as_labels(array: NDArray[Any], name: str, box: Box) -> NDArray[Any]:
    """An array of labels as contiguous unsigned integers of the same width.

    Signed integers keep their bits: negative ones look like large ones until `check_signs` has
    seen their table, which spares a look at every voxel.

    Args:
        array: (z, y, x) integers, booleans, or floats without fraction.
        name: What messages call the volume.
        box: Where the array lies in it, for messages.

    Raises:
        InputError: Fractional labels, negative floats, or another type.
    """
    kind = array.dtype.kind
    if kind not in "buif":
        raise InputError(f"{name}: labels are {array.dtype}, expected integers")
    if kind == "f":
        bad = array[~((np.floor(array) == array) & (array >= 0) & (array < np.float64(2**64)))]
        if bad.size:
            raise InputError(
                f"{name}: label {bad[0]} in box {box}, expected whole numbers from 0 to 2**64 - 1"
            )
        return np.ascontiguousarray(array.astype(np.uint64))
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return array.view(f"u{array.dtype.itemsize}")


def check_signs(
    counted: "OverlapTable", column: int, dtype: np.dtype[Any], name: str, box: Box
) -> None:
    """Refuse negative labels of an array that `as_labels` made unsigned.

    Args:
        counted: Of the array.
        column: 0 where it was the first array, 1 where the second.
        dtype: Type before `as_labels`.
        name: What messages call the volume.
        box: Where the array lies in it, for messages.

    Raises:
        InputError: There are labels under 0; the lowest is named.
    """
    bits = 8 * dtype.itemsize
    labels = counted.labels[:, column]
    negative = labels[labels >= np.uint64(1 << (bits - 1))] if dtype.kind == "i" else labels[:0]
    if len(negative):
        lowest = int(negative.min()) - (1 << bits)
        raise InputError(f"{name}: label {lowest} in box {box}, expected none under 0")


def overlaps_of_block(
    first: NDArray[Any],
    second: NDArray[Any],
    weights: NDArray[Any] | None = None,
    *,
    corner: Triple = (0, 0, 0),
    extent: Triple | None = None,
) -> OverlapTable:
    """Count the overlaps of two label arrays of one block.

    Args:
        first: (z, y, x) unsigned labels, C-contiguous (`as_labels`); 0 is background.
        second: Labels of the same shape, of any width; ``first`` itself to count one array.
        weights: (c, z, y, x) unsigned or int64 weights, summed over channels and over the voxels
            of each pair whose first label is not 0.
        corner: Voxel of the volume that is the block's voxel 0.
        extent: Shape (z, y, x) of the volume, for raster indices; the block's by default.

    Returns:
        The table, its coordinates and raster indices counted in the volume.
    """
    extent = _shape(first) if extent is None else extent
    keys, facts = _scanned(first, second, weights, corner, extent)
    return _reduced(keys, facts, first.size)


def overlaps_of_parts(
    parts: Iterable[tuple[NDArray[Any], NDArray[Any], Triple]], voxels: int, extent: Triple
) -> OverlapTable:
    """Count the parts of a block, each of which is looked at before the next one is asked for.

    Args:
        parts: Two label arrays and the voxel of the volume that is their voxel 0, as
            `overlaps_of_block` takes them; parts in which both are 0 may be left out.
        voxels: Of the block.
        extent: Shape (z, y, x) of the volume.
    """
    found = [_scanned(first, second, None, corner, extent) for first, second, corner in parts]
    if not found:
        return OverlapTable(OverlapTable.empty().labels, OverlapTable.empty().facts, voxels)
    keys, facts = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return _reduced(keys, facts, voxels)


def overlaps_of_runs(first: LabelRuns, second: LabelRuns, extent: Triple) -> OverlapTable:
    """Count the overlaps of two label arrays that are given as runs.

    Args:
        first: Runs of the first array.
        second: Runs of the second.
        extent: Shape (z, y, x) of the volume that both lie in.

    Returns:
        The table; of all voxels of the volume.
    """
    keys, facts = _scan_runs(first, second, np.array(extent, np.int64))
    return _reduced(keys, facts, Box.of(extent).size)


def _scanned(
    first: NDArray[Any],
    second: NDArray[Any],
    weights: NDArray[Any] | None,
    corner: Triple,
    extent: Triple,
) -> tuple[Labels, Integers]:
    keys, facts = _scan(
        first.reshape(-1),
        second.reshape(-1),
        _shape(first),
        None if weights is None else np.ascontiguousarray(weights),
        np.array(corner, np.int64),
        np.array(extent, np.int64),
    )
    return keys, facts


def _shape(array: NDArray[Any]) -> Triple:
    return array.shape[0], array.shape[1], array.shape[2]


def merge_overlap_tables(
    tables: Iterable[OverlapTable], note: Callable[[int], None] | None = None
) -> OverlapTable:
    """The table of several parts together; their order does not matter.

    Waiting rows are merged as soon as there are more of them than the table has, 65,536 at least,
    so memory follows the table, not the number of parts.

    Args:
        tables: The parts.
        note: Called with the rows held after each part.
    """
    waiting: list[OverlapTable] = [OverlapTable.empty()]
    rows = 0
    for counted in tables:
        waiting.append(counted)
        rows += len(counted.labels)
        if note is not None:
            note(len(waiting[0].labels) + rows)
        if rows > max(_MERGE_ROWS, len(waiting[0].labels)):
            waiting, rows = [_merged(waiting)], 0
    return _merged(waiting)


def collapse(counted: OverlapTable, column: int) -> tuple[Labels, Integers]:
    """Facts by the first (0) or second (1) label alone.

    Returns:
        Labels, ascending and without 0, shape (n,), and their facts, shape (n, 12).
    """
    order = np.argsort(counted.labels[:, column], kind="stable")
    labels = counted.labels[order, column]
    inside = labels > 0
    labels, facts = labels[inside], counted.facts[order[inside]]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]][: len(labels)])
    return labels[starts], _reduce_facts(facts, starts)


def _merged(tables: list[OverlapTable]) -> OverlapTable:
    filled = [counted for counted in tables if len(counted.labels)]
    if len(filled) == 1:  # it is in order already
        return replace(filled[0], voxels=sum(t.voxels for t in tables))
    return _reduced(
        np.concatenate([t.labels for t in tables]),
        np.concatenate([t.facts for t in tables]),
        sum(t.voxels for t in tables),
    )


def _reduced(labels: Labels, facts: Integers, voxels: int) -> OverlapTable:
    order = np.lexsort((labels[:, 1], labels[:, 0]))
    labels, facts = labels[order], facts[order]
    fresh = np.r_[True, (labels[1:] != labels[:-1]).any(axis=1)][: len(labels)]
    starts = np.flatnonzero(fresh)
    return OverlapTable(labels[starts], _reduce_facts(facts, starts), voxels)


def _reduce_facts(facts: Integers, starts: NDArray[np.intp]) -> Integers:
    out = np.empty((len(starts), FACTS), np.int64)
    if len(starts):
        out[:] = np.add.reduceat(facts, starts, axis=0)
        for columns in (START, slice(FIRST, FIRST + 1)):
            out[:, columns] = np.minimum.reduceat(facts[:, columns], starts, axis=0)
        out[:, STOP] = np.maximum.reduceat(facts[:, STOP], starts, axis=0)
    return out
