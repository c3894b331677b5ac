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

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from cristae.volumes.volume import Nanometres

Floats = NDArray[np.float32]

SCALE, CONST = 1.5, 300.0
PENALTY = 100_000.0
BYTES_PER_VOXEL = 80
"""Memory of tracing, for each voxel of an instance's box (measured)."""

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
NEIGHBOURS = (*_SIDES, *_EDGES, *_CORNERS)
"""Steps (z, y, x) to the 26 neighbours, in the order in which dijkstra3d tries them."""

Faces = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]
NO_FACES: Faces = ((False, False), (False, False), (False, False))


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


def trace_skeleton(
    mask: NDArray[np.bool_],
    spacing: Nanometres,
    *,
    scale: float = SCALE,
    const: float = CONST,
    faces: Faces = NO_FACES,
    cut_ends: bool = True,
) -> Skeleton:
    """The TEASAR skeleton of an instance, each 26-connected part on its own.

    Args:
        mask: (z, y, x) the instance and nothing else.
        spacing: Distance (z, y, x) between voxels, in the unit of ``const``.
        scale: What is covered around a path: this times the distance to the outside, ...
        const: ... and so much more.
        faces: For each axis, whether the volume ends at the array's first and at its last plane.
        cut_ends: Let paths end in the middle of every section that such a face cuts, and begin in
            the last of them. An instance that lies along a face is then hardly traced at all.

    Returns:
        The skeleton; a part of a single voxel has no edge.
    """
    rules = _Rules(scale, const, cut_ends, faces)
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    traced = [
        _trace_part(parts[box] == i, box, spacing, rules, mask.shape)
        for i, box in enumerate(ndimage.find_objects(parts), start=1)
    ]
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


def _faces_of(box: tuple[slice, ...], shape: tuple[int, ...], faces: Faces) -> Faces:
    """Which faces of the volume a part of an array reaches."""
    (z, y, x) = (
        (low and here.start == 0, high and here.stop == length)
        for here, length, (low, high) in zip(box, shape, faces, strict=True)
    )
    return z, y, x


class _Rules(NamedTuple):
    """How parts are traced."""

    scale: float
    const: float
    cut_ends: bool
    faces: Faces


def _trace_part(
    mask: NDArray[np.bool_],
    box: tuple[slice, ...],
    spacing: Nanometres,
    rules: _Rules,
    whole: tuple[int, ...],
) -> Skeleton:
    """The skeleton of a connected part, alone in its box."""
    faces = _faces_of(box, whole, rules.faces)
    inner = np.pad(mask, 1)  # the walks need a frame without voxels of the part
    flat, shape = inner.reshape(-1), inner.shape
    inside = _inside_distance(mask, spacing, faces)
    steps, lengths = _steps(shape, spacing)
    targets = list(_cut_middles(mask, spacing, faces, shape)) if rules.cut_ends else []
    # the first voxel in the order of x, then y, then z, as in kimimaro
    first = int(np.argmax(inner.T))
    x, y, z = np.unravel_index(first, inner.T.shape)
    start = int(np.ravel_multi_index((z, y, x), shape))
    # the middle of a section cut is an end, whatever lies behind it
    root = targets.pop() if targets else None
    if root is None:
        root = int(np.argmax(_distances(flat, start, steps, lengths, -1)))
    distance = _distances(flat, root, steps, lengths, -1)
    penalty = _penalty(flat, inside, distance)
    still, edges = flat.copy(), set[tuple[int, int]]()
    while targets or still.any():
        target = targets.pop() if targets else int(np.argmax(np.where(still, distance, -1)))
        path = _least_path(penalty, target, root, steps)
        edges |= {(min(a, b), max(a, b)) for a, b in zip(path[1:], path[:-1], strict=True)}
        penalty[path] = 0.0
        still &= _uncovered(path, rules.scale * inside[path] + rules.const, shape, spacing)
    pairs = np.array(sorted(edges), np.int64).reshape(-1, 2)
    voxels, rows = np.unique(pairs, return_inverse=True)
    places = np.stack(np.unravel_index(voxels, shape), axis=1).astype(np.int64)
    return Skeleton(places - 1 + [here.start for here in box], rows.reshape(-1, 2))


