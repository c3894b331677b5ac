"""The one flood: seeds grow through a foreground in a total order, brighter voxels first.

The order: a voxel's priority is its own value, higher first; voxels of equal value come first in,
first out; a voxel gets its label when it is pushed; seeds are pushed in (z, y, x) order, and
neighbours in the order -z -y -x +x +y +z. Neighbours share a face. Every voxel is pushed once, so
the queue is 256 lists threaded through one array, one list a value.

The foreground is given as runs, and only its voxels take memory, however large the box around
them. Voxels are numbered one after the other along the runs. A run knows, for each of its four
neighbouring rows, the first run there that ends after its own start; from there a short walk
finds the voxel above, below, before or behind any of its own.
"""

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.labels.runs import Raster, Runs, merge_ends
from cristae.labels.statistics import NOWHERE

SPAN_BITS = 5
"""The table from voxel to run has an entry every 2 ** SPAN_BITS voxels."""

START, STOP, FIRST, BESIDE = 0, 1, 2, 3
"""Columns of a run's record: ends, first voxel, and four columns of neighbouring rows."""

BYTES_PER_VOXEL = 10
"""Memory for each voxel: its value, label, queue, and a share of the table (measured)."""

MOST_NARROW = 1 << 32
"""So many voxels have numbers of four bytes, in the queue."""

BYTES_PER_RUN = 130
"""Memory for each run: its record, and what is gathered and cut (measured)."""

AGGLOMERATION_BYTES = (32, 130, 180)
"""Memory of an agglomeration for each voxel, run and edge between fragments (measured)."""

LONG_WALK = 8

NOWHERE_NEAR = 1 << 60
"""A shift that leads out of any volume: slices of a planar raster have no neighbours."""


def flood(
    foreground: Runs,
    value: NDArray[np.uint8],
    seeds: Runs,
    seed_label: NDArray[np.int32],
    raster: Raster,
) -> NDArray[np.int32]:
    """Give every foreground voxel that a seed reaches the label of the seed that reaches it first.

    Args:
        foreground: Runs in raster order; runs that meet end to end are taken as one.
        value: Priority of each foreground voxel, in the order of the runs; uint8.
        seeds: Runs inside the foreground, in raster order.
        seed_label: Label of each seed run, at least 1.
        raster: Numbering of the volume.

    Returns:
        Label of each foreground voxel, int32, 0 where no seed reaches.
    """
    runs, _ = merge_ends(foreground, np.zeros(foreground.start.size, np.int8))
    index = np.uint32 if value.size <= MOST_NARROW else np.int64
    plane = NOWHERE_NEAR if raster.planar else raster.plane
    shifts = np.array([-plane, -raster.row, raster.row, plane], np.int64)
    records = _make_records(runs.start, runs.length, shifts)
    table = _make_table(records, value.size)
    label = np.zeros(value.size, np.int32)
    after = np.empty(value.size, index)
    head, tail = np.full((2, 256), -1, np.int64)
    run_of = _label_seeds(records, seeds.start, seeds.length, seed_label, label)
    queue = (head, tail, after)
    _push_seeds(records, shifts, value, seeds.start, seeds.length, run_of, label, queue)
    _spread(records, table, shifts, value, label, head, tail, after)
    return label


@njit(nogil=True, cache=True)
def _make_records(start, length, shifts):  # type: ignore[no-untyped-def]
    """One row a run, and one behind the last that no place reaches.

    The neighbouring rows are those shifted by -plane, -row, +row and +plane; a run's column for
    one holds the first run that ends after the shifted run's start.
    """
    n = start.size
    records = np.empty((n + 1, 8), np.int64)
    voxel = 0
    for i in range(n):
        records[i, START] = start[i]
        records[i, STOP] = start[i] + length[i]
        records[i, FIRST] = voxel
        voxel += length[i]
    records[n, START:] = NOWHERE
    records[n, FIRST] = voxel
    for side in range(4):
        j = 0
        for i in range(n):
            while records[j, STOP] <= start[i] + shifts[side]:
                j += 1
            records[i, BESIDE + side] = j
        records[n, BESIDE + side] = n
    return records


@njit(nogil=True, cache=True)
def _make_table(records, voxels):  # type: ignore[no-untyped-def]
    """Run of every 2 ** SPAN_BITS-th voxel."""
    table = np.empty((voxels >> SPAN_BITS) + 1, np.int32)
    run = 0
    for entry in range(table.size):
        while run + 2 < len(records) and records[run + 1, FIRST] <= entry << SPAN_BITS:
            run += 1
        table[entry] = run
    return table


@njit(nogil=True, cache=True)
def _label_seeds(records, start, length, name, label):  # type: ignore[no-untyped-def]
    """Label the voxels of the seeds; gives the run of each seed run."""
    run_of = np.empty(start.size, np.int64)
    run = 0
    for i in range(start.size):
        while records[run, STOP] <= start[i]:
            run += 1
        run_of[i] = run
        first = records[run, FIRST] + start[i] - records[run, START]
        label[first : first + length[i]] = name[i]
    return run_of


