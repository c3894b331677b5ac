"""What cristae made, and so may remove: known by its record, never by its place alone."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cristae.engine.files import parse_json, read_attributes, read_json, remove_tree, write_json
from cristae.engine.identity import Place
from cristae.engine.written import content_of, notes_file
from cristae.errors import InputError, OutputExistsError

_NAMES_SHOWN = 5

_TEMPORARY = r"\.[^/]+\.(?:tmp|removed)|[^/]+\.__lock"
_ARRAY = rf"(?:zarr\.json|manifest\.txt|c(?:/\d+)*(?:/(?:{_TEMPORARY}))?|{_TEMPORARY})"
_OWN = re.compile(
    rf"zarr\.json|{_TEMPORARY}|\d+(?:/{_ARRAY})?"
    rf"|(?:runs|instances)(?:/(?:zarr\.json|{_TEMPORARY}|\w+(?:/{_ARRAY})?))?"
)
"""Paths inside an image that cristae writes; a work folder apart."""

_OF_SYSTEMS = re.compile(r"\.DS_Store|Thumbs\.db|\._.*|\.nfs[0-9a-f]+")
"""Names that operating systems leave in folders by themselves."""


def check_path(path: Path) -> None:
    """Refuse what no file system takes for a path.

    Raises:
        InputError: A NUL in it.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: a NUL found in a path, expected none")


def refuse_input(output: Path, places: Iterable[Place]) -> None:
    """Refuse an output that is an input, lies in one, or holds one: it would be removed.

    Args:
        output: The output, there or not.
        places: Where the inputs lie (`Identity.places`).

    Raises:
        InputError: The input at stake.
    """
    out, here = os.path.realpath(output), _file_id(output)
    folders: dict[str, str] = {}  # an input may be of thousands of files in one folder
    for path, is_whole in places:
        head, tail = os.path.split(os.path.abspath(os.path.expanduser(path)))
        if head not in folders:
            folders[head] = os.path.realpath(head)
        place = os.path.join(folders[head], tail)
        place = os.path.realpath(place) if is_whole or os.path.islink(place) else place
        if place == out or (here is not None and _file_id(Path(place)) == here):
            what = "is an input itself"
        elif place.startswith(out + os.sep):
            what = "holds an input"
        elif is_whole and out.startswith(place + os.sep):
            what = "lies inside an input"
        else:
            continue
        raise InputError(f"{output}: {what} ({path}), expected another place")


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def foreign_text(folder: Path) -> str:
    """Names of what lies in an image of cristae's and is not of it; empty where all is."""
    found = sorted(_foreign_entries(folder))
    more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
    return ", ".join(found[:_NAMES_SHOWN]) + more


def _foreign_entries(folder: Path, below: str = "") -> Iterator[str]:
    for entry in os.scandir(folder / below):
        name = f"{below}/{entry.name}" if below else entry.name
        if name == ".cristae" or _OF_SYSTEMS.fullmatch(entry.name):
            continue
        if not _OWN.fullmatch(name):
            yield name
        elif entry.is_dir(follow_symlinks=False):
            yield from _foreign_entries(folder, name)


def has_foreign_work(work: Path) -> bool:
    """Whether a work folder without an identity holds what cristae would not have put there."""
    if not work.is_dir():
        return work.exists()
    own = re.compile(rf"scratch|(?:done|written)\.jsonl|lock|{_TEMPORARY}")
    return any(not own.fullmatch(name) for name in os.listdir(work))


def work_folder(output: Path, is_folder: bool) -> Path:
    """Where the record of an unfinished output lies."""
    return output / ".cristae" if is_folder else output.with_name(output.name + ".cristae")


def record_file(output: Path) -> Path:
    """Where the record of a finished file lies."""
    return output.with_name(output.name + ".cristae.json")


def find_record(output: Path, is_folder: bool) -> tuple[dict[str, Any] | None, bool]:
    """The output's identity and whether it is finished; a finished record wins over a leftover.

    A record beside a file that is gone, or that another file or folder has replaced, is ignored.
    """
    work, record = work_folder(output, is_folder), None
    if is_folder:
        record = (read_attributes(output) or {}).get("record")
        _check_record(record, output / "zarr.json")
    elif output.is_file():
        record = read_json(record_file(output))
        _check_record(record, record_file(output))
        if record is not None and record.get("content", content := content_of(output)) != content:
            record = None
    begun = read_json(work / "identity.json")
    _check_record(begun, work / "identity.json")
    if begun is not None and (record is None or (work / "done.jsonl").exists()):
        # `finish` writes the record, then removes the folder: a lone scratch is a leftover
        return begun, False
    return (record, True) if record is not None else (None, False)


@contextmanager
def keep_record(file: Path) -> Iterator[None]:
    """Let a finished file stay cristae's own while cristae itself changes it."""
    record, finished = find_record(file, False)
    yield
    if finished and record is not None and "content" in record:
        write_json(record_file(file), {**record, "content": content_of(file)})


