"""Instances seen along an axis: the first that a ray meets, lit from the upper left.

What lies deeper is darker, and a slope that faces away from the light too, so that one sees which
instance lies in front.
"""

from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from cristae.figures.colours import instance_colours

Labels = NDArray[np.integer[Any]]
Picture = NDArray[np.uint8]

GROUND = (22, 25, 30)
"""Colour where no ray meets an instance."""

FADE = 0.55
"""How much darker the farthest instance is than the nearest."""

LIGHT = np.array([-0.45, -0.45, 0.77])
"""Direction of the light: down the picture, to its right, towards the eye."""


def project(
    labels: Labels, voxel_size: tuple[float, float, float], axis: int, width: int
) -> tuple[Picture, float]:
    """The instances as they are seen along an axis.

    Args:
        labels: Ids (z, y, x), 0 the background.
        voxel_size: Extent of a voxel (z, y, x) in nm.
        axis: That the rays run along: 0 shows y down and x to the right, 1 z and x, 2 z and y.
        width: Columns of the picture.

    Returns:
        (rows, columns, 3) RGB picture with square pixels, and the nm of one.
    """
    there = labels != 0
    hit, first = there.any(axis), there.argmax(axis)
    ids = np.take_along_axis(labels, np.expand_dims(first, axis), axis).squeeze(axis)
    down, across = (size for i, size in enumerate(voxel_size) if i != axis)
    scale = ids.shape[1] * across / width
    rows = max(1, round(ids.shape[0] * down / scale))
    at = np.ix_(_nearest(ids.shape[0], rows), _nearest(ids.shape[1], width))
    depth = np.where(hit, first, labels.shape[axis])[at] * voxel_size[axis]
    deepest = labels.shape[axis] * voxel_size[axis]
    light = 1 - FADE * depth / deepest
    light *= _lambert(depth, scale, max(down, across, voxel_size[axis]) / scale)
    picture = instance_colours(ids[at]) * light[..., None]
    picture[~hit[at]] = GROUND
    return picture.clip(0, 255).astype(np.uint8), scale


def _nearest(length: int, pixels: int) -> NDArray[np.intp]:
    """The voxel that each pixel shows."""
    return ((np.arange(pixels) + 0.5) * length / pixels).astype(np.intp)


def _lambert(depth: NDArray[np.float64], scale: float, smooth: float) -> NDArray[np.float64]:
    """Share of the light that each pixel's surface gives back; 1 is one that faces the eye."""
    slopes = np.gradient(scipy.ndimage.gaussian_filter(depth, smooth), scale)
    down, across = (np.clip(slope, -2, 2) for slope in slopes)
    facing = (-LIGHT[0] * -down - LIGHT[1] * -across + LIGHT[2]) / np.sqrt(down**2 + across**2 + 1)
    return np.asarray((facing / LIGHT[2]).clip(0.45, 1.3))
