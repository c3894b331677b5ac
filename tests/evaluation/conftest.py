import numpy as np
import pytest

from cristae.engine.executors import Resources


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
