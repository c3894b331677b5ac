"""What a search for thresholds costs beside a single run.

One run segments a simulated prediction (that of ``segment.py``) with one setting, Zarr to Zarr, and
scores it from the run tables: once as ``cristae segment`` and ``cristae evaluate`` do by default
(pyramid, intervals, cable lengths), once bare, with the scores alone that a search needs. The
search tries the 7 x 3 grid of the PyTorch Connectomics benchmark on the same prediction and scores
every setting. Printed are the times and their ratios; some settings are segmented and scored on
their own, too, and have to give the same instances and scores.

    python benchmarks/tune.py [--small] [--shape 100,1024,1024] [--workers 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.tuning.tune import TuneConfig, tune_decoder
from cristae.volumes.formats.ome_zarr import open_ome_zarr
from segment import make_prediction

QUIET = EvaluateConfig(bootstrap_samples=0, categories="none")
ALONE = (0, 10, 20)


def one_run(prediction, truth, out, resources, scoring=QUIET, **values):
    """(seconds, scores) of segmenting and scoring one setting; bare unless scoring is None."""
    start = time.perf_counter()
    config, pyramid = SegmentConfig(decoder="mitoem", **values), scoring is None
    found = segment_volume(prediction, out, config=config, pyramid=pyramid, resources=resources)
    scores = score_instances(found, truth, config=scoring, resources=resources)
    return time.perf_counter() - start, scores


def search(prediction, truth, resources):
    start = time.perf_counter()
    config = TuneConfig(segment=SegmentConfig(decoder="mitoem"), evaluate=QUIET)
    tuning = tune_decoder(prediction, truth, config=config, resources=resources)
    return time.perf_counter() - start, tuning


def compare(folder, shape, resources):
    """(seconds of a run as the commands do it, of a bare one, of the search; its outcome)."""
    make_prediction(folder / "prediction.zarr", shape)
    prediction = open_ome_zarr(folder / "prediction.zarr")
    config = SegmentConfig(decoder="mitoem", seed_threshold=0.95, contour_threshold=0.5)
    truth = segment_volume(
        prediction, folder / "truth.zarr", config=config, pyramid=False, resources=resources
    )
    bare = [one_run(prediction, truth, folder / f"{i}.zarr", resources)[0] for i in range(3)]
    full = [one_run(prediction, truth, folder / f"f{i}.zarr", resources, None)[0] for i in range(3)]
    searches = [search(prediction, truth, resources) for _ in range(3)]
    tuning = searches[0][1]
    for i in ALONE:
        setting = tuning.settings[i]
        _, alone = one_run(prediction, truth, folder / f"s{i}.zarr", resources, **setting.values)
        assert alone.to_dict() == setting.scores.to_dict(), f"setting {i} differs"
        assert len(alone.tables.prediction["instance"]) == setting.instances
    return min(full), min(bare), min(seconds for seconds, _ in searches), tuning


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--shape", default="100,1024,1024")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    shape = tuple(int(n) for n in arguments.shape.split(","))
    if arguments.small:
        shape = tuple(n // 2 for n in shape)
    resources = Resources(arguments.workers)
    with tempfile.TemporaryDirectory() as warm:
        compare(Path(warm), (16, 128, 128), resources)
    with tempfile.TemporaryDirectory() as folder:
        full, bare, all_of_them, tuning = compare(Path(folder), shape, resources)
    print(f"{shape}, {np.prod(shape) / 1e6:.0f} Mvoxel, {tuning.settings[0].instances} instances")
    print(f"search of {len(tuning.settings)} settings: {all_of_them:.2f} s")
    for seconds, how in ((full, "as the commands do it"), (bare, "bare")):
        ratio = all_of_them / seconds
        print(f"one run, {how}: {seconds:.2f} s; the search takes {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
