"""How fast evaluation is, against mAP_3Dvolume's steps and against reading alone.

1. Arrays in memory (the EPFL/Lucchi test labels of ../shared, where they are): all scores,
   against a stand-in that does mAP_3Dvolume's steps and no more: per prediction one bounding-box
   crop, one np.unique of the truth in it, one intersection and union count per overlap. The
   program itself cannot run here (it needs NumPy before 1.24); 25 s for this pair on a 2-core
   machine is carried over.
2. The same pair from its HDF5 files, against reading the files.
3. Labels of 500x4096x4096 voxels as OME-Zarr, the size of a MitoEM test volume, against reading
   both volumes block by block; from their run tables; peak memory. The volumes hold one pattern of
   ellipsoids, shard by shard with ids of its own; they are measured in a process of its own.
4. A table of 20,000 true and 25,000 predicted instances: all scores after the pass.

``--small`` takes a hundredth of the volume in 3 and a quarter of the table in 4. ``--keep DIR``
leaves the volumes of 3, or takes those that are there; ``--only 3`` does one part.

    python benchmarks/evaluate.py [--small] [--workers 2] [--only 3] [--keep DIR]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.memory import peak_memory
from cristae.evaluation.evaluate import EvaluateConfig, score_instances, scores_of_table
from cristae.evaluation.metrics import match
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.overlaps import Instances, Overlaps
from cristae.evaluation.placement import Compared
from cristae.evaluation.tables import TablePlacement
from cristae.grid import Box, tile
from cristae.labels.blocks import blocks_of, pieces_of
from cristae.labels.label_runs import block_runs
from cristae.labels.run_table import write_runs_table
from cristae.labels.runs import Raster
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr
from cristae.volumes.volume import array_volume

LUCCHI = Path(__file__).resolve().parents[2] / "shared" / "golden" / "lucchi"
CARRIED_OVER_S = 25.0

SHARD, CELL = (64, 512, 512), (32, 128, 128)
SHIFTS = {"prediction": (0, 0, 0), "truth": (2, 5, -7)}
"""How far the ellipsoids of each volume lie from the middle of their cells."""


def timed(function, runs=3):
    """(seconds of the quickest run, its result)."""
    best, result = np.inf, None
    for _ in range(runs):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def boxes_by_planes(labels, ids):
    """(z0, z1, y0, y1, x0, x1) of each id, inclusive, from np.unique plane by plane."""
    box = np.zeros((int(ids.max()) + 1, 6), np.int64)
    box[:, 0::2] = max(labels.shape)
    for axis in range(3):
        for i in range(labels.shape[axis]):
            there = np.unique(np.take(labels, i, axis=axis))
            box[there, 2 * axis] = np.minimum(box[there, 2 * axis], i)
            box[there, 2 * axis + 1] = np.maximum(box[there, 2 * axis + 1], i)
    return box


def stand_in(prediction, truth):
    """Best truth and IoU of every prediction in order of size, the way the reference finds it."""
    ids, voxels = np.unique(prediction, return_counts=True)
    ids, voxels = ids[ids > 0], voxels[ids > 0]
    true_ids, true_voxels = np.unique(truth, return_counts=True)
    size = dict(zip(true_ids.tolist(), true_voxels.tolist(), strict=True))
    boxes = boxes_by_planes(prediction, ids)
    rows = []
    for i in np.argsort(-voxels, kind="stable"):
        z0, z1, y0, y1, x0, x1 = boxes[ids[i]]
        crop = np.s_[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1]
        inside = prediction[crop] == ids[i]
        met, shared = np.unique(truth[crop] * inside, return_counts=True)
        best, best_iou = 0, 0.0
        for t, n in zip(met.tolist(), shared.tolist(), strict=True):
            if t > 0 and n / (voxels[i] + size[t] - n) > best_iou:
                best, best_iou = t, n / (voxels[i] + size[t] - n)
        rows.append((int(ids[i]), best, best_iou))
    return rows


def bench_lucchi(resources):
    if not LUCCHI.is_dir():
        print("1, 2: skipped, ../shared/golden/lucchi is not there")
        return
    names = ("lucchi_pred_UNet_label_test.h5", "lucchi_gt_test.h5")
    prediction, truth = (h5py.File(LUCCHI / name)["main"][...] for name in names)
    score_instances(prediction, truth, resources=resources)  # compiles
    ours, scores = timed(lambda: score_instances(prediction, truth, resources=resources))
    theirs, rows = timed(lambda: stand_in(prediction, truth), runs=1)
    volumes = [open_volume(LUCCHI / name) for name in names]
    order = match(overlap_table(Compared(*volumes), resources=resources)).order
    table = scores.tables.prediction
    found = [(int(table["instance"][i]), int(table["truth"][i]), table["iou"][i]) for i in order]
    assert found == rows, "the stand-in finds other matches"
    print(f"1. lucchi in memory, {prediction.shape}, all scores: {ours:.3f} s")
    print(f"   mAP_3Dvolume's steps alone: {theirs:.2f} s, {theirs / ours:.0f} times as long")
    print(f"   mAP_3Dvolume itself (carried over): {CARRIED_OVER_S:.0f} s, "
          f"{CARRIED_OVER_S / ours:.0f} times as long")  # fmt: skip

    def read():
        for name in names:
            with h5py.File(LUCCHI / name) as file:
                file["main"][...]

    reading, _ = timed(read)
    files, _ = timed(lambda: score_instances(*volumes, resources=resources))
    print(f"2. from HDF5: {files:.2f} s, reading the files {reading:.2f} s, "
          f"ratio {files / reading:.2f}")  # fmt: skip


def pattern(shift):
    """Ids 1..n of ellipsoids in cells of (32, 128, 128), 6 % foreground as in MitoEM."""
    offsets, rows = [], []
    for side, length, move in zip(CELL, SHARD, shift, strict=True):
        index = np.arange(length)
        offsets.append((((index + move) % side - side / 2) / (side * 0.24)) ** 2)
        rows.append(index // side)
    across = [length // side for length, side in zip(SHARD, CELL, strict=True)]
    z, y, x = np.ix_(*offsets)
    cz, cy, cx = np.ix_(*rows)
    ids = (cz * across[1] + cy) * across[2] + cx + 1
    return np.where(z + y + x < 1, ids, 0).astype(np.uint32)


def shards_of(volume, count):
    """(box, first id less one) of every shard; ``count`` ids each."""
    return [(box, np.uint32(i * count)) for i, box in enumerate(tile(volume.box, SHARD))]


def write_labels(path, shape, part):
    volume = create_ome_zarr(
        path, shape=shape, dtype=np.uint32, kind="labels", voxel_size_nm=(30.0, 8.0, 8.0)
    )
    count = int(part.max())

    def one(item):
        box, before = item
        here = part[tuple(slice(n) for n in box.shape)]
        volume.write(box, np.where(here > 0, here + before, np.uint32(0)))

    for _ in run_tasks(one, shards_of(volume, count), Resources(2)):
        pass


def write_runs(path, part):
    """The run table of what `write_labels` wrote."""
    volume = open_volume(path)
    voxel_index, length, name = block_runs(array_volume(part), Box.of(SHARD))
    z, y, x = Raster(SHARD).locate(voxel_index)
    layers, counts = {}, np.zeros(volume.shape[0], np.int64)
    for box, before in shards_of(volume, int(part.max())):
        inside = z < box.shape[0]
        columns = {
            "z": z + box.start[0],
            "y": y + box.start[1],
            "x0": x + box.start[2],
            "x1": x + length + box.start[2],
            "id": name + before,
        }
        columns = {key: column[inside] for key, column in columns.items()}
        counts += np.bincount(columns["z"], minlength=volume.shape[0])
        layers.setdefault(box.start[0], []).append(columns)

    def layer(shards):
        whole = {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}
        order = np.lexsort((whole["x0"], whole["y"], whole["z"]))
        return {key: column[order] for key, column in whole.items()}

    planes = np.append(0, np.cumsum(counts))
    write_runs_table(path, map(layer, layers.values()), planes, np.dtype(np.uint32))


def measure_zarr(folder, workers):
    """Times of reading and scoring the volumes in a folder, and what was found."""
    paths = [folder / f"{name}.zarr" for name in SHIFTS]
    resources = Resources(workers=workers)
    volumes = [open_volume(path) for path in paths]

    def read():
        def one(block):
            for piece in pieces_of(block, volumes):
                for volume in volumes:
                    volume.read(piece)

        for _ in run_tasks(one, blocks_of(volumes), resources):
            pass

    quick = EvaluateConfig(bootstrap_samples=0, categories="none")
    part = Box((0, 0, 0), (16, 128, 128))
    score_instances(*(v.crop(part) for v in volumes), config=quick, resources=resources)
    reading, _ = timed(read, 2)
    config = EvaluateConfig(categories="none")
    scoring, scores = timed(
        lambda: score_instances(*volumes, config=config, resources=resources), 2
    )
    peak = peak_memory()
    for path, shift in zip(paths, SHIFTS.values(), strict=True):
        write_runs(path, pattern(shift))
    by_runs, again = timed(lambda: score_instances(*volumes, config=config, resources=resources))
    assert again == scores, "the run tables give other scores"
    for path in paths:
        shutil.rmtree(path / "runs")
    instances = [len(scores.tables.truth["truth"]), len(scores.tables.prediction["instance"])]
    return {
        "shape": volumes[0].shape,
        "instances": instances,
        "reading": reading,
        "scoring": scoring,
        "runs": by_runs,
        "peak": peak,
    }


def bench_zarr(shape, folder, workers):
    for name, shift in SHIFTS.items():
        path = folder / f"{name}.zarr"
        if not path.exists():
            write_labels(path, shape, pattern(shift))
    measure = [sys.executable, __file__, "--measure", str(folder), "--workers", str(workers)]
    found = json.loads(subprocess.run(measure, check=True, capture_output=True, text=True).stdout)
    shape, (truths, predictions) = found["shape"], found["instances"]
    reading, scoring = found["reading"], found["scoring"]
    print(f"3. OME-Zarr {shape}, {truths} true and {predictions} predicted instances:")
    print(f"   all scores with intervals {scoring:.2f} s, {np.prod(shape) / scoring / 1e6:.0f} "
          f"Mvoxel/s; reading both {reading:.2f} s, ratio {scoring / reading:.2f}")  # fmt: skip
    print(f"   from run tables {found['runs']:.2f} s, the same scores")
    print(f"   peak memory of the process, imports included: {found['peak'] / 2**30:.2f} GiB")


def bench_table(truths, predictions):
    rng = np.random.default_rng(0)

    def instances(n):
        voxels, triple = rng.integers(500, 50_000, n), np.ones((n, 3), np.int64)
        labels = np.arange(1, n + 1, dtype=np.uint64)
        sums, zeros = triple * voxels[:, None], np.zeros(n, np.int64)
        return Instances(labels, voxels, triple, triple + 1, triple, sums, zeros, zeros > 0)

    found, true = instances(predictions), instances(truths)
    draws = rng.integers(0, (predictions, truths), (6 * truths, 2))
    same = np.repeat(np.arange(truths)[:, None], 2, axis=1)
    pairs = np.unique(np.concatenate([draws, same]), axis=0)
    most = np.minimum(found.voxels[pairs[:, 0]], true.voxels[pairs[:, 1]])
    share = np.where(pairs[:, 0] == pairs[:, 1], 0.6, 0.01) * rng.random(len(pairs))
    shared = np.maximum(1, (most * share).astype(np.int64))
    table = Overlaps(found, true, pairs[:, 0], pairs[:, 1], shared)
    config = EvaluateConfig(without_border_cut=True)
    voxel_index = TablePlacement((30.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    codes = np.arange(truths) % 3
    seconds, _ = timed(lambda: scores_of_table(table, voxel_index, config, codes=codes), runs=1)
    print(f"4. {truths} true, {predictions} predicted, {len(pairs)} overlaps: all scores with "
          f"intervals, twice, in {seconds:.2f} s")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("1", "3", "4"), help="1 with 2")
    parser.add_argument("--keep", type=Path, help="folder of the volumes of 3")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_zarr(options.measure, options.workers)))
        return
    if options.only in (None, "1"):
        bench_lucchi(Resources(workers=options.workers))
    if options.only in (None, "3"):
        shape = (64, 1024, 1024) if options.small else (500, 4096, 4096)
        with tempfile.TemporaryDirectory() as folder:
            bench_zarr(shape, options.keep or Path(folder), options.workers)
    if options.only in (None, "4"):
        bench_table(*((5_000, 6_250) if options.small else (20_000, 25_000)))


if __name__ == "__main__":
    main()
