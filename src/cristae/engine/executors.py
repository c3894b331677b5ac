"""Run tasks serially, in threads or in processes: `run_tasks`, over pools of workers.

A pool is opened for one function, sent to each worker once, and called with one item at a time
(`Pool.submit`). A worker that dies shows as an error of `Pool.lost` in the futures it had: a new
pool is opened, and these items are given to it. So tasks are idempotent. `EXECUTORS` has a row for
each way, ``serial`` the twin of all others.
"""

import multiprocessing
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

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


class Pool(Protocol):
    """Workers that hold one function."""

    lost: tuple[type[BaseException], ...]

    def submit(self, item: Any) -> Future[Any]:
        """Have the function called with an item."""

    def close(self) -> None:
        """Wait for the calls that have begun, and drop the others."""


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
    return call_each(function, ((item, item) for item in items), resources)


def call_each(
    function: Callable[[Any], Result],
    named: Iterable[tuple[Item, Any]],
    resources: Resources,
    ordered: bool = False,
) -> Generator[tuple[Item, Result]]:
    """What `run_tasks` does, where what a function is called with has a name of its own.

    Args:
        function: See `run_tasks`.
        named: Name and argument of each call.
        resources: See `run_tasks`.
        ordered: Give the results in the order of the calls; at most one more than there are
            workers is under way or waits for its turn.

    Yields:
        (name, result).
    """
    inline = resources.executor == "serial" or resources.workers <= 1
    most = 1 if inline else resources.workers + 1
    queue, again = iter(named), deque[tuple[Item, Any]]()
    for attempt in range(1, POOL_TRIES + 1):
        pool = EXECUTORS["serial" if inline else resources.executor](function, resources.workers)
        running: dict[Future[Any], tuple[Item, Any]] = {}
        try:
            while True:
                _fill(pool, running, again, queue, most)
                if not running:
                    return
                finished = [next(iter(running))]
                if not ordered:
                    finished = list(wait(running, return_when=FIRST_COMPLETED).done)
                while finished:
                    yield _taken(finished.pop(), running)
        except pool.lost as error:
            again.extend(running.values())
            if attempt == POOL_TRIES:
                raise WorkerError(
                    f"a worker was killed {attempt} times while it had {again[0][0]}; "
                    "too little memory is the usual reason"
                ) from error
        finally:
            pool.close()


def _fill(
    pool: Pool,
    running: dict[Future[Any], tuple[Item, Any]],
    again: "deque[tuple[Item, Any]]",
    queue: Iterator[tuple[Item, Any]],
    most: int,
) -> None:
    """Keep the pool busy; ``again`` and ``running`` together always hold what was taken."""
    while len(running) < most:
        if not again:
            again.extend(islice(queue, 1))
        if not again:
            return
        running[pool.submit(again[0][1])] = again[0]
        again.popleft()


def _taken(future: Future[Any], running: dict[Future[Any], tuple[Item, Any]]) -> tuple[Item, Any]:
    """Name and result of a call, which is forgotten; of a lost worker's it is not."""
    result = result_of(future, running[future][0])
    return running.pop(future)[0], result


def result_of(future: Future[Result], name: object) -> Result:
    """What a call gave, or its error: errors of ours and lost workers as they are, others named."""
    try:
        return future.result()
    except (BrokenExecutor, CristaeError):
        raise
    except Exception as error:
        raise WorkerError(f"{name}: {type(error).__name__}: {error}") from error


class _Serial:
    """The caller does the work itself, when it is submitted."""

    lost: tuple[type[BaseException], ...] = ()

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._function = function

    def submit(self, item: Any) -> Future[Any]:
        """See `Pool`."""
        done: Future[Any] = Future()
        try:
            done.set_result(self._function(item))
        except Exception as error:  # noqa: BLE001 - `result` raises it
            done.set_exception(error)
        return done

    def close(self) -> None:
        """See `Pool`."""


class _Threads:
    """Threads of this process."""

    lost: tuple[type[BaseException], ...] = ()

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._function, self._pool = function, ThreadPoolExecutor(workers)

    def submit(self, item: Any) -> Future[Any]:
        """See `Pool`."""
        return self._pool.submit(self._function, item)

    def close(self) -> None:
        """See `Pool`."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Processes:
    """Processes that end with this one; each gets the function once."""

    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        # forked children would inherit the locks of running threads; plain pickles share no memory
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, spawn, _begin, (pickle.dumps(function),))

    def submit(self, item: Any) -> Future[Any]:
        """See `Pool`."""
        return self._pool.submit(_call, item)

    def close(self) -> None:
        """See `Pool`."""
        self._pool.shutdown(wait=True, cancel_futures=True)


EXECUTORS: dict[str, Callable[[Callable[[Any], Any], int], Pool]] = {
    "serial": _Serial,
    "threads": _Threads,
    "processes": _Processes,
}
"""How a pool of so many workers is opened for a function."""

_sent: list[bytes] = []
"""The function of this worker process, as it was sent."""


def _begin(function: bytes) -> None:
    end_with_parent()
    _sent[:] = [function]


@cache
def _function() -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = pickle.loads(_sent[0])
    return function


def _call(item: Any) -> Any:
    return _function()(item)


@contextmanager
def in_background(function: Callable[[], object]) -> Iterator[None]:
    """Call a function in a thread of its own while the context is open, which waits for its end.

    Raises:
        Exception: What the function raised, unless the body raised.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        yield
        future.result()


def end_with_parent() -> None:
    """From now on, end this process when the one that started it is gone, however that ended."""
    threading.Thread(target=_wait_for_parent, name="end-with-parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
