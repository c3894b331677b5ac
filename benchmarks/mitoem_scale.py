"""A prediction as large as a MitoEM test volume, segmented on two cores, against the disk.

A prediction (mask and contour, uint8, 500x4096x4096 voxels of 30x8x8 nm, about 20,000 instances,
7 % foreground) is drawn block by block: tubes with soft borders, most of them some micrometres
long, some longer than eight blocks, many touching end to end or side by side, some running across
all others from the first section to the last; and weaker tubes that are no mitochondria. It is
segmented with the decoder ``mitoem``, and timed against

- the floor: reading that prediction and writing those labels with nothing in between, same boxes
  read, same shards written, same codec, same workers. Labels of some shards, spread over the
  volume, wait in memory and are written in turn, so that nothing else is read.

Every run is a process of its own, after a small warm-up. Peak memory is that of all its processes
together, imports included. Pyramids are timed apart. ``--small`` is a tenth of the volume;
``--linear`` does 1/8, 1/4, 1/2 and 1 of it and plots the seconds.

    python benchmarks/mitoem_scale.py [--small | --scale 0.1 | --linear] [--keep DIR] [--json FILE]
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
from numba import njit

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.memory import peak_memory
from cristae.grid import tile
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr
from floor import copy_block, print_stages, timed

SHAPE = (500, 4096, 4096)
VOXEL_SIZE_NM = (30.0, 8.0, 8.0)
STRETCH = VOXEL_SIZE_NM[0] / VOXEL_SIZE_NM[1]
"""In-plane voxels a section is thick."""

LAYER, LANE = 20, 90
"""Tubes lie in layers of so many sections, in each of them in lanes so many voxels wide."""

STEP = 24
"""Length of the straight rods that make a tube, in voxels."""

SOFT = 1.5
"""A tube is drawn out to so many of its radii."""

LEVELS = 170
"""Distances are told apart to a radius over this."""

FLOOR_SHARDS = 16
GIB = 1 << 30


# The prediction.


@dataclass(frozen=True)
class Rods:
    """All rods of all tubes; a tube's follow one another.

    Attributes:
        ends: (n, 6) float32: both ends (z, y, x) of the axis, in voxels.
        radius: (n,) float32, in voxels within the plane.
        weak: (n,) bool: drawn at a third of the certainty, as what is no mitochondrion.
        near: (n, 2) int64: the rods before and after in the same tube, -1 where there is none.
    """

    ends: np.ndarray
    radius: np.ndarray
    weak: np.ndarray
    near: np.ndarray


def plan_rods(shape, seed=0):
    """The rods of a volume, and how many tubes are instances."""
    rng = np.random.default_rng(seed)
    tubes = []  # (points (k, 3), radius, weak)
    for layer, z in enumerate(range(LAYER // 2, shape[0], LAYER)):
        along = 1 + layer % 2
        for lane in range(LANE // 2, shape[3 - along], LANE):
            fill_lane(tubes, rng, (z, lane), along, shape[along])
    for _ in range(math.ceil(40 * shape[1] * shape[2] / (SHAPE[1] * SHAPE[2]))):
        ends = rng.uniform((0, 0), shape[1:], (2, 2))
        share = np.linspace(0, 1, max(2, shape[0] // 6))[:, None]
        plane = ends[0] * (1 - share) + (ends[0] + (ends[1] - ends[0]) * 0.3) * share
        tubes.append((np.concatenate([share * shape[0], plane], axis=1), 14.0, False))
    return join_tubes(tubes), sum(not weak for *_, weak in tubes)


def fill_lane(tubes, rng, centre, along, extent):
    """Tubes one after the other along a lane, some with a twin beside them."""
    wave = rng.uniform(0, 2 * np.pi, 2)
    at = rng.uniform(-200, 0)
    while at < extent:
        radius = rng.uniform(12, 19)
        length = min(float(rng.lognormal(4.5, 0.8)), 1.5 * SHAPE[2])
        if rng.random() < 0.01:
            length = extent
        weak = rng.random() < 0.2
        s = np.linspace(at, at + length, max(2, math.ceil(length / STEP)))
        points = np.empty((s.size, 3))
        points[:, 0] = centre[0] + 1.5 * np.sin(s / 90 + wave[0])
        points[:, along] = s
        points[:, 3 - along] = centre[1] + 8 * np.sin(s / 110 + wave[1]) - 8
        tubes.append((points, radius, weak))
        if rng.random() < 1 / 4:
            beside = points.copy()
            beside[:, 3 - along] += 1.95 * radius
            tubes.append((beside, radius, weak))
        touches = rng.random() < 0.2
        at += length + 1.95 * radius + (0 if touches else rng.exponential(100))


def join_tubes(tubes):
    ends = [np.concatenate([points[:-1], points[1:]], axis=1) for points, _, _ in tubes]
    count = [len(its) for its in ends]
    index = np.arange(sum(count))
    near = np.stack([index - 1, index + 1], axis=1)
    last = np.cumsum(count)
    near[last - 1, 1] = near[last - count, 0] = -1
    radius = np.repeat([radius for _, radius, _ in tubes], count).astype(np.float32)
    weak = np.repeat([weak for *_, weak in tubes], count)
    return Rods(np.concatenate(ends).astype(np.float32), radius, weak, near)


@njit(nogil=True)
def draw(planes, corner, rods, chosen, tables):
    """Draw some rods into a block; where rods meet, the stronger value stays."""
    mask, contour = planes
    ends, radius, weak, near = rods
    inside, border = tables
    shape = mask.shape
    for k in chosen:
        reach = SOFT * radius[k]
        low, high = np.empty(3, np.int64), np.empty(3, np.int64)
        for a in range(3):
            far = reach / STRETCH if a == 0 else reach
            first, last = min(ends[k, a], ends[k, a + 3]), max(ends[k, a], ends[k, a + 3])
            low[a] = max(0, math.floor(first - far) - corner[a])
            high[a] = min(shape[a], math.ceil(last + far) + 1 - corner[a])
        for z in range(low[0], high[0]):
            for y in range(low[1], high[1]):
                for x in range(low[2], high[2]):
                    voxel = (z + corner[0], y + corner[1], x + corner[2])
                    d = squared(ends[k], voxel)
                    if d >= reach * reach:
                        continue
                    for side in range(2):
                        if near[k, side] >= 0:
                            d = min(d, squared(ends[near[k, side]], voxel))
                    level = int((math.sqrt(d) / radius[k] + jitter(voxel)) * LEVELS)
                    level = max(0, min(level, inside.size - 1))
                    value = inside[level] // 3 if weak[k] else inside[level]
                    mask[z, y, x] = max(mask[z, y, x], value)
                    value = border[level] // 3 if weak[k] else border[level]
                    contour[z, y, x] = max(contour[z, y, x], value)


@njit(nogil=True)
def squared(rod, voxel):
    """Squared distance of a voxel from the axis of a rod, in voxels within the plane."""
    along = whole = off = 0.0
    for a in range(3):
        unit = STRETCH if a == 0 else 1.0
        step, away = (rod[a + 3] - rod[a]) * unit, (voxel[a] - rod[a]) * unit
        along += step * away
        whole += step * step
        off += away * away
    t = min(1.0, max(0.0, along / max(whole, 1e-9)))
    return max(0.0, off - 2 * t * along + t * t * whole)


@njit(nogil=True)
def jitter(voxel):
    """A few hundredths of a radius, other for every voxel."""
    mixed = (voxel[0] * 73856093) ^ (voxel[1] * 19349663) ^ (voxel[2] * 83492791)
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFF
    return (mixed / 65536.0 - 0.5) * 0.06


def draw_block(volume, rods, tables, box):
    """Draw and write one shard of the prediction."""
    array = np.zeros((2, *box.shape), np.uint8)
    reach = SOFT * rods.radius[:, None] / np.array([STRETCH, 1, 1], np.float32) + 1
    low = np.minimum(rods.ends[:, :3], rods.ends[:, 3:]) - reach
    high = np.maximum(rods.ends[:, :3], rods.ends[:, 3:]) + reach
    chosen = np.flatnonzero(((high > box.start) & (low < box.stop)).all(axis=1))
    fields = (rods.ends, rods.radius, rods.weak, rods.near)
    draw((array[0], array[1]), box.start, fields, chosen, tables)
    volume.write(box, array)
    return int(np.count_nonzero(array[0] > 204))


def make_prediction(path, shape, workers):
    """Write the prediction shard by shard; what it holds."""
    d = np.arange(int(SOFT * LEVELS) + 16) / LEVELS
    inside = (255 / (1 + np.exp(18 * (d - 1)))).astype(np.uint8)
    border = (255 * np.exp(-(((d - 1) / 0.12) ** 2))).astype(np.uint8)
    start = time.perf_counter()
    rods, planned = plan_rods(shape)
    volume = create_ome_zarr(
        path,
        shape=shape,
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=VOXEL_SIZE_NM,
        channels=("mask", "contour"),
    )
    shards = tile(volume.box, volume.shard_shape)
    task = partial(draw_block, volume, rods, (inside, border))
    foreground = sum(result for _, result in run_tasks(task, shards, Resources(workers)))
    return {
        "seconds": time.perf_counter() - start,
        "tubes": planned,
        "foreground": foreground / volume.size,
        "bytes": folder_bytes(path / "0"),
    }


def drawn_before(folder):
    """What a kept prediction holds, if it was drawn to its end."""
    noted = folder / "drawn.json"
    return json.loads(noted.read_text()) if noted.exists() else None


# The runs; each in a process of its own.


def run_ours(folder, out, workers):
    """Segment, and tell the seconds of every stage, in order."""
    prediction = open_ome_zarr(folder / "prediction.zarr")
    config = SegmentConfig(decoder="mitoem")
    run = partial(segment_volume, prediction, out, config=config, resources=Resources(workers))
    times = timed(run)
    summary = open_ome_zarr(out).attributes["record"]["summary"]
    found = {key: summary[key] for key in ("instances", "removed_small", "largest_component")}
    return times | found | {"bytes": folder_bytes(out / "0")}


def run_floor(folder, out, workers):
    """Read the prediction and write the labels, shard by shard."""
    prediction = open_ome_zarr(folder / "prediction.zarr")
    labels = open_ome_zarr(folder / "out-ours.zarr")
    shards = tile(labels.box, labels.shard_shape)
    if len(shards) > FLOOR_SHARDS:
        whole = [box for box in shards if box.shape == shards[0].shape]
        chosen = np.linspace(0, len(whole) - 1, FLOOR_SHARDS).astype(int)
        waiting = cycle([labels.read(whole[i]) for i in chosen])
    else:
        waiting = iter([labels.read(box) for box in shards])
    start = time.perf_counter()
    copy = create_ome_zarr(
        out, shape=labels.shape, dtype=labels.dtype, kind="labels", voxel_size_nm=VOXEL_SIZE_NM
    )
    work = ((box, next(waiting)) for box in shards)
    for _ in run_tasks(partial(copy_shard, prediction, copy), work, Resources(workers)):
        pass
    return {"seconds": time.perf_counter() - start, "bytes": folder_bytes(out / "0")}


def copy_shard(prediction, copy, work):
    box, labels = work
    copy_block(prediction, copy, box, labels[tuple(slice(n) for n in box.shape)])


RUNS = {"ours": run_ours, "floor": run_floor}


def run_here(name, folder, workers):
    """One run in this process after a warm-up; its figures and its own peak memory."""
    small = folder / "small"
    shutil.rmtree(small / f"out-{name}.zarr", ignore_errors=True)
    RUNS[name](small, small / f"out-{name}.zarr", workers)
    print("begins", flush=True)
    found = RUNS[name](folder, folder / f"out-{name}.zarr", workers)
    return found | {"own_peak": peak_memory()}


def run_apart(name, folder, workers):
    """One run in its own process, watched from outside: all its processes' memory together."""
    shutil.rmtree(folder / f"out-{name}.zarr", ignore_errors=True)
    command = [sys.executable, __file__, "--run", name, "--folder", str(folder)]
    command += ["--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    sampled = []
    watcher = threading.Thread(target=sample_memory, args=(process.pid, sampled))
    watcher.start()
    text, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"{name}: ended with {process.returncode}")
    found = json.loads(text.splitlines()[-1])
    return found | {"peak": max(found["own_peak"], *sampled)}


