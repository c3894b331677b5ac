"""An instance as a list of voxels: its connected parts, their neighbours, the depth inside.

Memory and time follow the voxels of an instance, not the box around it, which for a thin one that
winds through a volume is a hundred times as large. A voxel has a place (`Raster`), and finds its 26
neighbours in the list through the nine rows around it::

    row 3 (dz + 1) + dy + 1     first     index of its first voxel not before x - 1
                                near      3 bits: which of x - 1, x, x + 1 are there

so that the neighbours in a row are consecutive from ``first`` on, as many as there are bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.labels.runs import Ints, Raster, Runs, label_runs
from cristae.volumes.volume import Nanometres

Floats = NDArray[np.float32]

BYTES_PER_VOXEL = 130
"""Memory of a part and of tracing it, for each voxel (measured)."""

Faces = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]
NO_FACES: Faces = ((False, False), (False, False), (False, False))
_ONE, _STEP = np.uint32(1), np.uint64(1)
ALL_FACES: Faces = ((True, True), (True, True), (True, True))


@dataclass(frozen=True)
class ConnectedPart:
    """A 26-connected part of an instance.

    Attributes:
        voxel_index: (n,) places of its voxels, ascending.
        raster: Numbering of the volume.
        first: (n, 9) index of the first voxel of each row around, see above.
        near: (n,) bit 3 x row + dx + 1 is set where that neighbour is there.
    """

    voxel_index: Ints
    raster: Raster
    first: NDArray[np.uint32]
    near: NDArray[np.uint32]

    @property
    def at(self) -> tuple[Ints, Ints, Ints]:
        """(z, y, x) of the voxels."""
        return self.raster.locate(self.voxel_index)

    def distances(self, start: int, spacing: Nanometres) -> Floats:
        """(n,) length of the shortest way within the part from one of its voxels.

        Args:
            start: Index of the voxel.
            spacing: Distance (z, y, x) between voxels.
        """
        steps = np.array([(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)])
        lengths = np.linalg.norm(steps * np.array(spacing), axis=1)
        found: Floats = _walk(self.first, self.near, start, lengths.astype(np.float32))
        return found

    def depth(self, spacing: Nanometres, faces: Faces) -> Floats:
        """(n,) distance of each voxel to the nearest one outside.

        Args:
            spacing: Distance (z, y, x) between voxels.
            faces: For each axis, whether the volume ends at its first and last plane: nothing is
                known beyond. Where nothing outside is known, it is as if it began there.
        """
        raster = self.raster
        shape = np.array([*raster.shape, raster.row, raster.plane], np.int64)
        around = (np.array(spacing, np.float64), shape)
        squares = _depth_squared(self.voxel_index, self.first, self.near, *around, np.array(faces))
        if np.isinf(squares[0]):
            squares = _depth_squared(
                self.voxel_index, self.first, self.near, *around, np.array(NO_FACES)
            )
        found: Floats = np.sqrt(squares).astype(np.float32)
        return found


def parts_of(runs: Runs, raster: Raster) -> Iterator[ConnectedPart]:
    """The connected parts of an instance, in order of their first voxel.

    Args:
        runs: Of the instance, in raster order.
        raster: Numbering of the volume.
    """
    piece, count = label_runs(runs, raster, 26)
    order = np.argsort(piece, kind="stable")
    limits = np.searchsorted(piece[order], np.arange(count + 1))
    firsts = [int(order[limits[i]]) for i in range(count)]
    for i in sorted(range(count), key=firsts.__getitem__):
        mine = runs.take(order[limits[i] : limits[i + 1]])
        voxel_index = _spread(mine.start, mine.length)
        shifts = [z * raster.plane + y * raster.row for z in (-1, 0, 1) for y in (-1, 0, 1)]
        first, near = _neighbours(voxel_index, np.array(shifts, np.int64))
        yield ConnectedPart(voxel_index, raster, first, near)


def coarsened(runs: Runs, raster: Raster, factor: int = 2) -> tuple[Runs, Raster]:
    """An instance on a grid so many times as coarse: voxels that hold any of its voxels.

    Returns:
        Runs in raster order, and the numbering of the coarse volume, its last voxels cut short.
    """
    z, y, x = raster.locate(runs.start)
    nz, ny, nx = (-(-n // factor) for n in raster.shape)
    coarse = Raster((nz, ny, nx))
    start = (z // factor) * coarse.plane + (y // factor) * coarse.row + x // factor
    length = (x + runs.length - 1) // factor - x // factor + 1
    order = np.argsort(start, kind="stable")
    return Runs(*_united(start[order], length[order])), coarse


@njit(nogil=True, cache=True)
def _united(start, length):  # type: ignore[no-untyped-def]
    """Runs that may overlap as runs that do not."""
    first, size = np.empty_like(start), np.empty(start.size, np.int32)
    n = 0
    for i in range(start.size):
        if n and start[i] <= first[n - 1] + size[n - 1]:
            size[n - 1] = max(size[n - 1], start[i] + length[i] - first[n - 1])
        else:
            first[n], size[n] = start[i], length[i]
            n += 1
    return first[:n].copy(), size[:n].copy()


@njit(nogil=True, cache=True)
def _spread(start, length):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for i in range(length.size):  # compiled in a tenth of the time that a sum takes
        total += length[i]
    voxel_index = np.empty(total, np.int64)
    n = 0
    for i in range(start.size):
        for k in range(length[i]):
            voxel_index[n] = start[i] + k
            n += 1
    return voxel_index


@njit(nogil=True, cache=True)
def _neighbours(voxel_index, shifts):  # type: ignore[no-untyped-def]
    n = voxel_index.size
    first, near = np.empty((n, 9), np.uint32), np.zeros(n, np.uint32)
    for row in range(9):
        k = 0
        for i in range(n):
            low = voxel_index[i] + shifts[row] - 1
            while k < n and voxel_index[k] < low:
                k += 1
            first[i, row] = k
            for j in range(k, min(k + 3, n)):
                if voxel_index[j] > low + 2:
                    break
                near[i] |= np.uint32(1 << (3 * row + voxel_index[j] - low))
    return first, near


@njit(nogil=True, cache=True)
def _walk(first, near, start, lengths):  # type: ignore[no-untyped-def]
    """Dijkstra's algorithm; buckets as wide as the shortest step need no order inside.

    An entry that is not its voxel's distance any more was followed by a shorter one. Unsigned
    indices spare the test for negative ones.
    """
    width, longest = lengths[1], lengths[0]
    for length in lengths:
        longest = max(longest, length)
        if 0 < length < width:
            width = length
    ring = 4
    while ring < int(longest / width) + 3:
        ring *= 2
    wrap, scale = ring - 1, np.float32(1 / width)
    distance = np.full(near.size, np.inf, np.float32)
    voxels, keys = np.empty((ring, 1024), np.uint32), np.empty((ring, 1024), np.float32)
    count = np.zeros(ring, np.int64)
    distance[start] = 0
    voxels[0, 0], keys[0, 0], count[0] = start, 0, 1
    pending, fullest, k = 1, 1, 0
    while pending:
        slot = k & wrap
        i = 0
        while i < count[slot]:
            voxel, here = np.uint64(voxels[slot, i]), keys[slot, i]
            i += 1
            if here != distance[voxel]:
                continue
            if fullest + 27 > voxels.shape[1]:
                voxels, keys = _widened(voxels), _widened(keys)
            bits = near[voxel]
            for row in range(9):
                other = np.uint64(first[voxel, row])
                for d in range(3):
                    if bits & _ONE:
                        there = here + lengths[3 * row + d]
                        if there < distance[other]:
                            distance[other] = there
                            into = max(k + 1, int(there * scale)) & wrap
                            at = count[into]
                            voxels[into, at], keys[into, at] = other, there
                            count[into] = at + 1
                            fullest = max(fullest, at + 1)
                            pending += 1
                        other += _STEP
                    bits >>= _ONE
        pending -= count[slot]
        count[slot] = 0
        k += 1
    return distance


@njit(nogil=True, cache=True)
def _widened(table):  # type: ignore[no-untyped-def]
    out = np.empty((table.shape[0], 2 * table.shape[1]), table.dtype)
    for i in range(table.shape[0]):
        for k in range(table.shape[1]):
            out[i, k] = table[i, k]
    return out


@njit(nogil=True, cache=True)
def _depth_squared(voxel_index, first, near, spacing, shape, faces):  # type: ignore[no-untyped-def]
    """Squared distance to the nearest voxel outside: exact, one axis after the other.

    Felzenszwalb and Huttenlocher 2012, doi:10.4086/toc.2012.v008a019, along the stretches of
    voxels without a gap: what lies behind a gap is farther than the gap.
    """
    squares = np.empty(voxel_index.size, np.float64)
    line = np.empty(max(shape[0], shape[1], shape[2]) + 2, np.int64)
    values, heights = np.empty(line.size), np.empty(line.size)
    sites, limits = np.empty(line.size, np.int64), np.empty(line.size + 1)
    for axis in (2, 1, 0):
        back, ahead = (13 - (1, 3, 9)[2 - axis]), (13 + (1, 3, 9)[2 - axis])
        for i in range(voxel_index.size):
            if near[i] >> np.uint32(back) & np.uint32(1):
                continue
            n, at = 1, i
            line[0] = i
            while near[at] >> np.uint32(ahead) & np.uint32(1):
                row = ahead // 3
                before = near[at] >> np.uint32(3 * row) & np.uint32((1 << (ahead % 3)) - 1)
                at = first[at, row] + (before & 1) + (before >> 1)
                line[n] = at
                n += 1
            z = voxel_index[i] // shape[4]
            y = (voxel_index[i] - z * shape[4]) // shape[3]
            x = voxel_index[i] - z * shape[4] - y * shape[3]
            begin = (z, y, x)[axis]
            ends = (begin == 0 and faces[axis, 0], begin + n == shape[axis] and faces[axis, 1])
            if axis == 2:
                for k in range(n):
                    steps = min(
                        k + 1.0 if not ends[0] else np.inf, n - k if not ends[1] else np.inf
                    )
                    squares[i + k] = (spacing[2] * steps) ** 2
                continue
            values[0] = np.inf if ends[0] else 0.0
            values[n + 1] = np.inf if ends[1] else 0.0
            for k in range(n):
                values[k + 1] = squares[line[k]]
            _lowest(values[: n + 2], spacing[axis], heights, sites, limits)
            for k in range(n):
                squares[line[k]] = heights[k + 1]
    return squares


@njit(nogil=True, cache=True)
def _lowest(values, spacing, heights, sites, limits):  # type: ignore[no-untyped-def]
    """Least of the parabolas values[i] + (spacing (k - i))^2 at every k."""
    square = spacing * spacing
    n = -1
    for i in range(values.size):
        if values[i] == np.inf:
            continue
        cut = -np.inf
        while n >= 0:
            j = sites[n]
            cut = (values[i] - values[j] + square * (i * i - j * j)) / (2 * square * (i - j))
            if cut > limits[n]:
                break
            n -= 1
        if n < 0:
            cut = -np.inf
        n += 1
        sites[n], limits[n] = i, cut
    if n < 0:
        for k in range(values.size):
            heights[k] = np.inf
        return
    limits[n + 1] = np.inf
    at = 0
    for k in range(values.size):
        while limits[at + 1] < k:
            at += 1
        heights[k] = values[sites[at]] + square * (k - sites[at]) ** 2
