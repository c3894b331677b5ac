"""Reading, computing and writing overlap, in order, and errors stop all three."""

import threading
import time

import pytest

from cristae.prediction.stream import stream


def test_every_item_passes_in_order():
    written = []
    profile = stream(range(7), lambda i: i * 10, lambda i, d: (i, d), written.append)
    assert written == [(i, i * 10) for i in range(7)]
    assert profile.seconds >= profile.computing


def test_no_items_is_no_work():
    stream([], lambda i: i, lambda i, d: d, pytest.fail)


def test_results_may_wait_for_several_items():
    written = []
    stream(range(6), lambda i: i, lambda i, d: d if i % 3 == 2 else None, written.append)
    assert written == [2, 5]


def test_the_three_overlap():
    def wait(*_):
        time.sleep(0.03)
        return 1

    profile = stream(range(8), wait, wait, wait)
    work = profile.reading + profile.computing + profile.writing
    assert profile.seconds < 0.8 * work


def test_at_most_one_item_is_read_ahead():
    held, most, lock = set(), [0], threading.Lock()

    def read(i):
        with lock:
            held.add(i)
            most[0] = max(most[0], len(held))
        return i

    def compute(i, d):
        time.sleep(0.005)
        with lock:
            held.discard(i)

    stream(range(10), read, compute, pytest.fail)
    assert most[0] <= 2


@pytest.mark.parametrize("part", ["read", "compute", "write"])
def test_an_error_of_any_part_is_raised_and_what_was_made_is_written(part):
    written = []

    def fail_at_3(name, i):
        if name == part and i == 3:
            raise OSError(f"{name} 3")
        return i

    def write(i):
        fail_at_3("write", i)
        written.append(i)

    with pytest.raises(OSError, match=f"{part} 3"):
        stream(
            range(9), lambda i: fail_at_3("read", i), lambda i, d: fail_at_3("compute", d), write
        )
    assert written[:3] == [0, 1, 2]
    assert len(written) <= 3


def test_the_slowest_part_is_named():
    profile = stream(range(3), lambda i: time.sleep(0.02), lambda i, d: None, pytest.fail)
    assert profile.bound == "reading"
    assert "bound by reading" in str(profile)
