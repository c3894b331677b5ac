"""The engine: a step of a stage is tasks, and `run_step` does those that are missing.

::

    reading     | 1 | 2 | 3 |   | 4 |                   a thread, ahead, where there is such a part
    computing       |  1   |  2   |  3   |  4   |       the workers of the executor
    gathering              ||     ||     ||     ||      the caller, in the order of the tasks
    writing                | 1|   | 2|   | 3|   | 4|    a thread, behind

A plain function is all of it at once. What a task writes is named: a box of the output, or a table.
A `Record` knows which of these names are on disk, so an interrupted step goes on with the rest,
whatever the executor.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any, Protocol

from cristae.engine.executors import EXECUTORS, Pool, Resources, call_each, result_of
from cristae.engine.memory import memory_limit, return_freed_memory
from cristae.engine.progress import Advance, log, track
from cristae.grid import Box

Mark = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a step; may be done again, anywhere, at any time.

    Attributes:
        item: What the work is called with.
        writes: Names of what is on disk when it is done; of several tasks that fill one box, the
            last one names it.
        reads: Voxels of the input that are read, halo included; None where only tables are.
        size: How much of the step it is, for the progress.
        memory: Bytes that it takes while it is done, where they are known by the task.
    """

    item: Any
    writes: tuple[str, ...]
    reads: Box | None = None
    size: int = 1
    memory: int = 0

    def __str__(self) -> str:
        return str(self.item)


def block_tasks(blocks: Iterable[Box], memory: int = 0) -> list[Task]:
    """A task for each block, which is read and marked by its box."""
    return [Task(block, (str(block),), block, block.size, memory) for block in blocks]


class Record(Protocol):
    """What of a step is on disk: a ledger, or the tables themselves."""

    def done(self, step: str) -> Mapping[str, Any]:
        """Names of what is on disk, with the values they were marked with."""

    def mark(self, step: str, key: str, value: Any = None) -> None:
        """Remember that something is on disk."""


@dataclass
class Profile:
    """Seconds that each part was at work; the parts run at the same time.

    Attributes:
        reading: In the reading thread.
        computing: In a worker (the mean of all), and in the calling thread.
        writing: In the writing thread.
    """

    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    @property
    def bound(self) -> str:
        """The part that was at work the longest."""
        return max(_PARTS, key=lambda part: float(getattr(self, part)))

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the time the context is open to a part."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - begun)

    def __str__(self) -> str:
        total = max(self.seconds, 1e-9)
        parts = (f"{p} {100 * getattr(self, p) / total:.0f} %" for p in _PARTS)
        return f"bound by {self.bound} ({', '.join(parts)} of the time)"


_PARTS = ("reading", "computing", "writing")


@dataclass(frozen=True)
class OverlappedTask:
    """Work in parts that overlap, results in the order of the tasks.

    At most two items' data a worker (one computed, one read) and two results (one being written,
    one being made) are held. An error of any part ends the step; what is being written is finished
    first. With the executor ``serial`` one part follows the other.

    Attributes:
        compute: Called with what was read, or with the item, by a worker; picklable where the
            executor is ``processes``.
        read: Called with an item, here, ahead.
        gather: Called with an item and its result, here; gives what is to be written, or None.
        write: Called with that, here, behind; gives the name of each thing that is on disk.
        ahead: How many items are read ahead at least.
        profile: How long each was at work.
    """

    compute: Callable[[Any], Any]
    read: Callable[[Any], Any] | None = None
    gather: Callable[[Any, Any], Any] | None = None
    write: Callable[[Any], Iterable[object]] | None = None
    ahead: int = 1
    profile: Profile = field(default_factory=Profile)


