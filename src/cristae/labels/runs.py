"""Runs: a mask as stretches along x, and union-find over stretches that touch.

A voxel (z, y, x) of a volume has one number, its place in a raster whose rows and planes are one
voxel longer than the volume's (`Raster`)::

    place = z * plane + y * row + x        row = nx + 1, plane = (ny + 1) * row

so places rise in (z, y, x) order, and a shift by ``row`` or ``plane`` never runs into a
neighbouring row: the padding is never foreground. A run is a place and a length. The runs that
touch a run in the row above are those that meet it once shifted by ``row``, and one walk along
both lists finds all of them: the same walk joins the runs of a block and the faces of blocks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box, Triple

Ints = NDArray[np.int64]
Lengths = NDArray[np.int32]


@dataclass(frozen=True)
class Raster:
    """Numbers the voxels of a volume in (z, y, x) order, with one voxel of padding.

    Attributes:
        shape: Extent (z, y, x) of the volume in voxels.
        planar: Whether voxels of different slices are no neighbours.
    """

    shape: Triple
    planar: bool = False

    @property
    def row(self) -> int:
        """Distance between neighbours along y."""
        return self.shape[2] + 1

    @property
    def plane(self) -> int:
        """Distance between neighbours along z."""
        return (self.shape[1] + 1) * self.row

    def voxel_index(self, z: int, y: int, x: int) -> int:
        """Number of a voxel."""
        return z * self.plane + y * self.row + x

    def locate(self, voxel_index: Ints) -> tuple[Ints, Ints, Ints]:
        """(z, y, x) of numbered voxels."""
        z, rest = np.divmod(voxel_index, self.plane)
        y, x = np.divmod(rest, self.row)
        return z, y, x


class Runs(NamedTuple):
    """Stretches along x, in raster order, none overlapping another.

    Attributes:
        start: Place of the first voxel, int64.
        length: Voxels, int32, at least 1.
    """

    start: Ints
    length: Lengths

    def take(self, index: NDArray[Any] | slice) -> "Runs":
        """Some of the runs, by index, mask or slice."""
        return Runs(self.start[index], self.length[index])


def no_runs() -> Runs:
    """Runs of an empty mask."""
    return Runs(np.zeros(0, np.int64), np.zeros(0, np.int32))


def neighbour_shifts(raster: Raster, connectivity: int) -> tuple[tuple[int, int], ...]:
    """The rows before a row that its runs can touch, as (shift, reach).

    Args:
        raster: Numbering of the volume.
        connectivity: 6 (faces; rows y-1 and z-1) or 26 (faces, edges and corners; four rows); in
            a planar raster what is left of these in a slice.
    """
    row, plane = raster.row, raster.plane
    if raster.planar:
        return ((row, 0 if connectivity == 6 else 1),)
    if connectivity == 6:
        return ((row, 0), (plane, 0))
    return ((row, 1), (plane - row, 1), (plane, 1), (plane + row, 1))


def label_runs(runs: Runs, raster: Raster, connectivity: int) -> tuple[NDArray[np.int32], int]:
    """Connected components of a mask given as maximal runs.

    Args:
        runs: All runs of the mask.
        raster: Numbering of the volume.
        connectivity: 6 or 26.

    Returns:
        Component of each run, 0..n-1 in raster order of the first voxel, and n.
    """
    parent = np.arange(runs.start.size, dtype=np.int32)
    for shift, reach in neighbour_shifts(raster, connectivity):
        _join_within(runs.start, runs.length, parent, shift, reach)
    return number_roots(parent)


def join_owners(
    runs: Runs, owner: NDArray[Any], parent: NDArray[Any], raster: Raster, connectivity: int
) -> None:
    """Unite the owners of runs that touch, also end to end in one row.

    Args:
        runs: Runs in raster order.
        owner: What each run belongs to.
        parent: Union-find forest over owners; changed in place. A root is its tree's least owner.
        raster: Numbering of the volume.
        connectivity: 6 or 26.
    """
    _join_ends(runs.start, runs.length, owner, parent)
    for shift, reach in neighbour_shifts(raster, connectivity):
        _join_owned(runs.start, runs.length, owner, parent, shift, reach)


def number_roots(parent: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Number the trees of a forest 0..n-1 in order of their roots; (tree of each node, n)."""
    number = np.empty_like(parent)
    return number, int(_number_roots(parent, number))


