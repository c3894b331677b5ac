"""What an input is, so that a record can tell whether an input of now is the one it was made from.

Files are known by size, time of change (ns) and a hash of their content: all of it up to 4 MiB,
else 4 MiB spread over the file; of a set of files 64 MiB at most. An array in memory is known by
all its bytes, an output of cristae by the id of its record and the state of its array. Paths and
times of a change of metadata do not count.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cristae.errors import InputError

FILE_BYTES = 4 << 20
"""Content of a file that is hashed at most."""

SET_BYTES = 64 << 20
"""Content of a set of files that is hashed at most."""

SET_FILES = 1 << 14
"""Files of a set whose content is looked at; sizes and times are those of all."""

_PIECES = 64
"""Parts of a large file that are hashed at most, its beginning and end among them."""

_PIECE_BYTES = 1 << 12
"""Such a part has at least so many bytes, where it can: a part costs a call of the system."""

_ARRAY_PIECE = 16 << 20

Facts = dict[str, Any]

Place = tuple[str, bool]
"""A path that content is read from, and whether all below it belongs to it."""


class Content(Protocol):
    """Something whose facts can be looked up now; picklable."""

    def facts(self) -> Facts:
        """What it is at this moment, as JSON knows it."""

    def places(self) -> list[Place]:
        """Where it lies, so that no output takes its place; empty where it is in no file."""


@dataclass(frozen=True)
class SourceFiles:
    """The files a source is read from, in the order in which they are read.

    Attributes:
        name: The source, for messages.
        folder: Folder that the names count from.
        names: Paths below it.
    """

    name: str
    folder: str
    names: tuple[str, ...]

    def facts(self) -> Facts:
        """See `file_facts`."""
        return file_facts(self.name, [(n, os.path.join(self.folder, n)) for n in self.names])

    def places(self) -> list[Place]:
        """The files."""
        return [(os.path.join(self.folder, name), False) for name in self.names]


@dataclass(frozen=True)
class Folder:
    """All files below a folder.

    Attributes:
        name: The source, for messages.
        folder: The folder.
    """

    name: str
    folder: str

    def facts(self) -> Facts:
        """See `file_facts`."""
        found = [
            os.path.join(parent, file)
            for parent, _, names in os.walk(self.folder)
            for file in names
        ]
        named = sorted((os.path.relpath(path, self.folder), path) for path in found)
        return file_facts(self.name, named)

    def places(self) -> list[Place]:
        """The folder."""
        return [(self.folder, True)]


@dataclass(frozen=True, eq=False)
class InMemory:
    """An array in memory."""

    name: str
    array: NDArray[Any]

    def facts(self) -> Facts:
        """Shape, dtype, and a hash of all bytes."""
        return {
            "array": [list(self.array.shape), self.array.dtype.str],
            "hash": hash_array(self.array),
        }

    def places(self) -> list[Place]:
        """None."""
        return []


@dataclass(frozen=True)
class Named:
    """Content that a text describes completely, such as a simulated volume."""

    text: str

    def facts(self) -> Facts:
        """The text."""
        return {"text": self.text}

    def places(self) -> list[Place]:
        """None."""
        return []


@dataclass(frozen=True, eq=False)
class KnownContent:
    """Content that was looked at; what was seen stays."""

    content: Content
    seen: Facts

    def facts(self) -> Facts:
        """What it was when it was looked at."""
        return self.seen

    def places(self) -> list[Place]:
        """Where it lies."""
        return self.content.places()


@dataclass(frozen=True)
class Identity:
    """What an input is, and how it is read.

    Attributes:
        contents: What it is made from.
        reading: What is done with that, one text a step; another reading is another input.
        trusted: A person says that it is the same, whatever time and content say.
    """

    contents: tuple[Content, ...] = ()
    reading: tuple[str, ...] = ()
    trusted: bool = False

    @classmethod
    def of(cls, text: str) -> "Identity":
        """The identity that a text describes completely."""
        return cls((Named(text),))

    def read_as(self, *how: str) -> "Identity":
        """The same content, read another way."""
        return replace(self, reading=(*self.reading, *how))

    def now(self) -> "Identity":
        """The same, looked at now and not again: what a stage compares and records."""
        return replace(
            self, contents=tuple(KnownContent(each, each.facts()) for each in self.contents)
        )

    def joined(self, *others: "Identity") -> "Identity":
        """What is made from several inputs together."""
        every = (self, *others)
        return Identity(
            tuple(content for one in every for content in one.contents),
            tuple(step for one in every for step in one.reading),
            any(one.trusted for one in every),
        )

    def tree(self) -> list[Facts]:
        """What a record keeps: the facts of each content, and how it is read."""
        if not self.contents:  # unknown content: never the same again
            return [{"text": uuid.uuid4().hex}]
        reading = [{"read": list(self.reading)}] if self.reading else []
        return [*(content.facts() for content in self.contents), *reading]

    def places(self) -> list[Place]:
        """Where its contents lie."""
        return [place for content in self.contents for place in content.places()]

    @property
    def fingerprint(self) -> str:
        """A short digest of all that counts; equal ones mean the same input."""
        return fingerprint_of([_counting(facts) for facts in self.tree()])


def fingerprint_of(tree: Any) -> str:
    """A short digest of anything JSON can hold; equal trees give equal digests."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:24]


