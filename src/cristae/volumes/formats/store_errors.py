"""What tensorstore's errors say, in the words of ours."""

import os
import re

from cristae.errors import InputError

_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
"""How tensorstore says which error of the system a write met."""

_CODE = re.compile(r"^[A-Z_]+: ")
"""What its messages begin with."""

_FILE = re.compile(r'local file "([^"]+)": (.*)', re.DOTALL)
"""The file that it could not read, and why."""


def plain_text(error: Exception) -> str:
    """A message without its error code and the lines of tensorstore's source."""
    return _CODE.sub("", str(error)).split(" [", 1)[0]


def read_fault(path: str, part: str, error: Exception) -> InputError:
    """Why a part of an array could not be read: the file, the part and the reason."""
    text = plain_text(error)
    found = _FILE.search(text)
    where, reason = (found[1], found[2]) if found else (path, text)
    if "Digest mismatch" in reason:
        reason = "damaged, a checksum does not fit"
    return InputError(f"{where}, {part}: {reason}")


def system_error(error: Exception, path: str) -> OSError | None:
    """The error of the system that a write met; None where it met none."""
    found = _SYSTEM_ERROR.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])), path) if found else None
