"""The manifest of a finished folder: each shard and chunk that is stored in it.

::

    OUT.zarr/0/manifest.txt     cristae manifest 1, N files
                                SIZE DIGEST FILE        N lines, in order of array and file

SIZE is in bytes, DIGEST of all that the file holds (`cristae.engine.stored`), FILE is named from
OUT.zarr. It is a text because a million lines of it are 50 MB and are read in a second or two, any
line can be looked at, and two manifests can be compared. It lies in the array's folder, where
readers of Zarr look for nothing else; in a group they warn of unknown files.

A file that is not there reads as 0, so what the manifest lists and is gone is an error. An output
of release 0.1 has no manifest and passes.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

from cristae.engine.files import read_json, write_text
from cristae.engine.stored import form_of, is_whole, look_at, state_of, stored_files
from cristae.errors import InputError

NAME = "manifest.txt"
HEADER = "cristae manifest 1, {} files"
_NAMED = 5
"""Files named in a message."""


def write_manifest(folder: Path) -> str | None:
    """Write the manifest of a folder whose arrays are complete.

    Returns:
        The state of level 0, as `array_state` gives it; None for a folder without arrays.
    """
    arrays = _arrays(folder, "")
    if "0" not in arrays:
        return None
    lines: list[str] = []
    state = None
    for array in arrays:
        files = look_at(folder / array)
        lines += [f"{file.size} {file.digest} {array}/{name}" for name, file in files.items()]
        state = state_of(folder / array, files) if array == "0" else state
    write_text(_path(folder), "\n".join([HEADER.format(len(lines)), *lines]) + "\n")
    return state


def _arrays(folder: Path, before: str) -> list[str]:
    """Names of all arrays below a folder, in order, the work folder's left out."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        kind = (read_json(Path(entry.path, "zarr.json")) or {}).get("node_type")
        if kind == "array":
            found.append(before + entry.name)
        elif kind == "group":
            found += _arrays(Path(entry.path), f"{before}{entry.name}/")
    return found


def check_manifest(folder: Path) -> None:
    """Refuse a finished folder where files are gone or cut off.

    A file of another size that is whole passes: somebody edited the array.

    Raises:
        InputError: Up to 5 of the files by name, and how many more there are.
    """
    listed = _read(folder)
    arrays = dict.fromkeys(_array_of(name) for name in listed)
    there = {f"{a}/{name}": size for a in arrays for name, size in stored_files(folder / a)}
    forms = {array: form_of(folder / array) for array in arrays}
    gone = [name for name in listed if name not in there]
    damaged = [
        name
        for name, size in listed.items()
        if there.get(name, size) != size and not is_whole(folder / name, forms[_array_of(name)])
    ]
    faults = []
    for names, what in ((gone, "gone"), (damaged, "damaged")):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            verb = "is" if len(names) == 1 else "are"
            faults.append(f"{len(names)} {verb} {what} ({', '.join(names[:_NAMED])}{more})")
    if faults:
        raise InputError(
            f"{folder}: of the {len(listed)} files it held when it was finished "
            f"{' and '.join(faults)}; copy it anew or make it again (where you emptied these parts "
            f"yourself, remove {_path(folder)})"
        )


def manifest_stamp(folder: Path) -> int:
    """What `check_there` needs to know of a folder's manifest; 0 where there is none."""
    try:
        return _path(folder).stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def check_there(
    folder: Path, array: str, stamp: int, start: Sequence[int], stop: Sequence[int]
) -> None:
    """Check, after a part of an array was read, that the files it lies in are there.

    Args:
        folder: The finished output.
        array: Name of the array in it.
        stamp: From `manifest_stamp`, when the folder was opened.
        start: First element along each axis; axes before these are one file deep.
        stop: Last one plus one.

    Raises:
        InputError: A file that the manifest lists is gone, so what was read of it is 0.
    """
    if not stamp:
        return
    grid, names = _listed(folder, array, stamp)
    sides = zip(start, stop, grid[len(grid) - len(start) :], strict=True)
    lead = ("c", *("0",) * (len(grid) - len(start)))
    for cell in product(*(range(a // n, -(-b // n)) for a, b, n in sides)):
        name = "/".join((*lead, *map(str, cell)))
        if name in names and not os.path.isfile(os.path.join(folder, array, name)):
            raise InputError(f"{folder / array / name}: gone; it was there when it was finished")


def listed_files(folder: Path, array: str) -> frozenset[str]:
    """Files of an array, named from it, that the manifest of a finished output lists."""
    names = (name for name in _read(folder) if _array_of(name) == array)
    return frozenset(name.removeprefix(f"{array}/") for name in names)


@lru_cache(maxsize=32)
def _listed(folder: Path, array: str, stamp: int) -> tuple[tuple[int, ...], frozenset[str]]:
    """Elements of a file along each axis, and the files of an array that the manifest lists."""
    metadata = read_json(folder / array / "zarr.json")
    if metadata is None or manifest_stamp(folder) != stamp:
        raise InputError(f"{folder / array}: moved or changed while it was read")
    grid = tuple(int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"])
    return grid, listed_files(folder, array)


def _path(folder: Path) -> Path:
    return folder / "0" / NAME


def _array_of(name: str) -> str:
    return name.rpartition("/c/")[0]


def _read(folder: Path) -> dict[str, int]:
    """Size of each file that the manifest lists, by name; empty where there is no manifest."""
    path = _path(folder)
    try:
        header, *lines = path.read_text().splitlines() or [""]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if header != (expected := HEADER.format(len(lines))):
        raise InputError(f"{path}: found {header[:40]!r} on line 1, expected {expected!r}")
    listed = {}
    for number, line in enumerate(lines, start=2):
        size, _, rest = line.partition(" ")
        name = rest.partition(" ")[2]
        if not (size.isascii() and size.isdecimal()) or not _array_of(name):
            raise InputError(f"{path}: found {line[:40]!r} on line {number}, expected a file")
        listed[name] = int(size)
    return listed
