"""Zarr arrays with codecs that tensorstore does not know: their chunks, decoded here.

Known are numcodecs' lz4, zstd (with a checksum, too), zlib, gzip, bz2, lzma and blosc, and the
filters delta, shuffle, fixedscaleoffset, astype, quantize, bitround, crc32 and adler32, in Zarr v2
and, as ``numcodecs.NAME``, in v3.
"""

import bz2
import gzip
import itertools
import lzma
import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np

from cristae.engine.files import read_json
from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats.axes import Axes
from cristae.volumes.formats.pages import PLANES, plain_dtype
from cristae.volumes.volume import Array

Codec = Mapping[str, Any]


@dataclass(frozen=True)
class StoredArray:
    """What the metadata says of how chunks are stored.

    Attributes:
        folder: Of the array.
        shape: Extents in stored order.
        chunk: Extents of a chunk.
        dtype: Type of the voxels, with its byte order.
        order: ``C`` or ``F``.
        fill: Value of chunks that are not there.
        codecs: In the order of encoding, ids without ``numcodecs.``.
        prefix: What a chunk's key begins with.
        separator: Between the numbers of a key.
        names: Of the dimensions, where the metadata has them.
    """

    folder: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    fill: Any
    codecs: tuple[Codec, ...]
    prefix: str
    separator: str
    names: tuple[str | None, ...] = ()

    def key(self, index: tuple[int, ...]) -> str:
        """Path of a chunk."""
        return os.path.join(self.folder, self.prefix + self.separator.join(map(str, index)))


@dataclass(frozen=True)
class ChunkReader:
    """Reads boxes of an array chunk by chunk.

    Attributes:
        path: Folder of the array.
        stamp: Changes when the array is made anew, so that no stale chunk is used.
        axes: How its axes are read.
    """

    path: str
    stamp: int
    axes: Axes

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: A chunk that cannot be read or decoded, with its file.
        """
        array = load_stored(Path(self.path))
        picked = self.axes.select(box)
        spans = [
            (s, s + 1) if isinstance(s, int) else s.indices(n)[:2]
            for s, n in zip(picked, array.shape, strict=True)
        ]
        out = np.empty([b - a for a, b in spans], plain_dtype(array.dtype))
        steps = [range(a // n, -(-b // n)) for (a, b), n in zip(spans, array.chunk, strict=True)]
        for index in itertools.product(*steps):
            data = PLANES.get((self.path, self.stamp, index), partial(_chunk, array, index))
            corner = [i * n for i, n in zip(index, array.chunk, strict=True)]
            low = [max(a, c) for (a, _), c in zip(spans, corner, strict=True)]
            high = [min(b, c + n) for (_, b), c, n in zip(spans, corner, array.chunk, strict=True)]
            there = tuple(
                slice(a - s, b - s) for a, b, (s, _) in zip(low, high, spans, strict=True)
            )
            here = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
            out[there] = data[here]
        kept = tuple(0 if isinstance(s, int) else slice(None) for s in picked)
        return self.axes.turn(out[kept])


def load_stored(folder: Path) -> StoredArray:
    """What the metadata of an array says.

    Raises:
        InputError: It is no array whose chunks can be decoded here; the codec is named.
    """
    v2, v3 = read_json(folder / ".zarray"), read_json(folder / "zarr.json")
    try:
        array = _from_v3(folder, v3) if v3 is not None else _from_v2(folder, v2)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}: metadata of the array cannot be used: {error}") from error
    unknown = [str(codec.get("id")) for codec in array.codecs if codec.get("id") not in _DECODERS]
    if unknown:
        raise InputError(
            f"{folder}: codec {', '.join(unknown)} found, expected {', '.join(sorted(_DECODERS))}"
        )
    return array


def _from_v2(folder: Path, tree: Mapping[str, Any]) -> StoredArray:
    filters = tree.get("filters") or []
    compressor = tree.get("compressor")
    return StoredArray(
        folder=str(folder),
        shape=tuple(int(n) for n in tree["shape"]),
        chunk=_chunk_shape(tree["chunks"]),
        dtype=np.dtype(tree["dtype"]),
        order=tree.get("order", "C"),
        fill=tree.get("fill_value"),
        codecs=(*filters, *([compressor] if compressor else [])),
        prefix="",
        separator=tree.get("dimension_separator", "."),
    )


def _from_v3(folder: Path, tree: Mapping[str, Any]) -> StoredArray:
    codecs: list[Codec] = []
    order: Literal["<", ">"] = "<"
    for told in tree["codecs"]:
        codec: Codec = {"name": told} if isinstance(told, str) else told
        name, settings = codec["name"], codec.get("configuration") or {}
        if name == "bytes":
            order = ">" if settings.get("endian") == "big" else "<"
        else:
            known = name.removeprefix("numcodecs.")
            codecs.append({"id": known if name != known or known in _SHARED else name, **settings})
    keys = tree.get("chunk_key_encoding") or {"name": "default"}
    is_v2 = keys["name"] == "v2"
    separator = (keys.get("configuration") or {}).get("separator", "." if is_v2 else "/")
    return StoredArray(
        folder=str(folder),
        shape=tuple(int(n) for n in tree["shape"]),
        chunk=_chunk_shape(tree["chunk_grid"]["configuration"]["chunk_shape"]),
        dtype=np.dtype(tree["data_type"]).newbyteorder(order),
        order="C",
        fill=tree.get("fill_value"),
        codecs=tuple(codecs),
        prefix="" if is_v2 else f"c{separator}",
        separator=separator,
        names=tuple(tree.get("dimension_names") or ()),
    )


def _chunk_shape(values: Any) -> tuple[int, ...]:
    chunk = tuple(int(n) for n in values)
    if min(chunk, default=0) < 1:
        raise ValueError(f"chunks of {values}")
    return chunk


def _chunk(array: StoredArray, index: tuple[int, ...]) -> Array:
    """A whole chunk in this machine's byte order; of the fill value where there is none."""
    file = array.key(index)
    try:
        content = Path(file).read_bytes()
    except FileNotFoundError:
        if not os.path.isdir(array.folder):
            raise InputError(f"{array.folder}: is gone") from None
        return np.full(array.chunk, _fill(array), plain_dtype(array.dtype))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        for codec in reversed(array.codecs):
            content = _DECODERS[codec["id"]](content, codec)
        flat = np.frombuffer(content, array.dtype, count=math.prod(array.chunk))
    except _FAULTS as error:
        raise InputError(f"{file}: cannot be decoded: {error or type(error).__name__}") from error
    whole = flat.reshape(array.chunk, order="F" if array.order == "F" else "C")
    return whole.astype(plain_dtype(array.dtype))


