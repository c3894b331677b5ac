"""What stages have written of outputs that they have not finished: noted before it gets its name.

A stage that is called again so tells its own file from a person's that has taken its place.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONTENT_BYTES = 8 << 20
"""Of a file hashed at its beginning, and as much at its end, so that it is known again."""

_notes: dict[str, Path] = {}


def content_of(file: Path) -> dict[str, Any]:
    """What a written file is known by again: its size and a hash of it."""
    digest, size = hashlib.blake2b(digest_size=16), file.stat().st_size
    with file.open("rb") as opened:
        digest.update(opened.read(CONTENT_BYTES))
        opened.seek(max(opened.tell(), size - CONTENT_BYTES))
        digest.update(opened.read(CONTENT_BYTES))
    return {"size": size, "hash": digest.hexdigest()}


def notes_file(work: Path) -> Path:
    """Where the notes of an unfinished output lie, a line a file written: its name and content."""
    return work / "written.jsonl"


def note_writes(files: Iterable[Path], work: Path) -> None:
    """Let this process note what it writes to these files (`files.write_atomic`)."""
    _notes.update({_place(file): notes_file(work) for file in files})


def forget_writes(files: Iterable[Path]) -> None:
    """End `note_writes`."""
    for file in files:
        _notes.pop(_place(file), None)


def note(file: Path, written: Path) -> None:
    """Put the content that a file is about to get on disk, where it is to be noted."""
    notes = _notes.get(_place(file)) if _notes else None
    if notes is not None:
        with notes.open("ab") as lines:
            lines.write(json.dumps([file.name, content_of(written)]).encode() + b"\n")
            lines.flush()
            os.fsync(lines.fileno())


def _place(file: Path) -> str:
    head, tail = os.path.split(os.path.abspath(file))
    return os.path.join(os.path.realpath(head), tail)