def _penalty(mask: NDArray[np.bool_], inside: Floats, distance: Floats) -> Floats:
    near = np.float32(1) - inside[mask] * np.float32(1 / float(inside.max()) ** 1.01)
    near *= near
    near *= near
    far = np.float32(1 / (float(distance.max()) or 1.0))
    penalty = np.full(mask.shape, np.inf, np.float32)
    penalty[mask] = near * np.float32(PENALTY) + distance[mask] * far
    return penalty


def _uncovered(
    path: list[int], half: Floats, shape: tuple[int, ...], spacing: Nanometres
) -> NDArray[np.bool_]:
    """Flat: voxels outside all cubes of half sides ``half`` around the voxels of a path."""
    places = np.stack(np.unravel_index(path, shape), axis=1)
    reach = (half[:, None] / np.array(spacing)).astype(np.int64)
    low = np.maximum(places - reach, 0)
    high = np.minimum(places + reach + 1, shape)
    if ((low == 0) & (high == shape)).all(axis=1).any():
        return np.zeros(math.prod(shape), bool)
    # +1 and -1 at the corners of every cube: sums along all axes count the cubes over a voxel
    corners = np.zeros(tuple(n + 1 for n in shape), np.int32)
    for ends in itertools.product((0, 1), repeat=3):
        at = tuple((low, high)[end][:, axis] for axis, end in enumerate(ends))
        np.add.at(corners, at, -1 if sum(ends) % 2 else 1)
    for axis in range(3):
        np.cumsum(corners, axis=axis, out=corners)
    uncovered: NDArray[np.bool_] = corners[:-1, :-1, :-1] == 0
    return uncovered.reshape(-1)


def _inside_distance(mask: NDArray[np.bool_], spacing: Nanometres, faces: Faces) -> Floats:
    """Flat distance to the nearest voxel outside, framed; faces of the volume are not outside."""
    frame = [(0 if low else 1, 0 if high else 1) for low, high in faces]
    padded = np.pad(mask, frame)
    if padded.all():  # nothing outside is known: as if it began behind the array
        padded, frame = np.pad(mask, 1), [(1, 1)] * 3
    distance = ndimage.distance_transform_edt(padded, spacing).astype(np.float32)
    rest = [(1 - low, 1 - high) for low, high in frame]
    return np.ascontiguousarray(np.pad(distance, rest)).reshape(-1)


def _cut_middles(
    mask: NDArray[np.bool_], spacing: Nanometres, faces: Faces, framed: Sequence[int]
) -> Iterator[int]:
    """The voxel deepest inside each section that a face of the volume cuts, as a flat index."""
    for axis, ends in enumerate(faces):
        across = [spacing[k] for k in range(3) if k != axis]
        for last, cut in enumerate(ends):
            if not cut:
                continue
            at = mask.shape[axis] - 1 if last else 0
            section = np.take(mask, at, axis=axis)
            parts, count = ndimage.label(section, np.ones((3, 3)))
            for part in range(1, count + 1):
                depth = ndimage.distance_transform_edt(np.pad(parts == part, 1), across)
                row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
                place = [int(row) - 1, int(column) - 1]
                place.insert(axis, at)
                framed_place = tuple(p + 1 for p in place)
                yield int(np.ravel_multi_index(framed_place, tuple(framed)))


