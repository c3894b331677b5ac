"""Progress of long work: a live line on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

log = logging.getLogger("cristae")

LOG_EVERY_S = 30.0
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


class Advance(Protocol):
    """Called with the amount of work just finished."""

    def __call__(self, amount: float, note: str = "") -> None:
        """Count an amount as finished; a note, such as a loss, is shown beside it."""


@dataclass(frozen=True)
class Progress:
    """How far some work is.

    Attributes:
        description: What is being done (``segment``).
        done: The part finished.
        total: All of the work.
        unit: What both count (``voxels``).
        note: What is known besides, such as a loss.
    """

    description: str
    done: float
    total: float
    unit: str
    note: str = ""


ProgressCallback = Callable[[Progress], None]
_callback: ContextVar[ProgressCallback | None] = ContextVar("progress", default=None)


def takes_progress(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Give a stage the keyword ``progress``: a function called with a `Progress` as work is done.

    Stages called by it report to the same function. It is called in the thread that called the
    stage; what it raises ends the stage as Ctrl-C would, so that the same call resumes it.
    """

    @wraps(function)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        callback = named.pop("progress", None)
        if callback is None:
            return function(*arguments, **named)
        token = _callback.set(callback)  # type: ignore[arg-type]
        try:
            return function(*arguments, **named)
        finally:
            _callback.reset(token)

    return call


@contextmanager
def track(description: str, total: float, unit: str, done: float = 0.0) -> Iterator[Advance]:
    """Show the progress of some work while the context is open.

    Args:
        description: What is being done.
        total: All of the work.
        unit: What `total` counts (``voxels``).
        done: The part finished before, by an interrupted run; it does not count in the rate.

    Yields:
        A function to call with each amount finished.
    """
    with _shown(description, total, unit, done) as advance:
        callback = _callback.get()
        if callback is None:
            yield advance
            return
        now = done

        def report(amount: float, note: str = "") -> None:
            nonlocal now
            now += amount
            advance(amount, note)
            callback(Progress(description, now, total, unit, note))

        callback(Progress(description, now, total, unit))
        yield report


@contextmanager
def _shown(description: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    if log.isEnabledFor(logging.INFO) and sys.stderr.isatty():
        from cristae.engine.progress_bar import live_line

        with live_line(description, total, unit, done) as advance:
            yield advance
    else:
        yield _LogLines(description, total, unit, done)


def rate_text(amount: float, seconds: float, unit: str) -> str:
    """An amount a second with a fitting prefix: ``3.1 Mvoxels/s``."""
    rate = amount / max(seconds, 1e-9)
    for scale, prefix in _SCALES:
        if rate >= scale:
            return f"{rate / scale:.3g} {prefix}{unit}/s"
    return f"{rate:.3g} {unit}/s"


def duration_text(seconds: float) -> str:
    """A time in a fitting unit: ``3.1 hours``."""
    for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def log_to_stderr(level: int) -> None:
    """Write what is logged from this level on to standard error, plainly."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings and errors only: where many small pieces run, what is said of each is no news."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


class _LogLines:
    """Logs rate and time left at most every `LOG_EVERY_S` seconds."""

    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.before = self.now = done
        self.start = self.last = time.monotonic()

    def __call__(self, amount: float, note: str = "") -> None:
        self.now += amount
        moment = time.monotonic()
        if moment - self.last < LOG_EVERY_S:
            return
        self.last = moment
        seconds, fresh = moment - self.start, self.now - self.before
        left = (self.total - self.now) * seconds / max(fresh, 1e-9)
        share = 100 * self.now / max(self.total, 1e-9)
        rate = rate_text(fresh, seconds, self.unit)
        noted = f", {note}" if note else ""
        log.info("%s: %.0f %%, %s, %.0f s left%s", self.description, share, rate, left, noted)