def _fill(array: StoredArray) -> Any:
    return 0 if array.fill is None else np.array(array.fill, array.dtype)


def _delta(data: bytes, codec: Codec) -> bytes:
    dtype = np.dtype(codec["dtype"])
    return np.cumsum(np.frombuffer(data, codec.get("astype") or dtype), dtype=dtype).tobytes()


def _shuffle(data: bytes, codec: Codec) -> bytes:
    size = int(codec.get("elementsize", 4))
    whole = len(data) // size * size
    turned = np.frombuffer(data[:whole], "u1").reshape(size, -1).T
    return turned.tobytes() + data[whole:]


def _fixed_scale(data: bytes, codec: Codec) -> bytes:
    stored = np.frombuffer(data, codec.get("astype") or codec["dtype"])
    values = (stored / codec["scale"] + codec["offset"]).astype(codec["dtype"])
    return bytes(values.tobytes())


def _as_type(data: bytes, codec: Codec) -> bytes:
    stored = np.frombuffer(data, codec["encode_dtype"])
    return stored.astype(codec["decode_dtype"]).tobytes()


def _unchanged(data: bytes, codec: Codec) -> bytes:
    return data


def _checked(checksum: Callable[[bytes], int]) -> Callable[[bytes, Codec], bytes]:
    """Of a checksum that lies before the data, or behind it."""

    def check(data: bytes, codec: Codec) -> bytes:
        behind = codec.get("location") == "end"
        found, data = (data[-4:], data[:-4]) if behind else (data[:4], data[4:])
        if int.from_bytes(found, "little") != checksum(data) & 0xFFFFFFFF:
            raise ValueError("damaged, a checksum does not fit")
        return data

    return check


_DECODERS: dict[str, Callable[[bytes, Codec], bytes]] = {
    "adler32": _checked(zlib.adler32),
    "astype": _as_type,
    "bitround": _unchanged,
    "blosc": lambda data, codec: bytes(imagecodecs.blosc_decode(data)),
    "bz2": lambda data, codec: bz2.decompress(data),
    "crc32": _checked(zlib.crc32),
    "delta": _delta,
    "fixedscaleoffset": _fixed_scale,
    "gzip": lambda data, codec: gzip.decompress(data),
    "lz4": lambda data, codec: bytes(imagecodecs.lz4_decode(data, header=True)),
    "lzma": lambda data, codec: lzma.decompress(
        data, codec.get("format", 1), filters=codec.get("filters")
    ),
    "quantize": _unchanged,
    "shuffle": _shuffle,
    "zlib": lambda data, codec: zlib.decompress(data),
    "zstd": lambda data, codec: bytes(imagecodecs.zstd_decode(data)),
}
_FAULTS = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    EOFError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
)
_SHARED = ("blosc", "gzip", "zstd")
"""Codecs that v3 has under the same name."""
