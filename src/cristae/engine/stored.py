"""The stored files of a Zarr array, and what they hold, known from a bounded look at each.

Zarr's codec ``crc32c`` leaves a checksum behind each chunk, and a shard ends with an index of where
its chunks lie, so a digest of these is one of all that a file holds. A file that is not there reads
as 0.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from cristae.engine.files import read_json
from cristae.errors import InputError

CHECKSUM_BYTES = 4
"""Of a checksum as it is stored, the lowest byte first."""

NOT_STORED = 2**64 - 1
"""Where a chunk begins and how many bytes it has, in the index, where it is not stored."""

SAMPLED_BYTES = 64 << 20
"""Read at most of an array whose chunks have no checksums."""

_PIECE = 4096
_AT_ONCE = 1 << 20
"""A file up to this size is read in one go."""

_READERS = 16
"""Threads that look at files; they mostly wait for the disk."""


def checksum(data: bytes) -> bytes:
    """CRC-32C of some bytes, as Zarr's codec ``crc32c`` stores it."""
    found: int = crc32c(data)
    return found.to_bytes(CHECKSUM_BYTES, "little")


class File(NamedTuple):
    """A stored shard or chunk: its bytes, and a digest of what it holds."""

    size: int
    digest: str


class Form(NamedTuple):
    """How the files of an array are laid out.

    Attributes:
        index_bytes: Of the index at the end of a shard, its checksum included; 0 for single chunks.
        checked: Whether each chunk ends with its checksum.
    """

    index_bytes: int
    checked: bool


def array_state(folder: str | Path) -> str:
    """What level 0 of an image made by cristae holds now.

    Two arrays of equal states hold equal voxels, whatever their path and their times of change.
    It is found from the index of each shard and the checksums in it, which takes some 0.1 ms a
    shard; where chunks have no checksums (release 0.1) from sizes and a sample of the bytes.

    Args:
        folder: Of the image; the array is ``FOLDER/0``.

    Returns:
        A digest of 24 characters.

    Raises:
        InputError: No such array, or a file that cannot be read or is cut off.
    """
    array = Path(folder) / "0"
    return state_of(array, look_at(array))


def state_of(array: Path, files: Mapping[str, File]) -> str:
    """The state of an array of which `look_at` found these files."""
    metadata = read_json(array / "zarr.json")
    if not isinstance(metadata, dict):
        raise InputError(f"{array}: no array in it (zarr.json)")
    keys = ("shape", "data_type", "chunk_grid", "fill_value")
    described = [*(metadata.get(key) for key in keys), _named(metadata.get("codecs") or [])]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, file in files.items():
        digest.update(f"\n{file.size} {file.digest} {name}".encode())
    return digest.hexdigest()[:24]


def look_at(array: Path) -> dict[str, File]:
    """What each file of an array holds, by name from the array's folder, in order.

    Raises:
        InputError: A file that cannot be read or is cut off.
    """
    stored, form = stored_files(array), form_of(array)
    most = SAMPLED_BYTES // max(1, len(stored))

    def look(file: tuple[str, int]) -> File:
        name, size = file
        return File(size, _digest(array / name, size, form, most))

    if len(stored) < _READERS:
        return {file[0]: look(file) for file in stored}
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(look, stored)
        return dict(zip((name for name, _ in stored), found, strict=True))


def stored_files(array: Path) -> list[tuple[str, int]]:
    """Name from the array's folder, and size, of each shard or chunk; in order of the name."""
    return sorted(_walk(os.path.join(array, "c"), "c"))


def _walk(folder: str, before: str) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if not entry.name.isdecimal():  # what a killed writer left
            continue
        name = f"{before}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry.path, name)
        elif entry.is_file():
            yield name, entry.stat().st_size


def is_whole(path: Path, form: Form | None) -> bool:
    """Whether a shard ends with its index, or a chunk with its checksum."""
    if form is None:
        return False
    try:
        with path.open("rb") as file:
            if form.index_bytes:
                _index(file, path, path.stat().st_size, form)
                return True
            stored = file.read()
    except (OSError, InputError):
        return False
    return form.checked and _fits(stored)


def form_of(array: Path) -> Form | None:
    """How the files of an array are laid out; None where that is not known."""
    metadata = read_json(array / "zarr.json")
    try:
        codecs = _named(metadata["codecs"])
        if codecs[0][0] != "sharding_indexed":
            return Form(0, codecs[-1][0] == "crc32c")
        inside = codecs[0][1]
        sides = zip(
            metadata["chunk_grid"]["configuration"]["chunk_shape"],
            inside["chunk_shape"],
            strict=True,
        )
        chunks = int(np.prod([shard // chunk for shard, chunk in sides]))
        at_end = inside.get("index_location", "end") == "end"
        index = [name for name, _ in _named(inside["index_codecs"])]
        checked = _named(inside["codecs"])[-1][0] == "crc32c"
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    if len(codecs) > 1 or not at_end or index != ["bytes", "crc32c"]:
        return None
    return Form(16 * chunks + CHECKSUM_BYTES, checked)


def _named(codecs: Sequence[Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and settings of codecs; one without settings may be listed by its name alone."""
    return [
        (each, {}) if isinstance(each, str) else (each["name"], each.get("configuration") or {})
        for each in codecs
    ]


def _digest(path: Path, size: int, form: Form | None, most: int) -> str:
    """Digest of a file: of its index and its checksums, else of at most so many of its bytes."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb", buffering=0) as opened:
            file: IO[bytes] = io.BytesIO(opened.read()) if size <= _AT_ONCE else opened
            if form is None or not form.checked:
                parts = _sample(size, most)
            elif not form.index_bytes:
                parts = [(max(0, size - CHECKSUM_BYTES), CHECKSUM_BYTES)]
            else:
                index = _index(file, path, size, form)
                digest.update(index.tobytes())
                ends = index[index[:, 0] != NOT_STORED].sum(axis=1).tolist()
                parts = [(end - CHECKSUM_BYTES, CHECKSUM_BYTES) for end in ends]
            for start, length in parts:
                file.seek(start)
                digest.update(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()


def _sample(size: int, most: int) -> list[tuple[int, int]]:
    """Where pieces of a file begin, and their bytes: all of it, or some spread from its end."""
    if size <= most:
        return [(0, size)]
    starts = np.linspace(size - _PIECE, 0, max(1, most // _PIECE))
    return [(int(start), _PIECE) for start in starts]


def _index(file: IO[bytes], path: Path, size: int, form: Form) -> NDArray[np.uint64]:
    """Where each chunk of a shard begins and how many bytes it has, (n, 2)."""
    file.seek(max(0, size - form.index_bytes))
    stored = file.read(form.index_bytes)
    if len(stored) == form.index_bytes and _fits(stored):
        index = np.frombuffer(stored[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)
        ends = index[index[:, 0] != NOT_STORED].sum(axis=1)
        if (ends <= size - form.index_bytes).all():
            return index
    raise InputError(f"{path}: damaged, the checksum of its index does not fit")


def _fits(stored: bytes) -> bool:
    """Whether bytes end with the checksum of those before."""
    return checksum(stored[:-CHECKSUM_BYTES]) == stored[-CHECKSUM_BYTES:]
