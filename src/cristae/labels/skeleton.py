"""Skeletons by TEASAR: paths from the far ends of an instance to a root, along its middle.

Sato et al. 2000, doi:10.1109/PCCGA.2000.883951, with the penalties of Bae et al. 2018 and, as the
widely used programs have them, paths that join those already found::

    root      the voxel farthest (within the instance) from any voxel of it
    penalty   100000 (1 - D / (the largest D)^1.01)^4 + distance from the root / its maximum
    path      from the farthest voxel that is not yet covered to the root, of least total penalty
    covered   cubes of half side scale x D + const around every voxel of a path

D is the distance to the nearest voxel outside the instance; beyond the faces of the volume nothing
is known, so they are not outside.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.labels.runs import grown
from cristae.labels.voxels import NO_FACES, ConnectedPart, Faces, Floats
from cristae.volumes.volume import Nanometres

SCALE, CONST = 1.5, 300.0
PENALTY = 100_000.0

_SIDES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_EDGES = tuple(
    tuple(int(v) for v in np.add(a, b))
    for pairs in ((_SIDES[:2], _SIDES[2:4]), (_SIDES[2:4], _SIDES[4:]), (_SIDES[:2], _SIDES[4:]))
    for a in pairs[0]
    for b in pairs[1]
)
_CORNERS = (
    *((-1, -1, -1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)),
    *((1, 1, -1), (1, -1, 1), (-1, 1, 1), (1, 1, 1)),
)
NEIGHBOURS = np.array((*_SIDES, *_EDGES, *_CORNERS))
"""Steps (z, y, x) to the 26 neighbours, in the order in which dijkstra3d tries them."""

_ONE, _STEP = np.uint32(1), np.uint64(1)
_BITS = (NEIGHBOURS + 1) @ np.array([9, 3, 1])
_ORDER = np.stack([_BITS, _BITS // 3, _BITS // 3 * 3, (1 << _BITS % 3) - 1], axis=1).astype(
    np.uint32
)


@dataclass(frozen=True)
class Skeleton:
    """The traced paths of an instance.

    Attributes:
        vertices: (n, 3) voxels (z, y, x) of the instance's array.
        edges: (m, 2) rows of ``vertices``.
    """

    vertices: NDArray[np.int64]
    edges: NDArray[np.int64]

    def length(self, voxel_size: Nanometres) -> float:
        """Sum of the edges' lengths where voxels have this size (z, y, x)."""
        places = self.vertices * np.array(voxel_size)
        ends = places[self.edges]
        return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())


class Rules(NamedTuple):
    """How parts are traced.

    Attributes:
        scale: What is covered around a path: this times the distance to the outside, ...
        const: ... and so much more, in the unit of the distance between voxels.
        cut_ends: Let paths end in the middle of every section that a face of the volume cuts, and
            begin in the last of them. An instance that lies along a face is then hardly traced.
        faces: For each axis, whether the volume ends at the first and at the last plane of the
            array that the parts' voxels are counted in.
    """

    scale: float = SCALE
    const: float = CONST
    cut_ends: bool = True
    faces: Faces = NO_FACES


def trace_parts(parts: Iterable[ConnectedPart], spacing: Nanometres, rules: Rules) -> Skeleton:
    """The TEASAR skeleton of an instance, each of its 26-connected parts on its own.

    Args:
        parts: The parts, voxels counted in one array.
        spacing: Distance (z, y, x) between voxels, in the unit of ``rules.const``.
        rules: How they are traced.

    Returns:
        The skeleton, in voxels of that array; a part of a single voxel has no edge.
    """
    traced = [_trace_part(part, spacing, rules) for part in parts]
    rows = np.cumsum([0, *(len(part.vertices) for part in traced)])
    return Skeleton(
        np.concatenate([np.zeros((0, 3), np.int64), *(part.vertices for part in traced)]),
        np.concatenate(
            [
                np.zeros((0, 2), np.int64),
                *(part.edges + n for part, n in zip(traced, rows, strict=False)),
            ]
        ),
    )


