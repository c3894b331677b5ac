"""Boxes of an array that lies in a file in one piece, read by a few calls.

The file is not mapped into memory: where it is cut off meanwhile, the system would end the process.
"""

import math
import os
from collections.abc import Sequence

import numpy as np

from cristae.volumes.volume import Array

_SPAN_BYTES = 16 << 20
"""Read at once, at most."""

_GAP_BYTES = 8 << 10
"""Between two rows: less is read along, as that takes no longer than another call."""


def read_box(
    descriptor: int,
    offset: int,
    dtype: np.dtype[np.generic],
    shape: Sequence[int],
    select: Sequence[int | slice],
) -> Array:
    """What an index selects of an array in a file.

    Args:
        descriptor: The open file.
        offset: Byte where the array begins.
        dtype: Type of its values.
        shape: Its extents, the last one contiguous.
        select: A number or a slice without a step for every axis.

    Returns:
        An array of its own, without the axes that a number was given for.

    Raises:
        ValueError: The file ends before.
    """
    parts = [
        (s, s + 1) if isinstance(s, int) else s.indices(n)[:2]
        for s, n in zip(select, shape, strict=True)
    ]
    sides = [max(0, stop - start) for start, stop in parts]
    strides = [dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    first = offset + sum(start * step for (start, _), step in zip(parts, strides, strict=True))
    array = np.empty(sides, dtype)
    if array.size:
        depth, span = _outer_axes(sides, strides)
        for place in np.ndindex(*sides[:depth]):
            at = first + sum(i * step for i, step in zip(place, strides, strict=False))
            data = read_bytes(descriptor, at, span)
            array[place] = np.ndarray(sides[depth:], dtype, data, 0, strides[depth:])
    kept = tuple(i for i, s in enumerate(select) if isinstance(s, int))
    return array.squeeze(kept)


def _outer_axes(sides: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """How many axes are walked along, and the bytes from the first to the last value inside."""
    for depth in range(len(sides)):
        inner = range(depth, len(sides))
        span = strides[-1] + sum((sides[i] - 1) * strides[i] for i in inner)
        gaps = span - strides[-1] * math.prod(sides[depth:])
        if span <= _SPAN_BYTES and gaps <= _GAP_BYTES * math.prod(sides[depth:-1]):
            break
    return depth, span


def read_bytes(descriptor: int, offset: int, count: int) -> bytes:
    """Bytes of an open file; safe from several threads.

    Raises:
        ValueError: The file ends before.
    """
    data = os.pread(descriptor, count, offset)
    while len(data) < count:  # a system reads at most 2 GiB at once
        more = os.pread(descriptor, count - len(data), offset + len(data))
        if not more:
            raise ValueError(f"{count} bytes expected at {offset}, {len(data)} found")
        data += more
    return data
