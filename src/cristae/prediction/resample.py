"""Between the source's grid and the grid a network works on, voxel by voxel the same in any tiling.

Both grids are endless and share their voxel edge at 0. With ``factor`` = working voxel size over
source voxel size, along each axis::

    source   |0|1|2|3|4|5|6|...          edges at 0, 1, 2, ...
    working  |0   |1   |2   |...         edges at 0, factor, 2 factor, ...   (here factor > 1)

A value of either grid is a sum of a few values of the other (`Taps`), whose positions and weights
are pure functions of its own index in the volume, added in a fixed order. So a voxel's value does
not depend on the box it is computed in.

- image to working grid: linear between the centres of the source's voxels; where working voxels are
  larger, the mean of that over their extent;
- probabilities back to the source's grid: linear between the centres.

A constant stays constant and a ramp stays a ramp, both ways.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.volumes.volume import Nanometres

SAME_WITHIN = 0.05
"""Voxel sizes closer than this share are taken as equal: training varies the scale by more."""

Factors = tuple[float, float, float]
WorkingSize = tuple[float | None, float | None, float | None]
Floats = NDArray[np.float32]
Interval = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Taps:
    """What each of n output voxels along an axis is the sum of.

    Attributes:
        index: (n, k) int64 input voxels, counted in the volume.
        weight: (n, k) float32; each row sums to 1.
    """

    index: NDArray[np.int64]
    weight: Floats

    @property
    def reach(self) -> Interval:
        """Half-open interval of input voxels that are needed."""
        return int(self.index.min()), int(self.index.max()) + 1


def working_factors(
    voxel_size_nm: Nanometres | None, working_voxel_size_nm: WorkingSize
) -> Factors:
    """Working voxel size over source voxel size, along (z, y, x).

    Args:
        voxel_size_nm: Of the source; None is taken as equal to the working size.
        working_voxel_size_nm: Of the model; null on an axis that is never resampled.

    Returns:
        Three factors; exactly 1 where nothing is to be resampled: no working size, or one that
        differs by at most 5 %.
    """
    if voxel_size_nm is None:
        return 1.0, 1.0, 1.0
    ratios = (
        1.0 if working is None else working / size
        for working, size in zip(working_voxel_size_nm, voxel_size_nm, strict=True)
    )
    z, y, x = (1.0 if abs(ratio - 1) <= SAME_WITHIN else ratio for ratio in ratios)
    return z, y, x


def working_taps(first: int, stop: int, factor: float) -> Taps:
    """How working voxels ``first`` to ``stop`` - 1 of an image come from the source's."""
    if factor <= 1:
        return _linear_taps(first, stop, factor)
    voxels = np.arange(first, stop, dtype=np.float64)[:, None]
    low, high = voxels * factor, (voxels + 1) * factor
    base = np.floor(low - 1.5).astype(np.int64) + 1
    index = base + np.arange(math.ceil(factor) + 2)
    centre = index + 0.5
    weight = (_tent_integral(high - centre) - _tent_integral(low - centre)) / factor
    nearest = np.floor((low + high) / 2).astype(np.int64)
    return Taps(np.where(weight > 0, index, nearest), weight.astype(np.float32))


def source_taps(first: int, stop: int, factor: float) -> Taps:
    """How source voxels ``first`` to ``stop`` - 1 of a probability come from the working ones."""
    return _linear_taps(first, stop, 1 / factor)


def apply_taps(array: Floats, axis: int, taps: Taps, start: int) -> Floats:
    """Resample an array along one axis.

    Args:
        array: float32 input that holds `Taps.reach`.
        axis: Axis to resample.
        taps: What each output voxel is the sum of.
        start: Index in the volume of the array's first voxel along the axis.

    Returns:
        float32 array with as many voxels along the axis as there are taps.
    """
    shape = [1] * array.ndim
    shape[axis] = -1
    total: Floats | None = None
    for column in range(taps.index.shape[1]):
        part = np.take(array, taps.index[:, column] - start, axis=axis)
        part *= taps.weight[:, column].reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    return array if total is None else total


def _linear_taps(first: int, stop: int, factor: float) -> Taps:
    centre = (np.arange(first, stop, dtype=np.float64) + 0.5) * factor - 0.5
    base = np.floor(centre).astype(np.int64)
    right = centre - base
    index = np.stack([base, np.where(right > 0, base + 1, base)], axis=1)
    return Taps(index, np.stack([1 - right, right], axis=1).astype(np.float32))


def _tent_integral(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral from -1 to x of the tent 1 - abs(u), which is linear interpolation's kernel."""
    x = np.clip(x, -1, 1)
    result: NDArray[np.float64] = np.where(x < 0, (x + 1) ** 2 / 2, 1 - (1 - x) ** 2 / 2)
    return result
