"""Steps: only missing tasks are done; reading, computing and writing overlap, in order."""

import threading
import time

import pytest

from cristae.engine.executors import Resources
from cristae.engine.ledger import open_ledger
from cristae.engine.tasks import OverlappedTask, Task, block_tasks, fitting_workers, run_step
from cristae.errors import WorkerError
from cristae.grid import Box, tile

BLOCKS = tile(Box.of((4, 5, 6)), (2, 2, 4))


@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_only_missing_blocks_are_done_and_all_results_come_back(tmp_path, stop_after):
    seen = []

    def work(block):
        if len(seen) == stop_after and stop_after:
            raise OSError("pulled the plug")
        seen.append(block)
        return {"voxels": block.size}

    def go():
        ledger = open_ledger(tmp_path / "out.zarr", stage="try", inputs={}, settings={})
        with ledger:
            return run_step(
                "step", block_tasks(BLOCKS), work, record=ledger, resources=Resources(1, "serial")
            )

    if stop_after:
        with pytest.raises(WorkerError, match="pulled the plug"):
            go()
        stop_after = 0
    results = go()
    assert sorted(seen) == BLOCKS
    assert [results[str(b)]["voxels"] for b in BLOCKS] == [b.size for b in BLOCKS]


def go(items, parts, kind="threads", workers=1):
    tasks = [Task(item, ()) for item in items]
    run_step("step", tasks, parts, record=None, resources=Resources(workers, kind))
    return parts.profile


def same(data):
    return data


def slow_if_even(number):
    time.sleep(0.02 * (number % 2 == 0))
    return number


WAYS = [("serial", 1), ("threads", 1), ("threads", 3), ("processes", 2)]


@pytest.mark.parametrize(("kind", "workers"), WAYS)
def test_every_item_passes_in_order(kind, workers):
    written = []
    parts = OverlappedTask(
        slow_if_even,
        read=lambda i: i * 3,
        gather=lambda i, r: (i, r),
        write=lambda w: [written.append(w)],
    )
    profile = go(range(7), parts, kind, workers)
    assert written == [(i, i * 3) for i in range(7)]
    assert profile.seconds >= profile.computing


def test_what_is_on_disk_is_marked_at_once(tmp_path):
    def write(names):
        yield names[0]
        raise OSError("pulled the plug")

    parts = OverlappedTask(same, gather=lambda i, r: i, write=write)
    with open_ledger(tmp_path / "out.zarr", stage="try", inputs={}, settings={}) as ledger:
        tasks = [Task(("a", "b"), ("a", "b"))]
        with pytest.raises(WorkerError, match="pulled the plug"):
            run_step("step", tasks, parts, record=ledger, resources=Resources(1))
        assert list(ledger.done("step")) == ["a"]


def test_no_items_is_no_work():
    go([], OverlappedTask(pytest.fail, read=pytest.fail, write=pytest.fail))


def test_results_may_wait_for_several_items():
    written = []
    go(
        range(6),
        OverlappedTask(
            same, gather=lambda i, r: r if i % 3 == 2 else None, write=lambda w: [written.append(w)]
        ),
    )
    assert written == [2, 5]


def test_the_three_overlap():
    def wait(_):
        time.sleep(0.03)
        return [1]

    profile = go(range(8), OverlappedTask(wait, read=wait, write=wait))
    work = profile.reading + profile.computing + profile.writing
    assert profile.seconds < 0.8 * work


@pytest.mark.parametrize(("kind", "most"), [("serial", 1), ("threads", 2)])
def test_at_most_one_item_is_read_ahead(kind, most):
    held, found, lock = set(), [0], threading.Lock()

    def read(i):
        with lock:
            held.add(i)
            found[0] = max(found[0], len(held))
        return i

    def compute(i):
        time.sleep(0.005)
        with lock:
            held.discard(i)

    go(range(10), OverlappedTask(compute, read=read), kind)
    assert found[0] == most


@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize("part", ["read", "compute", "write"])
def test_an_error_of_any_part_is_raised_and_what_was_made_is_written(part, kind):
    written = []

    def failing(name):
        def work(i):
            if name == part and i == 3:
                raise OSError(f"{name} 3")
            if name == "write":
                written.append(i)
            return [] if name == "write" else i

        return work

    parts = OverlappedTask(failing("compute"), read=failing("read"), write=failing("write"))
    with pytest.raises(WorkerError, match=f"3: OSError: {part} 3"):
        go(range(9), parts, kind)
    assert written == [0, 1, 2]


def test_the_slowest_part_is_named():
    profile = go(range(3), OverlappedTask(same, read=lambda i: time.sleep(0.02)))
    assert profile.bound == "reading"
    assert "bound by reading" in str(profile)


def test_tasks_that_do_not_fit_together_follow_one_another():
    busy, most, lock = [0], [0], threading.Lock()

    def work(_):
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.01)
        with lock:
            busy[0] -= 1

    for memory, expected in ((1 << 20, 4), (700 << 20, 1)):
        most[0] = 0
        tasks = [Task(i, (), memory=memory) for i in range(8)]
        run_step("step", tasks, work, record=None, resources=Resources(4, memory_gib=1.0))
        assert most[0] == expected


def test_as_many_tasks_as_fit():
    four = Resources(4, memory_gib=1.0)
    assert fitting_workers([1 << 28] * 9, four) == 4
    assert fitting_workers([1 << 28] * 9, four, held=1 << 28) == 3
    assert fitting_workers([1 << 31], four) == 1
