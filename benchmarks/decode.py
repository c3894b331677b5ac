"""How fast and how lean decoding in memory is, against the usual pipeline.

The simulated prediction of `segment.py` (two channels, about 7 % foreground, thousands of
instances, some touching) is decoded from an array to an array, and so it is by label, drop small
seeds, watershed, drop small (scikit-image). Each runs in a process of its own, after a small
warm-up. Printed are ratios within this run; memory is the peak beside input and output. Last, the
milliseconds of a patch of 8x64x64, median of a hundred.

    python benchmarks/decode.py [--small] [--workers 2]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decode import decode
from segment import drop_small, peak, resident, simulate

CONFIG = SegmentConfig(decoder="mitoem")
PATCH = (8, 64, 64)


def usual(prediction):
    """The pipeline on arrays; labels of another order than ours."""
    from skimage.measure import label
    from skimage.segmentation import watershed

    mask, contour = prediction
    seeds = drop_small(label((mask > 216) & (contour < 153)), 32)
    labels = watershed(-mask.astype(np.float64), seeds, mask=mask > 204)
    return drop_small(labels, 1024)


def measure(name, shape, workers):
    """Seconds, and bytes beside input and output; of ours also those of a patch."""
    ours = {"config": CONFIG, "resources": Resources(workers)}
    run = (lambda array: decode(array, **ours)) if name == "ours" else usual
    run(simulate((20, 256, 256)))
    prediction = simulate(shape)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    begun = time.perf_counter()
    labels = run(prediction)
    found = {"seconds": time.perf_counter() - begun}
    found["beside"] = max(0, peak() - before - labels.nbytes)
    found["instances"] = len(np.unique(labels)) - 1
    if name == "ours":
        patch = simulate(PATCH)
        found["patch"] = statistics.median(_seconds(run, patch) for _ in range(100))
    return found


def _seconds(run, array):
    begun = time.perf_counter()
    run(array)
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="an eighth of the volume")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--run", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = (50, 512, 512) if options.small else (100, 1024, 1024)
    if options.run:
        print(json.dumps(measure(options.run, shape, options.workers)))
        return
    best = {}
    for name in ("usual", *["ours"] * options.repeat):
        found = run_apart(name, options)
        if name not in best or found["seconds"] < best[name]["seconds"]:
            best[name] = found
    voxels = int(np.prod(shape))
    for name, found in best.items():
        print(
            f"{name:6} {found['instances']} instances, {voxels / found['seconds'] / 1e6:7.1f} "
            f"Mvoxel/s, {found['beside'] / voxels:6.2f} bytes a voxel beside input and output"
        )
    ours, other = best["ours"], best["usual"]
    print(f"usual / ours: {other['seconds'] / ours['seconds']:.1f} x the time (at least 15)")
    print(
        f"usual / ours: {other['beside'] / max(1, ours['beside']):.1f} x the memory (at least 10)"
    )
    print(f"a patch of 8x64x64: {ours['patch'] * 1000:.1f} ms (at most 5)")


def run_apart(name, options):
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--run", name, "--workers", str(options.workers)]
    done = subprocess.run(
        command + ["--small"] * options.small, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
