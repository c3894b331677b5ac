"""Files written so that a reader never sees half of one, and room for them checked first."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cristae.errors import DiskSpaceError, InputError, WorkerError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], *, alone: bool = False) -> None:
    """Write a file under another name, put it on disk, then give it its name.

    Args:
        path: The file; replaced when it exists.
        write: Called with the open binary file.
        alone: Nobody else writes this file meanwhile, so the other name is always the same one:
            what a killed run left under it is then written over, not left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = "" if alone else f".{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.name}{mark}.tmp")
    try:
        with temporary.open("wb+") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, tree: Any) -> None:
    """Write a tree as indented JSON, atomically."""
    write_text(path, json.dumps(tree, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The JSON tree of a file; None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def merge_attributes(folder: Path, changes: Mapping[str, Any]) -> None:
    """Set keys of the ``cristae`` attributes of a Zarr v3 group, atomically."""
    tree = read_json(folder / "zarr.json") or {"zarr_format": 3, "node_type": "group"}
    tree.setdefault("attributes", {}).setdefault("cristae", {}).update(changes)
    write_json(folder / "zarr.json", tree)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a name given is there after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a file or folder; a folder loses its name at once, so no half of it is ever seen."""
    if path.is_dir() and not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse an output that cannot be made where it should lie.

    Raises:
        InputError: A file where a folder is due, or a folder without leave to write.
    """
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be made here: {folder} is a file, expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be made here: no leave to write into {folder}")


def check_disk(path: Path, bytes_needed: int, besides: Mapping[Path, int] | None = None) -> None:
    """Refuse outputs that their disks have no room for.

    Args:
        path: The output, existing or not.
        bytes_needed: Upper estimate of what will be written.
        besides: The same of further outputs; what shares a disk is added up.

    Raises:
        DiskSpaceError: Less is free; both figures are named.
    """
    needs: dict[int, tuple[list[Path], int, int]] = {}
    for output, needed in {path: bytes_needed, **(besides or {})}.items():
        folder = output.absolute()
        while not folder.exists():
            folder = folder.parent
        disk = folder.stat().st_dev
        outputs, before, free = needs.get(disk, ([], 0, shutil.disk_usage(folder).free))
        needs[disk] = ([*outputs, output], before + needed, free)
    for outputs, needed, free in needs.values():
        if free < needed:
            raise DiskSpaceError(
                f"{' and '.join(map(str, outputs))}: needs up to {needed / 1e9:.2f} GB, "
                f"{free / 1e9:.2f} GB are free there"
            )


@contextmanager
def full_disk_told(out: Path) -> Iterator[None]:
    """Say that the disk is full where writing ends for that reason.

    Raises:
        DiskSpaceError: In place of the error that says so, or of a worker's error caused by it.
    """
    try:
        yield
    except (OSError, WorkerError) as error:
        cause = error.__cause__ if isinstance(error, WorkerError) else error
        if not isinstance(cause, OSError) or cause.errno not in _FULL:
            raise
        raise DiskSpaceError(
            f"{out}: the disk is full; the same command goes on where there is room again"
        ) from error


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
