"""The flood of `segmentation.flood`, many times over one foreground.

A flood out of core finds neighbours through the runs, which spares memory. Where the same voxels
are flooded with the seeds of many settings, they are numbered once, piece after piece, and each
knows its neighbours at -z -y -x +x +y +z: that order is the one of `segmentation.flood`, so the
labels are the same. A neighbour that is not there is voxel n, which has a label from the start.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.labels.runs import Ints, Raster, Runs
from cristae.segmentation.scanning import grown

NO_SEED, SEVERAL = -1, -2
"""What stands for the label of a piece without a seed, and of one that is flooded."""

Labels = NDArray[np.int32]


class Voxels(NamedTuple):
    """The voxels of a foreground, piece after piece.

    Attributes:
        first: (runs,) index of the first voxel of each run.
        start: (runs,) place of each run.
        piece: (runs,) piece of each run.
        value: (n,) mask value.
        beside: (n, 6) its neighbours.
    """

    first: Ints
    start: Ints
    piece: NDArray[np.int32]
    value: NDArray[np.uint8]
    beside: NDArray[Any]


def voxels_of(
    runs: Runs, piece: NDArray[np.int32], value: NDArray[np.uint8], raster: Raster
) -> Voxels:
    """Number the voxels of a foreground and find their neighbours.

    Args:
        runs: Of the foreground, in raster order.
        piece: (runs,) 6-connected component of each.
        value: Mask value of each voxel, in the order of the runs.
        raster: Numbering of the volume.
    """
    order = np.argsort(piece, kind="stable")
    first = np.empty(len(order), np.int64)
    first[order] = np.append(0, np.cumsum(runs.length[order], dtype=np.int64))[:-1]
    beside = np.full((value.size, 6), value.size, _index_type(value.size))
    placed = np.empty(value.size, np.uint8)
    _fill(runs.length, first, value, beside, placed)
    shifts = (-raster.plane, -raster.row, raster.row, raster.plane)
    for side, shift in zip((0, 1, 4, 5), shifts, strict=True):
        _find_beside(runs.start, runs.length, first, shift, beside[:, side])
    return Voxels(first, runs.start, piece, placed, beside)


def _index_type(voxels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if voxels < np.iinfo(np.uint32).max else np.uint64


def flood_bytes(voxels: int) -> tuple[int, int]:
    """Memory of the voxels that floods share, and of one flood."""
    index = np.dtype(_index_type(voxels)).itemsize
    return (6 * index + 2) * voxels, (index + 4) * voxels


def flood_pieces(voxels: Voxels, seeds: Runs, run: Ints, name: NDArray[np.int32]) -> Labels:
    """Flood every piece that holds one of some seeds.

    Args:
        voxels: Of the foreground.
        seeds: Runs inside the foreground, piece after piece, within one in raster order.
        run: (seeds,) the foreground run each lies in.
        name: (seeds,) seed each belongs to, from 0.

    Returns:
        (n + 1,) of each voxel the seed that reaches it first plus one, 0 where none does.
    """
    label = np.zeros(voxels.value.size + 1, np.int32)
    label[-1] = -1
    begin = voxels.first[run] + seeds.start - voxels.start[run]
    piece = voxels.piece[run]
    limits = np.flatnonzero(np.append(True, piece[1:] != piece[:-1])) if len(piece) else piece[:0]
    limits = np.append(limits, len(piece))
    after = np.empty(voxels.value.size, voxels.beside.dtype)
    _flood(begin, seeds.length, name, limits, voxels.value, voxels.beside, label, after)
    return label


def painted(runs: Runs, voxels: Voxels, target: Ints, label: Labels) -> tuple[Runs, Ints]:
    """Runs of one seed each, in raster order, and the seed.

    Args:
        runs: Of the foreground.
        voxels: The same.
        target: (runs,) seed of each, `NO_SEED`, or `SEVERAL` where ``label`` says it.
        label: From `flood_pieces`.
    """
    start, length, owner = _paint(runs.start, runs.length, voxels.first, target, label)
    return Runs(start, length), owner


@njit(nogil=True, cache=True)
def _fill(length, first, value, beside, placed):  # type: ignore[no-untyped-def]
    """Neighbours along x, and the values in the order of the voxels."""
    n = 0
    for i in range(length.size):
        for k in range(length[i]):
            voxel = first[i] + k
            if k > 0:
                beside[voxel, 2] = voxel - 1
            if k + 1 < length[i]:
                beside[voxel, 3] = voxel + 1
            placed[voxel] = value[n]
            n += 1


@njit(nogil=True, cache=True)
def _find_beside(start, length, first, shift, beside):  # type: ignore[no-untyped-def]
    j = 0
    for i in range(start.size):
        low = start[i] + shift
        high = low + length[i]
        while j < start.size and start[j] + length[j] <= low:
            j += 1
        k = j
        while k < start.size and start[k] < high:
            for place in range(max(low, start[k]), min(high, start[k] + length[k])):
                beside[first[i] + place - low] = first[k] + place - start[k]
            k += 1


@njit(nogil=True, cache=True)
def _flood(begin, length, name, limits, value, beside, label, after):  # type: ignore[no-untyped-def]
    head, tail = np.full(256, value.size, after.dtype), np.empty(256, after.dtype)
    none = after.dtype.type(value.size)
    for piece in range(limits.size - 1):
        seeds = range(limits[piece], limits[piece + 1])
        for i in seeds:
            label[begin[i] : begin[i] + length[i]] = name[i] + 1
        for i in seeds:
            for k in range(length[i]):
                voxel = after.dtype.type(begin[i] + k)
                for side in range(6):
                    if label[beside[voxel, side]] == 0:
                        _push(voxel, value[voxel], head, tail, after, none)
                        break
        level = 255
        while level >= 0:
            voxel = head[level]
            if voxel == none:
                level -= 1
                continue
            head[level] = after[voxel]
            mine = label[voxel]
            for side in range(6):
                other = beside[voxel, side]
                if label[other] == 0:
                    label[other] = mine
                    _push(other, value[other], head, tail, after, none)
                    level = max(level, np.int64(value[other]))  # type: ignore[assignment]


@njit(nogil=True, cache=True, inline="always")
def _push(voxel, level, head, tail, after, none):  # type: ignore[no-untyped-def]
    after[voxel] = none
    if head[level] == none:
        head[level] = voxel
    else:
        after[tail[level]] = voxel
    tail[level] = voxel


@njit(nogil=True, cache=True)
def _paint(start, length, first, target, label):  # type: ignore[no-untyped-def]
    place = np.empty(1024 + start.size, np.int64)
    size = np.empty(place.size, np.int32)
    owner = np.empty(place.size, np.int64)
    n = 0
    for i in range(start.size):
        if n + length[i] > place.size:
            place, size, owner = (
                grown(place, n + length[i]),
                grown(size, n + length[i]),
                grown(owner, n + length[i]),
            )
        if target[i] >= 0:
            place[n], size[n], owner[n] = start[i], length[i], target[i]
            n += 1
        elif target[i] == SEVERAL:
            begin = first[i]
            k, last = 0, length[i]
            while k < last:
                mine = label[begin + k]
                since = k
                k += 1
                while k < last and label[begin + k] == mine:
                    k += 1
                if mine:
                    place[n], size[n], owner[n] = start[i] + since, k - since, mine - 1
                    n += 1
    return place[:n].copy(), size[:n].copy(), owner[:n].copy()
