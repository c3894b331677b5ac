"""Tallies: exact integer facts of every pair of labels that meet in two label arrays.

A tally has one row a pair (first label, second label) that occurs in at least one voxel, both 0
left out. Each row holds integers that add up or take extremes over voxels, so the tallies of the
blocks of a volume merge to the tally of the whole, whatever the blocks::

    row 6 of two arrays    0 0 7 7 7 7 7 0      runs of equal pairs along x:
                           0 0 0 0 3 3 3 3      (7,0) 2 voxels, (7,3) 3 voxels, (0,3) 1 voxel

Facts of one array by instance are the rows summed over the other label (`collapse`); a single
array is tallied against itself. Sums stay below 2**63 for every volume that `check_extent` lets
through, so nothing is ever rounded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.errors import InputError
from cristae.grid import Box, Triple

Integers = NDArray[np.int64]
Labels = NDArray[np.uint64]

VOXELS = 0
START = slice(1, 4)
STOP = slice(4, 7)
FIRST = 7
SUM = slice(8, 11)
WEIGHT = 11
FACTS = 12
"""Columns of the facts: voxels, box (z, y, x; half-open), raster index of the first voxel,
coordinate sums (z, y, x), sum of weights. Coordinates count from voxel 0 of the volume."""

_WIDE, _NARROW, _ONE = np.uint64(64), np.uint64(8), np.uint64(1)
_MERGE_ROWS = 1 << 16


@dataclass(frozen=True)
class Tally:
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
    def empty(cls) -> "Tally":
        """The tally of no voxels."""
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
    seen their tally, which spares a look at every voxel.

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


def check_signs(tally: "Tally", column: int, dtype: np.dtype[Any], name: str, box: Box) -> None:
    """Refuse negative labels of an array that `as_labels` made unsigned.

    Args:
        tally: Of the array.
        column: 0 where it was the first array, 1 where the second.
        dtype: Type before `as_labels`.
        name: What messages call the volume.
        box: Where the array lies in it, for messages.

    Raises:
        InputError: There are labels under 0; the lowest is named.
    """
    bits = 8 * dtype.itemsize
    labels = tally.labels[:, column]
    negative = labels[labels >= np.uint64(1 << (bits - 1))] if dtype.kind == "i" else labels[:0]
    if len(negative):
        lowest = int(negative.min()) - (1 << bits)
        raise InputError(f"{name}: label {lowest} in box {box}, expected none under 0")


def tally_block(
    first: NDArray[Any],
    second: NDArray[Any],
    weights: NDArray[Any] | None = None,
    *,
    corner: Triple = (0, 0, 0),
    extent: Triple | None = None,
) -> Tally:
    """Tally two label arrays of one block.

    Args:
        first: (z, y, x) unsigned labels, C-contiguous (`as_labels`); 0 is background.
        second: Labels of the same shape, of any width; ``first`` itself to tally one array.
        weights: (c, z, y, x) unsigned or int64 weights, summed over channels and over the voxels
            of each pair whose first label is not 0.
        corner: Voxel of the volume that is the block's voxel 0.
        extent: Shape (z, y, x) of the volume, for raster indices; the block's by default.

    Returns:
        The tally, its coordinates and raster indices counted in the volume.
    """
    extent = _shape(first) if extent is None else extent
    keys, facts = _scanned(first, second, weights, corner, extent)
    return _reduced(keys, facts, first.size)


def tally_parts(
    parts: Iterable[tuple[NDArray[Any], NDArray[Any], Triple]], voxels: int, extent: Triple
) -> Tally:
    """Tally the parts of a block, each of which is looked at before the next one is asked for.

    Args:
        parts: Two label arrays and the voxel of the volume that is their voxel 0, as `tally_block`
            takes them; parts in which both are 0 may be left out.
        voxels: Of the block.
        extent: Shape (z, y, x) of the volume.
    """
    found = [_scanned(first, second, None, corner, extent) for first, second, corner in parts]
    if not found:
        return Tally(Tally.empty().labels, Tally.empty().facts, voxels)
    keys, facts = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return _reduced(keys, facts, voxels)


def tally_runs(first: LabelRuns, second: LabelRuns, extent: Triple) -> Tally:
    """Tally two label arrays that are given as runs.

    Args:
        first: Runs of the first array.
        second: Runs of the second.
        extent: Shape (z, y, x) of the volume that both lie in.

    Returns:
        The tally; of all voxels of the volume.
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


def merge_tallies(tallies: Iterable[Tally], note: Callable[[int], None] | None = None) -> Tally:
    """The tally of several parts together; their order does not matter.

    Waiting rows are merged as soon as there are more of them than the table has, 65,536 at least,
    so memory follows the table, not the number of parts.

    Args:
        tallies: The parts.
        note: Called with the rows held after each part.
    """
    waiting: list[Tally] = [Tally.empty()]
    rows = 0
    for tally in tallies:
        waiting.append(tally)
        rows += len(tally.labels)
        if note is not None:
            note(len(waiting[0].labels) + rows)
        if rows > max(_MERGE_ROWS, len(waiting[0].labels)):
            waiting, rows = [_merged(waiting)], 0
    return _merged(waiting)


