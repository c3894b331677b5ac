"""Memory: what a stage promises to take, what it may take, and what it took."""

import ctypes
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import psutil

from cristae.engine.executors import Resources
from cristae.engine.progress import log
from cristae.errors import MemoryLimitError

GIB = 1 << 30


def promise_memory(stage: str, bytes_needed: int, resources: Resources) -> None:
    """Say how much memory a stage will need, and refuse what cannot fit.

    Args:
        stage: Name of the stage.
        bytes_needed: Upper bound of the memory it will take, imports apart.
        resources: Holds the limit, if the user gave one.

    Raises:
        MemoryLimitError: More than the limit, or than the machine has free; both are named.
    """
    log.info("%s: needs up to %.2f GiB of memory", stage, bytes_needed / GIB)
    check_memory(stage, bytes_needed, resources)


def return_freed_memory() -> None:
    """Give the system what was freed: with glibc the heap of each thread keeps it otherwise."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


class Promise:
    """Promises of a stage that comes to know on its way how much memory it needs.

    Args:
        resources: Holds the limit, if the user gave one.
        most: Bytes that have been promised before.

    Attributes:
        held: Bytes that are held beside what a part needs.
    """

    def __init__(self, resources: Resources, most: int = 0) -> None:
        self.resources, self.most, self.held = resources, most, 0
        self._lock = Lock()

    def __call__(self, part: str, bytes_needed: int) -> None:
        """Promise memory where a part of the stage needs more than was promised before."""
        with self.holding(part, bytes_needed):
            pass

    @contextmanager
    def holding(self, part: str, bytes_needed: int) -> Iterator[None]:
        """Promise memory that is held while the context is open; threads may hold theirs."""
        with self._lock:
            if self.held + bytes_needed > self.most:
                self.most = self.held + bytes_needed
                promise_memory(part, self.most, self.resources)
            self.held += bytes_needed
        try:
            yield
        finally:
            with self._lock:
                self.held -= bytes_needed


def check_memory(stage: str, bytes_needed: int, resources: Resources) -> None:
    """Refuse what cannot fit; arguments and errors are those of `promise_memory`."""
    limit = memory_limit(resources)
    if bytes_needed > limit:
        whose = "are free" if resources.memory_gib is None else "are allowed by --memory"
        raise MemoryLimitError(
            f"{stage}: needs {bytes_needed / GIB:.2f} GiB of memory, {limit / GIB:.2f} GiB {whose}"
        )


def memory_limit(resources: Resources) -> float:
    """Bytes a stage may take: what the user allows, else what is free."""
    return available_memory() if resources.memory_gib is None else resources.memory_gib * GIB


def available_memory() -> int:
    """Bytes of memory free for this process, the container's limit included."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text) - int(used.read_text()))
    return int(free)


def peak_memory() -> int:
    """Most bytes of memory this process has held at once since its program started."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would begin with the peak of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.start
