"""The three grids of a prediction: the image's, the network's and the output's.

::

    source     |0|1|2|3|4|5|...      the volume asked for
    read       |0  |1  |2  |...      the same, or a level of its pyramid
    working    |0    |1    |2...     the network's
    output                           as the source, or as the network works

A model that sees several scales has as many working grids. All share their voxel edge at 0. A level
of the pyramid is read where one is coarser than the source and not coarser than the working grid:
the mean over its windows is what resampling would take, and far less is read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cristae.grid import Triple
from cristae.prediction.resample import SAME_WITHIN, Factors, WorkingSize, working_factors
from cristae.volumes.formats.ome_zarr_levels import pyramid_levels
from cristae.volumes.padding import Padding
from cristae.volumes.volume import Nanometres, Volume

Grid = Literal["source", "working"]


@dataclass(frozen=True, eq=False)
class ScaleView:
    """Where the network sees the image at one scale.

    Attributes:
        read: What is read: the source, or a level of its pyramid.
        read_factors: Working voxel size over that of ``read``, along (z, y, x).
        level: Voxels of the source in one of ``read``, along (z, y, x).
        output_factors: Working voxel size over the output's, along (z, y, x).
    """

    read: Volume
    read_factors: Factors
    level: Triple
    output_factors: Factors

    def padding(self, padding: Padding | None) -> Padding | None:
        """The source's padding in what is read."""
        if padding is None or self.level == (1, 1, 1):
            return padding
        return padding.coarser(self.read.shape, self.level)


@dataclass(frozen=True, eq=False)
class Grids:
    """Where a prediction is read, computed and written.

    Attributes:
        views: The network's, one a scale.
        output_factors: Working voxel size over the output's at scale 1; 1 on the working grid.
        scale: Output voxel size over the source's; 1 on the source's grid.
        shape: Extent (z, y, x) of the output in voxels.
        voxel_size_nm: Of the output, or None.
        origin_nm: Centre of the output's voxel 0.
    """

    views: tuple[ScaleView, ...]
    output_factors: Factors
    scale: Factors
    shape: Triple
    voxel_size_nm: Nanometres | None
    origin_nm: Nanometres

    @property
    def read_level(self) -> list[Any]:
        """The views' levels: that of the only one, or a list of them."""
        levels = [list(view.level) for view in self.views]
        return levels[0] if len(levels) == 1 else levels


def plan_grids(
    source: Volume,
    working: WorkingSize,
    grid: Grid = "source",
    scales: Sequence[float] = (1.0,),
) -> Grids:
    """The grids for a source and a working voxel size.

    Args:
        source: The image.
        working: Working voxel size of the model in nm; null where it is never resampled.
        grid: Whose grid the output is on: ``working`` is that of the working voxel size itself.
        scales: Times the working voxel size in the plane at which the network sees the image.
    """
    factors, one = working_factors(source.voxel_size_nm, working), (1.0, 1.0, 1.0)
    scale = factors if grid == "working" else one
    nz, ny, nx = (max(1, math.ceil(n / f - 1e-6)) for n, f in zip(source.shape, scale, strict=True))
    size = source.voxel_size_nm
    sizes = size or one
    oz, oy, ox = (
        o + (f - 1) / 2 * s for o, f, s in zip(source.origin_nm, scale, sizes, strict=True)
    )
    return Grids(
        views=tuple(_view(source, _scaled(working, each), scale) for each in scales),
        output_factors=one if grid == "working" else factors,
        scale=scale,
        shape=(nz, ny, nx),
        voxel_size_nm=size and (scale[0] * size[0], scale[1] * size[1], scale[2] * size[2]),
        origin_nm=(oz, oy, ox),
    )


def _scaled(working: WorkingSize, scale: float) -> WorkingSize:
    z, y, x = working
    return z, y and y * scale, x and x * scale


def _view(source: Volume, working: WorkingSize, scale: Factors) -> ScaleView:
    """What is read for a working voxel size, where the output's is ``scale`` times the source's."""
    factors = working_factors(source.voxel_size_nm, working)
    read, level = _nearest_level(source, factors)
    z, y, x = (1.0 if f == 1 else f / n for f, n in zip(factors, level, strict=True))
    oz, oy, ox = (f / s for f, s in zip(factors, scale, strict=True))
    return ScaleView(read, (z, y, x), level, (oz, oy, ox))


def _nearest_level(source: Volume, factors: Factors) -> tuple[Volume, Triple]:
    """The coarsest level that is nowhere coarser than the working grid, or the source itself."""
    best, steps = source, (1, 1, 1)
    for level, step in pyramid_levels(source):
        finer = all(
            n == 1 or n <= f * (1 + SAME_WITHIN) for n, f in zip(step, factors, strict=True)
        )
        if finer and math.prod(step) > math.prod(steps):
            best, steps = level, step
    return best, steps
