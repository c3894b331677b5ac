"""How fast and how lean segmentation is, against the disk and against the usual pipeline.

A simulated prediction (two channels, about 7 % foreground, thousands of instances, some touching)
is segmented Zarr to Zarr and timed against

- the floor: reading that prediction and writing those labels with nothing in between, and
- the usual pipeline in memory: label, drop small seeds, watershed, drop small (scikit-image).

Each runs in a process of its own, after a small warm-up. Printed are ratios within this run, and
peak memory above what the imports take. ``--small`` is an eighth of the volume, where
what needs the same time at any size weighs more.

    python benchmarks/segment.py [--small] [--shape 100,1024,1024] [--workers 2]
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.grid import tile
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr
from floor import copy_block, print_stages, timed

VOXELS_PER_INSTANCE = 52_000  # of the volume, so that 7 % are foreground


def simulate(shape, seed=0):
    """(2, z, y, x) uint8: soft ellipsoids, a third with a touching twin, and their contours."""
    rng = np.random.default_rng(seed)
    prediction = np.zeros((2, *shape), np.uint8)
    for _ in range(int(np.prod(shape) / VOXELS_PER_INSTANCE * 0.75)):
        centre = rng.uniform((0, 0, 0), shape)
        radius = rng.uniform((3, 9, 9), (8, 20, 20))
        add(prediction, centre, radius, rng)
        if rng.random() < 1 / 3:
            add(prediction, centre + radius * (0, 0, 1.9), radius, rng)
    return prediction


def add(prediction, centre, radius, rng):
    low = np.maximum(np.floor(centre - 1.4 * radius).astype(int), 0)
    high = np.minimum(np.ceil(centre + 1.4 * radius).astype(int) + 1, prediction.shape[1:])
    if (low >= high).any():
        return
    grid = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    distance = np.sqrt(
        sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
    )
    distance += rng.normal(0, 0.02, distance.shape)
    mask = 255 / (1 + np.exp(18 * (distance - 1)))
    contour = 255 * np.exp(-(((distance - 1) / 0.12) ** 2))
    place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    for channel, values in enumerate((mask, contour)):
        part = prediction[(channel, *place)]
        np.maximum(part, values.astype(np.uint8), out=part)


def make_prediction(path, shape):
    array = simulate(shape)
    volume = create_ome_zarr(
        path,
        shape=shape,
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=(30, 8, 8),
        channels=("mask", "contour"),
    )
    for box in tile(volume.box, volume.shard_shape):
        volume.write(box, array[(slice(None), *box.slices())])


def run_ours(folder, out, workers):
    """Seconds of the whole segmentation, Zarr to Zarr, and of its stages."""
    prediction = open_ome_zarr(folder / "prediction.zarr")
    config = SegmentConfig(decoder="mitoem")
    resources = Resources(workers)
    options = {"config": config, "pyramid": False, "resources": resources}
    return timed(partial(segment_volume, prediction, out, **options))


def copy_shard(prediction, copy, labels, box):
    copy_block(prediction, copy, box, labels[box.slices()])


def run_floor(folder, out, workers):
    """Seconds of reading the prediction and writing the labels, shard by shard."""
    prediction = open_ome_zarr(folder / "prediction.zarr")
    labels = open_ome_zarr(folder / "labels.zarr").read()
    start = time.perf_counter()
    copy = create_ome_zarr(
        out, shape=prediction.shape, dtype=np.uint32, kind="labels", voxel_size_nm=None
    )
    shards = tile(copy.box, copy.shard_shape)
    task = partial(copy_shard, prediction, copy, labels)
    for _ in run_tasks(task, shards, Resources(workers)):
        pass
    return {"seconds": time.perf_counter() - start}


def run_usual(folder, out, workers):
    """Seconds of the pipeline on arrays in memory, without reading or writing."""
    from skimage.measure import label
    from skimage.segmentation import watershed

    array = open_ome_zarr(folder / "prediction.zarr").read()
    start = time.perf_counter()
    mask, contour = array
    seeds = drop_small(label((mask > 216) & (contour < 153)), 32)
    labels = watershed(-mask.astype(np.float64), seeds, mask=mask > 204)
    drop_small(labels, 1024)
    return {"seconds": time.perf_counter() - start}


def drop_small(labels, size):
    small = np.bincount(labels.ravel()) < size
    labels[small[labels]] = 0
    return labels


RUNS = {"ours": run_ours, "floor": run_floor, "usual": run_usual}


def measure(name, folder, workers):
    """Seconds and peak memory of one run in this process, after a warm-up on a small volume."""
    small = folder / "small"
    if name != "usual":
        RUNS[name](small, folder / f"warm-{name}.zarr", workers)
    else:
        run_usual(small, None, workers)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    found = RUNS[name](folder, folder / f"out-{name}.zarr", workers)
    held = open_ome_zarr(folder / "labels.zarr").box.size * 4 if name == "floor" else 0
    return found | {"peak": peak() - before - held}


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def resident():
    return status("VmRSS")


def peak():
    return max(status("VmHWM"), 0) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="an eighth of the volume")
    parser.add_argument("--shape", default=None, help="z,y,x; default 100,1024,1024")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--run", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measure(options.run, Path(options.folder), options.workers)))
        return
    text = options.shape or ("50,512,512" if options.small else "100,1024,1024")
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), tuple(map(int, text.split(","))), options)


def compare(folder, shape, options):
    make_prediction(folder / "prediction.zarr", shape)
    make_prediction(folder / "small" / "prediction.zarr", (20, 256, 256))
    for place in (folder, folder / "small"):
        run_ours(place, place / "labels.zarr", options.workers)
    labels = open_ome_zarr(folder / "labels.zarr")
    array = labels.read()
    voxels = array.size
    print(f"{'x'.join(map(str, shape))}, {array.max()} instances, {options.workers} workers")
    best = {}
    for _ in range(options.repeat):
        for name in RUNS:
            if name == "usual" and name in best:
                continue  # one run is enough for a figure this far off
            for old in folder.glob("*-*.zarr"):
                shutil.rmtree(old)
            found = run_apart(name, folder, options)
            if name not in best or found["seconds"] < best[name]["seconds"]:
                best[name] = found
    for name, found in best.items():
        print(
            f"{name:6} {voxels / found['seconds'] / 1e6:8.1f} Mvoxel/s   "
            f"peak {found['peak'] / voxels:6.2f} bytes a voxel"
        )
    print_stages(best["ours"])
    ours, floor, usual = (best[name] for name in ("ours", "floor", "usual"))
    least, most = ("", "") if options.small else (" (at least 10)", " (at most 2)")
    print(f"ours / floor: {ours['seconds'] / floor['seconds']:.2f} x the time{most}")
    print(f"usual / ours: {usual['seconds'] / ours['seconds']:.1f} x the time{least}")
    print(f"usual / ours: {usual['peak'] / ours['peak']:.1f} x the memory{least}")


def run_apart(name, folder, options):
    command = [sys.executable, __file__, "--run", name, "--folder", str(folder)]
    command += ["--workers", str(options.workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
