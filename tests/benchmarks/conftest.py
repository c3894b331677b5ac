import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def load():
    """Imports a benchmark by name, as its script would be."""

    sys.path.append(str(BENCHMARKS))  # where a script finds those beside it

    def load_script(name):
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load_script


@pytest.fixture(scope="session")
def script():
    """Path of a benchmark by name."""
    return lambda name: str(BENCHMARKS / f"{name}.py")
