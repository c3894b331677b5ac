"""Values for what they are: masks of two values, and probabilities that rounding moved.

A prediction may be a mask: 0 and one other value, which depends on who wrote it (1, 255 or 65535;
1 bit and bool are read as 0 and 1). It means 0 and certain, whatever its type.
"""

from dataclasses import dataclass

import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.progress import log
from cristae.errors import InputError
from cristae.grid import Box, Triple, tile
from cristae.volumes.intensity import sample_boxes
from cristae.volumes.volume import Array, Volume

MASK_VALUES = (1, 255, 65535)
"""What masks hold beside 0."""

MASK_SETTING = "mask_value"
"""Under which a record, and a prediction taken for a mask, name the value other than 0."""

ROUNDING = 1e-4
"""How far outside 0 to 1 a probability is taken for rounding; float16 rounds by more."""

_LOOK_VOXELS = 1 << 21
NO_MASK = -1


def mask_value(volume: Volume, resources: Resources) -> int | None:
    """The value other than 0 of a mask of two values, where it does not mean certainty already.

    The fixed sample decides against almost everything that is no such mask; what is left is read
    until a value says otherwise, so only masks and volumes of zeros are read as a whole. A mask of
    one value alone is one, too.

    Args:
        volume: Any volume of real numbers; the channels are looked at together.
        resources: Workers and executor of the reading.

    Returns:
        1, 255 or 65535; None for anything else, and for a volume of zeros.
    """
    if volume.dtype.kind not in "buif":
        return None
    certain, found = _certain(volume), 0
    for boxes in (sample_boxes(volume.shape), look_boxes(volume)):
        for _, value in run_tasks(_Looking(volume), boxes, resources):
            if value in (NO_MASK, certain) or (value and found and value != found):
                return None
            found = found or value
    return found or None


def _certain(volume: Volume) -> int:
    """The value that means certainty in a type."""
    if volume.dtype.kind == "f":
        return 1
    return {"u1": 255, "u2": 65535}.get(volume.dtype.str[1:], NO_MASK)


def as_mask(volume: Volume, value: int) -> Volume:
    """A mask of 0 and a value as one of 0 and 255, uint8.

    Args:
        volume: What `mask_value` gave the value of.
        value: As it gave it.
    """
    return volume.with_(
        reader=MaskReader(volume),
        dtype=np.dtype(np.uint8),
        corner=(0, 0, 0),
        attributes={
            **volume.attributes,
            MASK_SETTING: value,
            "quantisation": f"mask of 0 and {value}",
        },
    )


def settle_mask(volume: Volume, resources: Resources, known: int | None = None) -> Volume:
    """A prediction, as a mask of 0 and 255 where it is a mask of other values.

    Predictions of cristae, which say how they are quantised, are not looked at.

    Args:
        volume: ([c,] z, y, x).
        resources: Workers and executor of the reading.
        known: Of `mask_value`, where it is known; 0 where it is known to be no mask.
    """
    if "quantisation" in volume.attributes:
        return volume
    value = mask_value(volume, resources) if known is None else known
    if not value:
        return volume
    log.info("%s: holds 0 and %d only: taken for a mask", volume.name, value)
    return as_mask(volume, value)


def settle_prediction(volume: Volume, resources: Resources, known: int | None = None) -> Volume:
    """What a decoder reads, see `settle_mask`.

    Raises:
        InputError: Neither a mask nor uint8, uint16 or floats.
    """
    settled = settle_mask(volume, resources, known)
    if settled.dtype.kind != "f" and settled.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise InputError(
            f"{volume.name}: {volume.dtype} voxels found, expected a mask of two values, or "
            "probabilities as uint8, uint16, or float in [0, 1]"
        )
    return settled


def probabilities(array: Array, name: str) -> Array:
    """Probabilities with what rounding moved outside 0 to 1 put back.

    Args:
        array: Floats of any shape.
        name: What messages call it.

    Returns:
        The array itself where nothing lies outside, else a new one.

    Raises:
        InputError: A value outside by more than 1e-4 (of float16 by more than a step), or NaN.
    """
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= 1:
        return array
    slack = ROUNDING + float(np.finfo(array.dtype).eps)
    if not (low >= -slack and high <= 1 + slack):
        raise InputError(f"{name}: values from {low:.9g} to {high:.9g}, expected [0, 1]")
    return np.clip(array, 0, 1)


@dataclass(frozen=True)
class MaskReader:
    """Reads a mask of any type as 0 and 255."""

    volume: Volume

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) uint8 mask of a box."""
        mask = np.not_equal(self.volume.read(box), 0).view(np.uint8)
        return np.multiply(mask, np.uint8(255), out=mask)


@dataclass(frozen=True)
class _Looking:
    """The value beside 0 in a box; 0 where there is none, `NO_MASK` where it is no mask."""

    volume: Volume

    def __call__(self, box: Box) -> int:
        array = self.volume.read(box)
        value = array.max()
        if value == 0 and array.min() == 0:
            return 0
        if value not in MASK_VALUES or not ((array == 0) | (array == value)).all():
            return NO_MASK
        return int(value)


def look_boxes(volume: Volume) -> list[Box]:
    """Boxes of whole chunks that fill a volume, of about two million voxels."""
    sides = [min(c, n) for c, n in zip(volume.chunk_shape, volume.shape, strict=True)]
    for axis in (2, 1, 0):
        others = sides[0] * sides[1] * sides[2] // sides[axis]
        sides[axis] *= max(1, _LOOK_VOXELS // (others * sides[axis]))
    block: Triple = (sides[0], sides[1], sides[2])
    return tile(volume.box, block)
