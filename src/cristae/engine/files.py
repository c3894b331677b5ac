"""Files written so that a reader never sees half of one, and room for them checked first."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from cristae.engine.written import note
from cristae.errors import CristaeError, DiskSpaceError, FileError, InputError, WorkerError

_REASONS = {
    errno.EROFS: "lies on a read-only file system, expected a place that can be written",
    errno.EISDIR: "a folder found, expected a file",
    errno.ENOTDIR: "a part of this path is a file, expected folders",
    errno.ENAMETOOLONG: "a name longer than the file system allows, expected a shorter one",
    errno.ENOENT: "no such file or folder; was it moved or removed?",
    errno.ELOOP: "symbolic links that lead to each other, expected a file or folder",
    errno.EIO: "the disk cannot read or write it (input/output error)",
    errno.EFBIG: "File too large for this place; the same command goes on where larger ones may be",
    errno.ENOSPC: "the disk is full; the same command goes on where there is room again",
    errno.EDQUOT: "the disk quota is used up; the same command goes on where there is room again",
}

_FULL = (errno.ENOSPC, errno.EDQUOT)

_DEEPEST = 100
"""How deep JSON that is read may be nested."""

_numbers = count()


# ---- writing -------------------------------------------------------------------------------------


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], *, alone: bool = False) -> None:
    """Write a file under another name, put it on disk, then give it its name.

    Args:
        path: The file; replaced when it exists.
        write: Called with the open binary file.
        alone: Use a fixed temporary name (single writer):
            what a killed run left under it is then written over, not left behind.

    Raises:
        OSError: The system refuses; the path is named.
    """
    try:
        _write_atomic(path, write, alone)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _write_atomic(path: Path, write: Callable[[IO[bytes]], object], alone: bool) -> None:
    make_folder(path.parent)
    if not alone:
        sweep_leftovers(path)
    mark = "" if alone else f".{_own_mark()}"
    temporary = path.with_name(f".{path.name}{mark}.tmp")
    try:
        with temporary.open("wb+") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        note(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, tree: Any) -> None:
    """Write a tree as indented JSON, atomically."""
    write_text(path, json.dumps(tree, indent=2) + "\n")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; their names are on disk when this returns."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)


def sync_file(path: Path) -> None:
    """Put a file and its name on disk: before anything says that it is written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a name given is there after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not for folders, on some systems
            raise
    finally:
        os.close(descriptor)


