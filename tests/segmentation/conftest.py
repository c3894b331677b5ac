import multiprocessing
import tempfile
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.segmentation.helpers import MEMORY_DISK

from cristae.engine.executors import EXECUTORS


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: waiting for the disk is not what is tested."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        yield Path(folder)


class KeptPool:
    """Worker processes that stay for the next step and the next test: starting them takes long."""

    lost = (BrokenExecutor,)

    def __init__(self):
        self.pool = None

    def opened(self, function, workers):
        """As `EXECUTORS` opens one; the function goes along with each item."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(4, multiprocessing.get_context("spawn"))
        submit = partial(self.pool.submit, function)
        return SimpleNamespace(submit=submit, close=lambda: None, lost=self.lost)


@pytest.fixture(scope="session")
def kept_pool():
    kept = KeptPool()
    yield kept
    if kept.pool is not None:
        kept.pool.shutdown()


@pytest.fixture(scope="module")
def processes(kept_pool):
    """Steps of this module that are done by processes are done by those of one pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "processes", kept_pool.opened)
        yield
