"""CRC-32C, the checksum of Zarr's ``crc32c`` codec, at the speed of memory nearly."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit

POLYNOMIAL = 0x82F63B78
"""CRC-32C, its bits reversed."""

CHECKSUM_BYTES = 4
"""Of a checksum as it is stored, the lowest byte first."""


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    whole = len(data) // 16 * 2
    words = np.frombuffer(data, "<u8", whole)
    rest = np.frombuffer(data, np.uint8, offset=8 * whole)
    return int(_crc32c(words, rest, _tables()))


@cache
def _tables() -> NDArray[np.uint32]:
    """What a byte does to the sum when k more follow, (16, 256)."""
    tables = np.zeros((16, 256), np.uint32)
    tables[0] = np.arange(256)
    for _ in range(8):
        tables[0] = (tables[0] >> 1) ^ np.where(tables[0] & 1, np.uint32(POLYNOMIAL), 0)
    for k in range(1, 16):
        tables[k] = tables[0, tables[k - 1] & 0xFF] ^ (tables[k - 1] >> 8)
    return tables


@njit(nogil=True, cache=True)
def _crc32c(words: Any, rest: Any, t: Any) -> Any:
    """Sixteen bytes at a time, two words; then one by one."""
    found = np.uint32(0xFFFFFFFF)
    for i in range(0, words.size, 2):
        found = _word(words[i] ^ np.uint64(found), t[8:]) ^ _word(words[i + 1], t)
    for byte in rest:
        found = t[0, (found ^ byte) & np.uint32(0xFF)] ^ (found >> np.uint32(8))
    return found ^ np.uint32(0xFFFFFFFF)


@njit(nogil=True, cache=True, inline="always")
def _word(word: Any, t: Any) -> Any:
    # written out: as a loop it takes twice as long
    low = np.uint64(0xFF)
    return (
        t[7, word & low]
        ^ t[6, (word >> np.uint64(8)) & low]
        ^ t[5, (word >> np.uint64(16)) & low]
        ^ t[4, (word >> np.uint64(24)) & low]
        ^ t[3, (word >> np.uint64(32)) & low]
        ^ t[2, (word >> np.uint64(40)) & low]
        ^ t[1, (word >> np.uint64(48)) & low]
        ^ t[0, word >> np.uint64(56)]
    )
