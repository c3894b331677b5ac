"""Boxes and blocks in whole voxels; holds no arrays.

All boxes are half-open and in (z, y, x) order. A stage cuts a volume into blocks with `tile`;
a block is a core that is written and, where the work needs surroundings, a halo that is read::

      halo_lo    core     halo_hi
    |........|==========|........|
    ^ read.start         read.stop ^
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from operator import add, le

from cristae.errors import InputError

Triple = tuple[int, int, int]

MOST_BLOCKS = 1 << 25
"""Blocks that a box is cut into at most: 563 Tvoxel in shards of 64 x 512 x 512."""

_ROI = re.compile(r"^\s*(-?\d*)\s*:\s*(-?\d*)\s*$")


@dataclass(frozen=True, order=True)
class Box:
    """A half-open box of voxels; sorts in raster order of its first voxel.

    Attributes:
        start: First voxel (z, y, x), inclusive.
        stop: Last voxel (z, y, x), exclusive.
    """

    start: Triple
    stop: Triple

    @classmethod
    def of(cls, shape: Triple) -> "Box":
        """The box of a whole array of this (z, y, x) shape."""
        return cls((0, 0, 0), (int(shape[0]), int(shape[1]), int(shape[2])))

    @property
    def shape(self) -> Triple:
        """Extent along (z, y, x) in voxels, never negative."""
        return _triple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x

    @property
    def empty(self) -> bool:
        """Whether the box holds no voxel."""
        return self.size == 0

    def slices(self) -> tuple[slice, slice, slice]:
        """The box as (z, y, x) slices of an array that starts at voxel 0."""
        z, y, x = map(slice, self.start, self.stop)
        return z, y, x

    def grow(self, lo: Triple, hi: Triple | None = None) -> "Box":
        """The box with ``lo`` voxels more before it and ``hi`` (default ``lo``) after it."""
        hi = lo if hi is None else hi
        return Box(
            _triple(a - g for a, g in zip(self.start, lo, strict=True)),
            _triple(b + g for b, g in zip(self.stop, hi, strict=True)),
        )

    def clip(self, other: "Box") -> "Box":
        """The part inside ``other``; empty where they do not meet."""
        start = _triple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = _triple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, _triple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def shift(self, by: Triple) -> "Box":
        """The box moved by ``by`` voxels."""
        return Box(_triple(map(add, self.start, by)), _triple(map(add, self.stop, by)))

    def relative_to(self, corner: Triple) -> "Box":
        """The same voxels counted from ``corner`` instead of voxel 0."""
        z, y, x = corner
        return self.shift((-z, -y, -x))

    def contains(self, other: "Box") -> bool:
        """Whether every voxel of ``other`` lies inside."""
        inside = all(map(le, self.start, other.start)) and all(map(le, other.stop, self.stop))
        return inside or other.empty

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


def tile(box: Box, block_shape: Triple) -> list[Box]:
    """Cut a box into blocks, in raster order, the last along each axis clipped.

    Args:
        box: The box to cut.
        block_shape: Extent of a whole block (z, y, x), each at least 1.

    Returns:
        Blocks that fill the box without overlap; none for an empty box.

    Raises:
        InputError: A block extent under 1, or more blocks than a list can hold.
    """
    if min(block_shape) < 1:
        raise InputError(f"block shape {block_shape}: every extent must be at least 1")
    counts = [-(-n // s) for n, s in zip(box.shape, block_shape, strict=True)]
    if math.prod(counts) > MOST_BLOCKS:
        raise InputError(
            f"box {box} has {math.prod(counts):.3g} blocks of {block_shape} voxels, expected at "
            f"most {MOST_BLOCKS:.3g}; is its shape right?"
        )
    spans = [
        [(a, min(a + s, int(stop))) for a in range(start, stop, s)]
        for start, stop, s in zip(box.start, box.stop, block_shape, strict=True)
    ]
    return [Box((z, y, x), (z1, y1, x1)) for (z, z1), (y, y1), (x, x1) in product(*spans)]


def snap(box: Box, multiple: Triple) -> Box:
    """The smallest box around ``box`` whose corners are multiples of ``multiple``."""
    return Box(
        _triple(a // m * m for a, m in zip(box.start, multiple, strict=True)),
        _triple(-(-b // m) * m for b, m in zip(box.stop, multiple, strict=True)),
    )


def parse_roi(text: str, shape: Triple) -> Box:
    """A box from ``z0:z1,y0:y1,x0:x1``; an empty side means the end of the volume.

    Negative numbers count from the end, as in NumPy.

    Raises:
        InputError: Another form, or a box that is empty or reaches outside ``shape``.
    """
    parts = text.split(",")
    matches = [_ROI.match(part) for part in parts]
    if len(parts) != 3 or not all(matches):
        raise InputError(f"roi {text!r}: expected z0:z1,y0:y1,x0:x1")
    start, stop = [], []
    for match, length in zip(matches, shape, strict=True):
        low, high = match.groups() if match else ("", "")
        a = int(low) if low else 0
        b = int(high) if high else length
        start.append(a + length if a < 0 else a)
        stop.append(b + length if b < 0 else b)
    box = Box(_triple(start), _triple(stop))
    if box.empty or not Box.of(shape).contains(box):
        raise InputError(
            f"roi {text!r}: expected a box inside 0:{shape[0]},0:{shape[1]},0:{shape[2]}"
        )
    return box


def _triple(values: "Iterator[int] | tuple[int, ...] | list[int]") -> Triple:
    z, y, x = values
    return int(z), int(y), int(x)


def spread_starts(length: int, size: int, most: int) -> list[int]:
    """Starts of up to ``most`` pieces of ``size`` voxels, centred in equal parts of ``length``.

    A length under the size gives one piece, from 0.
    """
    count = max(1, min(most, length // size))
    if length < size:
        return [0]
    return [max(0, (2 * i + 1) * length // (2 * count) - size // 2) for i in range(count)]