def collapse(tally: Tally, column: int) -> tuple[Labels, Integers]:
    """Facts by the first (0) or second (1) label alone.

    Returns:
        Labels, ascending and without 0, shape (n,), and their facts, shape (n, 12).
    """
    order = np.argsort(tally.labels[:, column], kind="stable")
    labels = tally.labels[order, column]
    inside = labels > 0
    labels, facts = labels[inside], tally.facts[order[inside]]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]][: len(labels)])
    return labels[starts], _reduce_facts(facts, starts)


def _merged(tallies: list[Tally]) -> Tally:
    filled = [tally for tally in tallies if len(tally.labels)]
    if len(filled) == 1:  # it is in order already
        return replace(filled[0], voxels=sum(t.voxels for t in tallies))
    return _reduced(
        np.concatenate([t.labels for t in tallies]),
        np.concatenate([t.facts for t in tallies]),
        sum(t.voxels for t in tallies),
    )


def _reduced(labels: Labels, facts: Integers, voxels: int) -> Tally:
    order = np.lexsort((labels[:, 1], labels[:, 0]))
    labels, facts = labels[order], facts[order]
    fresh = np.r_[True, (labels[1:] != labels[:-1]).any(axis=1)][: len(labels)]
    starts = np.flatnonzero(fresh)
    return Tally(labels[starts], _reduce_facts(facts, starts), voxels)


def _reduce_facts(facts: Integers, starts: NDArray[np.intp]) -> Integers:
    out = np.empty((len(starts), FACTS), np.int64)
    if len(starts):
        out[:] = np.add.reduceat(facts, starts, axis=0)
        for columns in (START, slice(FIRST, FIRST + 1)):
            out[:, columns] = np.minimum.reduceat(facts[:, columns], starts, axis=0)
        out[:, STOP] = np.maximum.reduceat(facts[:, STOP], starts, axis=0)
    return out


@njit(nogil=True, cache=True)
def _scan(first, second, shape, weights, corner, extent):  # type: ignore[no-untyped-def]
    """Walk the rows run by run; rows of the result are in order of first meeting.

    The runs of a row are found before the first of them is looked up: two short loops run twice
    as fast as one long one.
    """
    capacity = 256
    slots = np.full(4 * capacity, -1, np.int64)
    keys = np.empty((capacity, 2), np.uint64)
    facts = np.empty((capacity, FACTS), np.int64)
    ends = np.empty(shape[2], np.uint64)
    count = 0
    for z in range(shape[0]):
        for y in range(shape[1]):
            begin = np.uint64((z * shape[1] + y) * shape[2])
            at = begin
            for i in range(row_ends(first, second, begin, begin + np.uint64(shape[2]), ends)):
                u, v = np.uint64(first[at]), np.uint64(second[at])
                if u != 0 or v != 0:
                    slot = _find(slots, keys, u, v)
                    row = slots[slot]
                    if row < 0:
                        if count == capacity:
                            capacity *= 2
                            keys, facts = _grown(keys), _grown(facts)
                            slots = _slots_of(keys, count)
                            slot = _find(slots, keys, u, v)
                        row, count = count, count + 1
                        slots[slot] = row
                        keys[row, 0], keys[row, 1] = u, v
                        _clear(facts[row])
                    x, end = np.int64(at - begin), np.int64(ends[i] - begin)
                    gz, gy, gx = z + corner[0], y + corner[1], x + corner[2]
                    _add_run(facts, row, gz, gy, gx, end - x, extent)
                    if weights is not None:  # noqa: SIM102 - alone, it is decided when compiled
                        if u != 0:
                            facts[row, WEIGHT] += _weight(weights, z, y, x, end)
                at = ends[i]
    return keys[:count].copy(), facts[:count].copy()


@njit(nogil=True, cache=True)
def _scan_runs(first, second, extent):  # type: ignore[no-untyped-def]
    """Walk two lists of runs side by side, piece by piece of an equal pair."""
    slots = np.full(1024, -1, np.int64)
    keys = np.empty((256, 2), np.uint64)
    facts = np.empty((256, FACTS), np.int64)
    end = np.iinfo(np.int64).max
    count = i = j = 0
    at_a = first.start[0] if first.row.size else 0
    at_b = second.start[0] if second.row.size else 0
    while i < first.row.size or j < second.row.size:
        row_a = first.row[i] if i < first.row.size else end
        row_b = second.row[j] if j < second.row.size else end
        u = v = np.uint64(0)
        low = stop = np.int64(0)
        if row_a < row_b or (row_a == row_b and at_a < at_b):
            u, low, stop = first.label[i], np.int64(at_a), np.int64(first.stop[i])
            if row_a == row_b:
                stop = min(stop, np.int64(at_b))
        elif row_b < row_a or at_b < at_a:
            v, low, stop = second.label[j], np.int64(at_b), np.int64(second.stop[j])
            if row_a == row_b:
                stop = min(stop, np.int64(at_a))
        else:
            u, v, low = first.label[i], second.label[j], np.int64(at_a)
            stop = np.int64(min(first.stop[i], second.stop[j]))
        row = min(row_a, row_b)
        slot = _find(slots, keys, u, v)
        pair = slots[slot]
        if pair < 0:
            if count == len(keys):
                keys, facts = _grown(keys), _grown(facts)
                slots = _slots_of(keys, count)
                slot = _find(slots, keys, u, v)
            pair, count = count, count + 1
            slots[slot] = pair
            keys[pair, 0], keys[pair, 1] = u, v
            _clear(facts[pair])
        z = row // extent[1]
        _add_run(facts, pair, z, row - z * extent[1], low, stop - low, extent)
        if u != 0:
            at_a = stop
            if stop == first.stop[i]:
                i += 1
                at_a = first.start[i] if i < first.row.size else 0
        if v != 0:
            at_b = stop
            if stop == second.stop[j]:
                j += 1
                at_b = second.start[j] if j < second.row.size else 0
    return keys[:count].copy(), facts[:count].copy()


