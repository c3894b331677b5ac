"""Progress of long work: a live line on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger("cristae")

LOG_EVERY_S = 30.0
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


class Advance(Protocol):
    """Called with the amount of work just finished."""

    def __call__(self, amount: float, note: str = "") -> None:
        """Count an amount as finished; a note, such as a loss, is shown beside it."""


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
    if log.isEnabledFor(logging.INFO) and sys.stderr.isatty():
        with _live(description, total, unit, done) as advance:
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
def hushed() -> Iterator[None]:
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


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        fresh = task.completed - task.fields["before"]
        return Text(rate_text(fresh, task.elapsed or 0.0, task.fields["unit"]))


@contextmanager
def _live(description: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, unit=unit, before=done)
        progress.update(task, completed=done)

        def advance(amount: float, note: str = "") -> None:
            text = f"{description} {note}" if note else description
            progress.update(task, advance=amount, description=text)

        yield advance
