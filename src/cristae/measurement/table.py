"""Tables of instances as CSV files that are read back exactly.

A column's name says its type: ids (``instance``, ``truth``, ``prediction``) are uint64,
``association`` and ``category`` text, ``cut_by_border`` true or false; names in `_FLOATS` or that
begin or end as `_FLOAT_STARTS` and `_FLOAT_ENDS` say are floats; all others are whole numbers.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cristae.engine.files import write_atomic
from cristae.engine.paths import user_path
from cristae.errors import InputError, SourceNotFoundError

Table = Mapping[str, NDArray[Any]]

_IDS = {"instance", "truth", "prediction"}
_TEXTS = {"association", "category"}
_FLOATS = {"iou", "score"}
_FLOAT_STARTS = ("centroid_",)
_FLOAT_ENDS = ("_nm", "_um3")


def write_table(path: str | Path, table: Table | pd.DataFrame) -> None:
    """Write a table as CSV, at once; floats with as many digits as it takes to read them back."""
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(dict(table))
    text = frame.to_csv(index=False, lineterminator="\n").encode()
    write_atomic(user_path(path), lambda file: file.write(text))


def read_table(path: Path) -> dict[str, NDArray[Any]]:
    """Read a table that `write_table` wrote: columns as arrays of one length.

    Raises:
        SourceNotFoundError: No such file.
        InputError: A cell that is not what its column holds; file, column and cell are named.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    with path.open(newline="") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return {name: _column(path, name, cells) for name, cells in zip(names, columns, strict=True)}


def _column(path: Path, name: str, cells: tuple[str, ...]) -> NDArray[Any]:
    if name in _TEXTS:
        return np.array(cells, dtype=object)
    if name == "cut_by_border":
        return np.array([cell == "True" for cell in cells], bool)
    is_float = name in _FLOATS or name.startswith(_FLOAT_STARTS) or name.endswith(_FLOAT_ENDS)
    convert: Any = float if is_float else int
    dtype = np.float64 if is_float else np.uint64 if name in _IDS else np.int64
    try:
        return np.array([convert(cell) for cell in cells], dtype)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: column {name}: {error}") from error