def _check_record(record: Any, path: Path) -> None:
    parts = {"stage": str, "inputs": dict, "settings": dict}
    if record is not None and not (
        isinstance(record, dict)
        and all(isinstance(record.get(key), kind) for key, kind in parts.items())
        and isinstance(record.get("summary", {}), dict)
    ):
        raise InputError(f"{path}: its record is damaged, expected stage, inputs and settings")


def refuse_foreign(output: Path, is_folder: bool) -> tuple[dict[str, Any] | None, bool]:
    """Refuse an output where something lies that cristae did not make; it stays as it is.

    Returns:
        See `find_record`.

    Raises:
        OutputExistsError: What is there, and what was expected.
    """
    work = work_folder(output, is_folder)
    if is_folder and output.exists() and not output.is_dir():
        raise OutputExistsError(f"{output}: a file found, expected a folder or nothing")
    if not is_folder and output.is_dir():
        raise OutputExistsError(
            f"{output}: a folder found that was not made by cristae, expected a file or nothing"
        )
    begun = work.is_dir() and (work / "identity.json").exists()
    if not begun and has_foreign_work(work):
        raise OutputExistsError(f"{work}: exists and was not made by cristae, expected nothing")
    record, finished = find_record(output, is_folder)
    if record is not None or not output.exists():
        return record, finished
    begun_only = is_folder and all(entry.name == ".cristae" for entry in output.iterdir())
    if not begun_only:
        changed = not is_folder and record_file(output).exists()
        raise OutputExistsError(
            f"{output}: exists and was not made by cristae"
            + (", or was changed since" if changed else "")
            + "; expected another place, or to have it moved away"
        )
    return None, False


def refuse_foreign_entries(output: Path, is_folder: bool) -> None:
    """Refuse to replace an image that holds what is not of it.

    Raises:
        OutputExistsError: The names of what is foreign.
    """
    if is_folder and output.is_dir() and (foreign := foreign_text(output)):
        raise OutputExistsError(
            f"{output}: is not replaced, as it holds what was not made by cristae: {foreign}; "
            "expected these to be moved away"
        )


def beside_content(beside: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What the files that a stage wrote beside its output are known by, by name."""
    return {path.name: content_of(path) for path in beside if path.is_file()}


def refuse_changed(output: Path, files: Iterable[Path]) -> None:
    """Refuse to write again what has taken the place of files that a stage wrote.

    Args:
        output: A single file with a record.
        files: The output itself, where it is unfinished, and what is written beside it.

    Raises:
        OutputExistsError: The names of such files.
    """
    known = _known_contents(output)
    if known is None:
        return
    changed = [path for path in files if path.is_file() and content_of(path) not in known(path)]
    if changed:
        raise OutputExistsError(
            f"{', '.join(map(str, changed))}: not made by cristae, or changed since, and would be "
            "written again; expected to have it moved away"
        )


def _known_contents(output: Path) -> Callable[[Path], list[Any]] | None:
    """What our files held when the output was finished, and what was written to them since.

    None where release 0.1 finished it: it recorded neither, so what stands there is taken for ours.
    """
    record = read_json(record_file(output)) or {}
    _check_record(record or None, record_file(output))
    if record and "content" not in record:
        return None
    finished = {output.name: record.get("content"), **record.get("beside", {})}
    since = read_notes(notes_file(work_folder(output, False)))
    return lambda path: [finished.get(path.name), *since.get(path.name, [])]


def remove_output(output: Path, is_folder: bool) -> None:
    """Remove an output of ours with its record."""
    if output.exists():
        remove_tree(output)
    if not is_folder:
        record_file(output).unlink(missing_ok=True)
        if work_folder(output, is_folder).exists():
            remove_tree(work_folder(output, is_folder))


def read_marks(path: Path) -> dict[str, dict[str, Any]]:
    """Values of finished pieces by step and key."""
    marks: dict[str, dict[str, Any]] = {}
    for mark in _lines(path):
        if not (isinstance(mark, list) and len(mark) == 3 and isinstance(mark[0], str)):
            raise InputError(f"{path}: {mark!r} found, expected step, piece and value")
        step, key, value = mark
        marks.setdefault(step, {})[key] = value
    return marks


def read_notes(path: Path) -> dict[str, list[Any]]:
    """Contents that were written to files, by their names (`written.note`)."""
    notes: dict[str, list[Any]] = {}
    for line in _lines(path):
        if not (isinstance(line, list) and len(line) == 2 and isinstance(line[0], str)):
            raise InputError(f"{path}: {line!r} found, expected the name and content of a file")
        notes.setdefault(line[0], []).append(line[1])
    return notes


def _lines(path: Path) -> Iterator[Any]:
    whole = path.read_bytes() if path.exists() else b""
    for line in whole[: whole.rfind(b"\n") + 1].splitlines():  # a torn last line was never done
        yield parse_json(line, str(path))


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    whole = path.read_bytes() if path.exists() else b""
    kept = whole.rfind(b"\n") + 1
    if kept < len(whole):
        os.truncate(path, kept)
