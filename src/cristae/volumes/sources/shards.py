"""Shards of our OME-Zarr arrays, written from the chunks that hold anything.

Who knows which chunks of a shard are empty need not hold the shard, nor have it looked through::

    SHARD = chunk, chunk, ...; for each chunk of the shard in (z, y, x) order where its bytes begin
            and how many there are (uint64, all ones where it is not stored); CRC-32C of that index
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from cristae.engine.files import write_atomic
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.sources.ome_zarr import ZSTD_LEVEL, ZarrReader
from cristae.volumes.volume import Array, Volume

NOT_STORED = 2**64 - 1
POLYNOMIAL = 0x82F63B78
"""CRC-32C, its bits reversed."""


def encode_chunk(array: Array) -> bytes:
    """The bytes of one whole chunk, (z, y, x)."""
    little: Any = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return bytes(imagecodecs.zstd_encode(little, level=ZSTD_LEVEL))


def write_shard(volume: Volume, box: Box, chunks: Mapping[Triple, bytes]) -> None:
    """Write one shard; it is on disk when this returns, and no reader ever sees half of it.

    No other task writes the same shard meanwhile; one that was killed leaves nothing behind once
    the shard is written again.

    Args:
        volume: Without channels, from `create_ome_zarr`.
        box: The shard, clipped to the volume.
        chunks: The chunks that are not zero all over, encoded, by (z, y, x) number in the shard;
            those at the end of the volume whole. With none, no file is written.

    Raises:
        InputError: A volume of another kind, or a box that does not begin where a shard does.
    """
    reader, shard, chunk = volume.reader, volume.shard_shape, volume.chunk_shape
    if not isinstance(reader, ZarrReader) or shard is None or volume.channels is not None:
        raise InputError(f"{volume.name}: not a sharded array without channels, made by cristae")
    place = [divmod(a, n) for a, n in zip(box.shift(volume.corner).start, shard, strict=True)]
    if any(rest for _, rest in place):
        raise InputError(f"{volume.name}: box {box} found, expected the beginning of a shard")
    if not chunks:
        return
    grid = tuple(a // b for a, b in zip(shard, chunk, strict=True))
    index = np.full((*grid, 2), NOT_STORED, "<u8")
    offset = 0
    for number, encoded in chunks.items():
        index[number] = offset, len(encoded)
        offset += len(encoded)
    ends = index.tobytes()
    ends += crc32c(ends).to_bytes(4, "little")
    path = Path(reader.path, "c", *(str(number) for number, _ in place))
    write_atomic(path, lambda file: file.writelines([*chunks.values(), ends]), alone=True)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few bytes."""
    table = _table()
    found = 0xFFFFFFFF
    for byte in data:
        found = table[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


@cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table