def sample_memory(pid, sampled):
    """Resident bytes of a process and all it started, every twentieth of a second."""
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            family = [parent, *parent.children(recursive=True)]
            sampled.append(sum(process.memory_info().rss for process in family))
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        return


def folder_bytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# What is printed.


def shape_of(scale):
    """All sections, and a square so large that the volume is the scale's share of the whole."""
    side = 8 * round(SHAPE[1] * math.sqrt(scale) / 8)
    return (SHAPE[0], side, side)


def bench(scale, folder, workers):
    """Draw, segment and copy one volume; print and give all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = shape_of(scale)
    voxels = math.prod(shape)
    if not (folder / "small" / "prediction.zarr").exists():
        make_prediction(folder / "small" / "prediction.zarr", (60, 384, 384), workers)
        run_ours(folder / "small", folder / "small" / "out-ours.zarr", workers)
    made = drawn_before(folder)
    if made is None:
        made = make_prediction(folder / "prediction.zarr", shape, workers)
        (folder / "drawn.json").write_text(json.dumps(made) + "\n")
    size = f"2x{'x'.join(map(str, shape))} uint8, {2 * voxels / GIB:.2f} GiB"
    on_disk = f"{2 * voxels / made['bytes']:.0f} times less on disk"
    print(f"\n{size}, {on_disk}, {100 * made['foreground']:.1f} % foreground")
    print(f"drawn in {made['seconds']:.0f} s; {workers} workers")
    ours = run_apart("ours", folder, workers)
    floor = run_apart("floor", folder, workers)
    print(
        f"{ours['instances']} instances, {ours['removed_small']} small ones removed, "
        f"largest component {ours['largest_component']} voxels"
    )
    for name, found in (("ours", ours), ("floor", floor)):
        rate = f"{found['seconds']:8.2f} s   {voxels / found['seconds'] / 1e6:7.1f} Mvoxel/s"
        print(f"{name:5} {rate}   labels {found['bytes'] / 1e6:.1f} MB on disk")
    ratio = ours["seconds"] / floor["seconds"]
    print(f"ours / floor: {ratio:.2f} x the time (at most 2)")
    print(f"peak memory of all processes: {ours['peak'] / GIB:.2f} GiB (at most 4)")
    print_stages(ours)
    print(f"   pyramid, apart {ours['pyramid']:6.2f} s")
    figures = {"scale": scale, "shape": shape, "prediction": made, "ours": ours, "floor": floor}
    return figures | {"ratio": ratio}


def plot(found, path):
    """Seconds over voxels, with the line from nothing to the largest, and peak memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    voxels = np.array([math.prod(one["shape"]) for one in found]) / 1e9
    for name, colour in (("ours", "#0b7285"), ("floor", "#c2510c")):
        seconds = [one[name]["seconds"] for one in found]
        left.plot(voxels, seconds, "o", color=colour, label=name)
        left.plot([0, voxels[-1]], [0, seconds[-1]], "--", color=colour, lw=1)
    right.plot(voxels, [one["ours"]["peak"] / GIB for one in found], "o-", color="#0b7285")
    left.set(xlabel="Gvoxels", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    right.set(xlabel="Gvoxels", ylabel="peak memory, GiB", xlim=(0, None), ylim=(0, None))
    left.legend(frameon=False)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="a tenth of the volume")
    size.add_argument("--scale", type=float, default=1.0, help="share of the volume")
    size.add_argument("--linear", action="store_true", help="1/8, 1/4, 1/2 and 1, and a plot")
    parser.add_argument("--of", type=float, default=1.0, help="the largest of --linear")
    parser.add_argument("--plot", type=Path, default=Path("mitoem_scale.svg"), help="or .png")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--keep",
        type=Path,
        default=None,
        help="leave all arrays here, and use the predictions that are",
    )
    parser.add_argument("--json", type=Path, default=None, help="write what was found")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run_here(options.run, options.folder, options.workers)))
        return
    if not 0.001 <= options.scale <= 1:
        parser.error(f"--scale {options.scale}: expected 0.001 to 1")
    scales = [0.1 if options.small else options.scale]
    if options.linear:
        scales = [options.of / 8, options.of / 4, options.of / 2, options.of]
    with place_of(options.keep) as folder:
        found = []
        for scale in scales:
            found.append(bench(scale, folder / f"scale-{scale:g}", options.workers))
            if not options.keep:
                shutil.rmtree(folder / f"scale-{scale:g}")
    if options.linear:
        plot(found, options.plot)
        print(f"\nplotted in {options.plot}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


@contextmanager
def place_of(keep):
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


if __name__ == "__main__":
    main()
