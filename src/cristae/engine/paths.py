"""Paths as people write them: ``~`` stands for the home folder, and any name is a name."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

SINGLE_WRITER = {"file_io_locking": {"mode": "none"}}
"""For tensorstore: no other process writes an output (`locks`), so it locks no file; some file
systems have no locks."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` and ``~user`` in front replaced by the home folder."""
    return Path(os.path.expanduser(path))


def file_store(path: str | os.PathLike[str]) -> dict[str, str]:
    """Where an array lies, as tensorstore wants to be told: its key-value store.

    tensorstore knows only absolute paths without ``.``, ``..`` and ``//``, in UTF-8 and without
    backslashes; a folder with another name is reached through a link.

    Args:
        path: Folder of the array, there or not.

    Returns:
        The ``kvstore`` of a spec. Symbolic links are followed first, as the system does it.
    """
    real = os.path.realpath(os.path.expanduser(path))
    return {"driver": "file", "path": real if _is_plain(real) else _linked(real)}


def _is_plain(path: str) -> bool:
    locked = any(part.endswith(".__lock") for part in path.split("/"))
    return not (locked or "\\" in path or any("\ud800" <= letter <= "\udfff" for letter in path))


@functools.lru_cache(maxsize=1024)
def _linked(path: str) -> str:
    os.makedirs(path, exist_ok=True)  # a link to nothing cannot be written through
    folder = _links(os.getpid())
    link = os.path.join(folder, str(len(os.listdir(folder))))
    os.symlink(path, link)
    return link


@functools.lru_cache(maxsize=1)
def _links(process: int) -> str:
    """A folder for the links of this process, which goes with it."""
    folder = tempfile.mkdtemp(prefix="cristae-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
