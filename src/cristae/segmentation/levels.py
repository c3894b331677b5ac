"""Levels: probabilities as 256 values, and thresholds as bounds on them.

A threshold is a probability t and is compared as PyTorch Connectomics v1 does: a uint8 value v
passes ``> t`` with v > int(255 t) and ``< t`` with v < int(255 t). A distance threshold is a signed
distance, d = v / 127.5 - 1.
"""

import numpy as np
from numpy.typing import NDArray

from cristae.volumes.values import probabilities
from cristae.volumes.volume import Array

Levels = NDArray[np.uint8]


def distance_bound(threshold: float) -> int:
    """The largest uint8 value that does not pass a distance threshold; -1 where all pass."""
    distance = np.arange(256) / 127.5 - 1.0
    return int(np.count_nonzero(distance <= threshold)) - 1


def quantise(array: Array, name: str) -> Levels:
    """A prediction as 256 levels, truncated as PyTorch Connectomics writes it.

    Args:
        array: uint8 (kept), uint16 (65535 is certain) or float probabilities in [0, 1].
        name: What messages call the array.

    Returns:
        uint8 array of the same shape: int(255 p).

    Raises:
        InputError: A float outside [0, 1] by more than rounding, or not a number.
    """
    levels: Levels
    if array.dtype == np.uint8:
        levels = array
        return levels
    if array.dtype.newbyteorder("=") == np.uint16:
        levels = (array // 257).astype(np.uint8)
        return levels
    wide = np.float64 if array.dtype == np.float64 else np.float32
    levels = np.multiply(probabilities(array, name), 255, dtype=wide).astype(np.uint8)
    return levels
