"""Cells in which a coarse pass sees nothing, so that they need not be computed.

The network runs on the image at voxels `COARSER` times larger in the plane, which costs a sixteenth
and its share of halo. A cell of 16x16x16 coarse voxels is kept where any channel reaches `SIGNAL`
in it or in one of its 26 neighbours. Cells lie on one grid over the volume, so what is left out
does not depend on tiles. A network sees mitochondria smaller than it was trained on: how many it
misses depends on model and data, and is to be measured before it is used.

Measured (`python benchmarks/skip.py --threads 2`, two cores of an AMD EPYC (Zen 4), the weights
`general`, simulated tissue of which 60 % is resin):

=============  ============  ======  ===========  =========  ==================
volume         left out      full    coarse pass  all of it  instances kept
=============  ============  ======  ===========  =========  ==================
64x512x1024    50 %          13.7 s  2.6 s        9.9 s      31 of 31, whole
64x1024x2048   56 %          41.8 s  5.8 s        28.7 s     64 of 64, whole
=============  ============  ======  ===========  =========  ==================

In tissue dense with mitochondria nothing is left out, and the coarse pass is lost: by its
prediction against the labels of four real volumes (EPFL's hippocampus, two of CDeep3M, a fly's VNC)
99 to 100 % is kept, and 97 to 100 % of their mitochondria whole. Cells half as large keep 83 to
95 %, but only 68 to 93 % of the mitochondria whole, so narrower margins are no way out.
"""

import numpy as np
from scipy import ndimage

from cristae.grid import Triple, tile
from cristae.networks.model import Model
from cristae.prediction.regions import Region
from cristae.prediction.resample import Factors, WorkingSize, working_factors
from cristae.volumes.volume import Nanometres, Volume, array_volume

COARSER = 4
SIGNAL = 0.1
_CELL: Triple = (16, 16, 16)
_CELLS_READ: Triple = (4, 16, 16)


def coarse_size(model: Model, voxel_size_nm: Nanometres) -> WorkingSize:
    """Working voxel size (z, y, x) in nm of the coarse pass."""
    z, y, x = model.working_voxel_size_nm
    sizes = (y or voxel_size_nm[1], x or voxel_size_nm[2])
    return z, COARSER * sizes[0], COARSER * sizes[1]


def signal_region(
    coarse: Volume, source: Volume, size: WorkingSize, scale: Factors
) -> tuple[Region, float]:
    """Where a coarse prediction sees something.

    Args:
        coarse: uint8 (channels, z, y, x) on its working grid.
        source: The image.
        size: From `coarse_size`.
        scale: Voxel size of the output in question over the source's.

    Returns:
        The region, and the share of cells that are kept.
    """
    counts = [-(-n // c) for n, c in zip(coarse.shape, _CELL, strict=True)]
    cells = np.zeros(counts, np.uint8)
    read = tuple(a * b for a, b in zip(_CELL, _CELLS_READ, strict=True))
    for box in tile(coarse.box, (read[0], read[1], read[2])):
        levels = coarse.read(box).max(axis=0)
        for cell in tile(box, _CELL):
            z, y, x = (a // c for a, c in zip(cell.start, _CELL, strict=True))
            cells[z, y, x] = levels[cell.relative_to(box.start).slices()].max()
    seen = ndimage.binary_dilation(cells >= 255 * SIGNAL, np.ones((3, 3, 3), bool))
    factors = working_factors(source.voxel_size_nm, size)
    fz, fy, fx = (s / (f * c) for s, f, c in zip(scale, factors, _CELL, strict=True))
    mask = array_volume(seen.astype(np.uint8), name="signal")
    return Region(mask, (fz, fy, fx)), float(seen.mean())