@njit(nogil=True, cache=True)
def grown(array, least):  # type: ignore[no-untyped-def]
    """A copy with twice the room, and room for at least so many."""
    larger = np.empty(max(2 * array.size, least), array.dtype)
    for i in range(array.size):  # compiled in a tenth of the time that a slice takes
        larger[i] = array[i]
    return larger


@njit(nogil=True, cache=True)
def locate(voxel_index, plane, row):  # type: ignore[no-untyped-def]
    """(z, y, x) of a numbered voxel, for kernels (`Raster.locate`)."""
    z = voxel_index // plane
    y = (voxel_index - z * plane) // row
    return z, y, voxel_index - z * plane - y * row


@njit(nogil=True, cache=True)
def find_root(parent, i):  # type: ignore[no-untyped-def]
    """Root of a node of a forest, which gets shorter on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def unite(parent, i, j):  # type: ignore[no-untyped-def]
    """Join the trees of two nodes of a forest; the least node is the root."""
    i = find_root(parent, i)
    j = find_root(parent, j)
    if i < j:
        parent[j] = i
    elif j < i:
        parent[i] = j


@njit(nogil=True, cache=True)
def _join_within(start, length, parent, shift, reach):  # type: ignore[no-untyped-def]
    n = start.size
    j = 0
    for i in range(n):
        low = start[i] - reach - shift
        high = start[i] + length[i] + reach - shift
        while start[j] + length[j] <= low:
            j += 1
        k = j
        while k < i and start[k] < high:
            if parent[i] != parent[k]:  # most are united by the row before
                unite(parent, i, k)
            k += 1


@njit(nogil=True, cache=True)
def _join_owned(start, length, owner, parent, shift, reach):  # type: ignore[no-untyped-def]
    n = start.size
    j = 0
    for i in range(n):
        low = start[i] - reach - shift
        high = start[i] + length[i] + reach - shift
        while start[j] + length[j] <= low:
            j += 1
        k = j
        while k < i and start[k] < high:
            unite(parent, owner[i], owner[k])
            k += 1


@njit(nogil=True, cache=True)
def _join_ends(start, length, owner, parent):  # type: ignore[no-untyped-def]
    for i in range(1, start.size):
        if start[i - 1] + length[i - 1] == start[i]:
            unite(parent, owner[i - 1], owner[i])


@njit(nogil=True, cache=True)
def _number_roots(parent, number):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(parent.size):
        root = find_root(parent, i)
        if root == i:
            number[i] = n
            n += 1
        else:
            number[i] = number[root]
    return n


def intersect(a: Runs, b: Runs) -> tuple[Runs, NDArray[np.int64], NDArray[np.int64]]:
    """What two masks have in common.

    Returns:
        Runs of the common voxels, cut where either mask's runs end, and for each the index of its
        run in ``a`` and in ``b``.
    """
    start, length, in_a, in_b = _intersect(a.start, a.length, b.start, b.length)
    return Runs(start, length), in_a, in_b


@njit(nogil=True, cache=True)
def _intersect(a_start, a_length, b_start, b_length):  # type: ignore[no-untyped-def]
    most = a_start.size + b_start.size
    start = np.empty(most, np.int64)
    length = np.empty(most, np.int32)
    in_a = np.empty(most, np.int64)
    in_b = np.empty(most, np.int64)
    n = i = j = 0
    while i < a_start.size and j < b_start.size:
        a_stop = a_start[i] + a_length[i]
        b_stop = b_start[j] + b_length[j]
        low = max(a_start[i], b_start[j])
        high = min(a_stop, b_stop)
        if low < high:
            start[n] = low
            length[n] = high - low
            in_a[n] = i
            in_b[n] = j
            n += 1
        if a_stop <= b_stop:
            i += 1
        else:
            j += 1
    return start[:n].copy(), length[:n].copy(), in_a[:n].copy(), in_b[:n].copy()


def paint_into(
    array: NDArray[Any], runs: Runs, value: NDArray[Any], box: Box, raster: Raster
) -> None:
    """Set the voxels of runs in the (z, y, x) array of a box, each run to its value; clipped."""
    corner = np.array(box.start, np.int64)
    _paint(runs.start, runs.length, value, array, corner, raster.plane, raster.row)


@njit(nogil=True, cache=True)
def _paint(start, length, value, array, corner, plane, row):  # type: ignore[no-untyped-def]
    nz, ny, nx = array.shape
    for i in range(start.size):
        z, y, x = locate(start[i], plane, row)
        z, y, x = z - corner[0], y - corner[1], x - corner[2]
        if 0 <= z < nz and 0 <= y < ny:
            low, high = max(0, x), min(nx, x + length[i])
            name = value[i]
            if low < high:
                line = array[z, y, low:high]
                for k in range(line.size):
                    line[k] = name


def on_faces(runs: Runs, box: Box, raster: Raster) -> NDArray[np.bool_]:
    """Which runs of a block lie on a face of it where another block may go on with them."""
    low = np.where(np.array(box.start) > 0, box.start, -1)
    last = np.where(np.array(box.stop) < raster.shape, np.array(box.stop) - 1, -1)
    if raster.planar:
        low[0] = last[0] = -1
    touches = np.empty(runs.start.size, bool)
    _find_faces(runs.start, runs.length, low, last, raster.plane, raster.row, touches)
    return touches


@njit(nogil=True, cache=True)
def _find_faces(start, length, low, last, plane, row, touches):  # type: ignore[no-untyped-def]
    for i in range(start.size):
        z, y, x = locate(start[i], plane, row)
        before = z == low[0] or y == low[1] or x == low[2]
        touches[i] = before or z == last[0] or y == last[1] or x + length[i] - 1 == last[2]


def runs_meet(runs: Runs, inside: Box, box: Box, raster: Raster) -> NDArray[np.bool_]:
    """Which runs, all of them inside one box, have a voxel in another."""
    if inside.clip(box) == inside:
        return np.ones(runs.start.size, bool)
    low, high = np.array(box.start), np.array(box.stop)
    meet = np.empty(runs.start.size, bool)
    _meet(runs.start, runs.length, low, high, raster.plane, raster.row, meet)
    return meet


@njit(nogil=True, cache=True)
def _meet(start, length, low, high, plane, row, meet):  # type: ignore[no-untyped-def]
    for i in range(start.size):
        z, y, x = locate(start[i], plane, row)
        inside = low[0] <= z < high[0] and low[1] <= y < high[1]
        meet[i] = inside and x < high[2] and x + length[i] > low[2]


def merge_ends(runs: Runs, label: NDArray[Any]) -> tuple[Runs, NDArray[Any]]:
    """Runs in raster order with those of one label that meet end to end made one."""
    if runs.start.size == 0:
        return runs, label
    stop = runs.start + runs.length
    head = np.ones(runs.start.size, bool)
    head[1:] = (runs.start[1:] != stop[:-1]) | (label[1:] != label[:-1])
    first = np.flatnonzero(head)
    last = np.append(first[1:], runs.start.size) - 1
    length = (stop[last] - runs.start[first]).astype(np.int32)
    return Runs(runs.start[first], length), label[first]


def runs_of_plane(
    plane: NDArray[np.int64], corner: int, raster: Raster
) -> tuple[Runs, NDArray[np.int64]]:
    """Runs of equal values other than 0 in a (y, x) array, and the value of each.

    Args:
        plane: The array.
        corner: Place of its first voxel.
        raster: Numbering of the volume.
    """
    inner = np.zeros((plane.shape[0], plane.shape[1] + 1), plane.dtype)
    inner[:, :-1] = plane
    before = np.zeros_like(inner)
    before[:, 1:] = plane
    y, x = np.nonzero((inner != before) & (inner != 0))
    end_y, end_x = np.nonzero((inner != before) & (before != 0))
    start = corner + y * np.int64(raster.row) + x
    length = (end_y - y) * np.int64(raster.row) + end_x - x
    return Runs(start, length.astype(np.int32)), plane[y, x]
