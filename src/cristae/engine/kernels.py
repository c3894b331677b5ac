"""Kernels: numba's `njit`, with its cache where one can be written, and without where none can."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numba

from cristae.engine.progress import log

_NO_PLACE = "no locator available"
"""What numba says of a function for which it found no folder to write to."""

_warned: list[str] = []


def _njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, and keep it for later processes if possible.

    Where no folder can be written (a read-only installation without a home, a full disk), each
    process compiles anew; one warning says so.

    Args:
        options: Those of ``numba.njit``.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            kernel = numba.njit(**options)(function)
        except RuntimeError as error:
            if _NO_PLACE not in str(error):
                raise
            _warn("no folder for it can be written; NUMBA_CACHE_DIR names one")
            return numba.njit(**{**options, "cache": False})(function)
        if options.get("cache"):
            kernel._cache = _Cache(kernel._cache)
        return kernel

    return compiled


njit: Any = _njit  # numba has no types


class _Cache:
    """numba's cache of one function, left aside where the system refuses to read or write it."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        """What was compiled before, or None."""
        found = None
        with self._left_aside():
            found = self._cache.load_overload(*arguments)
        return found

    def save_overload(self, *arguments: Any) -> None:
        """Keep what was compiled."""
        with self._left_aside():
            self._cache.save_overload(*arguments)

    @contextmanager
    def _left_aside(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _warn(str(error))
        except (EOFError, pickle.UnpicklingError):  # a file cut off: from now on an empty cache
            with suppress(OSError):
                self._cache.flush()


def _warn(reason: str) -> None:
    if not _warned:
        _warned.append(reason)
        log.warning("compiled kernels are not kept for the next time: %s", reason)
