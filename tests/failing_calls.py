"""Make system calls of this process fail, for good: for programs that tests start.

A filter of the kernel (seccomp) answers the calls named with an error. Linux only.
"""

import ctypes
import errno
import platform
import struct
import sys

import pytest

NUMBERS = {
    "x86_64": {"flock": 73, "fcntl": 72, "fsync": 74, "rename": 82, "pwrite64": 18},
    "aarch64": {"flock": 32, "fcntl": 25, "fsync": 82, "renameat": 38, "pwrite64": 68},
}
OFD_LOCKS = (36, 37, 38)
"""Commands of fcntl that tensorstore takes its locks with."""

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _SECOND_ARGUMENT_AT = 0, 24
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2

linux_only = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in NUMBERS,
    reason="calls can be made to fail on Linux only",
)


def fail(call: str, code: int, commands: tuple[int, ...] = ()) -> None:
    """Let every later call fail; of calls with commands, those only."""
    number = NUMBERS[platform.machine()][call]
    rows = [(_LOAD, 0, 0, _NUMBER_AT)]
    if commands:
        rows.append((_EQUAL, 0, len(commands) + 1, number))
        rows.append((_LOAD, 0, 0, _SECOND_ARGUMENT_AT))
        rows += [(_EQUAL, len(commands) - i, 0, each) for i, each in enumerate(commands)]
    else:
        rows.append((_EQUAL, 1, 0, number))
    rows += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | code)]
    packed = b"".join(struct.pack("HBBI", *row) for row in rows)
    program = ctypes.create_string_buffer(packed)
    described = struct.pack("HxxxxxxQ", len(rows), ctypes.addressof(program))
    held = ctypes.create_string_buffer(described)
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if library.prctl(_SET_SECCOMP, _FILTER, ctypes.c_void_p(ctypes.addressof(held)), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls here")


def fail_locks(code: int = errno.ENOLCK) -> None:
    """Let every lock on a file fail, as on a file system that has none."""
    fail("flock", code)
    fail("fcntl", code, OFD_LOCKS)


def obey_permissions() -> None:
    """Let permissions of files count for this process, also where it is root's."""
    library = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this process
    found = ctypes.create_string_buffer(24)
    if library.capget(header, found):
        raise OSError(ctypes.get_errno(), "capabilities cannot be asked for")
    sets = list(struct.unpack("6I", found.raw))
    keep = 0xFFFFFFFF & ~0b110  # without those that leave permissions out of account
    sets[:2] = [each & keep for each in sets[:2]]
    if library.capset(header, struct.pack("6I", *sets)):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")
