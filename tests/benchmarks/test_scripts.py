"""Every benchmark can be begun: what it imports is there."""

import pytest

from .conftest import BENCHMARKS

SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_loads(load, name):
    module = load(name)
    assert name == "floor" or callable(module.main)  # which the others share
