"""How fast evaluation is, against mAP_3Dvolume's steps and against reading alone.

1. Arrays in memory (the EPFL/Lucchi test labels of ../shared, where they are): all scores,
   against a stand-in that does mAP_3Dvolume's steps and no more: per prediction one bounding-box
   crop, one np.unique of the truth in it, one intersection and union count per overlap. The
   program itself cannot run here (it needs NumPy before 1.24); 25 s for this pair on a 2-core
   machine is carried over.
2. The same pair from its HDF5 files, against reading the files.
3. Simulated labels as OME-Zarr, against reading both volumes block by block; peak memory.
4. A table of 20,000 true and 25,000 predicted instances: all scores after the pass.

``--small`` takes an eighth of the volume in 3 and a quarter of the table in 4.

    python benchmarks/evaluate.py [--small] [--workers 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from cristae.engine.blockwise import peak_memory
from cristae.engine.executors import Resources, run_tasks
from cristae.evaluation.contingency import Compared, Instances, Overlaps, overlap_table
from cristae.evaluation.evaluate import EvaluateConfig, score_instances, scores_of_table
from cristae.evaluation.metrics import match
from cristae.evaluation.tables import Place
from cristae.grid import Box, tile
from cristae.measurement.blocks import blocks_of
from cristae.volumes.sources import open_volume
from cristae.volumes.sources.ome_zarr import create_ome_zarr

LUCCHI = Path(__file__).resolve().parents[2] / "shared" / "golden" / "lucchi"
CARRIED_OVER_S = 25.0


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


def blobs(box, shift):
    """Labels of a lattice of ellipsoids, 6 % foreground as in MitoEM; any box of them."""
    z, y, x = (np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True))
    cell = (16, 64, 64)
    offsets = []
    for axis, (index, side) in enumerate(zip((z, y, x), cell, strict=True)):
        distance = ((index + shift) % side - side / 2) / (side * 0.24)
        offsets.append((distance**2).reshape([-1 if a == axis else 1 for a in range(3)]))
    rows = [(i + shift) // side for i, side in zip((z, y, x), cell, strict=True)]
    ids = (rows[0][:, None, None] * 512 + rows[1][:, None]) * 512 + rows[2] + 1
    return np.where(offsets[0] + offsets[1] + offsets[2] < 1, ids, 0).astype(np.uint32)


def bench_zarr(shape, resources):
    with tempfile.TemporaryDirectory() as folder:
        volumes = []
        for name, shift in (("prediction", 0), ("truth", 2)):
            path = Path(folder) / f"{name}.zarr"
            volume = create_ome_zarr(
                path, shape=shape, dtype=np.uint32, kind="labels", voxel_size_nm=(30.0, 8.0, 8.0)
            )
            for box in tile(Box.of(shape), volume.shard_shape or volume.chunk_shape):
                volume.write(box, blobs(box, shift))
            volumes.append(open_volume(path))

        def read():
            def one(block):
                for volume in volumes:
                    volume.read(block)

            for _ in run_tasks(one, blocks_of(volumes), resources):
                pass

        quick = EvaluateConfig(bootstrap_samples=0)
        score_instances(*volumes, config=quick, resources=resources)
        reading, _ = timed(read)
        scoring, table = timed(lambda: overlap_table(Compared(*volumes), resources=resources))
        peak = peak_memory() / 2**30
    rate = np.prod(shape) / scoring / 1e6
    print(f"3. OME-Zarr {shape}, {len(table.truth)} true instances: {scoring:.2f} s,")
    print(f"   {rate:.0f} Mvoxel/s; reading both {reading:.2f} s, ratio {scoring / reading:.2f}")
    print(f"   peak memory of the whole process, imports and reading included: {peak:.2f} GiB")


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
    place = Place((30.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    categories = {i: ("small", "medium", "large")[i % 3] for i in range(1, truths + 1)}
    seconds, _ = timed(lambda: scores_of_table(table, place, config, categories=categories), runs=1)
    print(f"4. {truths} true, {predictions} predicted, {len(pairs)} overlaps: all scores with "
          f"intervals, twice, in {seconds:.2f} s")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    resources = Resources(workers=arguments.workers)
    bench_zarr((64, 1024, 1024) if arguments.small else (128, 2048, 2048), resources)
    bench_lucchi(resources)
    bench_table(*((5_000, 6_250) if arguments.small else (20_000, 25_000)))


if __name__ == "__main__":
    main()