# ---- reading -------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The JSON tree of a file; None where there is no such file.

    Raises:
        InputError: Not JSON, or nested deeper than anything meant; the fault is named.
        FileError: It cannot be read.
    """
    with translate_os_errors(path):
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:  # a NUL, of all characters
            raise InputError(f"{str(path)!r}: not a path: {error}") from error
    return parse_json(text, str(path))


def parse_json(text: bytes | str, name: str) -> Any:
    """The tree of a JSON text.

    Raises:
        InputError: Not JSON, or nested deeper than anything meant; ``name`` and fault are named.
    """
    if not text.strip():
        raise InputError(f"{name}: an empty file found, expected JSON")
    try:
        tree = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{name}: nested too deep, expected at most {_DEEPEST} levels") from error
    except ValueError as error:
        raise InputError(f"{name}: not readable as JSON (cut off?): {error}") from error
    if _is_deeper(tree, _DEEPEST):
        raise InputError(f"{name}: nested too deep, expected at most {_DEEPEST} levels")
    return tree


def _is_deeper(tree: Any, levels: int) -> bool:
    layer = [tree]
    for _ in range(levels):
        layer = [
            inner
            for node in layer
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def read_attributes(folder: Path) -> dict[str, Any] | None:
    """The ``cristae`` attributes of a Zarr v3 group; None where it has none.

    Raises:
        InputError: Metadata that is not JSON, or something else than keys and values.
    """
    path = folder / "zarr.json"
    tree, where = read_json(path), "content"
    for key in ("attributes", "cristae"):
        if tree is None:
            return None
        tree, where = _entries(path, tree, where).get(key), key
    return None if tree is None else _entries(path, tree, where)


def _entries(path: Path, tree: Any, where: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise InputError(f"{path}: {where}: {kind} found, expected keys and values")
    return tree


def merge_attributes(folder: Path, changes: Mapping[str, Any]) -> None:
    """Set keys of the ``cristae`` attributes of a Zarr v3 group, atomically."""
    before = read_attributes(folder) or {}
    if all(key in before and before[key] == value for key, value in changes.items()):
        return
    tree = read_json(folder / "zarr.json") or {"zarr_format": 3, "node_type": "group"}
    tree["attributes"] = {**(tree.get("attributes") or {}), "cristae": {**before, **changes}}
    write_json(folder / "zarr.json", tree)


# ---- removing ------------------------------------------------------------------------------------


def remove_tree(path: Path) -> None:
    """Remove a file or folder; a folder loses its name at once, so no half of it is ever seen."""
    if path.is_dir() and not path.is_symlink():
        doomed = path.with_name(f".{path.name}.{_own_mark()}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def sweep_leftovers(path: Path, *, alone: bool = False) -> None:
    """Remove what killed processes left beside a file or folder under temporary names.

    Args:
        path: The file or folder.
        alone: A single writer: whatever has such a name is left over; otherwise only
            what a process of this machine left that is no more.
    """
    pattern = re.compile(
        rf"\.{re.escape(path.name)}\.(?:[0-9a-f]{{8}}|{_MARK.pattern})\.(?:tmp|removed)"
    )
    if not path.parent.is_dir():
        return
    for entry in os.scandir(path.parent):
        found = pattern.fullmatch(entry.name)
        if found and (alone or _is_left(found["host"], found["pid"])):
            _discard(Path(entry.path))


def sweep_output(folder: Path) -> None:
    """Remove what killed processes were writing and removing in an output that is ours."""
    if not folder.is_dir():
        return
    for left in folder.rglob("*.__lock"):  # tensorstore's
        left.unlink()
    removed = re.compile(rf"\..+\.{_MARK.pattern}\.removed")  # `remove_tree`'s
    for entry in os.scandir(folder):
        if removed.fullmatch(entry.name):
            _discard(Path(entry.path))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for intermediate files, gone at the end; those of killed processes go first."""
    base = Path(tempfile.gettempdir())
    for entry in os.scandir(base):
        found = _TEMPORARY.fullmatch(entry.name)
        if found and _is_left(found["host"], found["pid"]):
            _discard(Path(entry.path))
    with tempfile.TemporaryDirectory(prefix=f"cristae-{_own_mark()}-", dir=base) as name:
        yield Path(name)


def _discard(path: Path) -> None:
    with suppress(OSError):  # another's, or swept by another process at the same moment
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


_MARK = re.compile(r"(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-\d+")
_TEMPORARY = re.compile(rf"cristae-{_MARK.pattern}-\w+")


def _own_mark() -> str:
    """Part of a temporary name that says which process made it."""
    return f"{_host()}-{os.getpid()}-{next(_numbers)}"


def _host() -> str:
    """Digest of the machine, or the container, in which process numbers mean something."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _is_left(host: str | None, pid: str | None) -> bool:
    """Whether a temporary name is of a process of this machine that is no more."""
    if host != _host() or pid is None:
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's
        return False
    return False


# ---- room, and what the system refuses -----------------------------------------------------------


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
def translate_os_errors(place: Path) -> Iterator[None]:
    """Re-raise what the system refuses as one message with path, reason and what was expected.

    Args:
        place: Named where the error itself names no path, and where the disk is full.

    Raises:
        DiskSpaceError: The disk is full, or the quota used up.
        FileError: Anything else; also in place of a worker's error that it caused.
    """
    try:
        yield
    except (OSError, WorkerError) as error:
        told = told_error(error, place)
        if told is None:
            raise
        raise told from error


def told_error(error: BaseException | None, place: Path) -> CristaeError | None:
    """The message for an error of the system, or of a worker by one; None for all others."""
    cause = error.__cause__ if isinstance(error, WorkerError) else error
    if not isinstance(cause, OSError) or isinstance(cause, CristaeError) or cause.errno is None:
        return None
    if cause.errno in _FULL:
        return DiskSpaceError(f"{place}: {_REASONS[cause.errno]}")
    named = isinstance(cause.filename, str | bytes | os.PathLike)
    path = Path(os.fsdecode(cause.filename)) if named else place
    if cause.errno in (errno.EACCES, errno.EPERM):
        unreadable = path.exists() and not os.access(path, os.R_OK)
        wanted = "file or folder that can be read" if unreadable else "place that can be written"
        told = FileError(f"{path}: permission denied, expected a {wanted}")
    else:
        said = cause.strerror or str(cause)
        told = FileError(f"{path}: {_REASONS.get(cause.errno, said)}")
    told.errno = cause.errno
    return told


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
