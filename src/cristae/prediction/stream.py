"""Reading, computing and writing at the same time: one item ahead, one result behind.

::

    reading     | 1 | 2 | 3 |   | 4 |
    computing       |  1   |  2   |  3   |  4   |
    writing                | 1|   | 2|   | 3|   | 4|
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")
Data = TypeVar("Data")
Result = TypeVar("Result")


@dataclass
class Profile:
    """Seconds that each part was at work; the parts run at the same time.

    Attributes:
        reading: In the reading thread.
        computing: In the main thread.
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
        return max(("reading", "computing", "writing"), key=lambda part: float(getattr(self, part)))

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


def stream(
    items: Sequence[Item],
    read: Callable[[Item], Data],
    compute: Callable[[Item, Data], Result | None],
    write: Callable[[Result], None],
) -> Profile:
    """Read, compute and write every item, in order, the three overlapping.

    At most two items' data (one being computed, one being read) and two results (one being written,
    one being made) are held. An error of any part ends the stream and is raised here; what is being
    written is finished first.

    Args:
        items: What to do.
        read: Called in its own thread, one item ahead.
        compute: Called in this thread; None where there is nothing to write yet.
        write: Called in its own thread.

    Returns:
        How long each part was at work.
    """
    profile = Profile()

    def timed_read(item: Item) -> Data:
        with profile.timing("reading"):
            return read(item)

    def timed_write(result: Result) -> None:
        with profile.timing("writing"):
            write(result)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        queue = iter(items)
        written: Future[None] | None = None
        item = next(queue, None)
        ahead = None if item is None else reader.submit(timed_read, item)
        while item is not None and ahead is not None:
            data = ahead.result()
            following = next(queue, None)
            ahead = None if following is None else reader.submit(timed_read, following)
            with profile.timing("computing"):
                result = compute(item, data)
            del data
            if result is not None:
                if written is not None:
                    written.result()
                written = writer.submit(timed_write, result)
                del result
            item = following
        if written is not None:
            written.result()
    return profile