def _trace_part(part: ConnectedPart, spacing: Nanometres, rules: Rules) -> Skeleton:
    if len(part.voxel_index) == 1:
        return Skeleton(np.zeros((0, 3), np.int64), np.zeros((0, 2), np.int64))
    inside = part.depth(spacing, rules.faces)
    targets = list(_cut_middles(part, spacing, rules.faces)) if rules.cut_ends else []
    # the middle of a section cut is an end, whatever lies behind it
    root = targets.pop() if targets else None
    if root is None:
        root = int(np.argmax(part.distances(_corner(part), spacing)))
    distance = part.distances(root, spacing)
    penalty = _penalty(inside, distance)
    coordinates = np.stack(part.at, axis=1)
    still, edges = np.ones(len(distance), bool), [np.zeros((0, 2), np.int64)]
    while targets or still.any():
        target = targets.pop() if targets else int(np.argmax(np.where(still, distance, -1)))
        path = _least_path(part.first, part.near, penalty, target, root, _ORDER)
        edges.append(np.sort(np.stack([path[1:], path[:-1]], axis=1), axis=1))
        penalty[path] = 0.0
        half = rules.scale * inside[path] + rules.const
        reach = (half[:, None] / np.array(spacing)).astype(np.int64)
        _cover(coordinates, coordinates[path], reach, still)
    pairs = np.unique(np.concatenate(edges), axis=0)
    voxels, rows = np.unique(pairs, return_inverse=True)
    return Skeleton(coordinates[voxels], rows.reshape(-1, 2))


def _corner(part: ConnectedPart) -> int:
    """The first voxel in the order of x, then y, then z, as in kimimaro."""
    z, y, x = part.at
    nz, ny, _ = part.raster.shape
    return int(np.argmin((x * ny + y) * nz + z))


def _penalty(inside: Floats, distance: Floats) -> Floats:
    near = np.float32(1) - inside * np.float32(1 / float(inside.max()) ** 1.01)
    near *= near
    near *= near
    far = np.float32(1 / (float(distance.max()) or 1.0))
    penalty: Floats = near * np.float32(PENALTY) + distance * far
    return penalty


def _cut_middles(part: ConnectedPart, spacing: Nanometres, faces: Faces) -> Iterator[int]:
    """The voxel deepest inside each section that a face of the volume cuts, by index."""
    for axis, ends in enumerate(faces):
        others = [k for k in range(3) if k != axis]
        across = [spacing[k] for k in others]
        for last, cut in enumerate(ends):
            at = part.raster.shape[axis] - 1 if last else 0
            index = np.flatnonzero(part.at[axis] == at) if cut else np.zeros(0, np.int64)
            if len(index):
                rows, columns = (part.at[k][index] for k in others)
                yield from index[_middles(rows, columns, across)].tolist()


def _middles(
    rows: NDArray[np.int64], columns: NDArray[np.int64], spacing: Sequence[float]
) -> list[int]:
    """Index of the voxel deepest inside each connected part of a section."""
    rows, columns = rows - rows.min(), columns - columns.min()
    index = np.full((int(rows.max()) + 1, int(columns.max()) + 1), -1, np.int64)
    index[rows, columns] = np.arange(len(rows))
    parts, _ = scipy.ndimage.label(index >= 0, np.ones((3, 3)))
    middles = []
    for number, box in enumerate(scipy.ndimage.find_objects(parts), start=1):
        depth = scipy.ndimage.distance_transform_edt(np.pad(parts[box] == number, 1), spacing)
        row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
        middles.append(int(index[box][row - 1, column - 1]))
    return middles