def _steps(
    shape: Sequence[int], spacing: Nanometres
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Flat offset and length of the steps to the 26 neighbours."""
    grid = np.array(NEIGHBOURS, np.int64)
    offsets = grid @ np.array([shape[1] * shape[2], shape[2], 1], np.int64)
    return offsets, np.linalg.norm(grid * np.array(spacing), axis=1)


def _distances(
    mask: NDArray[np.bool_],
    start: int,
    steps: NDArray[np.int64],
    lengths: NDArray[np.float64],
    elsewhere: float,
) -> Floats:
    """Length of the shortest way within the mask from a voxel to every other."""
    distance = np.full(mask.size, np.inf, np.float32)
    _walk(mask, start, steps, lengths, distance)
    distance[~mask] = elsewhere
    return distance


@njit(nogil=True, cache=True)
def _walk(mask, start, steps, lengths, distance):  # type: ignore[no-untyped-def]
    """Dijkstra's algorithm; buckets as wide as the shortest step need no order inside."""
    width = lengths.min()
    ring = int(lengths.max() / width) + 2
    waiting = np.empty((ring, 1024), np.int64)
    count = np.zeros(ring, np.int64)
    distance[start] = 0
    waiting[0, 0] = start
    count[0] = 1
    pending, k = 1, 0
    while pending:
        slot = k % ring
        i = 0
        while i < count[slot]:
            voxel = waiting[slot, i]
            i += 1
            here = distance[voxel]
            if int(here / width) < k - 1:
                continue  # a shorter way was found since
            for s in range(steps.size):
                other = voxel + steps[s]
                if not mask[other]:
                    continue
                there = np.float32(here + lengths[s])
                if there < distance[other]:
                    distance[other] = there
                    into = max(k + 1, int(there / width)) % ring
                    if count[into] == waiting.shape[1]:
                        larger = np.empty((ring, 2 * waiting.shape[1]), np.int64)
                        larger[:, : waiting.shape[1]] = waiting
                        waiting = larger
                    waiting[into, count[into]] = other
                    count[into] += 1
                    pending += 1
        pending -= count[slot]
        count[slot] = 0
        k += 1


@njit(nogil=True, cache=True)
def _least_path(penalty, target, root, steps):  # type: ignore[no-untyped-def]
    """Voxels from the root to the target, of least sum of penalties.

    Sums are float32, so ties are common and their order decides how much a path trembles: the
    queue, the order of the neighbours and the early end are those of dijkstra3d.
    """
    cost = np.full(penalty.size, np.inf, np.float32)
    parent = np.empty(penalty.size, np.int64)
    done = np.zeros(penalty.size, np.bool_)
    keys, voxels = np.empty(1024, np.float32), np.empty(1024, np.int64)
    cost[target] = 0
    keys[0], voxels[0] = 0, target
    size = 1
    while size and cost[root] == np.inf:
        voxel = voxels[0]
        size -= 1
        _pop(keys, voxels, size)
        if done[voxel]:
            continue
        for s in range(steps.size):
            other = voxel + steps[s]
            there = np.float32(cost[voxel] + penalty[other])
            if not done[other] and there < cost[other]:
                cost[other] = there
                parent[other] = voxel
                if other == root:
                    break
                if size == keys.size:
                    keys = np.concatenate((keys, np.empty_like(keys)))
                    voxels = np.concatenate((voxels, np.empty_like(voxels)))
                _push(keys, voxels, size, 0, there, other)
                size += 1
        done[voxel] = True
    path = [root]
    while path[-1] != target:
        path.append(parent[path[-1]])
    return path


@njit(nogil=True, cache=True)
def _push(keys, voxels, hole, top, key, voxel):  # type: ignore[no-untyped-def]
    """Let an entry rise from a hole of a binary heap; past equal ones, too."""
    while hole > top and keys[(hole - 1) // 2] >= key:
        above = (hole - 1) // 2
        keys[hole], voxels[hole] = keys[above], voxels[above]
        hole = above
    keys[hole], voxels[hole] = key, voxel


@njit(nogil=True, cache=True)
def _pop(keys, voxels, size):  # type: ignore[no-untyped-def]
    """Take the first entry out: the hole sinks to a leaf, where the last entry rises."""
    key, voxel = keys[size], voxels[size]
    hole = child = 0
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if keys[child] >= keys[child - 1]:
            child -= 1
        keys[hole], voxels[hole] = keys[child], voxels[child]
        hole = child
    if size % 2 == 0 and size > 0 and child == (size - 2) // 2:
        child = 2 * (child + 1)
        keys[hole], voxels[hole] = keys[child - 1], voxels[child - 1]
        hole = child - 1
    _push(keys, voxels, hole, 0, key, voxel)
