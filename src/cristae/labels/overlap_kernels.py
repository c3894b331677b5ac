"""The walks that fill an overlap table (`cristae.labels.overlap_table`).

Rows are walked run by run, and pairs are looked up in a table as they are met.
"""

import numpy as np

from cristae.engine.kernels import njit

VOXELS = 0
START = slice(1, 4)
STOP = slice(4, 7)
FIRST = 7
SUM = slice(8, 11)
WEIGHT = 11
FACTS = 12
"""Columns of the facts: voxels, box (z, y, x; half-open), raster index of the first voxel,
coordinate sums (z, y, x), sum of weights. Coordinates count from voxel 0 of the volume."""

_LAST = np.iinfo(np.int64).max
_WIDE, _NARROW, _ONE = np.uint64(64), np.uint64(8), np.uint64(1)


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
    count = np.int64(0)  # a plain 0 would have `_slots_of` compiled twice
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
    end = np.int64(_LAST)
    count = np.int64(0)  # a plain 0 would have `_slots_of` compiled twice
    i = j = 0
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
    facts[START] = _LAST
    facts[FIRST] = _LAST


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
