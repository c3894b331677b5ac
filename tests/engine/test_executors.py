import os
import signal
from pathlib import Path

import pytest

from cristae.engine.executors import Resources, run_tasks
from cristae.errors import InputError, WorkerError

KINDS = ["serial", "threads", "processes"]


def square(n):
    return n * n


def fail_on_three(n):
    if n == 3:
        raise ZeroDivisionError("three")
    return n


def refuse(n):
    raise InputError(f"{n}: refused")


def die_once(item):
    number, folder = item
    flag = Path(folder) / "died"
    if number == 2 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("kind", KINDS)
def test_every_item_once_whatever_the_executor(kind):
    results = dict(run_tasks(square, range(20), Resources(3, kind)))
    assert results == {n: n * n for n in range(20)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_task_names_its_item(kind):
    with pytest.raises(WorkerError, match="3: ZeroDivisionError: three"):
        list(run_tasks(fail_on_three, range(9), Resources(2, kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_ours_pass_as_they_are(kind):
    with pytest.raises(InputError, match="refused"):
        list(run_tasks(refuse, range(2), Resources(2, kind)))


def test_items_of_a_killed_worker_are_done_by_another(tmp_path):
    items = [(n, str(tmp_path)) for n in range(8)]
    done = [result for _, result in run_tasks(die_once, items, Resources(2, "processes"))]
    assert sorted(done) == list(range(8))


def test_items_are_not_read_far_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    tasks = run_tasks(square, items(), Resources(2, "threads"))
    next(tasks)
    assert len(taken) <= 5
    tasks.close()
