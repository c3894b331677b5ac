"""Kernels: numba's `njit`, with its cache where one can be written, and without where none can.

numba is loaded when the first kernel is called, and a kernel is made when it is: a command waits
for what it needs.
"""

import gc
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, update_wrapper, wraps
from threading import RLock
from types import ModuleType
from typing import Any

from cristae.engine.progress import log

_NO_PLACE = "no locator available"
"""What numba says of a function for which it found no folder to write to."""

_warned: list[str] = []
_making = RLock()


class Kernel:
    """A function that numba compiles when it is called, and keeps for later processes if possible.

    Where no folder can be written (a read-only installation without a home, a full disk), each
    process compiles anew; one warning says so. To numba, and to other kernels, it is what
    ``numba.njit`` makes: every attribute is that one's.

    Args:
        function: What is compiled.
        options: Those of ``numba.njit``.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        update_wrapper(self, function)
        self._function, self._options = function, options
        self._made: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Run the compiled function."""
        return (self._made or self._make())(*arguments)

    def __getattr__(self, name: str) -> Any:
        if name in ("_made", "_function", "_options") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._made or self._make(), name)

    def _make(self) -> Any:
        with _making:
            if self._made is None:
                self._made = _compiler(self._function, self._options)
        return self._made


def _compiler(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """What compiles a function for the types of its arguments."""
    numba = _load_numba()
    options = {**options, "no_cfunc_wrapper": True}  # nothing calls kernels from C
    try:
        made = numba.njit(**options)(function)
    except RuntimeError as error:
        if _NO_PLACE not in str(error):
            raise
        _warn("no folder for it can be written; NUMBA_CACHE_DIR names one")
        made = numba.njit(**{**options, "cache": False})(function)
    else:
        if options.get("cache"):
            made._cache = _Cache(made._cache)
    made._compiler.compile = _without_collection(made._compiler.compile)
    return made


def _without_collection(compile: Callable[..., Any]) -> Callable[..., Any]:
    """A compiler's many objects live until it is done: looking for dead ones takes a tenth."""

    @wraps(compile)
    def compiled(*arguments: Any) -> Any:
        collects = gc.isenabled()
        gc.disable()
        try:
            return compile(*arguments)
        finally:
            if collects:
                gc.enable()

    return compiled


def _load_numba() -> Any:
    """numba, without SciPy's linear algebra, which it loads only to see whether it is there.

    Where somebody's own kernel multiplies matrices, numba finds SciPy by itself.
    """
    blas = "scipy.linalg.cython_blas"
    seen = sys.modules.setdefault(blas, ModuleType(blas))
    try:
        import numba
        import numba.np.arraymath
    finally:
        if not hasattr(seen, "__file__"):
            del sys.modules[blas]
    return numba


def _njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    return partial(Kernel, **options)


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
        except (EOFError, pickle.UnpicklingError, AttributeError, ImportError):
            # a file cut off, or of a release with other names: from now on an empty cache
            with suppress(OSError):
                self._cache.flush()


def _warn(reason: str) -> None:
    if not _warned:
        _warned.append(reason)
        log.warning("compiled kernels are not kept for the next time: %s", reason)
