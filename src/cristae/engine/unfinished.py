"""Outputs that their stage has not finished: never an input, as what is missing would read as 0."""

import math
import re
from pathlib import Path

from cristae.engine.files import read_json
from cristae.engine.ownership import find_record, read_marks, record_file, work_folder
from cristae.engine.paths import user_path
from cristae.engine.written import content_of
from cristae.errors import InputError

_BOX = re.compile(r"\d+:\d+,\d+:\d+,\d+:\d+")


def refuse_unfinished(source: str | Path) -> None:
    """Refuse an output of cristae's that its stage has not finished, and what lies inside of it.

    Raises:
        InputError: What is missing.
    """
    path = user_path(source).absolute()
    _refuse_unfinished_file(path)
    for folder in (path, *path.parents):
        if folder.name == ".cristae":  # a step's own files
            return
        if (folder / ".cristae" / "identity.json").is_file():
            record, finished = find_record(folder, True)
            if record is not None and not finished:
                raise InputError(
                    f"{source}: unfinished: {_progress(folder, record['stage'])}; expected a "
                    "finished output: run the command that makes it again to resume it"
                )


def _refuse_unfinished_file(path: Path) -> None:
    """Refuse a single file whose stage is at work; what was finished before it began is whole."""
    if not (work_folder(path, False) / "identity.json").is_file() or not path.is_file():
        return
    record, finished = find_record(path, False)
    before = read_json(record_file(path))
    if record is None or finished:
        return
    if isinstance(before, dict) and before.get("content") == content_of(path):
        return
    raise InputError(
        f"{path}: unfinished: {record['stage']} has still to complete it; expected a finished "
        "output (run the command that makes it again to resume it), or a copy of this one"
    )


def _progress(folder: Path, stage: str) -> str:
    """How far a stage has come with an image."""
    array = read_json(folder / "0" / "zarr.json")
    if array is None:
        return f"{stage} has not begun to write it"
    shape, shard = array["shape"][-3:], array["chunk_grid"]["configuration"]["chunk_shape"][-3:]
    total = math.prod(-(-n // side) for n, side in zip(shape, shard, strict=True))
    marks = read_marks(folder / ".cristae" / "done.jsonl")
    written = {
        key
        for step, pieces in marks.items()
        if not step.startswith("pyramid")
        for key in pieces
        if _BOX.fullmatch(key)
    }
    if len(written) >= total:
        return f"{stage} has written all {total} pieces of it, and has still to complete it"
    return f"{stage} has written {len(written)} of {total} pieces of it, the rest is missing"
