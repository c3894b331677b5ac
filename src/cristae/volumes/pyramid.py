"""Smaller levels of an OME-Zarr image, so that viewers need not read it whole.

Level n is made from level n - 1 by windows of 1 or 2 voxels along each axis:

- images and predictions take the mean, rounded half up in integer arithmetic;
- labels take the most frequent id. Ties go to an instance before background, and to the lowest id
  among instances, so that a membrane-thin sheet or a line that fills half of its windows stays.

Windows at the far border hold what is there. The centre of a window of f voxels lies (f - 1) / 2
voxels behind the first one, and so does the level's ``translation``. Axes with the smallest voxels
are halved first until voxels are near isotropic, then all; an unknown voxel size counts as
isotropic. The last level is at most 256 voxels long along every axis that can be halved.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.files import read_json, write_json
from cristae.engine.kernels import njit
from cristae.engine.ledger import Ledger
from cristae.engine.tasks import Task, run_step
from cristae.grid import Box, Triple, tile
from cristae.volumes.formats.image_metadata import ome_metadata
from cristae.volumes.formats.ome_zarr import (
    Layout,
    ZarrReader,
    create_array,
    open_ome_zarr,
    stamp_of,
)
from cristae.volumes.volume import Array, Nanometres, Volume

SMALLEST = 256
_NEAR_ISOTROPIC = math.sqrt(2)


def plan_levels(shape: Triple, voxel_size_nm: Nanometres | None) -> list[Triple]:
    """Factors (z, y, x) from each level to the next, each 1 or 2.

    Args:
        shape: Extent of level 0 in voxels.
        voxel_size_nm: Voxel size (z, y, x) of level 0; None counts as isotropic.

    Returns:
        One triple a level above level 0; none for a volume small enough.
    """
    extent, size = list(shape), list(voxel_size_nm or (1.0, 1.0, 1.0))
    levels: list[Triple] = []
    while max(extent) > SMALLEST:
        largest = max(size)
        finer = [n > 1 and s * _NEAR_ISOTROPIC < largest for n, s in zip(extent, size, strict=True)]
        chosen = finer if any(finer) else [n > 1 for n in extent]
        factors = [2 if halve else 1 for halve in chosen]
        extent = [-(-n // f) for n, f in zip(extent, factors, strict=True)]
        size = [s * f for s, f in zip(size, factors, strict=True)]
        levels.append((factors[0], factors[1], factors[2]))
    return levels


def build_pyramid(
    path: str | Path, *, ledger: Ledger, resources: Resources, source: Volume | None = None
) -> int:
    """Write the levels above level 0, and name them in the metadata.

    Level 0 must be complete. Each shard of a level is one piece of work, written once and marked
    in the ledger (steps ``pyramid 1``, ``pyramid 2``, ...), so an interrupted build goes on.

    Args:
        path: An image made by `create_ome_zarr`.
        ledger: The record of the stage that writes the image.
        resources: Workers and executor.
        source: The voxels of level 0, where they can be had more quickly than from it.

    Returns:
        Number of levels, level 0 included.
    """
    path = Path(path)
    total: Triple = (1, 1, 1)
    levels = [_placed(open_ome_zarr(path), "0", total)]
    below = source or open_ome_zarr(path)
    for number, factors in enumerate(plan_levels(below.shape, below.voxel_size_nm), start=1):
        level = _create_level(path / str(number), below, factors)
        write = partial(_write_shard, below, level, factors)
        shards = tile(level.box, level.shard_shape or level.chunk_shape)
        memory, under = pyramid_memory(below, 1), partial(_under, below, factors)
        tasks = [Task(box, (str(box),), under(box), box.size, memory) for box in shards]
        run_step(f"pyramid {number}", tasks, write, record=ledger, resources=resources)
        total = _product(total, factors)
        levels.append(_placed(open_ome_zarr(path), str(number), total))
        below = level
    _name_levels(path, levels)
    return len(levels)


def pyramid_memory(volume: Volume, workers: int) -> int:
    """Upper bound of the bytes `build_pyramid` holds at once.

    Args:
        volume: Level 0, as made by `create_ome_zarr`.
        workers: Tasks at a time.
    """
    shard = Box.of(volume.shard_shape or volume.chunk_shape).size
    voxel = volume.dtype.itemsize * len(volume.channels or (0,))
    windows = [f[0] * f[1] * f[2] for f in plan_levels(volume.shape, volume.voxel_size_nm)]
    slab = max(windows, default=0) * _piece(volume).size
    # a worker's shard with its encoded form and the slab below it; and what the allocator keeps of
    # the first ones, as large again where voxels do not compress
    return int(voxel * (3 * shard + workers * (3 * shard + 0.85 * slab))) if windows else 0


def downsample(array: Array, factors: Triple, labels: bool) -> Array:
    """One level smaller.

    Args:
        array: ([c,] z, y, x); extents need not be multiples of the factors.
        factors: Window (z, y, x), each at least 1.
        labels: Most frequent id instead of the mean.

    Returns:
        Array of the same dtype, extents divided and rounded up.
    """
    if array.ndim == 4:
        return np.stack([downsample(channel, factors, labels) for channel in array])
    shape = tuple(-(-n // f) for n, f in zip(array.shape, factors, strict=True))
    out = np.empty(shape, array.dtype)
    source = np.ascontiguousarray(array)
    if labels:
        _mode(source, factors, out)
    elif array.dtype.kind == "f":
        _float_mean(source, factors, out)
    else:
        _integer_mean(source, factors, out)
    return out


def _write_shard(below: Volume, level: Volume, factors: Triple, box: Box) -> None:
    """Make one shard of a level, slab by slab so that little of the level below is in memory."""
    lead = () if level.channels is None else (len(level.channels),)
    shard = np.empty((*lead, *box.shape), level.dtype)
    for part in tile(box, _piece(level).shape):
        smaller = downsample(
            below.read(_under(below, factors, part)), factors, level.kind == "labels"
        )
        shard[(..., *part.relative_to(box.start).slices())] = smaller
    level.write(box, shard)


def _under(below: Volume, factors: Triple, box: Box) -> Box:
    """What of the level below a box is made from."""
    return Box(_product(box.start, factors), _product(box.stop, factors)).clip(below.box)


def _piece(level: Volume) -> Box:
    """The part of a shard made at a time: so deep that its source is one chunk deep."""
    shard = level.shard_shape or level.chunk_shape
    return Box.of((max(1, level.chunk_shape[0] // 2), shard[1], shard[2]))


def _create_level(path: Path, below: Volume, factors: Triple) -> Volume:
    z, y, x = (-(-n // f) for n, f in zip(below.shape, factors, strict=True))
    shard = below.shard_shape or below.chunk_shape
    layout = Layout(below.chunk_shape, shard).fitted((z, y, x))
    create_array(path, shape=(z, y, x), dtype=below.dtype, channels=below.channels, layout=layout)
    return below.with_(
        reader=ZarrReader(str(path), "zarr3", stamp_of(path / "zarr.json")),
        shape=(z, y, x),
        chunk_shape=layout.chunk,
        shard_shape=layout.shard,
    )


def _placed(volume: Volume, name: str, total: Triple) -> tuple[str, Nanometres, Nanometres]:
    """Path, voxel size and origin of the level that is ``total`` times coarser than level 0."""
    size = volume.voxel_size_nm or (1.0, 1.0, 1.0)
    z, y, x = (f * s for f, s in zip(total, size, strict=True))
    oz, oy, ox = (
        o + (f - 1) / 2 * s for f, s, o in zip(total, size, volume.origin_nm, strict=True)
    )
    return name, (z, y, x), (oz, oy, ox)


def _name_levels(path: Path, levels: list[tuple[str, Nanometres, Nanometres]]) -> None:
    volume, tree = open_ome_zarr(path), read_json(path / "zarr.json")
    tree["attributes"]["ome"] = ome_metadata(
        path.stem, levels, volume.voxel_size_nm, volume.channels, volume.kind
    )
    write_json(path / "zarr.json", tree)


def _product(a: Sequence[int], b: Sequence[int]) -> Triple:
    z, y, x = (int(m * n) for m, n in zip(a, b, strict=True))
    return z, y, x


@njit(nogil=True, cache=True)
def _integer_mean(array: Any, factors: Any, out: Any) -> None:
    """Sums of a row of windows first, one row of the source after the other: simple long loops."""
    fz, fy, fx = factors
    nz, ny, nx = array.shape
    total = np.empty(out.shape[2], np.int64)
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            total[:] = 0
            for z in range(k * fz, min(nz, k * fz + fz)):
                for y in range(j * fy, min(ny, j * fy + fy)):
                    row = array[z, y]
                    if fx == 1:
                        for x in range(nx):
                            total[x] += np.int64(row[x])
                    else:
                        for i in range(nx // 2):
                            total[i] += np.int64(row[2 * i]) + np.int64(row[2 * i + 1])
                        if nx % 2:
                            total[nx // 2] += np.int64(row[nx - 1])
            rows = min(fz, nz - k * fz) * min(fy, ny - j * fy)
            count, whole = rows * fx, nx // fx
            for i in range(whole):
                out[k, j, i] = (2 * total[i] + count) // (2 * count)
            if whole < out.shape[2]:
                out[k, j, whole] = (2 * total[whole] + rows) // (2 * rows)


@njit(nogil=True, cache=True)
def _float_mean(array: Any, factors: Any, out: Any) -> None:
    fz, fy, fx = factors
    nz, ny, nx = array.shape
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                total, count = 0.0, 0
                for z in range(k * fz, min(nz, k * fz + fz)):
                    for y in range(j * fy, min(ny, j * fy + fy)):
                        for x in range(i * fx, min(nx, i * fx + fx)):
                            total += array[z, y, x]
                            count += 1
                out[k, j, i] = total / count


@njit(nogil=True, cache=True)
def _mode(array: Any, factors: Any, out: Any) -> None:
    """Windows of one id are found by simple long loops; few others are left to be counted."""
    fz, fy, fx = factors
    nz, ny, nx = array.shape
    window = np.empty(fz * fy * fx, array.dtype)
    differs = np.empty(out.shape[2], array.dtype)
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            first = array[k * fz, j * fy, ::fx]
            differs[:] = 0
            for z in range(k * fz, min(nz, k * fz + fz)):
                for y in range(j * fy, min(ny, j * fy + fy)):
                    _compare(array[z, y], fx, first, differs)
            for i in range(out.shape[2]):
                if differs[i] == 0:
                    out[k, j, i] = first[i]
                    continue
                n = 0
                for z in range(k * fz, min(nz, k * fz + fz)):
                    for y in range(j * fy, min(ny, j * fy + fy)):
                        for x in range(i * fx, min(nx, i * fx + fx)):
                            window[n] = array[z, y, x]
                            n += 1
                out[k, j, i] = _most_frequent(window, n)


@njit(nogil=True, cache=True)
def _compare(row: Any, fx: int, first: Any, differs: Any) -> None:
    """Set bits where a row's voxels differ from the first of their window."""
    if fx == 1:
        for i in range(row.size):
            differs[i] |= row[i] ^ first[i]
        return
    for i in range(row.size // 2):
        differs[i] |= (row[2 * i] ^ first[i]) | (row[2 * i + 1] ^ first[i])
    if row.size % 2:
        differs[-1] |= row[-1] ^ first[-1]


@njit(nogil=True, cache=True)
def _most_frequent(window: Any, n: int) -> Any:
    """The most frequent of the first n ids; ties: instances first, then the lowest id."""
    best, most = window[0], 0
    for a in range(n):
        value, count = window[a], 0
        for b in range(n):
            if window[b] == value:
                count += 1
        if count == n:
            return value
        better = count > most
        if count == most and value != best:
            better = best == 0 or (value != 0 and value < best)
        if better:
            best, most = value, count
    return best
