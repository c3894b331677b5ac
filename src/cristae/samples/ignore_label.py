"""Partly labelled volumes: what an ignore label means, for stages that know masks only."""

from dataclasses import dataclass

import numpy as np

from cristae.grid import Box
from cristae.volumes.volume import Array, Volume


def split_ignored(
    labels: Volume, mask: Volume | None, ignore_label: int | None
) -> tuple[Volume, Volume | None]:
    """Labels without their ignore label, and a mask that is 0 where it was.

    Args:
        labels: Ids (z, y, x), some voxels of which may say that nothing is known there.
        mask: 0 where nothing is known besides, or None.
        ignore_label: The id that says so; with 0, only voxels of instances are known. None: there
            is none, both volumes stay as they are.

    Returns:
        Labels of the same dtype, background where they were ignored; and the mask. Both are read
        box by box.
    """
    if ignore_label is None:
        return labels, mask
    identity = labels.identity.read_as(f"ignoring {ignore_label}")
    of_known = identity if mask is None else identity.joined(mask.identity)
    known = labels.with_(
        reader=KnownReader(labels, mask, ignore_label),
        dtype=np.dtype(np.uint8),
        corner=(0, 0, 0),
        kind=None,
        attributes={},
        identity=of_known.read_as("where it is known"),
    )
    reader = WithoutIgnored(labels, ignore_label)
    return labels.with_(reader=reader, corner=(0, 0, 0), identity=identity), known


@dataclass(frozen=True)
class WithoutIgnored:
    """Reads labels, the ignored ones as background."""

    labels: Volume
    ignore_label: int

    def read(self, box: Box) -> Array:
        """The (z, y, x) labels of a box."""
        array = self.labels.read(box)
        array[array == self.ignore_label] = 0
        return array


@dataclass(frozen=True)
class KnownReader:
    """Reads 1 where a label is known, 0 elsewhere."""

    labels: Volume
    mask: Volume | None
    ignore_label: int

    def read(self, box: Box) -> Array:
        """The (z, y, x) uint8 mask of a box."""
        known: Array = self.labels.read(box) != self.ignore_label
        if self.mask is not None:
            known &= self.mask.read(box) != 0
        return known.astype(np.uint8)