def run_step(
    step: str,
    tasks: Sequence[Task],
    work: Callable[[Any], Any] | OverlappedTask,
    *,
    record: Record | None,
    resources: Resources,
    description: str | None = None,
    unit: str = "voxels",
    before: int = 0,
) -> dict[str, Any]:
    """Run a step over its tasks, leaving out those an interrupted run has done.

    Args:
        step: Name of the step in the record.
        tasks: All tasks of the step; those without ``writes`` are always done.
        work: Called with an item; its data is on disk when it returns something small and
            JSON-able for the record. Or parts that overlap.
        record: Where is marked what is on disk; None where nothing is remembered.
        resources: Workers and executor; fewer tasks at a time where their memory does not fit.
        description: What progress says; the step's name by default, nothing where it is empty.
        unit: What the tasks' sizes count.
        before: What was left out of the tasks, for the progress.

    Returns:
        The values of everything marked, by name, of this run and of interrupted ones.
    """
    values = {} if record is None else dict(record.done(step))
    missing = [t for t in tasks if not t.writes or not all(name in values for name in t.writes)]
    if len(missing) < len(tasks):
        log.info("%s: %d of %d blocks done before", step, len(tasks) - len(missing), len(tasks))
    if needs := [task.memory for task in missing if task.memory]:
        resources = replace(resources, workers=fitting_workers(needs, resources))
    total = before + sum(task.size for task in tasks)
    before = total - sum(task.size for task in missing)

    def mark(name: str, value: Any) -> None:
        if record is not None:
            record.mark(step, name, value)
        values[name] = value

    with ExitStack() as stack:
        shown = step if description is None else description
        tracked = stack.enter_context(track(shown, total, unit, before)) if shown else _silent
        if isinstance(work, OverlappedTask):
            _run_parts(missing, work, resources, mark, tracked)
        else:
            named = ((task, task.item) for task in missing)
            for task, result in stack.enter_context(closing(call_each(work, named, resources))):
                for name in task.writes:
                    mark(name, result)
                tracked(task.size)
    if missing:
        return_freed_memory()  # what the next step takes is promised without it
    return values


def fitting_workers(memories: Iterable[int], resources: Resources, held: int = 0) -> int:
    """How many tasks fit in memory at once, at least one.

    Args:
        memories: Bytes that each task takes (`Task.memory`).
        resources: How many at most, and the limit.
        held: Bytes that are held beside the tasks'.
    """
    free, fitting = memory_limit(resources) - held, 0
    for memory in nlargest(resources.workers, memories):
        free -= memory
        fitting += free >= 0
    return max(1, fitting)


def _silent(amount: float, note: str = "") -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class _Timed:
    """A function that says how long it took, wherever it is called."""

    function: Callable[[Any], Any]

    def __call__(self, data: Any) -> tuple[float, Any]:
        begun = time.perf_counter()
        result = self.function(data)
        return time.perf_counter() - begun, result


def _run_parts(
    tasks: Sequence[Task], parts: OverlappedTask, resources: Resources, mark: Mark, advance: Advance
) -> None:
    """Read, compute, gather and write, the parts overlapping unless all is serial."""
    profile, workers = parts.profile, max(1, resources.workers)
    aside = EXECUTORS["serial" if resources.executor == "serial" else "threads"]

    def write(made: Any) -> None:
        with profile.timing("writing"):
            for name in parts.write(made) if parts.write else ():
                mark(str(name), None)

    with ExitStack() as stack:
        writer = stack.enter_context(closing(aside(write, 1)))
        named: Iterator[tuple[Task, Any]] = ((task, task.item) for task in tasks)
        if parts.read is not None:
            reader = stack.enter_context(closing(aside(_reading(parts.read, profile), 1)))
            ahead = 0 if resources.executor == "serial" else max(parts.ahead, workers - 1)
            named = _ahead(tasks, reader, ahead)
        calls = call_each(_Timed(parts.compute), named, resources, ordered=True)
        behind: tuple[Future[Any], Task] | None = None
        try:
            for task, made in stack.enter_context(closing(calls)):
                profile.computing += made[0] / workers
                with profile.timing("computing"):
                    found = made[1] if parts.gather is None else parts.gather(task.item, made[1])
                del made
                if found is not None:
                    if behind is not None:
                        result_of(*behind)
                    behind = writer.submit(found), task
                del found
                advance(task.size)
        finally:
            if behind is not None:  # also after an error: closing would drop what has not begun
                wait([behind[0]])
        if behind is not None:
            result_of(*behind)


def _reading(read: Callable[[Any], Any], profile: Profile) -> Callable[[Any], Any]:
    def timed(item: Any) -> Any:
        with profile.timing("reading"):
            return read(item)

    return timed


def _ahead(tasks: Iterable[Task], reader: Pool, count: int) -> Iterator[tuple[Task, Any]]:
    """Each task with what was read for it, so many later ones being read meanwhile."""
    waiting = deque[tuple[Task, Future[Any]]]()
    for task in tasks:
        waiting.append((task, reader.submit(task.item)))
        if len(waiting) > count:
            yield _next_read(waiting)
    while waiting:
        yield _next_read(waiting)


def _next_read(waiting: "deque[tuple[Task, Future[Any]]]") -> tuple[Task, Any]:
    task, future = waiting.popleft()
    return task, result_of(future, task)
