"""How fast prediction is on a GPU: through the network alone, and from Zarr to Zarr.

- matrices: the rate of a product of two 8192 x 8192 matrices, in the precision of the run;
- network: one tile through the network, timed on the device: Mvoxels/s, TFLOP/s, and the share of
  the matrices' rate;
- run: a volume of `--shape`, read from Zarr and written to Zarr, after a warm-up on a part of it:
  Mvoxels/s, what bounded it (the log's last line), and the seconds that 500x4096x4096 would take;
- profile: the kernels that one tile spends its time in.

Where torch sees no GPU it says so and measures nothing, unless ``--device cpu`` asks for the same
steps on the processor.

    python benchmarks/predict_gpu.py [--shape 200,2048,2048] [--tile 64,1024,1024] [--model NAME]
"""

import argparse
import logging
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from cristae.engine.executors import Resources
from cristae.engine.progress import log_to_stderr
from cristae.grid import Box, tile
from cristae.networks.device import devices_prepared, find_devices
from cristae.networks.model import load_model, model_network
from cristae.networks.precision import DTYPES
from cristae.networks.runner import model_runner, network_contract
from cristae.prediction.estimate import expected_precision
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr

WHOLE = (500, 4096, 4096)
"""A volume of MitoEM's test set."""

PATTERN = (64, 512, 512)
ROUNDS = 10


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", default="200,2048,2048", help="of the volume that is predicted")
    parser.add_argument("--tile", default="64,1024,1024", help="of the network alone")
    parser.add_argument("--model", default="general", help="name or file; takes tiles of any shape")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device here, so nothing was measured")
        return
    log_to_stderr(logging.INFO)
    devices, model = find_devices(options.device), load_model(options.model)
    config = PredictConfig(device=options.device, scales=(1.0,))
    precision = expected_precision(config, model)
    with devices_prepared(devices, Resources().workers):
        measure(options, model, config, devices, precision)


def measure(options, model, config, devices, precision):
    """Matrices, the network alone, and a run of the command."""
    name = torch.cuda.get_device_name(devices[0]) if options.device == "cuda" else "processor"
    print(f"{len(devices)} x {name}, {precision}, torch {torch.__version__}")
    best = matrix_rate(devices[0], DTYPES[precision], 8192 if options.device == "cuda" else 1024)
    print(f"matrices: {best / 1e12:.3g} TFLOP/s")
    report_network(model, precision, devices[0], integers(options.tile), best)
    with tempfile.TemporaryDirectory() as folder:
        report_run(Path(folder), model, config, integers(options.shape))


def integers(text):
    return tuple(map(int, text.split(",")))


def seconds_of(work, device):
    """Seconds of one call, the mean of a few after two that are not counted."""
    work(), work()
    wait(device)
    begun = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    wait(device)
    return (time.perf_counter() - begun) / ROUNDS


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device, dtype, size):
    """FLOP/s of a product of two square matrices."""
    matrix = torch.randn((size, size), device=device).to(dtype)
    return 2 * size**3 / seconds_of(lambda: matrix @ matrix, device)


def report_network(model, precision, device, shape, best):
    """One tile through the network, without reading and writing; and where its time goes."""
    steps = network_contract(model).context.lattice
    shape = tuple(math.ceil(n / step) * step for n, step in zip(shape, steps, strict=True))
    runner, core = model_runner(model, precision, device), Box.of(shape)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    work = flop_per_voxel(model, steps) * core.size
    seconds = seconds_of(lambda: runner.probabilities(image, core), device)
    rate, share = work / seconds, work / seconds / best
    print(
        f"network: {shape}, {core.size / seconds / 1e6:.4g} Mvoxels/s, "
        f"{work / core.size / 1e3:.3g} kFLOP a voxel, {rate / 1e12:.3g} TFLOP/s, "
        f"{100 * share:.0f} % of the matrices' rate"
    )
    kind = torch.profiler.ProfilerActivity
    kind = kind.CUDA if device.type == "cuda" else kind.CPU
    with torch.profiler.profile(activities=[kind]) as profile:
        runner.probabilities(image, core)
        wait(device)
    order = "cuda_time_total" if device.type == "cuda" else "cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=10))


def flop_per_voxel(model, steps):
    image = torch.zeros((1, 1, *(8 * step for step in steps)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model_network(model)(image)
    return counter.get_total_flops() / image.numel()


def report_run(folder, model, config, shape):
    """From Zarr to Zarr, and what a whole volume of MitoEM would take."""
    volume = make_volume(folder / "volume.zarr", shape, model)
    part = volume.crop(volume.box.clip(Box.of(PATTERN)))
    predict_volume(part, model, folder / "warm.zarr", config=config)
    begun = time.perf_counter()
    predict_volume(volume, model, folder / "prediction.zarr", config=config)
    seconds = time.perf_counter() - begun
    whole = seconds * math.prod(WHOLE) / volume.size
    print(
        f"run: {shape} in {seconds:.1f} s, {volume.size / seconds / 1e6:.4g} Mvoxels/s; "
        f"{WHOLE} would take {whole:.0f} s ({whole / 60:.1f} minutes)"
    )


def make_volume(path, shape, model):
    """A simulated piece at the model's working size, repeated."""
    sizes = zip(model.working_voxel_size_nm, (30.0, 8.0, 8.0), strict=True)
    size = tuple(working or usual for working, usual in sizes)
    pattern = tuple(min(n, most) for n, most in zip(shape, PATTERN, strict=True))
    image, _ = simulate_volume(SimulationConfig(shape=pattern, voxel_size_nm=size, seed=77))
    grey = image.read()
    volume = create_ome_zarr(path, shape=shape, dtype=np.uint8, kind="image", voxel_size_nm=size)
    for box in tile(volume.box, PATTERN):
        z, y, x = box.shape
        volume.write(box, grey[:z, :y, :x])
    return open_ome_zarr(path)


if __name__ == "__main__":
    sys.exit(main())
