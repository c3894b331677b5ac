import logging
import multiprocessing
import os
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

from cristae.engine.executors import EXECUTORS, Resources

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("ci")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout."""
    if not SHARED.is_dir():
        if os.environ.get("CRISTAE_REQUIRE_SHARED") == "1":
            pytest.fail(f"reference data expected at {SHARED}")
        pytest.skip("needs the reference data in ../shared")
    return SHARED


@pytest.fixture(autouse=True)
def quiet_after():
    """Commands start logging; tests after these shall not hear of it."""
    logger = logging.getLogger("cristae")
    before = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = before


@pytest.fixture
def serial():
    return Resources(workers=1, executor="serial")


@pytest.fixture
def labels():
    """A maker of blocky random labels: (seed, shape, ids) -> (prediction, truth), uint16."""

    def make(seed, shape=(5, 8, 24), ids=6):
        rng = np.random.default_rng(seed)

        def one():
            coarse = rng.integers(0, ids, [-(-side // 3) for side in shape])
            for axis in range(3):
                coarse = np.repeat(coarse, 3, axis=axis)
            return coarse[: shape[0], : shape[1], : shape[2]].astype(np.uint16)

        truth = one()
        prediction = np.where(rng.random(shape) < 0.8, truth, one()).astype(np.uint16)
        return prediction, truth

    return make


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