def file_facts(name: str, files: Iterable[tuple[str, str]]) -> Facts:
    """The facts of a set of files.

    Args:
        name: The source, for messages.
        files: What each is called within the set, and its path.

    Raises:
        InputError: A file that is gone or cannot be read.
    """
    named = list(files)
    try:
        states = [os.stat(path) for _, path in named]
        sizes = [state.st_size for state in states]
        times = [state.st_mtime_ns for state in states]
        digest, whole = _hash_files(named, sizes)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    names = "\0".join(name for name, _ in named)
    times_digest = fingerprint_of([hash_text(names), hash_array(np.array(times, np.int64))])
    return {
        "path": os.path.abspath(os.path.expanduser(name)),
        "files": len(named),
        "size": sum(sizes),
        "modified": times[0] if len(times) == 1 else times_digest,
        "hash": digest,
        "whole": whole,
    }


def hash_text(text: str) -> str:
    """A digest of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def hash_array(array: NDArray[Any]) -> str:
    """A digest of all bytes of an array, in the order of its axes."""
    digest = hashlib.blake2b(digest_size=16)
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _ARRAY_PIECE):
            digest.update(flat[start : start + _ARRAY_PIECE].data)
    else:
        for part in array:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def stable(recorded: Any) -> Any:
    """Of a recorded input, what does not depend on path and time."""
    return [_counting(f, times=False) for f in recorded] if isinstance(recorded, list) else recorded


def compare(there: Any, now: Any, trusted: bool = False) -> tuple[bool, str]:
    """Whether a recorded input is the one of now.

    Args:
        there: What the record holds: an `Identity.tree`, or a text.
        now: The same of now.
        trusted: A person says that they are the same.

    Returns:
        Whether they are; and a line: why they are taken for the same where something differs, or
        what differs. Empty where nothing does.
    """
    if isinstance(there, str) or isinstance(now, str):
        only = now[0].get("id") if isinstance(now, list) and len(now) == 1 else now
        return there == only, "" if there == only else f"{_text(there)} there, {_text(now)} now"
    notes = []
    if len(there) != len(now):
        return False, f"{_texts(there)} there, {_texts(now)} now"
    for before, after in zip(there, now, strict=True):
        same, note = _compare_facts(before, after, trusted)
        if not same:
            return False, note
        notes += [note] if note else []
    return True, "; ".join(notes)


def _compare_facts(there: Facts, now: Facts, trusted: bool) -> tuple[bool, str]:
    if there.keys() != now.keys() or "read" in there:
        return there == now, f"{_text(there)} there, {_text(now)} now"
    if "path" not in there:
        same = _counting(there) == _counting(now)
        return same or trusted, "" if same else f"other content: {_text(there)}, {_text(now)} now"
    path, earlier = now["path"], there["path"]
    if stable([there]) != stable([now]):
        if trusted:
            return True, f"{path}: changed since, taken for the same as --same-source says"
        return False, f"other content: {_text(there)} there, {_text(now)} now"
    if there["modified"] != now["modified"]:
        if now["whole"]:
            return True, f"{path}: another time of change, all bytes equal"
        if trusted:
            return True, f"{path}: another time of change, taken for the same as --same-source says"
        return False, (
            f"{path}: changed at another time than the one it was made from, of which a sample is "
            "equal; --same-source goes on where the content is the same"
        )
    return True, "" if path == earlier else f"{path}: the same content as {earlier}"


def _counting(facts: Facts, times: bool = True) -> Facts:
    left_out = ("path",) if times and not facts.get("whole") else ("path", "modified")
    return {key: value for key, value in facts.items() if key not in left_out}


def _text(facts: Any) -> str:
    if not isinstance(facts, dict):
        return repr(facts)
    if "read" in facts:
        return "read as " + ", ".join(map(str, facts["read"]))
    if "path" in facts:
        many = f" in {facts['files']:,} files" if facts["files"] != 1 else ""
        return f"{facts['path']} ({facts['size']:,} bytes{many}, content {facts['hash'][:8]})"
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def _texts(recorded: Sequence[Facts]) -> str:
    return " and ".join(_text(facts) for facts in recorded) or "nothing"


def _hash_files(files: Sequence[tuple[str, str]], sizes: Sequence[int]) -> tuple[str, bool]:
    """A digest of names, sizes and sampled content; and whether that was all content."""
    digest, count = hashlib.blake2b(digest_size=16), len(files)
    names = [name for name, _ in files] if count > 1 else []  # of one file only content counts
    digest.update(hash_text("\0".join(names)).encode())
    digest.update(np.array(sizes, np.int64).tobytes())
    step = -(-count // SET_FILES) if count else 1
    looked = range(0, count, step)
    budget = min(FILE_BYTES, SET_BYTES // max(1, len(looked)))
    for i in looked:
        descriptor = os.open(files[i][1], os.O_RDONLY)
        try:
            for start, length in _sampled(sizes[i], budget):
                digest.update(os.pread(descriptor, length, start))
        finally:
            os.close(descriptor)
    return digest.hexdigest(), step == 1 and all(size <= budget for size in sizes)


def _sampled(size: int, budget: int) -> list[tuple[int, int]]:
    """Begin and length of the parts of a file that are hashed."""
    if size <= budget:
        return [(0, size)]
    pieces = min(_PIECES, max(2, budget // _PIECE_BYTES))
    length = max(1, budget // pieces)
    last = size - length
    return [(last * i // (pieces - 1), length) for i in range(pieces)]
