"""Chance without state: numbers that are pure functions of integer keys.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit

Array = NDArray[Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_S21, _S42, _S11 = np.uint64(21), np.uint64(42), np.uint64(11)
_MASK21 = np.uint64(0x1FFFFF)
_TO_UNIT21 = np.float32(2.0 / 0x1FFFFF)


@njit(nogil=True, cache=True, inline="always")
def mix(key: Any) -> Any:
    """A well stirred uint64 of a uint64."""
    key = (key ^ (key >> _S30)) * _C1
    key = (key ^ (key >> _S27)) * _C2
    return key ^ (key >> _S31)


@njit(nogil=True, cache=True, inline="always")
def derive(key: Any, number: Any) -> Any:
    """The key of child ``number`` of a key."""
    return mix(key + _GOLDEN * (np.uint64(number) + np.uint64(1)))


@njit(nogil=True, cache=True, inline="always")
def derive3(key: Any, z: Any, y: Any, x: Any) -> Any:
    """The key of lattice point (z, y, x) under a key."""
    return derive(derive(derive(key, z), y), x)


@njit(nogil=True, cache=True, inline="always")
def unit(key: Any, number: Any) -> float:
    """A number in [0, 1): draw ``number`` under a key."""
    return float(derive(key, number) >> _S11) * (1.0 / 9007199254740992.0)


@njit(nogil=True, cache=True)
def between(key: Any, number: Any, low: float, high: float) -> float:
    """A number in [low, high)."""
    found: float = low + (high - low) * unit(key, number)
    return found


@njit(nogil=True, cache=True)
def normal(key: Any, number: Any) -> float:
    """A standard normal number (Box and Muller), cut at 3 either way."""
    child = derive(key, number)
    radius = math.sqrt(-2.0 * math.log(1.0 - unit(child, 0)))
    return min(3.0, max(-3.0, radius * math.cos(2.0 * math.pi * unit(child, 1))))


@njit(nogil=True, cache=True)
def direction(key: Any, number: Any, out: Array) -> None:
    """Write a unit vector (z, y, x), uniform on the sphere."""
    child = derive(key, number)
    z = 2.0 * unit(child, 0) - 1.0
    angle = 2.0 * math.pi * unit(child, 1)
    r = math.sqrt(max(0.0, 1.0 - z * z))
    out[0], out[1], out[2] = z, r * math.cos(angle), r * math.sin(angle)


@njit(nogil=True, cache=True, inline="always")
def _ease(t: float) -> float:
    return t * t * (3.0 - 2.0 * t)


@njit(nogil=True, cache=True)
def add_smooth_noise(key: Any, z: float, y: float, x: float, weights: Array, out: Array) -> None:
    """Add three independent smooth noises in [-1, 1] at a lattice-scaled point to ``out[:3]``.

    Value noise: random values at integer points, blended by the cubic smoothstep.

    Args:
        key: Chooses the noise.
        z: Coordinate in lattice steps.
        y: Coordinate in lattice steps.
        x: Coordinate in lattice steps.
        weights: Amplitude of each of the three, float64.
        out: Where they are added, float64, at least 3 long.
    """
    z0, y0, x0 = math.floor(z), math.floor(y), math.floor(x)
    fz, fy, fx = z - z0, y - y0, x - x0
    fz, fy, fx = _ease(fz), _ease(fy), _ease(fx)
    a = b = c = 0.0
    for i in range(2):
        plane = derive(key, np.int64(z0) + i)
        wz = fz if i else 1.0 - fz
        for j in range(2):
            line = derive(plane, np.int64(y0) + j)
            wy = wz * (fy if j else 1.0 - fy)
            for k in range(2):
                h = derive(line, np.int64(x0) + k)
                w = wy * (fx if k else 1.0 - fx)
                a += w * (np.float64(h & _MASK21) * _TO_UNIT21 - 1.0)
                b += w * (np.float64((h >> _S21) & _MASK21) * _TO_UNIT21 - 1.0)
                c += w * (np.float64((h >> _S42) & _MASK21) * _TO_UNIT21 - 1.0)
    out[0] += weights[0] * a
    out[1] += weights[1] * b
    out[2] += weights[2] * c


@njit(nogil=True, cache=True, inline="always")
def rough_normal(key: Any) -> Any:
    """A float32 number, nearly standard normal: the centred sum of a hash's four parts."""
    mask = np.uint64(0xFFFF)
    total = (key & mask) + ((key >> np.uint64(16)) & mask)
    total += ((key >> np.uint64(32)) & mask) + (key >> np.uint64(48))
    return np.float32((np.float64(total) - 131070.0) * 2.6429e-5)