@njit(nogil=True, cache=True)
def _push_seeds(records, shifts, value, start, length, run_of, label, queue):  # type: ignore[no-untyped-def]
    """Push the seed voxels that have an unlabelled neighbour; no other would push anything."""
    head, tail, after = queue
    longest = np.int64(0)
    for i in range(length.size):
        longest = max(longest, length[i])
    open_side = np.empty(longest, np.uint8)
    for i in range(start.size):
        run, n = run_of[i], length[i]
        first = records[run, FIRST] + start[i] - records[run, START]
        for k in range(n):
            open_side[k] = 0
        if first > records[run, FIRST]:
            open_side[0] = label[first - 1] == 0
        if first + n < records[run + 1, FIRST] and label[first + n] == 0:
            open_side[n - 1] = 1
        for side in range(4):
            low = start[i] + shifts[side]
            j = _run_at(records, run, side, low)
            while records[j, START] < low + n:
                begin, end = max(low, records[j, START]), min(low + n, records[j, STOP])
                voxel = records[j, FIRST] + begin - records[j, START]
                beside, here = label[voxel : voxel + end - begin], open_side[begin - low :]
                for k in range(beside.size):
                    here[k] |= beside[k] == 0
                j += 1
        for k in range(n):
            if open_side[k]:
                _push(first + k, value[first + k], head, tail, after)


@njit(nogil=True, cache=True, inline="always")
def _push(voxel, level, head, tail, after):  # type: ignore[no-untyped-def]
    if head[level] < 0:
        head[level] = voxel
    else:
        after[tail[level]] = voxel
    tail[level] = voxel


@njit(nogil=True, cache=True)
def _spread(records, table, shifts, value, label, head, tail, after):  # type: ignore[no-untyped-def]
    near = np.empty(6, np.int64)
    level = 255
    while level >= 0:
        voxel = head[level]
        if voxel < 0:
            level -= 1
            continue
        head[level] = -1 if voxel == tail[level] else np.int64(after[voxel])
        run = np.int64(table[voxel >> SPAN_BITS])
        while records[run + 1, FIRST] <= voxel:
            run += 1
        voxel_index = records[run, START] + voxel - records[run, FIRST]
        for side in range(4):
            target = voxel_index + shifts[side]
            j = _run_at(records, run, side, target)
            inside = records[j, START] <= target
            slot = side if side < 2 else side + 2  # -z -y, then -x +x, then +y +z
            near[slot] = records[j, FIRST] + target - records[j, START] if inside else -1
        near[2] = voxel - 1 if voxel > records[run, FIRST] else -1
        near[3] = voxel + 1 if voxel + 1 < records[run + 1, FIRST] else -1
        for slot in range(6):
            other = near[slot]
            if other >= 0 and label[other] == 0:
                label[other] = label[voxel]
                _push(other, value[other], head, tail, after)
                if value[other] > level:
                    level = np.int64(value[other])  # type: ignore[assignment]


@njit(nogil=True, cache=True, inline="always")
def _run_at(records, run, side, target):  # type: ignore[no-untyped-def]
    """The first run beside a run that ends after a place."""
    j = records[run, BESIDE + side]
    steps = 0
    while records[j, STOP] <= target:
        j += 1
        steps += 1
        if steps == LONG_WALK:  # many short runs beside a long one
            low, high = j, records[run + 1, BESIDE + side]
            while low < high:
                middle = (low + high) // 2
                if records[middle, STOP] <= target:
                    low = middle + 1
                else:
                    high = middle
            return low
    return j


def labelled_runs(
    foreground: Runs, label: NDArray[np.int32]
) -> tuple[Runs, NDArray[np.int32], NDArray[np.int64]]:
    """Runs of one label each, out of foreground runs and the label of each of their voxels.

    Args:
        foreground: Runs in any order.
        label: Label of each voxel, in the order of the runs; 0 is left out.

    Returns:
        The runs, the label of each, and the index of the foreground run each was cut from.
    """
    count = _count_changes(foreground.length, label)
    start, length = np.empty(count, np.int64), np.empty(count, np.int32)
    name, source = np.empty(count, np.int32), np.empty(count, np.int64)
    _cut_runs(foreground.start, foreground.length, label, start, length, name, source)
    return Runs(start, length), name, source


@njit(nogil=True, cache=True)
def _count_changes(length, label):  # type: ignore[no-untyped-def]
    count = voxel = 0
    for i in range(length.size):
        last = 0
        for _ in range(length[i]):
            if label[voxel] != last:
                last = label[voxel]
                count += last != 0
            voxel += 1
    return count


@njit(nogil=True, cache=True)
def _cut_runs(all_start, all_length, label, start, length, name, source):  # type: ignore[no-untyped-def]
    n = -1
    voxel = 0
    for i in range(all_length.size):
        last = 0
        for k in range(all_length[i]):
            here = label[voxel]
            voxel += 1
            if here != last and here != 0:
                n += 1
                start[n] = all_start[i] + k
                length[n] = 0
                name[n] = here
                source[n] = i
            if here != 0:
                length[n] += 1
            last = here


def flood_bytes(voxels: int, runs: int) -> int:
    """Memory to gather, flood and cut so many voxels in so many runs, seeds included."""
    wide = 0 if voxels <= MOST_NARROW else 4
    return int(voxels * (BYTES_PER_VOXEL + wide) + runs * BYTES_PER_RUN)


def agglomeration_bytes(voxels: int, runs: int, contacts: int) -> int:
    """Memory to gather and agglomerate so many voxels with so many edges between fragments."""
    sizes = zip((voxels, runs, contacts), AGGLOMERATION_BYTES, strict=True)
    return sum(count * each for count, each in sizes)
