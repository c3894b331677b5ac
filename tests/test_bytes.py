"""No output of any stage changes unseen: contents of arrays, tables and records of ten volumes.

Where a change is meant, `python -m tests.bytes --write` writes `tests/golden/bytes.json` anew.
"""

import pytest
from tests.bytes.golden import NAMES, differences, found_digests, known_digests


@pytest.mark.parametrize("name", NAMES)
def test_every_output_is_as_it_was(name: str) -> None:
    known = known_digests(name)
    assert known
    assert not differences(found_digests(name), known)


def test_a_difference_is_named() -> None:
    known = {"a/segment/array 0": "1", "a/measure/instances.csv": "2"}
    found = {"a/segment/array 0": "3", "a/segment/array 0, interrupted": "1"}
    assert differences(found, known) == [
        "a/measure/instances.csv: gone",
        "a/segment/array 0, interrupted: not there before",
        "a/segment/array 0: another content",
    ]