@njit(nogil=True, cache=True)
def row_ends(a, b, begin, size, ends):  # type: ignore[no-untyped-def]
    """Where the runs of equal pairs of two rows end.

    64 voxels are looked at a step while the pair does not change, then 8. Unsigned indices spare
    NumPy's test for negative ones and let the compiler use vectors.

    Args:
        a: (n,) unsigned labels, row after row.
        b: (n,) those of the other array.
        begin: uint64 index of the first voxel of the row.
        size: uint64 index behind the last one.
        ends: (row,) uint64, filled with the index behind each run.

    Returns:
        The number of runs.
    """
    n, x = 0, begin
    while x < size:
        va, vb = a[x], b[x]
        while x + _WIDE <= size and not _differ(a, b, va, vb, x, 64):
            x += _WIDE
        while x + _NARROW <= size and not _differ(a, b, va, vb, x, 8):
            x += _NARROW
        while x < size and a[x] == va and b[x] == vb:
            x += _ONE
        ends[n] = x
        n += 1
    return n


@njit(nogil=True, cache=True)
def _differ(a, b, va, vb, x, width):  # type: ignore[no-untyped-def]
    """Whether any of ``width`` voxels from x on holds another pair; looks at all of them."""
    changed_a, changed_b = va ^ va, vb ^ vb
    for k in range(width):
        changed_a |= a[x + np.uint64(k)] ^ va
        changed_b |= b[x + np.uint64(k)] ^ vb
    return changed_a or changed_b


@njit(nogil=True, cache=True)
def _find(slots, keys, u, v):  # type: ignore[no-untyped-def]
    """Slot that holds the pair, or the free one where it belongs (linear probing)."""
    mask = np.uint64(slots.size - 1)
    h = u * np.uint64(0x9E3779B97F4A7C15) ^ v * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while slots[slot] >= 0 and (keys[slots[slot], 0] != u or keys[slots[slot], 1] != v):
        slot = (slot + _ONE) & mask
    return slot


@njit(nogil=True, cache=True)
def _slots_of(keys, count):  # type: ignore[no-untyped-def]
    slots = np.full(4 * len(keys), -1, np.int64)
    for row in range(count):
        slots[_find(slots, keys, keys[row, 0], keys[row, 1])] = row
    return slots


@njit(nogil=True, cache=True)
def _grown(table):  # type: ignore[no-untyped-def]
    out = np.empty((2 * table.shape[0], table.shape[1]), table.dtype)
    for i in range(table.shape[0]):
        for k in range(table.shape[1]):
            out[i, k] = table[i, k]
    return out


@njit(nogil=True, cache=True)
def _clear(facts):  # type: ignore[no-untyped-def]
    facts[:] = 0
    facts[START] = np.iinfo(np.int64).max
    facts[FIRST] = np.iinfo(np.int64).max


@njit(nogil=True, cache=True)
def _add_run(facts, row, z, y, x, length, extent):  # type: ignore[no-untyped-def]
    """Add the voxels x..x+length-1 of a row of the volume to a pair's facts."""
    row = np.uint64(row)
    facts[row, VOXELS] += length
    facts[row, 1], facts[row, 4] = min(facts[row, 1], z), max(facts[row, 4], z + 1)
    facts[row, 2], facts[row, 5] = min(facts[row, 2], y), max(facts[row, 5], y + 1)
    facts[row, 3], facts[row, 6] = min(facts[row, 3], x), max(facts[row, 6], x + length)
    facts[row, FIRST] = min(facts[row, FIRST], (z * extent[1] + y) * extent[2] + x)
    facts[row, 8] += length * z
    facts[row, 9] += length * y
    facts[row, 10] += length * x + length * (length - 1) // 2


@njit(nogil=True, cache=True)
def _weight(weights, z, y, x, end):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for c in range(weights.shape[0]):
        for i in range(x, end):
            total += np.int64(weights[c, z, y, i])
    return total
