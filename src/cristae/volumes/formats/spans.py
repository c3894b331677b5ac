"""Boxes of an array that lies in a file in one piece, read by a few calls.

The file is not mapped into memory: where it is cut off meanwhile, the system would end the process.
"""

import os
from collections.abc import Sequence
from itertools import product
from operator import mul

import numpy as np

from cristae.volumes.volume import Array

_SPAN_BYTES = 16 << 20
"""Read at once, at most."""

_GAP_BYTES = 8 << 10
"""Between rows, or planes: less is read along, as that takes no longer than another call."""


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
    sides, strides, first = [0] * len(shape), [0] * len(shape), offset
    step = span = dtype.itemsize  # of one step along an axis; from the first value to the last
    inner = len(shape)  # axes from this one on are read at once
    for axis in range(len(shape) - 1, -1, -1):
        part, side = select[axis], shape[axis]
        start, stop = (part, part + 1) if isinstance(part, int) else part.indices(side)[:2]
        first += start * step
        strides[axis], sides[axis] = step, max(0, stop - start)
        along = span + (stop - start - 1) * step
        is_near = step - span <= _GAP_BYTES and along <= _SPAN_BYTES
        if inner == axis + 1 and (is_near or step == dtype.itemsize):
            inner, span = axis, along
        step *= side
    array = np.empty(sides, dtype)
    for place in product(*map(range, sides[:inner])) if array.size else ():
        data = read_bytes(descriptor, sum(map(mul, place, strides), first), span)
        array[place] = np.ndarray(sides[inner:], dtype, data, 0, strides[inner:])
    kept = tuple(i for i, part in enumerate(select) if isinstance(part, int))
    return array.squeeze(kept) if kept else array


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
