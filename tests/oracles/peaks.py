"""What a stage promises and takes, in bytes: `python peaks.py STAGE KIND SHAPE FOLDER`."""

import ctypes
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cristae import challenge
from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.measurement.measure import measure_instances
from cristae.prediction.predict import predict_volume
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.tuning.tune import TuneConfig, tune_decoder
from cristae.volumes.convert import convert_volume
from cristae.volumes.volume import Volume, array_volume

SIZE, SERIAL, TWO = (30.0, 8.0, 8.0), Resources(1, "serial"), Resources(2)


def dense(shape) -> np.ndarray:
    """Each voxel has an id that about 24 have, anywhere."""
    return np.random.default_rng(0).integers(1, np.prod(shape) // 24, shape, np.uint32)


def sparse(shape) -> np.ndarray:
    """A handful of instances."""
    labels = np.zeros(shape, np.uint32)
    for i in range(5):
        labels[5:20, 60 * i : 60 * i + 30, 10:90] = i + 1
    return labels


def giant(shape) -> np.ndarray:
    """One instance fills nearly all."""
    labels = np.zeros(shape, np.uint32)
    labels[1:-1, 1:-1, 1:-1] = 1
    return labels


def tiny(shape) -> np.ndarray:
    """Voxels that touch no other, each an instance."""
    labels = np.zeros(shape, np.uint32)
    apart = labels[::2, ::2, ::2]
    apart[:] = np.arange(1, apart.size + 1).reshape(apart.shape)
    return labels


KINDS = {"dense": dense, "sparse": sparse, "giant": giant, "tiny": tiny}


def labelled(array: np.ndarray) -> Volume:
    return array_volume(array, voxel_size_nm=SIZE, kind="labels")


def predicted(array: np.ndarray) -> Volume:
    """Mask and contour; of dense labels all but a seventh of the voxels are mask."""
    mask = np.where(array % 7 > 0, 255, 0).astype(np.uint8)
    return array_volume(
        np.stack([mask, 255 - mask]), voxel_size_nm=SIZE, channels=("mask", "contour")
    )


def convert(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return lambda: convert_volume(labelled(array), out / "c.zarr", resources=SERIAL)


def predict(array: np.ndarray, out: Path) -> Callable[[], Any]:
    grey = np.random.default_rng(1).integers(0, 60, array.shape) + 100 * (array > 0)
    image = array_volume(grey.astype(np.uint8), voxel_size_nm=SIZE, kind="image")
    return lambda: predict_volume(image, "general", out / "p.zarr", resources=SERIAL)


def convert_by_two(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return lambda: convert_volume(labelled(array), out / "c.zarr", resources=TWO)


def measure_by_two(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return lambda: measure_instances(labelled(array), out / "m.csv", resources=TWO)


def segment_by_two(array: np.ndarray, out: Path) -> Callable[[], Any]:
    prediction = predicted(array)
    config = SegmentConfig(decoder="bc_watershed", min_size=0, min_seed_size=1)
    return lambda: segment_volume(
        prediction, out / "i.zarr", config=config, pyramid=False, resources=TWO
    )


def score(array: np.ndarray, categories: str) -> Callable[[], Any]:
    both = labelled(array), labelled(np.roll(array, 1, 2))
    config = EvaluateConfig(categories=categories, bootstrap_samples=0)
    return lambda: score_instances(*both, config=config, resources=SERIAL)


def evaluate(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return score(array, "none")


def cable(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return score(array, "cable_length")


def measure(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return lambda: measure_instances(labelled(array), out / "m.csv", resources=SERIAL)


def submit(array: np.ndarray, out: Path) -> Callable[[], Any]:
    challenge.SHAPE = array.shape
    both = labelled(array)
    return lambda: challenge.submit_instances(
        both, both.with_(name="rat"), out / "s.zip", resources=SERIAL
    )


def check(array: np.ndarray, out: Path) -> Callable[[], Any]:
    path = submit(array, out)()
    return lambda: challenge.check_submission(path, SERIAL)


def segment(array: np.ndarray, out: Path, **settings: Any) -> Callable[[], Any]:
    prediction = predicted(array)
    config = SegmentConfig(**{"decoder": "binary_connected", "min_size": 0, **settings})
    return lambda: segment_volume(
        prediction, out / "i.zarr", config=config, pyramid=False, resources=SERIAL
    )


def seeded(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return segment(array, out, decoder="bc_watershed", min_seed_size=1)


def small(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return segment(array, out, decoder="bc_connected", small="neighbor", min_size=10)


def tune(array: np.ndarray, out: Path, *truth: Volume) -> Callable[[], Any]:
    prediction = predicted(array)
    segment = SegmentConfig(decoder="bc_watershed", min_size=0, min_seed_size=1)
    config = TuneConfig(segment, grid={"seed_threshold": (0.6, 0.8)})
    return lambda: tune_decoder(prediction, *truth, config=config, resources=SERIAL)


def judge(array: np.ndarray, out: Path) -> Callable[[], Any]:
    return tune(array, out, labelled(np.roll(array, 1, 2)))


STAGES = {
    "convert": convert,
    "convert_by_two": convert_by_two,
    "predict": predict,
    "measure_by_two": measure_by_two,
    "segment_by_two": segment_by_two,
    "evaluate": evaluate,
    "cable": cable,
    "measure": measure,
    "submit": submit,
    "check": check,
}
STAGES |= {"segment": segment, "seeded": seeded, "small": small, "tune": tune, "judge": judge}


class Promises(logging.Handler):
    """Keeps every number of bytes promised."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "needs up to" in record.msg and "of memory" in record.msg:
            self.found.append(record.args[1] * 2**30)


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main(stage: str, kind: str, shape: str, folder: str) -> None:
    promises = Promises()
    logging.getLogger("cristae").setLevel(logging.INFO)
    logging.getLogger("cristae").addHandler(promises)
    out = Path(folder, "out")
    out.mkdir()
    for name, first in KINDS.items():  # compiles
        small_out = Path(folder, name)
        small_out.mkdir()
        STAGES[stage](first((32, 256, 256)), small_out)()
    run = STAGES[stage](KINDS[kind](json.loads(shape)), out)
    promises.found.clear()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed hides what is taken
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    print(json.dumps({"promise": max(promises.found), "peak": status("VmHWM") - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
