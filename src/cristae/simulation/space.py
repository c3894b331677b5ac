"""Distances to chains of tapered rods, and coarse bins that hold the rods near a place."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit

Array = NDArray[Any]

# columns of a rod: start, vector to its end, 1 / length**2, radius at the start, its change
AZ, AY, AX, UZ, UY, UX, INVERSE, START_RADIUS, TAPER = 0, 1, 2, 3, 4, 5, 6, 7, 8
N_COLUMNS = 9


class Rods(NamedTuple):
    """Tapered rods, sorted by owner.

    Attributes:
        shape: (n, N_COLUMNS) float64, in nm.
        owner: (n,) int32.
    """

    shape: Array
    owner: Array


class Bins(NamedTuple):
    """Which rods are near each bin of a box, as rows of a ragged table.

    Attributes:
        origin: (3,) float64: low corner of bin 0, in nm.
        edge: Edge of a bin, in nm.
        counts: (3,) int64: bins along each axis.
        start: (bins + 1,) int64: first item of each bin.
        item: (items,) int32: rods, ascending.
    """

    origin: Array
    edge: float
    counts: Array
    start: Array
    item: Array


@njit(nogil=True, cache=True)
def set_rod(row: Array, start: Array, stop: Array) -> None:
    """Write the rod between two nodes (z, y, x, radius)."""
    total = 0.0
    for a in range(3):
        row[AZ + a] = start[a]
        row[UZ + a] = stop[a] - start[a]
        total += (stop[a] - start[a]) ** 2
    row[INVERSE] = 1.0 / total if total > 1e-6 else 0.0
    row[START_RADIUS] = start[3]
    row[TAPER] = stop[3] - start[3]


@njit(nogil=True, cache=True)
def rod_distance(row: Array, z: float, y: float, x: float) -> Any:
    """Distance from a point to a rod's surface, in nm, negative inside.

    The radius is the one at the nearest point of the axis.
    """
    vz, vy, vx = z - row[AZ], y - row[AY], x - row[AX]
    t = (vz * row[UZ] + vy * row[UY] + vx * row[UX]) * row[INVERSE]
    t = min(1.0, max(0.0, t))
    vz -= t * row[UZ]
    vy -= t * row[UY]
    vx -= t * row[UX]
    return math.sqrt(vz * vz + vy * vy + vx * vx) - (row[START_RADIUS] + t * row[TAPER])


@njit(nogil=True, cache=True)
def bin_of(bins: Bins, z: Any, y: Any, x: Any) -> Any:
    """Number of the bin that holds a point, the nearest one for a point outside."""
    i = math.floor((z - bins.origin[0]) / bins.edge)
    j = math.floor((y - bins.origin[1]) / bins.edge)
    k = math.floor((x - bins.origin[2]) / bins.edge)
    i = min(max(i, 0), bins.counts[0] - 1)
    j = min(max(j, 0), bins.counts[1] - 1)
    k = min(max(k, 0), bins.counts[2] - 1)
    return (i * bins.counts[1] + j) * bins.counts[2] + k


@njit(nogil=True, cache=True)
def _bin_range(row: Array, axis: int, reach: float, origin: Array, edge: float, n: int) -> Any:
    low = min(row[AZ + axis], row[AZ + axis] + row[UZ + axis])
    high = max(row[AZ + axis], row[AZ + axis] + row[UZ + axis])
    radius = max(row[START_RADIUS], row[START_RADIUS] + row[TAPER], 0.0) + reach
    first = math.floor((low - radius - origin[axis]) / edge)
    last = math.floor((high + radius - origin[axis]) / edge)
    return max(0, first), min(n - 1, last)


@njit(nogil=True, cache=True)
def fill_bins(
    shape: Array, reach: float, origin: Array, edge: float, counts: Array, start: Array, item: Array
) -> None:
    """Enter each rod in the bins its bounding box, grown by ``reach``, overlaps.

    With an empty ``item`` only ``start`` is written (as running sums); with one of the size
    ``start[-1]`` both are.
    """
    write = len(item) > 0
    cursor = start[:-1].copy()
    if not write:
        start[:] = 0
    for r in range(len(shape)):
        row = shape[r]
        z0, z1 = _bin_range(row, 0, reach, origin, edge, counts[0])
        y0, y1 = _bin_range(row, 1, reach, origin, edge, counts[1])
        x0, x1 = _bin_range(row, 2, reach, origin, edge, counts[2])
        for i in range(z0, z1 + 1):
            for j in range(y0, y1 + 1):
                base = (i * counts[1] + j) * counts[2]
                for b in range(base + x0, base + x1 + 1):
                    if write:
                        item[cursor[b]] = r
                        cursor[b] += 1
                    else:
                        start[b + 1] += 1
    if not write:
        for b in range(len(start) - 1):
            start[b + 1] += start[b]


def make_bins(rods: Rods, low: Array, high: Array, edge: float, reach: float) -> Bins:
    """Bins over a box, each with the rods whose bounding box comes within ``reach``.

    Args:
        rods: What is entered.
        low: Low corner of the box (z, y, x), nm.
        high: High corner, nm.
        edge: Edge of a bin, nm.
        reach: How far from a bin a rod's surface may be, nm.
    """
    counts = np.maximum(1, np.ceil((high - low) / edge)).astype(np.int64)
    start = np.zeros(int(counts.prod()) + 1, np.int64)
    fill_bins(rods.shape, reach, low, edge, counts, start, np.empty(0, np.int32))
    item = np.empty(int(start[-1]), np.int32)
    if len(item):
        fill_bins(rods.shape, reach, low, edge, counts, start, item)
    return Bins(low, edge, counts, start, item)


@njit(nogil=True, cache=True)
def _thin(rods: Rods, sheath: Array, coarse: Bins, fine: Bins, slack: float, item: Array) -> None:
    """Enter in each fine bin the rods that can matter there; see `thin_bins`."""
    write = len(item) > 0
    shape = rods.shape
    reach = 0.5 * math.sqrt(3.0) * fine.edge
    distance = np.empty(0)
    filled = 0
    for b in range(len(fine.start) - 1):
        k = b % fine.counts[2]
        j = b // fine.counts[2] % fine.counts[1]
        i = b // (fine.counts[2] * fine.counts[1])
        z = fine.origin[0] + (i + 0.5) * fine.edge
        y = fine.origin[1] + (j + 0.5) * fine.edge
        x = fine.origin[2] + (k + 0.5) * fine.edge
        c = bin_of(coarse, z, y, x)
        first, last = coarse.start[c], coarse.start[c + 1]
        if len(distance) < last - first:
            distance = np.empty(2 * (last - first))
        nearest = 1e9
        for n in range(first, last):
            distance[n - first] = rod_distance(shape[coarse.item[n]], z, y, x)
            nearest = min(nearest, distance[n - first])
        fine.start[b] = filled
        limit = min(nearest, 250.0) + 2.0 * reach + slack
        thickest = 0.0
        for n in range(first, last):
            if distance[n - first] <= limit:
                thickest = max(thickest, sheath[coarse.item[n]])
        for n in range(first, last):
            if distance[n - first] <= limit + 2.0 * thickest:
                if write:
                    item[filled] = coarse.item[n]
                filled += 1
    fine.start[-1] = filled


def thin_bins(
    rods: Rods, sheath: Array, coarse: Bins, box: Array, edge: float, slack: float
) -> Bins:
    """Finer bins, each with the rods that can be nearest there, or second within ``slack``.

    Distances over 250 nm count as 250: glia fills what is further from every rod.

    Args:
        rods: What was entered in the coarse bins.
        sheath: (rods,) float64: thickness of the sheath of each rod's owner, nm; near one, rods
            further than ``slack`` by twice that count.
        coarse: Bins whose reach is at least what is asked for here.
        box: (2, 3) float64: low and high corner, nm.
        edge: Edge of a bin, nm.
        slack: How much further than the nearest rod the second may be, nm.
    """
    counts = np.maximum(1, np.ceil((box[1] - box[0]) / edge)).astype(np.int64)
    start = np.zeros(int(counts.prod()) + 1, np.int64)
    fine = Bins(box[0], edge, counts, start, np.empty(0, np.int32))
    _thin(rods, sheath, coarse, fine, slack, fine.item)
    item = np.empty(int(start[-1]), np.int32)
    if len(item):
        _thin(rods, sheath, coarse, fine, slack, item)
    return Bins(box[0], edge, counts, start, item)


@njit(nogil=True, cache=True)
def clearance(owner: int, rods: Rods, bins: Bins, point: Array) -> float:
    """Radius of the largest ball around a point inside its owner's territory, in nm.

    Negative where the point is not in it. Glia counts as a neighbour 120 nm outside the tubes.
    """
    own, other = 1e9, 120.0
    b = bin_of(bins, point[0], point[1], point[2])
    for n in range(bins.start[b], bins.start[b + 1]):
        r = bins.item[n]
        d = rod_distance(rods.shape[r], point[0], point[1], point[2])
        if rods.owner[r] == owner:
            own = min(own, d)
        else:
            other = min(other, d)
    return 0.5 * (other - own)


@njit(nogil=True, cache=True)
def depth_in(shape: Array, first: int, last: int, point: Array) -> float:
    """Distance from a point to the surface of rods ``first:last``, in nm, negative inside."""
    nearest = 1e9
    for r in range(first, last):
        nearest = min(nearest, rod_distance(shape[r], point[0], point[1], point[2]))
    return nearest


@njit(nogil=True, cache=True)
def misses(path: Array, box: Array) -> bool:
    """Whether everything along a path misses a box."""
    for a in range(3):
        if path[:, a].max() < box[0, a] - 900.0 or path[:, a].min() > box[1, a] + 900.0:
            return True
    return False
