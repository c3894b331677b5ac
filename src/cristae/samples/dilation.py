"""Labels grown outward, for labels that end inside the outer membrane.

Annotators draw the border of a mitochondrion at different places: in the matrix, on the membrane or
at its outer edge. Growing labels by a known distance brings them to one convention.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.volume import Nanometres, Volume

Array = NDArray[Any]


def dilate_labels(labels: Array, radius_nm: float, voxel_size_nm: Nanometres) -> Array:
    """Give background within a distance of an instance to the nearest one.

    Distances are those between voxel centres, in 3D and in nm, so sections further apart than the
    radius do not reach each other. Voxels of an instance never change hands; where two instances
    are equally near, the lower id wins.

    Args:
        labels: Integer ids (z, y, x), 0 for background.
        radius_nm: How far instances grow, in nm; 0 changes nothing.
        voxel_size_nm: Voxel size (z, y, x) in nm.

    Returns:
        A new array of the same shape and dtype.
    """
    offsets, ranks = _ball(radius_nm, voxel_size_nm)
    out = labels.copy()
    if len(offsets):
        nearest = np.full(labels.shape, np.iinfo(np.uint16).max, np.uint16)
        _stamp(labels, offsets, ranks, nearest, out)
    return out


def dilated_volume(labels: Volume, radius_nm: float) -> Volume:
    """A label volume as `dilate_labels` would leave it, read box by box.

    Raises:
        InputError: A negative radius, or a volume without a voxel size.
    """
    if radius_nm == 0:
        return labels
    if radius_nm < 0 or labels.voxel_size_nm is None:
        raise InputError(
            f"{labels.name}: dilation by {radius_nm} nm with voxel size {labels.voxel_size_nm}, "
            "expected a distance of at least 0 and a known voxel size"
        )
    reader = DilatedReader(labels, radius_nm, labels.voxel_size_nm)
    identity = labels.identity.read_as(f"widened by {radius_nm} nm")
    return labels.with_(reader=reader, corner=(0, 0, 0), identity=identity)


@dataclass(frozen=True)
class DilatedReader:
    """Reads boxes of labels with a halo as wide as the growth, so the boxes do not show."""

    labels: Volume
    radius_nm: float
    voxel_size_nm: Nanometres

    def read(self, box: Box) -> Array:
        """The dilated labels of a box."""
        z, y, x = (int(self.radius_nm / size) for size in self.voxel_size_nm)
        around = box.grow((z, y, x)).clip(self.labels.box)
        wide = dilate_labels(self.labels.read(around), self.radius_nm, self.voxel_size_nm)
        return np.ascontiguousarray(wide[box.relative_to(around.start).slices()])


def _ball(radius_nm: float, voxel_size_nm: Nanometres) -> tuple[NDArray[np.int64], Array]:
    """Offsets within the radius, nearest first, and their ranks, equal for equal distances."""
    reach: Triple = tuple(int(radius_nm / size) for size in voxel_size_nm)  # type: ignore[assignment]
    axes = [np.arange(-r, r + 1) for r in reach]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    squared = ((offsets * np.array(voxel_size_nm)) ** 2).sum(axis=1).round(6)
    chosen = (squared <= radius_nm**2) & (squared > 0)
    offsets, squared = offsets[chosen], squared[chosen]
    order = np.argsort(squared, kind="stable")
    _, ranks = np.unique(squared[order], return_inverse=True)
    return offsets[order].astype(np.int64), ranks.astype(np.uint16)


@njit(nogil=True, cache=True)
def _stamp(labels: Array, offsets: Array, ranks: Array, nearest: Array, out: Array) -> None:
    """Put a ball of its id around every voxel that has background beside it.

    The instance voxel nearest to a background voxel always has background beside it: one step
    towards that voxel would be nearer still.
    """
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                value = labels[z, y, x]
                if value == 0:
                    continue
                border = (
                    (z > 0 and labels[z - 1, y, x] == 0)
                    or (z + 1 < depth and labels[z + 1, y, x] == 0)
                    or (y > 0 and labels[z, y - 1, x] == 0)
                    or (y + 1 < height and labels[z, y + 1, x] == 0)
                    or (x > 0 and labels[z, y, x - 1] == 0)
                    or (x + 1 < width and labels[z, y, x + 1] == 0)
                )
                if not border:
                    continue
                for k in range(len(offsets)):
                    i, j, m = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
                    if i < 0 or j < 0 or m < 0 or i >= depth or j >= height or m >= width:
                        continue
                    if labels[i, j, m] != 0:
                        continue
                    best = nearest[i, j, m]
                    if ranks[k] < best or (ranks[k] == best and value < out[i, j, m]):
                        nearest[i, j, m] = ranks[k]
                        out[i, j, m] = value
