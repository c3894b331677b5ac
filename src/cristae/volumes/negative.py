"""What labels may hold, and volumes that truly hold no instance (``negative: true``)."""

from dataclasses import dataclass

import numpy as np

from cristae.grid import Box, tile
from cristae.volumes.volume import Array, Volume

SCAN_SHAPE = (32, 512, 512)
"""Block in which labels are read to check and load them."""

_CHUNK = (32, 128, 128)


def no_instances(image: Volume) -> Volume:
    """Labels of an image that holds no instance: uint8 (z, y, x), 0 everywhere."""
    return image.with_(
        name=f"{image.name} (negative)",
        reader=_Background(),
        dtype=np.dtype(np.uint8),
        corner=(0, 0, 0),
        kind="labels",
        chunk_shape=_CHUNK,
        attributes={},
        identity=image.identity.read_as("without instances"),
    )


@dataclass(frozen=True)
class _Background:
    """Reads 0 everywhere."""

    def read(self, box: Box) -> Array:
        """The (z, y, x) uint8 labels of a box."""
        return np.zeros(box.shape, np.uint8)


def label_faults(labels: Volume, *, negative: bool | None = False) -> list[str]:
    """Whether labels hold ids: whole numbers, none negative.

    Unsigned labels are read only until the first instance; others have to be read as a whole.

    Args:
        labels: (z, y, x).
        negative: True where there must be no instance, False where there must be one, None where
            both are right.
    """
    if labels.channels is not None:
        return []
    if labels.dtype.kind not in "uifb":
        return [f"{labels.name}: {labels.dtype} voxels, expected whole numbers"]
    if negative is None and labels.dtype.kind in "ub":
        return []
    empty = True
    for box in tile(labels.box, SCAN_SHAPE):
        block = labels.read(box)
        if labels.dtype.kind == "f" and not np.array_equal(block, np.floor(block)):
            odd = block[block != np.floor(block)][0]
            return [f"{labels.name}: label {odd} in {box}, expected whole numbers"]
        if labels.dtype.kind in "if" and block.min() < 0:
            return [f"{labels.name}: label {block.min()} in {box}, expected at least 0"]
        if negative and block.any():
            return [
                f"{labels.name}: label {block[block != 0][0]} in {box}, expected none above 0 in "
                "a volume with `negative: true`"
            ]
        empty = empty and not block.any()
        if not empty and labels.dtype.kind in "ub":
            break
    if empty and negative is False:
        return [
            f"{labels.name}: no label above 0, expected instances; where the volume truly holds "
            "none, `negative: true` says so"
        ]
    return []
