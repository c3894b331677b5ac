"""Distance targets: how deep inside an instance, or how far from one, a voxel lies.

Both are what PyTorch Connectomics v1.0 gives for its options ``5`` (`instance_distance`,
`distance_level`) and ``6`` (`signed_distance`). They work on one label array (z, y, x) in memory,
on the CPU.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Floats = NDArray[np.float32]

ONE_CLASS = 5.0
"""Scaled distance in an array without background, or without foreground."""

HOLE_VOXELS = 16
"""Holes of fewer voxels do not count."""

PAD = 2
EPSILON = 1e-6
LEVELS = 11
"""Levels of a quantised distance: background, then ten of a tenth each."""


def signed_distance(
    labels: Array,
    alpha: tuple[float, float] = (8.0, 50.0),
    *,
    across_sections: bool = False,
    z_scale: float = 6.0,
) -> Floats:
    """Signed distance to the border of the foreground.

    The hyperbolic tangent of the Euclidean distance to the nearest background voxel over
    ``alpha[0]``, minus that to the nearest foreground voxel over ``alpha[1]``. Where there is one
    class only the scaled distance is 5, or -5.

    Args:
        labels: Integer ids, shape (z, y, x).
        alpha: Scales inside and outside, in pixels.
        across_sections: Distances in three dimensions, not section by section.
        z_scale: Pixels that a section counts for, in three dimensions.

    Returns:
        float32 in (-1, 1), above 0 inside; the shape of ``labels``.
    """
    inside = labels > 0
    parts = [inside] if across_sections else list(inside)
    sampling = (z_scale, 1.0, 1.0) if across_sections else (1.0, 1.0)
    signed = [
        _scaled_depth(part, sampling, alpha[0]) - _scaled_depth(~part, sampling, alpha[1])
        for part in parts
    ]
    found: Floats = np.tanh(signed[0] if across_sections else np.stack(signed)).astype(np.float32)
    return found


def instance_distance(
    labels: Array,
    *,
    across_sections: bool = False,
    z_scale: float = 5.0,
    background_around: bool = False,
) -> Floats:
    """Depth inside every instance, 1 at its deepest voxel.

    An instance's connected part (in the section, or in three dimensions) counts on its own: the
    Euclidean distance to the nearest voxel outside it, over the largest one in the part. Holes of
    fewer than 16 voxels are filled before.

    Args:
        labels: Integer ids, shape (z, y, x).
        across_sections: Distances in three dimensions, not section by section.
        z_scale: Pixels that a section counts for, in three dimensions.
        background_around: Whether the array's border counts as background.

    Returns:
        float32, (0, 1] inside and -1 outside; the shape of ``labels``.
    """
    if across_sections:
        return _depth(labels, (z_scale, 1.0, 1.0), background_around)
    return np.stack([_depth(one, (1.0, 1.0), background_around) for one in labels])


def distance_level(distance: Floats) -> NDArray[np.int64]:
    """A distance as one of 11 levels: 0 below 0, then 1 to 10 for each tenth."""
    levels: NDArray[np.int64] = np.digitize(distance, [*np.arange(LEVELS - 1) / (LEVELS - 1), 1.1])
    return levels.astype(np.int64)


def _scaled_depth(inside: Array, sampling: tuple[float, ...], alpha: float) -> Array:
    if inside.all():
        return np.full(inside.shape, ONE_CLASS)
    depth: Array = ndimage.distance_transform_edt(inside, sampling)
    return depth / alpha


def _depth(labels: Array, sampling: tuple[float, ...], padded: bool) -> Floats:
    if padded:
        labels = np.pad(labels, PAD)
    found = np.full(labels.shape, -1, np.float32)
    for box, part in _parts(labels):
        inside = _without_holes(part, box, labels.shape)
        depth = ndimage.distance_transform_edt(inside, sampling)
        depth = (depth / (depth.max() + EPSILON)).astype(np.float32)
        np.maximum(found[box], depth, out=found[box], where=inside)
    if padded:
        found = found[(slice(PAD, -PAD),) * found.ndim]
    return found


def _parts(labels: Array) -> Iterator[tuple[tuple[slice, ...], NDArray[np.bool_]]]:
    """Every connected part of every instance, corners counting as contact, in its box grown."""
    ids, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(labels.shape) + (1 if ids[0] > 0 else 0)
    for one, box in enumerate(ndimage.find_objects(numbers), start=1):
        if box is None:
            continue
        corners = np.ones((3,) * labels.ndim)
        components, count = ndimage.label(numbers[_grown(box, labels.shape)] == one, corners)
        for component in range(1, count + 1):
            yield _grown(box, labels.shape), components == component


def _grown(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box with one voxel more on each side that has one: all that its distances depend on."""
    return tuple(
        slice(max(side.start - 1, 0), min(side.stop + 1, length))
        for side, length in zip(box, shape, strict=True)
    )


def _without_holes(inside: Array, box: tuple[slice, ...], shape: tuple[int, ...]) -> Array:
    """An instance with its small holes filled; what lies open to the rest of the array is none."""
    gaps, count = ndimage.label(~inside)
    small = np.bincount(gaps.reshape(-1), minlength=count + 1) < HOLE_VOXELS
    small[0] = False
    for axis, (side, length) in enumerate(zip(box, shape, strict=True)):
        along = np.moveaxis(gaps, axis, 0)
        if side.start > 0:
            small[along[0]] = False
        if side.stop < length:
            small[along[-1]] = False
    filled: Array = inside | small[gaps]
    return filled
