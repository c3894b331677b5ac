"""Small instances that go to the neighbour with most contact, as if the volume were whole.

Contact is counted in plane: the voxels of a neighbour that lie in the 3x3 ring around a voxel of
the small instance. A voxel counts once, however many voxels of the instance it touches. So that
instances can be joined afterwards and still be counted so, a block keeps *contacts*: how many
voxels of one instance touch the same set of small ones::

    . . 5 5 5          own 5, touches {2}: 2 voxels
    2 2 7 5 5          own 7, touches {2}: 1 voxel, ...
    . 2 7 7 .

Small instances are taken in ascending order, one after the other, with the sizes as they are by
then; of neighbours with equal contact the lowest wins; without any it becomes background.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import Ints
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.resolve import UNASSIGNED
from cristae.segmentation.steps import runs_around

AROUND = 8
"""Voxels in the ring."""


def contact_step(job: SegmentJob, index: int, box: Box) -> None:
    """Count the contacts of small instances in a block; a halo of one voxel along y and x is read.

    Leaves ``contacts`` (n, 9): an instance, and in ascending order the small ones its voxels touch,
    each plus 1, filled with 0; and ``count`` (n,), the number of those voxels.
    """
    rank, small = job.scratch.load("groups", "rank", "small")
    runs, instance = runs_around(job, box.grow((0, 1, 1)).clip(job.prediction.box))
    name = rank[instance]
    plane = job.raster.plane
    first = np.searchsorted(
        runs.start, [z * plane for z in range(box.start[0], box.stop[0] + 1)]
    ).tolist()
    rows, counts = [np.zeros((0, AROUND + 1), np.int64)], [np.zeros(0, np.int64)]
    corner_y, corner_x = box.start[1] - 1, box.start[2] - 1
    for k, (low, high) in enumerate(pairwise(first)):
        here = runs.take(slice(low, high))
        if small[name[low:high]].any():
            canvas = np.zeros((box.shape[1] + 2, box.shape[2] + 2), np.int64)
            corner = ((box.start[0] + k) * plane, corner_y, corner_x)
            _paint_plane(
                here.start, here.length, name[low:high] + 1, canvas, corner, job.raster.row
            )
            found = np.unique(_contacts(canvas, small), axis=0, return_counts=True)
            rows.append(found[0])
            counts.append(found[1])
    contacts = {"contacts": np.concatenate(rows), "count": np.concatenate(counts)}
    job.scratch.save(f"contact-{index}", contacts)


@njit(nogil=True, cache=True)
def _paint_plane(start, length, name, canvas, corner, row):  # type: ignore[no-untyped-def]
    ny, nx = canvas.shape
    for i in range(start.size):
        rest = start[i] - corner[0]
        y = rest // row - corner[1]
        x = rest - (rest // row) * row - corner[2]
        if 0 <= y < ny:
            for u in range(max(0, x), min(nx, x + length[i])):
                canvas[y, u] = name[i]


@njit(nogil=True, cache=True)
def _contacts(canvas, small):  # type: ignore[no-untyped-def]
    ny, nx = canvas.shape
    rows = np.zeros((256, AROUND + 1), np.int64)
    n = 0
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            own = canvas[y, x]
            if own == 0:
                continue
            if n == len(rows):
                larger = np.zeros((2 * n, AROUND + 1), np.int64)
                for k in range(n):
                    for m in range(AROUND + 1):
                        larger[k, m] = rows[k, m]
                rows = larger
            rows[n, 0] = own
            held = 0
            for v in range(y - 1, y + 2):
                for u in range(x - 1, x + 2):
                    other = canvas[v, u]
                    if other != 0 and other != own and small[other - 1]:
                        held = _insert(rows[n], held, other)
            n += held > 0
    return rows[:n].copy()


@njit(nogil=True, cache=True)
def _insert(row, held, other):  # type: ignore[no-untyped-def]
    """Put a number in its place among row[1:held + 1], once; gives how many there are."""
    position = 1
    while position <= held and row[position] < other:
        position += 1
    if position <= held and row[position] == other:
        return held
    for k in range(held, position - 1, -1):
        row[k + 1] = row[k]
    row[position] = other
    return held + 1


def merge_small(
    contacts: Ints, count: Ints, voxels: Ints, small: NDArray[np.bool_], size: int
) -> Ints:
    """What every instance becomes once the small ones have joined their neighbours.

    Args:
        contacts: Rows of `contact_step`, of all blocks; equal ones may stand apart.
        count: Voxels of each row.
        voxels: Voxels of each instance.
        small: Whether an instance is small at first.
        size: Instances of fewer voxels are small.

    Returns:
        (n,) the instance each becomes part of, itself where it stays, or `UNASSIGNED`.
    """
    touched = contacts[:, 1:] - 1
    row, column = np.nonzero(touched >= 0)
    touched = touched[row, column]
    row = row[np.argsort(touched, kind="stable")]  # the rows that touch each instance
    first = np.append(0, np.cumsum(np.bincount(touched, minlength=voxels.size)))
    merged_into: Ints = _give(contacts[:, 0] - 1, count, (first, row), voxels.copy(), small, size)
    return merged_into


@njit(nogil=True, cache=True)
def _give(owner, count, rows_of, sizes, small, size):  # type: ignore[no-untyped-def]
    """What each instance becomes; an instance takes over the rows of those that join it."""
    first, rows = rows_of
    n = sizes.size
    merged_into, after, last = np.arange(n), np.full(n, -1, np.int64), np.arange(n)
    shared, touched = np.zeros(n, np.int64), np.empty(n, np.int64)
    seen = np.full(owner.size, -1, np.int64)
    for i in range(n):
        if not small[i] or sizes[i] >= size:
            continue
        others, part = 0, i
        while part >= 0:
            for k in range(first[part], first[part + 1]):
                row = rows[k]
                if seen[row] == i:
                    continue
                seen[row] = i
                other = _find_root(merged_into, owner[row])
                if other != i and other != UNASSIGNED:
                    if shared[other] == 0:
                        touched[others] = other
                        others += 1
                    shared[other] += count[row]
            part = after[part]
        best = np.int64(UNASSIGNED)
        for other in touched[:others]:
            if best == UNASSIGNED or (shared[other], -other) > (shared[best], -best):
                best = other
        shared[touched[:others]] = 0
        merged_into[i] = best
        if best != UNASSIGNED:
            sizes[best] += sizes[i]
            after[last[best]] = i
            last[best] = last[i]
    for i in range(n):
        merged_into[i] = _find_root(merged_into, i)
    return merged_into


@njit(nogil=True, cache=True)
def _find_root(merged_into, i):  # type: ignore[no-untyped-def]
    while i != UNASSIGNED and merged_into[i] != i:
        i = merged_into[i]
    return i
