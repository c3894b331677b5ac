import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tests.segmentation.helpers import MEMORY_DISK

from cristae.engine import executors


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: waiting for the disk is not what is tested."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        yield Path(folder)


class KeptPool:
    """Worker processes that stay for the next step and the next test: starting them takes long."""

    def __init__(self):
        self.pool = None

    def submit(self, function, item):
        if self.pool is None:
            self.pool = ProcessPoolExecutor(4, multiprocessing.get_context("spawn"))
        return self.pool.submit(function, item)

    def shutdown(self, **_):
        """Nothing: the pool stays."""


@pytest.fixture(scope="session")
def kept_pool():
    kept = KeptPool()
    yield kept
    if kept.pool is not None:
        kept.pool.shutdown()


@pytest.fixture(scope="module")
def processes(kept_pool):
    """Steps of this module that are done by processes are done by those of one pool."""
    real = executors._open_pool
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            executors, "_open_pool", lambda r: kept_pool if r.executor == "processes" else real(r)
        )
        yield
