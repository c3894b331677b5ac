"""Tables of instances as CSV files that are read back exactly.

A column's name says its type: ids (``instance``, ``truth``, ``prediction``) are uint64,
``association`` and ``category`` text, ``cut_by_border`` true or false; names in `_FLOATS` or that
begin or end as `_FLOAT_STARTS` and `_FLOAT_ENDS` say are floats; all others are whole numbers.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.files import write_atomic
from cristae.engine.paths import user_path
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import InputError, SourceNotFoundError, raise_faults

if TYPE_CHECKING:
    import pandas as pd

Table = Mapping[str, NDArray[Any]]

_IDS = {"instance", "truth", "prediction"}
_TEXTS = {"association", "category"}
_FLOATS = {"iou", "score"}
_FLOAT_STARTS = ("centroid_",)
_FLOAT_ENDS = ("_nm", "_um3")
_ANY = ("score",)  # what is no number is told with its instance
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_SEPARATORS = (",", ";", "\t")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_EXACT = 1 << 53
"""Up to here every whole number is one as a float, too."""


def write_table(path: str | Path, table: "Table | pd.DataFrame") -> None:
    """Write a table as CSV, at once; floats with as many digits as it takes to read them back."""
    import pandas as pd  # it takes a third of a second

    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(dict(table))
    text = frame.to_csv(index=False, lineterminator="\n").encode()
    write_atomic(user_path(path), lambda file: file.write(text))


def read_table(path: Path) -> dict[str, NDArray[Any]]:
    """Read a table that `write_table` wrote, also after a spreadsheet has saved it.

    That may put a byte-order mark at the beginning, semicolons or tabs between the cells (then with
    decimal commas), quotes around them, CRLF at the ends of lines, empty rows and columns after the
    last, and write an id as ``1.0``.

    Returns:
        Columns as arrays of one length.

    Raises:
        SourceNotFoundError: No such file.
        InputError: A text that is no table, or a cell that is not what its column holds; file,
            column, row (the first is 1) and cell are named.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    refuse_unfinished(path)
    lines, comma = _lines(path)
    (_, names), *rows = lines or [(1, [])]
    names = _names(path, names)
    width = len(names)
    for number, cells in rows:
        if len(cells) < width or any(cell for cell in cells[width:]):
            raise InputError(f"{path}: row {number}: {len(cells)} cells, expected {width}")
    numbers = [number for number, _ in rows]
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(names)}
    return {name: _column(path, name, numbers, columns[name], comma) for name in names}


def check_columns(path: Path, table: Table, needed: Sequence[str]) -> None:
    """Raise an InputError that names every column a table lacks."""
    raise_faults(str(path), [f"no column {name}" for name in needed if name not in table])


def _lines(path: Path) -> tuple[list[tuple[int, list[str]]], bool]:
    """Number and cells of each row that is not empty; and whether a comma may be a point."""
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    mark = max(_SEPARATORS, key=lambda each: re.sub(r'"[^"]*"', "", first).count(each))
    if first.lower().startswith("sep=") and first.strip()[4:] in _SEPARATORS:
        mark = first.strip()[4:]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    lines = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells) and not cells[0].lower().startswith("sep="):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise InputError(f"{path}: row {reader.line_num}: {error}, expected a table") from error
    return lines, mark != ","


def _text(path: Path) -> str:
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is no UTF-8, expected a table as text (CSV)"
        ) from error
    if "\0" in text:
        raise InputError(f"{path}: holds bytes of 0, expected a table as text (CSV)")
    return text


def _names(path: Path, cells: list[str]) -> list[str]:
    """Names of the columns, without empty ones at the end."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    faults = [f"column {i + 1} has no name" for i, name in enumerate(cells) if not name]
    twice = sorted({name for name in cells if name and cells.count(name) > 1})
    raise_faults(str(path), [*faults, *(f"two columns named {name}" for name in twice)])
    return cells


def _column(
    path: Path, name: str, rows: Sequence[int], cells: Sequence[str], comma: bool
) -> NDArray[Any]:
    if name in _TEXTS:
        return np.array(cells, dtype=object)
    is_float = name in _FLOATS or name.startswith(_FLOAT_STARTS) or name.endswith(_FLOAT_ENDS)
    parse: Callable[[str], Any] = _whole
    dtype: np.dtype[Any] = np.dtype(np.int64)
    expected = "a whole number"
    if name == "cut_by_border":
        parse, dtype, expected = _truth, np.dtype(bool), "true or false"
    elif is_float:
        dtype, expected = np.dtype(np.float64), "a number"
        parse = partial(_real, comma, name in _ANY)
    elif name in _IDS:
        dtype, expected = np.dtype(np.uint64), "a whole number of at least 0"
    with suppress(ValueError, OverflowError):  # as cristae itself writes them
        if dtype.kind != "b":
            values = np.array([float(c) if is_float else int(c) for c in cells], dtype)
            if name in _ANY or not is_float or np.isfinite(values).all():
                return values
    values = np.zeros(len(cells), dtype)
    for i, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        try:
            values[i] = parse(cell)
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{path}: column {name}, row {row}: {cell!r} found, expected {expected}"
            ) from error
    return values


def _whole(cell: str) -> int:
    if _WHOLE.fullmatch(cell):
        return int(cell)
    number = float(cell.replace(",", "."))
    if not number.is_integer() or abs(number) > _EXACT:
        raise ValueError(cell)
    return int(number)


def _real(comma: bool, any_number: bool, cell: str) -> float:
    number = float(cell.replace(",", ".") if comma else cell)
    if not any_number and not math.isfinite(number):
        raise ValueError(cell)
    return number


def _truth(cell: str) -> bool:
    if cell.lower() not in _TRUTHS:
        raise ValueError(cell)
    return _TRUTHS[cell.lower()]
