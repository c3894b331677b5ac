"""Every error cristae raises on purpose, as one small tree.

::

    CristaeError
    ├── InputError (ValueError)              a source, value or pair of them that cannot be used
    │   ├── SourceNotFoundError (FileNotFoundError)
    │   ├── FileError (OSError)              a file or folder that the system does not let be used
    │   └── ConfigError                      a key or value of a configuration
    ├── OutputExistsError (FileExistsError)  an output made from other inputs or settings
    ├── BusyError (RuntimeError)             another process is writing this output
    ├── MemoryLimitError (MemoryError)       work that cannot fit in the memory allowed
    ├── DiskSpaceError (OSError)             an output that cannot fit on its disk
    └── WorkerError (RuntimeError)           a block whose work failed, with the block named

Each is also the built-in it means, so both ways of catching work.
"""

from collections.abc import Sequence


class CristaeError(Exception):
    """Base of all errors raised on purpose."""


class InputError(CristaeError, ValueError):
    """A source, a value, or a pair of them that cannot be used."""


class SourceNotFoundError(InputError, FileNotFoundError):
    """A path that does not exist."""


class FileError(InputError, OSError):
    """A file or folder that the system does not let be read or written."""


class ConfigError(InputError):
    """A key or value of a configuration that cannot be used."""


class OutputExistsError(CristaeError, FileExistsError):
    """An output that exists and was made from other inputs or settings."""


class BusyError(CristaeError, RuntimeError):
    """An output that another process is writing."""


class MemoryLimitError(CristaeError, MemoryError):
    """Work that cannot fit in the memory allowed."""


class DiskSpaceError(CristaeError, OSError):
    """An output that cannot fit on its disk."""


class WorkerError(CristaeError, RuntimeError):
    """A block whose work failed."""


def raise_faults(what: str, faults: Sequence[str], error: type[CristaeError] = InputError) -> None:
    """Raise one error that lists every fault found, or return when there is none.

    Args:
        what: The thing at fault, for the first line (``"labels.tif"``).
        faults: One line a fault, each with the value found and the value expected.
        error: The class raised.

    Raises:
        CristaeError: ``error``, when ``faults`` is not empty.
    """
    if len(faults) == 1:
        raise error(f"{what}: {faults[0]}")
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise error(f"{what}: {len(faults)} faults\n{lines}")
