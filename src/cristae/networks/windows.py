"""Windows: how a network that is not tile-invariant is run, and how its windows are blended.

::

    padded image   |~~pad~~|............ volume ............|~~pad~~|
    window 0       [=================]
    window 1               [=================]                          stride after stride
    last window                              [=================]       tucked in at the end

Windows lie on one grid over the whole padded volume, so the result depends on nothing but the
volume. Each voxel is the mean of all windows that hold it, weighted by where in the window it lies.
The rules are those of PyTorch Connectomics v1.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import config_dataclass
from cristae.grid import Triple

FLOOR = 1e-4
"""Added to every weight, so that no voxel of a window counts for nothing."""

SIGMA = 0.2
"""Of the Gaussian, in half windows."""

Blending = Literal["gaussian", "bump"]
Combine = Literal["mean", "min", "max"]
Tta = Literal[1, 4, 8, 16]
Floats = NDArray[np.float32]


@config_dataclass
class WindowRecipe:
    """The windows a network was made for.

    Attributes:
        shape: Extent (z, y, x) of a window in voxels.
        stride: From one window to the next.
        padding: Reflected voxels before and after the volume along each axis.
        blending: Weight in a window: ``gaussian`` or ``bump`` (K. Lee et al., arXiv:1706.00120).
        tta: Test-time augmentation: 1, 4 (flips in y and x), 8 (also transposed in the plane)
            or 16 (also flipped in z).
        combine: What is taken of the outputs for the flips.
        chunks: Number (z, y, x) of files that a prediction is also cut into, where asked for.
    """

    shape: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)
    blending: Blending = "gaussian"
    tta: Tta = 1
    combine: Combine = "mean"
    chunks: Triple = (1, 1, 1)


def recipe_faults(recipe: WindowRecipe) -> list[str]:
    """Everything wrong with a recipe, a line each."""
    faults = []
    if min(recipe.shape) < 1 or min(recipe.chunks) < 1:
        faults.append(f"window {recipe.shape}, chunks {recipe.chunks}: expected 1 or more")
    if any(not 0 < s <= n for s, n in zip(recipe.stride, recipe.shape, strict=True)):
        faults.append(f"stride {recipe.stride}: expected 1 to the window's extent {recipe.shape}")
    if min(recipe.padding) < 0:
        faults.append(f"padding {recipe.padding}: expected 0 or more")
    return faults


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one axis, in voxels of the volume (padding is negative, or beyond).

    Attributes:
        starts: First voxel of each window, ascending.
        extent: Voxels of a window.
        profile: float64 factor of the weight along this axis.
    """

    starts: tuple[int, ...]
    extent: int
    profile: NDArray[np.float64]

    def covering(self, first: int, stop: int) -> range:
        """Numbers of the windows that hold a voxel of ``first`` to ``stop`` - 1."""
        hits = [n for n, a in enumerate(self.starts) if a < stop and a + self.extent > first]
        return range(hits[0], hits[-1] + 1)

    def sums(self, first: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each voxel: the profiles of all windows over it, summed, and their number."""
        total, count = np.zeros(stop - first), np.zeros(stop - first)
        for number in self.covering(first, stop):
            start = self.starts[number]
            a, b = max(start, first), min(start + self.extent, stop)
            total[a - first : b - first] += self.profile[a - start : b - start]
            count[a - first : b - first] += 1
        return total, count


def window_axes(recipe: WindowRecipe, shape: Triple) -> tuple[Axis, Axis, Axis]:
    """The windows of a volume along z, y and x.

    A padded volume smaller than a window is padded further at its end.

    Args:
        recipe: Windows, stride and padding.
        shape: Extent (z, y, x) of the volume.
    """
    z, y, x = (
        Axis(_starts(n, window, stride, pad), window, weight_profile(window, recipe.blending))
        for n, window, stride, pad in zip(
            shape, recipe.shape, recipe.stride, recipe.padding, strict=True
        )
    )
    return z, y, x


def window_weight(recipe: WindowRecipe) -> Floats:
    """The weight of each voxel of a window: (z, y, x) float32."""
    z, y, x = (weight_profile(n, recipe.blending) for n in recipe.shape)
    weight: Floats = (z[:, None, None] * y[:, None] * x + FLOOR).astype(np.float32)
    return weight


def weight_profile(extent: int, blending: Blending) -> NDArray[np.float64]:
    """The factor of a window's weight along one axis: float64, 1 in the middle.

    ``gaussian``: exp(-v^2 / (2 sigma^2)), v from -1 to 1. ``bump``: exp(8 - (u (1 - u))^-1.5), u
    from 1 / (n + 1) to n / (n + 1).
    """
    profile: NDArray[np.float64]
    if blending == "gaussian":
        # one voxel is its own end, as in numpy.linspace
        places = np.linspace(-1, 1, extent)
        profile = np.exp(-(places**2) / (2 * SIGMA**2))
    else:
        u = np.arange(1, extent + 1) / (extent + 1)
        profile = np.exp(8 - (u * (1 - u)) ** -1.5)
    return profile


def _starts(extent: int, window: int, stride: int, pad: int) -> tuple[int, ...]:
    last = max(0, extent + 2 * pad - window)
    count = 1 + math.ceil(last / stride)
    return tuple(min(number * stride, last) - pad for number in range(count))
