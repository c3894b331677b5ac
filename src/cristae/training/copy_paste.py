"""Instances copied beside others so that they touch, each with its own id.

Labels of real EM rarely tell touching mitochondria apart. So an instance of the patch is copied,
mirrored or turned by a quarter, and slid along a random direction until it just overlaps another
one; the overlap stays with that one, which gives the flat contact of real pairs, and the copy's
side of the contact is darkened to a membrane::

      AAAAAA                 AAAAAA m CCCC
     AAAAAAAA   +  CCCCC =  AAAAAAAAmCCCCC      m: dark, part of the copy
      AAAAAA                 AAAAAA m CCCC
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cristae.configuration import config_dataclass

Array = NDArray[Any]
Random = np.random.Generator

TRIES = 6
MIN_VOXELS = 150
MIN_CONTACT = 12
MEMBRANE_PERCENT = 10
SOFTEN_PX = 0.6


@config_dataclass
class CopyPasteConfig:
    """How instances are copied beside others.

    Attributes:
        share: Share of patches in which it is done.
        copies: Most copies in a patch.
        overlap_px: How far a copy is slid into the other before the overlap is cut, at most.
        membrane_px: Widths of the copy's dark side of the contact, smallest and largest.
    """

    share: float = 0.0
    copies: int = 3
    overlap_px: int = 5
    membrane_px: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class _Piece:
    """An instance cut out of a patch.

    Attributes:
        inside: Its voxels within its bounding box (z, y, x), one pixel wider in plane.
        grey: The image there.
    """

    inside: NDArray[np.bool_]
    grey: NDArray[np.float32]


def is_pasted(config: CopyPasteConfig, random: Random) -> bool:
    """Whether a patch is one of the share: the first of its random numbers says so."""
    return bool(random.random() < config.share)


def copy_paste_touching(
    image: NDArray[np.float32], labels: NDArray[np.int32], config: CopyPasteConfig, random: Random
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Copy instances of a patch beside others.

    Args:
        image: Normalised grey values (z, y, x).
        labels: Ids (z, y, x).
        config: How.
        random: The patch's own random numbers.

    Returns:
        New arrays; the ones given where there is nothing to copy or no room. Voxels of instances
        never change, copies have new ids.
    """
    if not is_pasted(config, random):
        return image, labels
    ids, boxes = _whole_instances(labels)
    if not ids:
        return image, labels
    image, labels = image.copy(), labels.copy()
    for _ in range(int(random.integers(1, config.copies + 1))):
        for _ in range(TRIES):
            donor, other = (int(v) for v in random.integers(len(ids), size=2))
            piece = _turn(_cut(image, labels, ids[donor], boxes[donor]), random)
            if _place(image, labels, piece, ids[other], config, random):
                break
    return image, labels


def _whole_instances(labels: Array) -> tuple[list[int], list[tuple[slice, ...]]]:
    """Instances large enough that do not reach the patch's border in plane."""
    ids, boxes = [], []
    _, height, width = labels.shape
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        inner = all(
            side.start > 0 and side.stop < length
            for side, length in zip(box[1:], (height, width), strict=True)
        )
        if inner and np.count_nonzero(labels[box] == i) >= MIN_VOXELS:
            ids.append(i)
            boxes.append(box)
    return ids, boxes


def _cut(image: Array, labels: Array, one: int, box: tuple[slice, ...]) -> _Piece:
    z, y, x = box
    wide = (z, slice(y.start - 1, y.stop + 1), slice(x.start - 1, x.stop + 1))
    return _Piece(labels[wide] == one, image[wide])


def _turn(piece: _Piece, random: Random) -> _Piece:
    """Turned by quarters and mirrored along each axis, at random."""
    quarters = int(random.integers(4))
    axes = tuple(axis for axis in range(3) if random.random() < 0.5)
    inside = np.flip(np.rot90(piece.inside, quarters, (1, 2)), axes)
    return _Piece(inside, np.flip(np.rot90(piece.grey, quarters, (1, 2)), axes))


def _place(
    image: Array, labels: Array, piece: _Piece, other: int, config: CopyPasteConfig, random: Random
) -> bool:
    """Slide the piece against the other instance and write it; False where it does not fit."""
    voxels = np.argwhere(labels == other)
    start = voxels[int(random.integers(len(voxels)))]
    angle = random.uniform(0, 2 * np.pi)
    direction = np.array([0.0, np.sin(angle), np.cos(angle)])
    half = np.array(piece.inside.shape) // 2
    allowed = int(random.integers(1, config.overlap_px + 1))
    reach = int(np.hypot(*labels.shape[1:]))
    last = None
    for step in range(reach):
        corner = np.round(start + step * direction).astype(int) - half
        view, part = _overlap(labels.shape, corner, piece.inside.shape)
        if view is None:
            break
        if not (piece.inside[part] & (labels[view] == other)).any():
            last = step
            break
    if last is None:
        return False
    corner = np.round(start + max(0, last - allowed) * direction).astype(int) - half
    return _write(image, labels, piece, corner, other, config, random)


def _overlap(
    shape: tuple[int, ...], corner: Array, extent: tuple[int, ...]
) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """Where an array placed at a corner lies in another: slices of that one and of its own."""
    low = np.maximum(corner, 0)
    high = np.minimum(corner + extent, shape)
    if (high <= low).any():
        return None, ()
    view = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    part = tuple(slice(int(a), int(b)) for a, b in zip(low - corner, high - corner, strict=True))
    return view, part


def _write(
    image: Array,
    labels: Array,
    piece: _Piece,
    corner: Array,
    other: int,
    config: CopyPasteConfig,
    random: Random,
) -> bool:
    view, part = _overlap(labels.shape, corner, piece.inside.shape)
    if view is None:
        return False
    inside, there = piece.inside[part], labels[view]
    free = inside & (there == 0)
    blocked = inside & (there > 0) & (there != other)
    whole = np.count_nonzero(piece.inside)
    if np.count_nonzero(blocked) > 0.02 * whole or np.count_nonzero(free) < 0.6 * whole:
        return False
    contact = free & _dilate(there == other, 1)
    if np.count_nonzero(contact) < MIN_CONTACT:
        return False
    grey = image[view]
    edge = there == other
    membrane = float(np.percentile(grey[edge & ~ndimage.binary_erosion(edge)], MEMBRANE_PERCENT))
    rim = _dilate(free, 1) & ~inside & (there == 0)
    grey[free] = piece.grey[part][free]
    # around the copy the darker of both stays, so its own membrane is whole
    grey[rim] = np.minimum(grey[rim], piece.grey[part][rim])
    width = int(random.integers(config.membrane_px[0], config.membrane_px[1] + 1))
    seam = free & _dilate(there == other, width)
    dark = membrane + random.normal(0, 0.05, np.count_nonzero(seam))
    grey[seam] = np.minimum(grey[seam], dark.astype(np.float32))
    drawn = seam | rim
    grey[drawn] = ndimage.gaussian_filter(grey, (0, SOFTEN_PX, SOFTEN_PX))[drawn]
    there[free] = int(labels.max()) + 1
    return True


def _dilate(flags: Array, by: int) -> NDArray[np.bool_]:
    """Flags and the pixels within ``by`` steps to the sides and corners, in plane."""
    side = 2 * by + 1
    wide: NDArray[np.bool_] = ndimage.maximum_filter(flags, size=(1, side, side), mode="constant")
    return wide
