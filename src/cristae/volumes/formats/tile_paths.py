"""Paths of the tiles of an index: patterns with ``{row}`` and ``{column}``, and which are there.

Only these two fields, with a width at most (``{row:04d}``), are replaced; whatever else stands in
braces in a pattern is refused. A path without such a field is taken as it stands.
"""

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from cristae.errors import InputError
from cristae.volumes.formats.pages import why

_LOOSE = re.compile(r"\{\s*(row|column)\b")
_FIELD = re.compile(r"\{(row|column)(?::(0?)([1-9][0-9]?)?d?)?\}")
_SHOWN = 3


def is_pattern(path: str) -> bool:
    """Whether a path stands for one tile of several."""
    return _LOOSE.search(path) is not None


def pattern_faults(paths: Iterable[str]) -> list[str]:
    """What is wrong with paths and patterns: each kind of fault once, with a few paths."""
    odd = [path for path in paths if is_pattern(path) and _braces_left(path)]
    nul = [path for path in paths if "\0" in path]
    faults = []
    if odd:
        faults.append(
            f"image: found {_some(odd)}; expected no field but {{row}} and {{column}}, with a "
            "width of 99 at most ({row:04d})"
        )
    if nul:
        faults.append(f"image: found {_some(nul)} with a NUL, expected paths")
    return faults


def fill(path: str, row: int, column: int) -> str:
    """The path of a tile by its pattern."""
    parts = _parts(path)
    return path if len(parts) == 1 else _filled(parts, row, column)


def fill_all(path: str, rows: range, columns: range) -> list[str]:
    """What `fill` gives for all rows and columns, in raster order; for many in less time."""
    parts = _parts(path)
    fields = {part for part in parts if not isinstance(part, str) and part[0] == "column"}
    if len(fields) != 1:
        return [fill(path, row, column) for row in rows for column in columns]
    column_field = fields.pop()
    numbers = [_filled([column_field], 0, column) for column in columns]
    between: list[list[Part]] = [[]]  # the parts around the column's number
    for part in parts:
        if part == column_field:
            between.append([])
        else:
            between[-1].append(part)
    filled: list[str] = []
    for row in rows:
        pieces = [_filled(piece, row, 0) for piece in between]
        filled += [number.join(pieces) for number in numbers]
    return filled


def at_home(path: str) -> str:
    """A path that begins with ``~/``, as the system knows it."""
    return os.path.expanduser(path) if path.startswith("~/") else path


def missing(paths: Sequence[str]) -> list[int]:
    """Numbers of the paths that are not there; each folder is listed once.

    Raises:
        InputError: A folder that cannot be listed.
    """
    listed: dict[str, set[str]] = {}
    gone = []
    for number, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        names = listed.get(folder)
        if names is None:
            names = listed[folder] = _names(folder or ("/" if path.startswith("/") else "."))
        if name not in names:
            gone.append(number)
    return gone


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: {why(error)}") from error


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(repr(path if len(path) < 200 else path[:200] + "...") for path in paths[:3])
    return shown + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")


def _braces_left(path: str) -> bool:
    plain = _FIELD.sub("", path.replace("{{", "").replace("}}", ""))
    return "{" in plain or "}" in plain


Part = str | tuple[str, bool, int]
"""Text, or the name of a field, whether zeros fill it, and its width."""


@lru_cache(maxsize=4096)
def _parts(path: str) -> tuple[Part, ...]:
    if not is_pattern(path):
        return (path,)
    parts: list[Part] = []
    at = 0
    for match in _FIELD.finditer(path):
        parts.append(_unescaped(path[at : match.start()]))
        parts.append((match[1], bool(match[2]), int(match[3] or 0)))
        at = match.end()
    return (*parts, _unescaped(path[at:]))


def _unescaped(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")


def _filled(parts: Sequence[Part], row: int, column: int) -> str:
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            name, zeros, width = part
            number = str(row if name == "row" else column)
            text += number.zfill(width) if zeros else number.rjust(width)
    return text
