"""Context: what an output of a tile-invariant network depends on."""

from dataclasses import dataclass

from cristae.grid import Triple


@dataclass(frozen=True)
class Context:
    """What a logit depends on.

    Attributes:
        halo_vx: Voxels (z, y, x) on each side of an output voxel that can change it.
        lattice: Total stride (z, y, x): a tile starts on a multiple of it and has such an extent.
    """

    halo_vx: Triple
    lattice: Triple
