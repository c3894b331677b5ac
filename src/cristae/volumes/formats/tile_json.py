"""The JSON of a tile index: read, and looked through for everything wrong with it."""

from pathlib import Path
from typing import Any

from cristae.engine.files import read_json
from cristae.errors import InputError, SourceNotFoundError, raise_faults
from cristae.volumes.formats.tile_paths import pattern_faults

DTYPES = ("uint8", "uint16", "uint32", "uint64")

_MOST = 1 << 31
_MOST_RATIO = 1024


def load_index(path: Path) -> dict[str, Any]:
    """The keys of an index, none of which is wrong by itself.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not JSON, or keys that are missing or wrong; all at once.
    """
    index = read_json(path)
    if index is None:
        raise SourceNotFoundError(f"{path}: no such file")
    if not isinstance(index, dict):
        raise InputError(f"{path}: found a JSON {type(index).__name__}, expected a tile index")
    raise_faults(str(path), _index_faults(index))
    return index


def _index_faults(index: dict[str, Any]) -> list[str]:
    """Everything wrong with the index itself."""
    required = ("ndim", "dtype", "image", "height", "width", "depth", "tile_size")
    faults = [f"key {key!r} is missing" for key in required if key not in index]
    for key in ("height", "width", "depth"):
        if key in index and not _whole(index[key]):
            faults.append(f"{key}: found {_short(index[key])}, expected a whole number above 0")
    if index.get("ndim", 1) not in (1, 3):
        faults.append(f"ndim: found {_short(index['ndim'])}, expected 1 or 3")
    if index.get("dtype", "uint8") not in DTYPES:
        faults.append(f"dtype: found {_short(index['dtype'])}, expected one of {', '.join(DTYPES)}")
    size = index.get("tile_size", 1)
    if not _whole(size) and not (_pair(size) and all(_whole(n) for n in size)):
        faults.append(f"tile_size: found {_short(size)}, expected a whole number, or two")
    start = index.get("tile_st", [0, 0])
    if not (_pair(start) and all(isinstance(n, int) and abs(n) < _MOST for n in start)):
        faults.append(f"tile_st: found {_short(start)}, expected [row, column]")
    ratio = index.get("tile_ratio", 1)
    is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not (is_number and 1 / _MOST_RATIO <= ratio <= _MOST_RATIO):
        faults.append(
            f"tile_ratio: found {_short(ratio)}, expected a number from 1/{_MOST_RATIO} to "
            f"{_MOST_RATIO}"
        )
    return faults + _image_faults(index)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:80] + "..."


def _image_faults(index: dict[str, Any]) -> list[str]:
    images, depth = index.get("image", []), index.get("depth")
    if not isinstance(images, list) or not all(isinstance(path, str) for path in images):
        return ["image: expected a list of paths"]
    if "image" in index and _whole(depth) and len(images) != depth:
        return [f"image: found {len(images)} paths, expected {depth} (depth)"]
    return pattern_faults(images)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2
