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
from numba import njit
from numpy.typing import NDArray

from cristae.grid import Box
from cristae.segmentation.resolve import NOBODY
from cristae.segmentation.runs import Ints, Runs
from cristae.segmentation.scratch import Job, load_arrays, save_arrays
from cristae.segmentation.steps import instance_runs

AROUND = 8
"""Voxels in the ring."""


def contact_step(job: Job, index: int, box: Box) -> None:
    """Count the contacts of small instances in a block; a halo of one voxel along y and x is read.

    Leaves ``contacts`` (n, 9): an instance, and in ascending order the small ones its voxels touch,
    each plus 1, filled with 0; and ``count`` (n,), the number of those voxels.
    """
    rank, small = load_arrays(job.path("groups"), "rank", "small")
    halo = box.grow((0, 1, 1)).clip(job.prediction.box)
    parts = [instance_runs(job, i) for i, _ in job.blocks_in(halo)]
    name = rank[np.concatenate([instance for _, instance in parts])]
    start = np.concatenate([runs.start for runs, _ in parts])
    length = np.concatenate([runs.length for runs, _ in parts])
    order = np.argsort(start, kind="stable")
    runs, name = Runs(start[order], length[order]), name[order]
    plane = job.raster.plane
    first = np.searchsorted(
        runs.start, [z * plane for z in range(box.start[0], box.stop[0] + 1)]
    ).tolist()
    found = [np.zeros((0, AROUND + 1), np.int64)]
    corner_y, corner_x = box.start[1] - 1, box.start[2] - 1
    for k, (low, high) in enumerate(pairwise(first)):
        here = runs.take(slice(low, high))
        if small[name[low:high]].any():
            canvas = np.zeros((box.shape[1] + 2, box.shape[2] + 2), np.int64)
            corner = ((box.start[0] + k) * plane, corner_y, corner_x)
            _paint_plane(
                here.start, here.length, name[low:high] + 1, canvas, corner, job.raster.row
            )
            found.append(_contacts(canvas, small))
    rows, count = np.unique(np.concatenate(found), axis=0, return_counts=True)
    save_arrays(job.path(f"contact-{index}"), {"contacts": rows, "count": count})


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
                larger[:n] = rows
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
    place = 1
    while place <= held and row[place] < other:
        place += 1
    if place <= held and row[place] == other:
        return held
    for k in range(held, place - 1, -1):
        row[k + 1] = row[k]
    row[place] = other
    return held + 1


def give_away(
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
        (n,) the instance each becomes part of, itself where it stays, or `NOBODY`.
    """
    goes = np.arange(voxels.size, dtype=np.int64)
    sizes = voxels.tolist()
    owner, touched = contacts[:, 0] - 1, contacts[:, 1:] - 1
    row, column = np.nonzero(touched >= 0)
    touching: dict[int, set[int]] = {i: set() for i in np.flatnonzero(small).tolist()}
    for i, k in zip(touched[row, column].tolist(), row.tolist(), strict=True):
        touching[i].add(k)
    for i, rows in touching.items():
        if sizes[i] >= size:
            continue
        tally: dict[int, int] = {}
        for k in rows:
            other = _end(goes, int(owner[k]))
            if other not in (i, NOBODY):
                tally[other] = tally.get(other, 0) + int(count[k])
        goes[i] = min(tally, key=lambda j: (-tally[j], j)) if tally else NOBODY
        if tally:
            sizes[goes[i]] += sizes[i]
            if goes[i] in touching:
                touching[int(goes[i])] |= rows
    return np.array([_end(goes, i) for i in range(goes.size)], np.int64)


def _end(goes: Ints, i: int) -> int:
    while i != NOBODY and goes[i] != i:
        i = int(goes[i])
    return i
