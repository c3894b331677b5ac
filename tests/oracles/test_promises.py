"""Memory promised against memory taken, for labels of every density."""

import logging
import re
import tracemalloc

import numpy as np
import pytest

from cristae.challenge import submit_instances
from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.measurement.measure import measure_instances
from cristae.segmentation.segment import SegmentConfig, segment_volume
from cristae.volumes.volume import Volume, array_volume

GIB, SHAPE, SIZE = 1 << 30, (48, 384, 384), (30.0, 8.0, 8.0)
LITTLE = 0.1 * GIB
"""Of which a promise may be too large whatever is taken."""

SERIAL = Resources(1, "serial")


def dense() -> np.ndarray:
    """Each voxel has one of 300,000 ids."""
    return np.random.default_rng(0).integers(1, 300_000, SHAPE).astype(np.uint32)


def sparse() -> np.ndarray:
    """A handful of instances."""
    labels = np.zeros(SHAPE, np.uint32)
    for i in range(5):
        labels[5:20, 60 * i : 60 * i + 30, 10:90] = i + 1
    return labels


def giant() -> np.ndarray:
    """One instance fills nearly all."""
    labels = np.zeros(SHAPE, np.uint32)
    labels[1:-1, 1:-1, 1:-1] = 1
    return labels


def tiny() -> np.ndarray:
    """Cubes of 3 voxels, one beside another."""
    labels = np.zeros(SHAPE, np.uint32)
    grid = tuple(n // 4 for n in SHAPE)
    ids = np.arange(1, np.prod(grid) + 1, dtype=np.uint32).reshape(grid)
    for z, y, x in np.ndindex(3, 3, 3):
        labels[z::4, y::4, x::4] = ids
    return labels


LABELS = {"dense": dense, "sparse": sparse, "giant": giant, "tiny": tiny}


def labelled(array: np.ndarray) -> Volume:
    return array_volume(array, voxel_size_nm=SIZE, kind="labels")


def evaluate(array: np.ndarray, out) -> None:
    shifted = labelled(np.roll(array, 1, 2))
    config = EvaluateConfig(categories="none", bootstrap_samples=0)
    score_instances(labelled(array), shifted, config=config, resources=SERIAL)


def measure(array: np.ndarray, out) -> None:
    measure_instances(labelled(array), out / "m.csv", resources=SERIAL)


def submit(array: np.ndarray, out) -> None:
    both = labelled(array)
    submit_instances(both, both.with_(name="rat"), out / "s.zip", resources=SERIAL)


def segment(array: np.ndarray, out) -> None:
    levels = np.where(array % 7 > 0, 255, 0).astype(np.uint8)[None]
    prediction = array_volume(levels, voxel_size_nm=SIZE, channels=("mask",))
    config = SegmentConfig(decoder="binary_connected", foreground_threshold=0.5, min_size=0)
    segment_volume(prediction, out / "i.zarr", config=config, pyramid=False, resources=SERIAL)


STAGES = {"evaluate": evaluate, "measure": measure, "submit": submit, "segment": segment}


@pytest.mark.long
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_promise_is_kept_and_near(tmp_path, caplog, stage, labels):
    (tmp_path / "small").mkdir()
    STAGES[stage](sparse()[:4, :64, :64].copy(), tmp_path / "small")  # compiles
    array = LABELS[labels]()
    caplog.set_level(logging.INFO, "cristae")
    caplog.clear()
    tracemalloc.start()
    STAGES[stage](array, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    promises = [float(found) for found in re.findall(r"needs up to ([\d.]+) GiB", caplog.text)]
    promise = max(promises) * GIB
    print(f"{stage} {labels}: promised {promise / GIB:.2f}, took {peak / GIB:.2f} GiB")
    if stage == "evaluate":  # of the input, the shifted copy is ours
        peak -= array.nbytes
    assert peak <= 1.05 * promise + 0.01 * GIB
    assert promise <= max(2 * peak, LITTLE)
