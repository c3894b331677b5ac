"""Who does the work: one seam, `run_tasks`, with a serial twin for every parallel way.

A task is a picklable function called with one item. Tasks are idempotent: one that failed with
its worker is simply given to another. Results come in any order, so nothing may depend on it.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from cristae.errors import CristaeError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")
Kind = Literal["serial", "threads", "processes"]

POOL_TRIES = 3
"""How often a pool whose worker was killed is made anew before giving up."""


def available_cores() -> int:
    """Number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Resources:
    """What a stage may use; none of it changes a byte of the output.

    Attributes:
        workers: Tasks at a time; all cores by default.
        executor: ``serial``, ``threads`` (kernels release the interpreter lock) or ``processes``.
        memory_gib: Memory the stage may use in GiB; None for what the machine has free.
    """

    workers: int = field(default_factory=available_cores)
    executor: Kind = "threads"
    memory_gib: float | None = None


def run_tasks(
    function: Callable[[Item], Result], items: Iterable[Item], resources: Resources
) -> Iterator[tuple[Item, Result]]:
    """Call a function with every item and give each result as soon as it is there.

    Args:
        function: Called with one item; picklable where the executor is ``processes``.
        items: Taken one by one, so a generator is never read far ahead.
        resources: How many at a time, and where.

    Yields:
        (item, result) in the order of completion.

    Raises:
        WorkerError: A task failed; the item is named and the task's own error is the cause. Errors
            of cristae pass as they are. Tasks not begun are dropped.
    """
    if resources.executor == "serial" or resources.workers <= 1:
        for item in items:
            yield item, _call(function, item)
        return
    yield from _run_pool(function, items, resources)


@contextmanager
def meanwhile(function: Callable[[], object]) -> Iterator[None]:
    """Call a function in a thread of its own while the context is open, which waits for its end.

    Raises:
        Exception: What the function raised, unless the body raised.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        yield
        future.result()


def _run_pool(
    function: Callable[[Item], Result], items: Iterable[Item], resources: Resources
) -> Iterator[tuple[Item, Result]]:
    queue = iter(items)
    waiting: list[Item] = []
    for attempt in range(1, POOL_TRIES + 1):
        pool = _open_pool(resources)
        running: dict[Future[Result], Item] = {}
        try:
            yield from _drain(pool, function, waiting, queue, running, resources.workers)
            return
        except BrokenProcessPool as error:
            waiting += running.values()
            if attempt == POOL_TRIES:
                raise WorkerError(
                    f"a worker was killed {attempt} times while it had {waiting[0]}; "
                    "too little memory is the usual reason"
                ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _drain(
    pool: Executor,
    function: Callable[[Item], Result],
    waiting: list[Item],
    queue: Iterator[Item],
    running: dict[Future[Result], Item],
    workers: int,
) -> Iterator[tuple[Item, Result]]:
    """Keep the pool busy; ``waiting`` and ``running`` together always hold what was taken."""

    def fill() -> None:
        while len(running) < workers + 1:
            if not waiting:
                item = next(queue, _END)
                if item is _END:
                    return
                waiting.append(item)  # type: ignore[arg-type]
            running[pool.submit(function, waiting[0])] = waiting[0]
            waiting.pop(0)

    fill()
    while running:
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                result = future.result()
            except (BrokenProcessPool, CristaeError):
                raise
            except Exception as error:
                raise WorkerError(f"{running[future]}: {type(error).__name__}: {error}") from error
            yield running.pop(future), result
        fill()


_END = object()


def _open_pool(resources: Resources) -> Executor:
    if resources.executor == "threads":
        return ThreadPoolExecutor(resources.workers)
    # forked children would inherit the locks of running threads
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(resources.workers, spawn, initializer=end_with_parent)


def end_with_parent() -> None:
    """From now on, end this process when the one that started it is gone, however that ended."""
    threading.Thread(target=_wait_for_parent, name="end-with-parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except CristaeError:
        raise
    except Exception as error:
        raise WorkerError(f"{item}: {type(error).__name__}: {error}") from error
