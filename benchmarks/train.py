"""How fast the default network trains, whether patches come fast enough, and what memory it takes.

One volume of simulated EM, as large as one shard of Zarr, is repeated by links to that shard until
it has 1000x4096x4096 voxels (128x1024x1024 with ``--small``), image and labels, on disk. Printed:

- step: voxels a second forward and backward, patches a second, and what one thread supplies of
  them; the slower of the two is the bottleneck. On a CPU that multiplies bfloat16 also the speed in
  that; on a GPU also TFLOP/s, against a large product of
  matrices in the same precision, and the costliest kernels;
- run: a training as `cristae train` does it, and the share of its time spent waiting for patches;
- memory: the peak of that run in a process of its own, over the peak of the same steps on a volume
  as small as a patch, which is the network's own, imports included in both.

    python benchmarks/train.py [--small] [--steps 30] [--threads 2] [--config CONFIG.yaml]
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from cristae.configuration import from_plain, load_tree
from cristae.engine.executors import available_cores
from cristae.engine.memory import GIB, peak_memory
from cristae.networks.families.unet.network import build_network
from cristae.samples.dataset import Sample, open_sample
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.training.config import TrainConfig
from cristae.training.sampling import prepare_source
from cristae.training.speed import measure_step
from cristae.training.step import reduced_precision, run_network, trains_in_bfloat16
from cristae.training.train import train_model
from cristae.volumes.formats.ome_zarr import SHARD, create_ome_zarr

LARGE, SMALL = (1000, 4096, 4096), (128, 1024, 1024)
ROUNDS = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="128x1024x1024 voxels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--config", type=Path, help="its `train`; the defaults otherwise")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = configuration(options)
    if options.child is not None:
        train(config, options.child, options.threads)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = SMALL if options.small else LARGE
        (folder / "large").mkdir()
        (folder / "tiny").mkdir()
        repeat_volume(folder / "large", shape)
        repeat_volume(folder / "tiny", config.patch)
        report_step(config, folder / "large", options.threads)
        report_run(folder, shape)


def configuration(options):
    config = TrainConfig()
    if options.config is not None:
        config = from_plain(TrainConfig, load_tree(options.config)["train"], str(options.config))
    # nothing fits the room, so all is read from disk; validation is no part of this
    return replace(
        config,
        steps=options.steps,
        cache_gib=0.0,
        calibration_batches=1,
        validate_every=options.steps,
        validate_ap_every=0,
        checkpoint_every=options.steps,
    )


def repeat_volume(folder, shape):
    """Image and labels of a shape, every shard the same file."""
    extent = tuple(min(n, s) for n, s in zip(shape, SHARD, strict=True))
    volumes = simulate_volume(SimulationConfig(shape=extent, seed=11))
    for volume in volumes:
        path = folder / f"{volume.kind}.zarr"
        out = create_ome_zarr(
            path, shape=shape, dtype=volume.dtype, kind=volume.kind,
            voxel_size_nm=volume.voxel_size_nm,
        )  # fmt: skip
        out.write(volume.box, volume.read())
        first = next(file for file in (path / "0" / "c").rglob("*") if file.is_file())
        counts = (-(-n // s) for n, s in zip(shape, out.shard_shape, strict=True))
        nz, ny, nx = counts
        for z in range(nz):
            for y in range(ny):
                for x in range(nx):
                    copy = path / "0" / "c" / str(z) / str(y) / str(x)
                    if copy != first:
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        os.link(first, copy)


def sample(folder):
    return Sample("repeated", str(folder / "image.zarr"), str(folder / "labels.zarr"))


def report_step(config, folder, threads):
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    times = measure_step(config, [prepare_source(open_sample(sample(folder)))], kind, threads)
    network = build_network(config.network)
    parameters = sum(p.numel() for p in network.parameters())
    print(
        f"{parameters / 1e6:.2f} M parameters, {config.batch} patches of {config.patch}, "
        f"{threads} threads, {kind}"
    )
    voxels = times.voxels / 1e6
    print(
        f"step: forward {voxels / times.forward:.3g} Mvoxels/s, backward "
        f"{voxels / times.backward:.3g}, both {voxels / times.step:.3g}, {times.patches} patches "
        f"in {times.step:.3g} s"
    )
    print(
        f"supply: {times.patches / times.supply:.3g} patches/s by one thread, the device takes "
        f"{times.patches / times.step:.3g}: bound by {times.bottleneck}"
    )
    if kind == "cuda":
        report_gpu(config, network.cuda(), times)
    elif trains_in_bfloat16(config.network):
        opened = open_sample(sample(folder))
        reduced = replace(config, precision="bfloat16")
        faster = measure_step(reduced, [prepare_source(opened)], kind, threads)
        print(
            f"in bfloat16: both {voxels / faster.step:.3g} Mvoxels/s, "
            f"{times.step / faster.step:.2f} times float32"
        )


def report_gpu(config, network, times):
    image = torch.randn((config.batch, 1, *config.patch), device="cuda")
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    rate = counter.get_total_flops() / times.step / 1e12
    reduced = reduced_precision(config, image.device)
    matrix = torch.randn((8192, 8192), device="cuda", dtype=reduced or torch.float32)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    matrix @ matrix
    start.record()
    for _ in range(ROUNDS):
        matrix @ matrix
    end.record()
    torch.cuda.synchronize()
    best = ROUNDS * 2 * 8192**3 / start.elapsed_time(end) / 1e9
    print(f"GPU: {rate:.3g} TFLOP/s of {best:.3g} that a product of matrices reaches")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run_network(network, image, config, reduced).sum().backward()
        torch.cuda.synchronize()
    print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=8))


def report_run(folder, shape):
    peaks = {}
    for name in ("tiny", "large"):
        command = [sys.executable, *sys.argv, "--child", str(folder / name)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[name] = int(done.stdout.split()[-1])
    with (folder / "large" / "model.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["waited"]]
    waited, seconds = (sum(float(row[key]) for row in rows) for key in ("waited", "seconds"))
    # the first lap holds the first batch, which nothing could be made ahead of
    late, later = (sum(float(row[key]) for row in rows[1:]) for key in ("waited", "seconds"))
    print(
        f"run: {rows[-1]['step']} steps in {seconds:.1f} s, {100 * waited / seconds:.2f} % of it "
        f"waiting for patches; after the first lap {100 * late / max(later, 1e-9):.2f} %"
    )
    own, all_of_it = peaks["tiny"] / GIB, peaks["large"] / GIB
    print(
        f"memory: peak {all_of_it:.2f} GiB on {shape} voxels, {own:.2f} GiB on one patch; "
        f"{all_of_it - own:.2f} GiB besides the network's own"
    )


def train(config, folder, threads):
    train_model(config, [sample(folder)], folder / "model.pt", threads=threads)
    print(peak_memory())


if __name__ == "__main__":
    main()
