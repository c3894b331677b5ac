"""Scanning: the voxels of a block that matter, found while its layers are read one by one.

A block is read in layers of whole chunks, so that no array of the block's size is ever held::

    layer 0   ...=====....   ->   runs of the foreground, the mask value of each of their voxels,
    layer 1   ..=========.        and runs of the seeds; those of the layers follow one another

Seeds whose rule is nowhere looser than the foreground's lie inside it, and are sought only there.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import Raster, Runs, grown, no_runs
from cristae.segmentation.levels import Levels

Layers = Iterable[tuple[Box, Levels]]
"""Boxes one behind the other along z, and the (c, z, y, x) channels of each."""

ALL_SET = np.uint64(0x0101010101010101)


class ThresholdRule(NamedTuple):
    """What a voxel passes: mask above, contour below and distance above a level.

    Attributes:
        mask_above: From 0 on.
        contour_below: 256: any contour passes.
        distance_above: -1: any distance passes.
    """

    mask_above: int
    contour_below: int = 256
    distance_above: int = -1


class Scanned(NamedTuple):
    """What was found in a block.

    Attributes:
        runs: Runs of the foreground.
        value: Mask value of each of their voxels, one run after the other.
        seeds: Runs of the seed mask, none without a rule of seeds.
    """

    runs: Runs
    value: NDArray[np.uint8]
    seeds: Runs


def scan_layers(layers: Layers, raster: Raster, rules: Sequence[ThresholdRule]) -> Scanned:
    """Scan a block layer by layer.

    Args:
        layers: The block.
        raster: Numbering of the volume.
        rules: Of the foreground, and of seeds where there are any (`scan_rule`).
    """
    parts = []
    for box, channels in layers:
        parts.append(_scan_layer(tuple(channels), box, raster, rules))
        del channels  # before the next is read
    runs, values, seeds = zip(*parts, strict=True)
    return Scanned(_chained(runs), np.concatenate(values), _chained(seeds))


def _scan_layer(
    planes: tuple[Levels, ...], box: Box, raster: Raster, rules: Sequence[ThresholdRule]
) -> Scanned:
    foreground, *seed = rules
    runs = scan_rule(planes, box, raster, foreground)
    value = values_of(runs, planes[0], box, raster)
    seeds = no_runs()
    for rule in seed:
        if is_within(rule, foreground):
            seeds = scan_within(runs, planes, box, raster, rule)
        else:
            seeds = scan_rule(planes, box, raster, rule)
    return Scanned(runs, value, seeds)


def _chained(parts: Iterable[Runs]) -> Runs:
    return Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def scan(mask: NDArray[np.uint8], box: Box, raster: Raster) -> Runs:
    """Runs of the voxels of a block that are not zero.

    Args:
        mask: (z, y, x) uint8 of 0 and 1.
        box: Where the block lies in the volume.
        raster: Numbering of the volume.
    """
    return scan_rule((mask,), box, raster, ThresholdRule(0))


def scan_rule(
    channels: tuple[NDArray[np.uint8], ...], box: Box, raster: Raster, rule: ThresholdRule
) -> Runs:
    """Runs of the voxels of a block that pass a rule.

    Args:
        channels: Mask, and where the rule asks for them contour and distance; (z, y, x) uint8.
        box: Where the block lies in the volume.
        raster: Numbering of the volume.
        rule: A channel whose threshold all values pass is not read.
    """
    prepared = prepare_rule(channels, rule)
    if prepared is None:
        return no_runs()
    corner = raster.voxel_index(*box.start)
    return Runs(*_scan(*prepared, corner, raster.plane, raster.row))


def prepare_rule(
    channels: tuple[NDArray[np.uint8], ...], rule: ThresholdRule
) -> tuple[Any, Any, Any] | None:
    """Three channels, uint8 bounds, and which of contour and distance are read.

    None where no value passes. A channel that is not read is the mask again.
    """
    mask_above, contour_below, distance_above = rule
    if mask_above >= 255 or contour_below <= 0 or distance_above >= 255:
        return None
    mask = np.ascontiguousarray(channels[0])
    contour = np.ascontiguousarray(channels[1]) if contour_below < 256 else mask
    distance = np.ascontiguousarray(channels[2]) if distance_above >= 0 else mask
    bounds = (
        np.uint8(mask_above),
        np.uint8(min(contour_below, 255)),
        np.uint8(max(distance_above, 0)),
    )
    return (mask, contour, distance), bounds, (contour_below < 256, distance_above >= 0)


@njit(nogil=True, cache=True)
def _scan(lines, bounds, uses, corner, plane, row):  # type: ignore[no-untyped-def]
    mask, contour, distance = lines
    nz, ny, nx = mask.shape
    mask_above, contour_below, distance_above = bounds
    use_contour, use_distance = uses
    words = np.empty((nx + 8) // 8, np.uint64)
    words[-1] = 0  # what follows the row
    passes = words.view(np.uint8)
    start = np.empty(max(1024, nx), np.int64)
    length = np.empty(max(1024, nx), np.int32)
    n = np.int64(0)  # a plain 0 would have `_scan_row` compiled twice
    for z in range(nz):
        for y in range(ny):
            line = mask[z, y]
            for x in range(nx):
                passes[x] = line[x] > mask_above
            if use_contour:
                line = contour[z, y]
                for x in range(nx):
                    passes[x] &= line[x] < contour_below
            if use_distance:
                line = distance[z, y]
                for x in range(nx):
                    passes[x] &= line[x] > distance_above
            if n + nx // 2 + 1 > start.size:
                start, length = grown(start, n + nx), grown(length, n + nx)
            n = _scan_row(passes, words, corner + z * plane + y * row, start, length, n)
    return start[:n].copy(), length[:n].copy()


@njit(nogil=True, cache=True)
def _scan_row(passes, words, voxel_index, start, length, n):  # type: ignore[no-untyped-def]
    inside = False
    first = 0
    for w in range(words.size):
        word = words[w]
        if word == 0:
            if inside:
                length[n] = 8 * w - first
                n += 1
                inside = False
        elif word == ALL_SET:
            if not inside:
                first = 8 * w
                start[n] = voxel_index + first
                inside = True
        else:
            for x in range(8 * w, 8 * w + 8):
                if passes[x] and not inside:
                    first = x
                    start[n] = voxel_index + x
                    inside = True
                elif inside and not passes[x]:
                    length[n] = x - first
                    n += 1
                    inside = False
    return n


def is_within(rule: ThresholdRule, other: ThresholdRule) -> bool:
    """Whether every voxel that passes a rule passes another, too."""
    return (
        rule.mask_above >= other.mask_above
        and rule.contour_below <= other.contour_below
        and rule.distance_above >= other.distance_above
    )


def scan_within(
    runs: Runs, channels: tuple[Levels, ...], box: Box, raster: Raster, rule: ThresholdRule
) -> Runs:
    """Runs of the voxels of other runs that pass a rule (`scan_rule`).

    Args:
        runs: Runs of the block, in raster order.
        channels: Mask, and where the rule asks for them contour and distance; (z, y, x) uint8.
        box: Where the block lies in the volume.
        raster: Numbering of the volume.
        rule: See `ThresholdRule`.
    """
    prepared = prepare_rule(channels, rule)
    if prepared is None:
        return no_runs()
    channels, *rule_of_levels = prepared
    flat = tuple(channel.reshape(-1) for channel in channels)
    corner, shape = raster.voxel_index(*box.start), channels[0].shape
    offset = _offsets(runs.start, corner, raster.plane, raster.row, shape)
    return Runs(*_scan_within(*runs, offset, flat, *rule_of_levels))


@njit(nogil=True, cache=True)
def _offsets(start, corner, plane, row, shape):  # type: ignore[no-untyped-def]
    """Where the first voxel of each run lies in a flat array of a shape."""
    offset = np.empty(start.size, np.int64)
    begin = np.int64(-row)  # of the row of the run before, which is often this one's
    shift = np.int64(0)
    for i in range(start.size):
        if start[i] - corner < begin or start[i] - corner >= begin + row:
            z = (start[i] - corner) // plane
            y = (start[i] - corner - z * plane) // row
            begin = z * plane + y * row
            shift = (z * shape[1] + y) * shape[2] - begin - corner
        offset[i] = start[i] + shift
    return offset


@njit(nogil=True, cache=True)
def _scan_within(all_start, all_length, offset, lines, bounds, uses):  # type: ignore[no-untyped-def]
    mask_above, contour_below, distance_above = bounds
    use_contour, use_distance = uses
    mask, contour, distance = lines
    start = np.empty(1024 + all_start.size, np.int64)
    length = np.empty(1024 + all_start.size, np.int32)
    n = 0
    for i in range(all_start.size):
        extent = all_length[i]
        if n + extent // 2 + 1 > start.size:
            start, length = grown(start, n + extent), grown(length, n + extent)
        shift = all_start[i] - offset[i]
        first = -1
        for k in range(offset[i], offset[i] + extent):
            passes = mask[k] > mask_above
            if use_contour:
                passes &= contour[k] < contour_below
            if use_distance:
                passes &= distance[k] > distance_above
            if passes and first < 0:
                first = k
            elif first >= 0 and not passes:
                start[n], length[n] = first + shift, k - first
                n += 1
                first = -1
        if first >= 0:
            start[n], length[n] = first + shift, offset[i] + extent - first
            n += 1
    return start[:n].copy(), length[:n].copy()


def values_of(runs: Runs, mask: Levels, box: Box, raster: Raster) -> NDArray[np.uint8]:
    """Mask value of each voxel of runs that lie in a block, one run after the other."""
    value = np.empty(int(runs.length.sum(dtype=np.int64)), np.uint8)
    corner = raster.voxel_index(*box.start)
    offset = _offsets(runs.start, corner, raster.plane, raster.row, mask.shape)  # may go beyond
    _gather(offset, runs.length, mask.reshape(-1), value)
    return value


@njit(nogil=True, cache=True)
def _gather(offset, length, mask, value):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(offset.size):
        for k in range(length[i]):
            value[at + k] = mask[offset[i] + k]
        at += length[i]


def select_values(
    length: NDArray[Any], wanted: NDArray[np.bool_], value: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Values of some of the runs, given those of all, one run after the other.

    Args:
        length: Values of each run.
        wanted: Which runs.
        value: All their values.
    """
    out = np.empty(int(length[wanted].sum(dtype=np.int64)), np.uint8)
    _select(length, wanted, value, out)
    return out


@njit(nogil=True, cache=True)
def _select(length, wanted, value, out):  # type: ignore[no-untyped-def]
    at = begin = stop = 0
    for i in range(length.size):
        if wanted[i]:
            stop += length[i]
        if not wanted[i] or i + 1 == length.size:  # stretches of wanted runs are one
            copy_values(value[begin:stop], out[at : at + stop - begin])
            at += stop - begin
            stop += 0 if wanted[i] else length[i]
            begin = stop


@njit(nogil=True, cache=True)
def copy_values(source, out):  # type: ignore[no-untyped-def]
    """Copy one array into another of its size, both one-dimensional."""
    for k in range(out.size):
        out[k] = source[k]