@njit(nogil=True, cache=True)
def _cover(voxels, centres, reach, still):  # type: ignore[no-untyped-def]
    """Unset the voxels inside cubes of so many voxels (z, y, x) around the centres.

    Cubes that overlap along a row, as those of a path do, are one stretch of it.
    """
    begin, none, before = np.int64(0), np.int64(0), np.int64(-1)  # plain ones compile `_unset` anew
    while begin < len(voxels):
        z, y = voxels[begin, 0], voxels[begin, 1]
        end, some = begin, False
        while end < len(voxels) and voxels[end, 0] == z and voxels[end, 1] == y:
            some |= still[end]
            end += 1
        low, high = none, before
        for i in range(len(centres)) if some else range(0):
            if abs(z - centres[i, 0]) > reach[i, 0] or abs(y - centres[i, 1]) > reach[i, 1]:
                continue
            left, right = centres[i, 2] - reach[i, 2], centres[i, 2] + reach[i, 2]
            if low > high or (left <= high + 1 and right >= low - 1):
                low = left if low > high else min(low, left)
                high = max(high, right)
            else:
                _unset(voxels, begin, end, low, high, still)
                low, high = left, right
            if low <= voxels[begin, 2] and high >= voxels[end - 1, 2]:
                break
        if low <= high:
            _unset(voxels, begin, end, low, high, still)
        begin = end


@njit(nogil=True, cache=True)
def _unset(voxels, begin, end, low, high, still):  # type: ignore[no-untyped-def]
    for i in range(begin, end):
        if low <= voxels[i, 2] <= high:
            still[i] = False


@njit(nogil=True, cache=True)
def _least_path(first, near, penalty, target, root, order):  # type: ignore[no-untyped-def]
    """Voxels from the root to the target, of least sum of penalties.

    Sums are float32, so ties are common and their order decides how much a path trembles: the
    queue, the order of the neighbours and the early end are those of dijkstra3d.
    """
    cost = np.full(penalty.size, np.inf, np.float32)
    parent = np.empty(penalty.size, np.uint32)
    keys, voxels = np.empty(1024, np.float32), np.empty(1024, np.uint32)
    cost[target] = 0
    keys[0], voxels[0] = 0, target
    size = 1
    while size and cost[root] == np.inf:
        here, voxel = keys[0], np.uint64(voxels[0])
        size -= 1
        _pop(keys, voxels, np.uint64(size))
        if here != cost[voxel]:
            continue  # a cheaper way was found since
        if size + 26 > keys.size:
            keys, voxels = grown(keys, 0), grown(voxels, 0)
        bits = near[voxel]
        for k in range(26):
            if not bits >> order[k, 0] & _ONE:
                continue
            before = bits >> order[k, 2] & order[k, 3]
            other = np.uint64(first[voxel, order[k, 1]] + (before & _ONE) + (before >> _ONE))
            there = here + penalty[other]
            if there < cost[other]:
                cost[other] = there
                parent[other] = voxel
                if other == root:
                    break
                _push(keys, voxels, np.uint64(size), there, other)
                size += 1
    count, at = 1, root
    while at != target:
        at = parent[at]
        count += 1
    path = np.empty(count, np.int64)
    path[0] = root
    for i in range(1, count):
        path[i] = parent[path[i - 1]]
    return path


@njit(nogil=True, cache=True)
def _push(keys, voxels, hole, key, voxel):  # type: ignore[no-untyped-def]
    """Let an entry rise from a hole of a binary heap; past equal ones, too."""
    while hole > 0:
        above = (hole - _STEP) >> _STEP
        if keys[above] < key:
            break
        keys[hole], voxels[hole] = keys[above], voxels[above]
        hole = above
    keys[hole], voxels[hole] = key, voxel


@njit(nogil=True, cache=True)
def _pop(keys, voxels, size):  # type: ignore[no-untyped-def]
    """Take the first entry out: the hole sinks to a leaf, where the last entry rises."""
    key, voxel = keys[size], voxels[size]
    hole, child = np.uint64(0), _STEP + _STEP
    while child < size:
        child -= np.uint64(keys[child] >= keys[child - _STEP])
        keys[hole], voxels[hole] = keys[child], voxels[child]
        hole = child
        child = (child + _STEP) << _STEP
    if child == size:  # a last parent of one child
        child -= _STEP
        keys[hole], voxels[hole] = keys[child], voxels[child]
        hole = child
    _push(keys, voxels, hole, key, voxel)
