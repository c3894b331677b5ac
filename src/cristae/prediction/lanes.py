"""Lanes: what computes tiles or windows side by side, a device each, or a process each.

A lane is a function that holds a network. What is read for it has a number, which says whose turn
it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from cristae.networks.cpu import cpu_prepared
from cristae.prediction.plan import PredictionPlan

Numbered = tuple[int, Any]
"""A turn, and what was read; None where there is nothing to compute."""


def lanes_of(
    make: Callable[[Any], Callable[[Any], Any]], runners: Sequence[Any], plan: PredictionPlan
) -> Callable[[Numbered], Any]:
    """The function that computes what was read, by the lane whose turn it is.

    Args:
        make: Makes a lane of a runner.
        runners: One a device; one alone for processes, each of which gets a copy.
        plan: Says where the lanes are.
    """
    if plan.in_processes:
        return _InProcess(make(runners[0]))
    return _InTurn([make(runner) for runner in runners])


@dataclass(frozen=True)
class _InProcess:
    """The lane of a worker process, which has one thread to itself."""

    lane: Callable[[Any], Any]

    def __call__(self, numbered: Numbered) -> Any:
        if numbered[1] is None:
            return None
        with cpu_prepared(1):
            return self.lane(numbered[1])


class _InTurn:
    """Lanes in this process; each is used by one thread at a time."""

    def __init__(self, lanes: Sequence[Callable[[Any], Any]]) -> None:
        self._lanes = [(Lock(), lane) for lane in lanes]

    def __call__(self, numbered: Numbered) -> Any:
        number, data = numbered
        if data is None:
            return None
        lock, lane = self._lanes[number % len(self._lanes)]
        with lock:
            return lane(data)
