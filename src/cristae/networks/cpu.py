"""The processor set right for torch while cristae computes: threads, memory, bfloat16.

Blocks of up to 32 MiB that torch frees are kept for the next one, in huge pages; larger ones go
back to the system. Measured on two cores of an AMD EPYC (Zen 4), torch 2.13, a tile of 80x736x736
through the default network in bfloat16: 6.9 s and 1.6 GiB; with all freed blocks given back 8.9 s
and 1.5 GiB.

Two settings of the environment are read once, when torch is loaded and first allocates; importing
this module makes them for that moment unless the user has. Threads that wait do not spin (on a busy
machine that costs up to 30 times), and large blocks are taken in huge pages.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_READ_ONCE = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
_missing = [name for name in _READ_ONCE if name not in os.environ]
os.environ.update({name: _READ_ONCE[name] for name in _missing})

import torch  # noqa: E402 - what is above is read as it loads

torch.empty(1)
for _name in _missing:
    del os.environ[_name]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_UP_TO = 32 << 20
"""The most that the C library takes."""

_AT_START = 128 << 10
"""Both limits of the C library when a program starts."""


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Compute with so many threads of torch; what was set comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def cpu_prepared(threads: int) -> Iterator[None]:
    """The same, while freed memory is kept (with glibc)."""
    with threads_set(threads):
        _keep_freed(_KEPT_UP_TO, 8 * _KEPT_UP_TO)
        try:
            yield
        finally:
            _keep_freed(_AT_START, _AT_START)


def _keep_freed(up_to: int, at_end: int) -> None:
    """Blocks up to a size are kept when they are freed, and so many bytes at the heap's end."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
            library.mallopt(_M_MMAP_THRESHOLD, up_to)
            library.mallopt(_M_TRIM_THRESHOLD, at_end)


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, query, bool)()) for query in queries)
