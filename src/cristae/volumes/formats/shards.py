"""Shards of our OME-Zarr arrays, written from the chunks that hold anything, read chunk by chunk.

Who knows which chunks of a shard are empty need not hold the shard, nor have it looked through. Who
looks at each chunk once decodes it where it is looked at, and it is still in that core's cache::

    SHARD = chunk, chunk, ...; for each chunk of the shard in (z, y, x) order where its bytes begin
            and how many there are (uint64, all ones where it is not stored); CRC-32C of that index
    chunk = voxels in (z, y, x) order, compressed; CRC-32C of the compressed bytes
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cristae.engine.files import write_atomic
from cristae.engine.stored import CHECKSUM_BYTES, checksum
from cristae.errors import InputError
from cristae.grid import Box, Triple, snap, tile
from cristae.volumes.formats.ome_zarr import ZSTD_LEVEL, ZarrReader
from cristae.volumes.volume import Array, Volume

NOT_STORED = 2**64 - 1


def encode_chunk(array: Array) -> bytes:
    """The bytes of one whole chunk, (z, y, x), their checksum behind them."""
    little: Any = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    encoded = bytes(imagecodecs.zstd_encode(little, level=ZSTD_LEVEL))
    return encoded + checksum(encoded)


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
    ends += checksum(ends)
    path = Path(reader.path, "c", *(str(number) for number, _ in place))
    write_atomic(path, lambda file: file.writelines([*chunks.values(), ends]), alone=True)


@dataclass(frozen=True)
class Chunks:
    """The chunks of an array written as `create_ome_zarr` does, one at a time.

    Attributes:
        folder: Of the array.
        dtype: Of its voxels.
        chunk: Extent (z, y, x) of a chunk.
        shard: Extent of a shard.
        corner: Voxel of the array that is voxel 0 of the volume.
        checked: Whether each chunk ends with its checksum.
        reader: Of the same array; asked whether what is not stored should be there.
    """

    folder: Path
    dtype: np.dtype[Any]
    chunk: Triple
    shard: Triple
    corner: Triple
    checked: bool
    reader: ZarrReader

    def read(self, block: Box) -> "Iterator[tuple[Box, Array | None]]":
        """The parts of a block that lie in different chunks, in raster order of these.

        An array is overwritten when the next one is asked for.

        Args:
            block: In voxels of the volume, inside of it.

        Yields:
            The part's box, and its voxels; None where its chunk is not stored: all are 0.

        Raises:
            InputError: A shard that cannot be read, with its path.
        """
        inside = block.shift(self.corner)
        space, indices = np.empty(self.chunk, self.dtype), dict[Triple, NDArray[np.uint64]]()
        for cell in tile(snap(inside, self.chunk), self.chunk):
            part = cell.clip(inside)
            stored = self._decode(cell, indices, space)
            found = space[part.relative_to(cell.start).slices()] if stored else None
            yield part.relative_to(self.corner), found

    def _decode(
        self, cell: Box, indices: dict[Triple, NDArray[np.uint64]], out: NDArray[Any]
    ) -> bool:
        """Decode a chunk; False where it is not stored."""
        sides = zip(cell.start, self.shard, self.chunk, strict=True)
        (z, iz), (y, iy), (x, ix) = ((a // s, a % s // c) for a, s, c in sides)
        path = Path(self.folder, "c", str(z), str(y), str(x))
        try:
            index = indices.get((z, y, x))
            if index is not None and index[iz, iy, ix, 0] == NOT_STORED:
                return False
            with path.open("rb") as file:
                if index is None:
                    index = indices[z, y, x] = self._index(path, file)
                offset, size = (int(each) for each in index[iz, iy, ix])
                if offset == NOT_STORED:
                    return False
                file.seek(offset)
                encoded = self._verified(path, cell, file.read(size))
            decoded = imagecodecs.zstd_decode(encoded, out=out.reshape(-1).view(np.uint8).data)
        except FileNotFoundError:
            self.reader.check_there(cell)
            return False
        except (OSError, imagecodecs.ZstdError) as error:
            raise InputError(f"{path}, box {cell}: {error}") from error
        if len(decoded) != out.nbytes:
            raise InputError(f"{path}, box {cell}: {len(decoded)} bytes, expected {out.nbytes}")
        return True

    def _verified(self, path: Path, cell: Box, stored: bytes) -> bytes:
        """The compressed bytes of a chunk, without their checksum."""
        if not self.checked:
            return stored
        encoded = stored[:-CHECKSUM_BYTES]
        if checksum(encoded) != stored[-CHECKSUM_BYTES:]:
            raise InputError(f"{path}, box {cell}: damaged, the checksum of a chunk does not fit")
        return encoded

    def _index(self, path: Path, file: BinaryIO) -> NDArray[np.uint64]:
        """Where each chunk of a shard lies, (z, y, x, 2)."""
        z, y, x = (s // c for s, c in zip(self.shard, self.chunk, strict=True))
        length, size = 16 * z * y * x, path.stat().st_size
        if size < length + CHECKSUM_BYTES:
            raise InputError(f"{path}: {size} bytes, expected {length + CHECKSUM_BYTES} at least")
        file.seek(size - length - CHECKSUM_BYTES)
        ends = file.read()
        if checksum(ends[:length]) != ends[length:]:
            raise InputError(f"{path}: damaged, the checksum of its index does not fit")
        return np.frombuffer(ends[:length], "<u8").reshape(z, y, x, 2)


def chunks_of(volume: Volume) -> Chunks | None:
    """The chunks of a volume of integers; None where it is not an array as cristae writes them."""
    reader, shard = volume.reader, volume.shard_shape
    if not isinstance(reader, ZarrReader) or reader.driver != "zarr3" or reader.axes is not None:
        return None
    if shard is None or volume.channels is not None or volume.dtype.kind not in "ui":
        return None
    known: Any = json.loads(Path(reader.path, "zarr.json").read_text())
    outer = _codecs(known["codecs"])
    found = outer[0][1]
    inner, index = _codecs(found.get("codecs", [])), _codecs(found.get("index_codecs", []))
    ours = (
        [name for name, _ in outer] == ["sharding_indexed"]
        and [name for name, _ in inner] in (["bytes", "zstd"], ["bytes", "zstd", "crc32c"])
        and [name for name, _ in index] == ["bytes", "crc32c"]
        and all(settings.get("endian", "little") == "little" for _, settings in (*inner, *index))
        and found.get("index_location", "end") == "end"
        and known["fill_value"] == 0
        and known["data_type"] == volume.dtype.name
        and known.get("chunk_key_encoding", _KEYS) in (_KEYS, {"name": "default"})
        and len(known["shape"]) == 3
        and all(s % c == 0 for s, c in zip(shard, volume.chunk_shape, strict=True))
    )
    if not ours:
        return None
    dtype = volume.dtype.newbyteorder("<")
    checked = len(inner) == 3
    return Chunks(
        Path(reader.path), dtype, volume.chunk_shape, shard, volume.corner, checked, reader
    )


def _codecs(listed: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and settings of codecs; one without settings may be listed by its name alone."""
    return [
        (each, {}) if isinstance(each, str) else (each["name"], each.get("configuration", {}))
        for each in listed
    ]


_KEYS = {"name": "default", "configuration": {"separator": "/"}}
