"""Locks: one process at a time writes an output.

Where the file system has no locks, a soft lock takes their place: a file that names its holder.
One whose holder has died on the same machine is taken over.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, lock_descriptor

from cristae.engine.files import make_folder, translate_os_errors
from cristae.errors import BusyError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF)
"""What a file system without locks answers; the last one where it has none for folders."""

PATIENCE_S, POLL_S = 0.3, 0.05
"""How long to wait for one who only looks at a record, and how often to try."""

Release = Callable[[], None]


def take_lock(output: Path) -> Release:
    """Hold an output against all other processes, or refuse at once.

    The lock is a file beside the output, the same however the output is spelled, so it stays when
    a folder is removed. It goes when it is given back.

    Args:
        output: A file or folder, there or not.

    Returns:
        What gives the lock back.

    Raises:
        BusyError: Another process holds it.
        FileError: A lock cannot be written there.
    """
    place = Path(os.path.realpath(output))
    file = place.with_name(f".{place.name}.lock")
    with translate_os_errors(file):
        make_folder(file.parent)
        lock = FileLock(file, thread_local=False, fallback_to_soft=False)
        try:
            _acquire(lock, output)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            file.unlink(missing_ok=True)
            return _soft_lock(file.with_name(f"{file.name}.soft"), output)

    def release() -> None:
        with suppress(FileNotFoundError):  # the name first: no process waits for what is gone
            file.unlink()
        lock.release()

    return release


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that is never removed against all other processes.

    It is made where it is missing, and goes again where nothing was put into it.

    Raises:
        BusyError: Another process holds it.
        FileError: It cannot be made or locked.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with translate_os_errors(folder):
        make_folder(folder)
        release = _lock_folder(folder)
    try:
        yield
    finally:
        release()
        with suppress(OSError):  # not empty
            for each in made:
                each.rmdir()


def _lock_folder(folder: Path) -> Release:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + PATIENCE_S
        while not lock_descriptor(descriptor, blocking=False):
            if time.monotonic() > until:
                raise BusyError(f"{folder}: another process is writing it")
            time.sleep(POLL_S)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in NO_LOCKS:
            raise
        return _soft_lock(folder / ".cristae.lock.soft", folder)
    except BaseException:
        os.close(descriptor)
        raise
    return lambda: os.close(descriptor)


def _soft_lock(file: Path, output: Path) -> Release:
    lock = SoftFileLock(file, thread_local=False)
    _acquire(lock, output)
    return lock.release


def _acquire(lock: BaseFileLock, output: Path) -> None:
    try:
        lock.acquire(timeout=PATIENCE_S, poll_interval=POLL_S)
    except Timeout as error:
        raise BusyError(
            f"{output}: another process is writing it (it holds {lock.lock_file})"
        ) from error
