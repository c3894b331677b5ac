"""How fast prediction is, against a plain sliding window with the same network and threads.

One volume goes through one network three ways, at one scale, each after a warm-up:

- plain: float32 windows that overlap by half, batch normalisation as trained, the fastest of a few
  batch sizes and memory formats, windows blended with a tent, all in memory. The volume is mirrored
  a quarter of a window beyond its borders, so that a voxel there is seen by as many windows as any
  other, and as deep inside them: ours mirrors as well, so both answer the same question everywhere.
  How many windows would do without the mirrored border, and the ratio then, is printed too;
- ours in float32, from Zarr to Zarr;
- ours in bfloat16 (where the processor has it), from Zarr to Zarr.

Printed are voxels of the volume a second, ratios within this run, by the clock and by processor
time (which a busy machine disturbs less), how far the predictions lie apart, and, with trained
weights, how well the instances of ours and of the plain one agree: all are decoded with the model's
thresholds, over the whole volume, by one decoder.

``--pytc`` takes the network of PyTorch Connectomics' MitoEM configurations instead (unet_plus_3d,
3.6 M parameters, random weights) with their windows, 17x257x257 at a stride of 8x128x128:

- plain: what its predictor does: windows in order, contiguous float32, the network as built, sums
  of the whole volume in memory;
- ours, from Zarr to Zarr, in float32 and in bfloat16.

``--plain-shape`` gives the plain way a part of the volume, from its corner, its seconds
scaled by windows; the agreement is of our prediction of that part with the plain one.

    python benchmarks/predict.py [--small] [--shape 64,512,512] [--plain-shape 16,512,512]
                                 [--threads 2] [--model NAME]
    python benchmarks/predict.py --pytc [--small] [--threads 2]
"""

import argparse
import math
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from cristae.engine.executors import Resources, available_cores
from cristae.evaluation.evaluate import score_instances
from cristae.networks.cpu import bfloat16_is_fast, cpu_prepared
from cristae.networks.families.pytc.network import PytcConfig, build_pytc_network
from cristae.networks.families.unet.context import network_context
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, load_model, model_network
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.shipped import named_models
from cristae.networks.windows import WindowRecipe, window_axes, window_weight
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.segmentation.segment import segment_volume
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr
from cristae.volumes.intensity import normalise, sample_intensity

WINDOW = (32, 256, 256)
BATCH_VOXELS = 1 << 23


@dataclass(frozen=True)
class Seconds:
    """Moments, or spans between two of them."""

    clock: float
    processor: float

    @classmethod
    def now(cls):
        """This moment."""
        return cls(time.perf_counter(), time.process_time())

    def since(self):
        """The span from this moment to now."""
        now = Seconds.now()
        return Seconds(now.clock - self.clock, now.processor - self.processor)

    def scaled(self, factor):
        """So many times the span."""
        return Seconds(factor * self.clock, factor * self.processor)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--small", action="store_true", help="32x512x512 voxels, three windows with --pytc"
    )
    parser.add_argument("--pytc", action="store_true", help="PyTorch Connectomics' network")
    parser.add_argument("--shape", default="64,512,512")
    parser.add_argument("--window", help="of the plain way; 32,256,256 by default")
    parser.add_argument("--plain-shape", help="of the part the plain way gets; all by default")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--model", help="name or file; `general`, or random weights, by default")
    options = parser.parse_args()
    shape = (32, 512, 512) if options.small else tuple(map(int, options.shape.split(",")))
    if options.pytc:
        shape = (17, 257, 513) if options.small else (25, 385, 513)
        with tempfile.TemporaryDirectory() as folder:
            compare_pytc(Path(folder), shape, Resources(workers=options.threads))
        return
    model, trained = get_model(options.model)
    describe(model, shape, options.threads, trained)
    with cpu_prepared(options.threads), tempfile.TemporaryDirectory() as folder:
        part = options.plain_shape and tuple(map(int, options.plain_shape.split(",")))
        window = tuple(map(int, options.window.split(","))) if options.window else WINDOW
        compare(Path(folder), model, trained, (shape, part or shape, window), options.threads)


def get_model(name):
    if name or "general" in named_models():
        return load_model(name or "general"), True
    torch.manual_seed(0)
    network = build_network(UNetConfig())
    return Model(UNetConfig(), network.state_dict(), ("mask", "contour")), False


def describe(model, shape, threads, trained):
    network = model_network(model)
    image = torch.zeros(1, 1, 16, 128, 128)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    parameters = sum(p.numel() for p in network.parameters())
    context = network_context(model.network_config)
    print(
        f"volume {shape}, {threads} threads, {'trained' if trained else 'random'} weights, "
        f"{parameters / 1e6:.2f} M parameters, "
        f"{counter.get_total_flops() / image.numel() / 1e3:.0f} kFLOP a voxel, "
        f"halo {context.halo_vx}"
    )


def compare(folder, model, trained, shapes, threads):
    shape, part, window = shapes
    resources = Resources(workers=threads)
    volume = make_volume(folder / "volume.zarr", shape, model)
    piece = volume.crop(type(volume.box).of(part).clip(volume.box))
    plain, seconds = time_plain(piece, model, window)
    report("plain float32, half-overlap", piece.shape, seconds)
    whole, part = (len(plain_windows(one, window)[0]) for one in (shape, piece.shape))
    rate = seconds.scaled(whole / part)
    bare = len(plain_windows(shape, window, mirrored=False)[0]) / whole
    if part < whole:
        print(f"plain: {part} of the {whole} windows of {shape}, its seconds scaled by them")
        report("plain float32, as if the whole", shape, rate)
    stored = create_ome_zarr(
        folder / "plain.zarr",
        shape=piece.shape,
        dtype=np.uint8,
        kind="prediction",
        channels=model.channels,
        voxel_size_nm=volume.voxel_size_nm,
        origin_nm=volume.origin_nm,
        attributes=decoding(model, volume),
    )
    stored.write(stored.box, plain)
    predictions = {"plain": stored}
    for precision in ("float32", "bfloat16") if bfloat16_is_fast() else ("float32",):
        config = PredictConfig(precision=precision, scales=(1.0,))
        options = {"config": config, "resources": resources}
        corner = volume.crop(volume.box.clip(type(volume.box).of((4, 64, 64))))
        predict_volume(corner, model, folder / f"warm-{precision}.zarr", **options)
        start = Seconds.now()
        whole = predict_volume(volume, model, folder / f"{precision}.zarr", **options)
        ours = start.since()
        waste = whole.attributes["record"]["summary"]["voxels_computed_per_voxel"]
        report(f"ours {precision}, {waste:.2f} voxels a voxel", shape, ours, rate)
        report(
            f"  {bare:.2f} of the plain windows, without a border", shape, ours, rate.scaled(bare)
        )
        predictions[precision] = whole
        if piece.size < volume.size:
            target = folder / f"{precision}-part.zarr"
            predictions[precision] = predict_volume(piece, model, target, **options)
    deviations(predictions)
    if trained:
        agreement(folder, predictions, resources)


def decoding(model, volume):
    """What `segment` needs to know of a prediction of the volume; without it it takes defaults."""
    return {"decoder": model.decoder, "thresholds": model.thresholds_at(volume.voxel_size_nm)}


def make_volume(path, shape, model):
    """A simulated image at the model's working size, on disk."""
    size = tuple(w or d for w, d in zip(model.working_voxel_size_nm, (30.0, 8.0, 8.0), strict=True))
    image, _ = simulate_volume(SimulationConfig(shape=shape, voxel_size_nm=size, seed=77))
    volume = create_ome_zarr(
        path, shape=shape, dtype=np.uint8, kind="image", voxel_size_nm=image.voxel_size_nm
    )
    volume.write(volume.box, image.read())
    return open_ome_zarr(path)


def time_plain(volume, model, window):
    """The plain prediction, uint8 (channels, z, y, x), and the seconds of its windows."""
    network = model_network(model)
    grey = normalise(volume.read(), sample_intensity(volume), model.intensity)
    corners, window = plain_windows(grey.shape, window)
    pads = [(w // 4, w // 4) for w in window]
    grey = np.pad(grey, pads, mode="reflect")
    best = None
    for layout in (torch.contiguous_format, torch.channels_last):
        network = network.to(memory_format=layout)
        for size in (n for n in (1, 2, 4) if n == 1 or n * math.prod(window) <= BATCH_VOXELS):
            taken = time_batch(network, grey, corners[:size], window)
            best = min(best or (taken, size, layout), (taken, size, layout), key=lambda b: b[0])
    _, batch, layout = best
    network = network.to(memory_format=layout)
    ramps = [1 - np.abs((np.arange(w) + 0.5) / w * 2 - 1) for w in window]
    weight = np.einsum("i,j,k->ijk", *ramps).astype(np.float32)
    total = np.zeros((len(model.channels), *grey.shape), np.float32)
    norm = np.zeros(grey.shape, np.float32)
    begun = Seconds.now()
    for first in range(0, len(corners), batch):
        some = corners[first : first + batch]
        for corner, probability in zip(some, run(network, grey, some, window), strict=True):
            place = tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))
            total[(slice(None), *place)] += probability * weight
            norm[place] += weight
    inside = tuple(slice(low, -low) for low, _ in pads)
    levels = np.rint(255 * total / norm)[(slice(None), *inside)].astype(np.uint8)
    seconds = begun.since()
    print(f"plain: {len(corners)} windows of {window}, batch {batch}, {layout}")
    return levels, seconds


def plain_windows(shape, window, mirrored=True):
    """Corners of the windows over a volume, padded by a quarter window or not, and their extent."""
    window = (
        min(window[0], shape[0]),
        *(min(w, n // 16 * 16) for w, n in zip(window[1:], shape[1:], strict=True)),
    )
    padded = [n + 2 * (w // 4) * mirrored for n, w in zip(shape, window, strict=True)]
    starts = [
        sorted({*range(0, n - w, w // 2), n - w}) for n, w in zip(padded, window, strict=True)
    ]
    return list(product(*starts)), window


def time_batch(network, grey, corners, window):
    """Seconds a window in a batch of this size, the better of two."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run(network, grey, corners, window)
        times.append((time.perf_counter() - start) / len(corners))
    return min(times)


def run(network, grey, corners, window):
    stack = np.stack(
        [
            grey[tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))]
            for corner in corners
        ]
    )
    with torch.inference_mode():
        return torch.sigmoid(network(torch.from_numpy(stack)[:, None])).numpy()


def report(name, shape, seconds, plain=None):
    voxels = np.prod(shape)
    line = f"{name}: {seconds.clock:.1f} s, {voxels / seconds.clock / 1e6:.3f} Mvoxel/s"
    line += f" ({seconds.processor:.1f} s of processor)"
    if plain is not None:
        clock, processor = plain.clock / seconds.clock, plain.processor / seconds.processor
        line += f": {clock:.1f} x plain ({processor:.1f} x by processor time)"
    print(line, flush=True)


def compare_pytc(folder, shape, resources):
    """The windows of a MitoEM recipe through its network, plainly and by the engine."""
    torch.manual_seed(0)
    config = PytcConfig(
        architecture="unet_plus_3d",
        block="residual_se",
        channels=("mask", "contour"),
        outputs=("sigmoid", "sigmoid"),
        widths=(32, 64, 96, 128, 160),
    )
    windows = WindowRecipe((17, 257, 257), (8, 128, 128))
    state = build_pytc_network(config).state_dict()
    model = Model(
        config, state, config.channels, intensity="uint8", recipe=InferenceRecipe(windows=windows)
    )
    count = np.prod([len(axis.starts) for axis in window_axes(windows, shape)])
    parameters = sum(p.numel() for p in model_network(model).parameters())
    print(
        f"volume {shape}, {resources.workers} threads, random weights, "
        f"{parameters / 1e6:.2f} M parameters, {count} windows of {windows.shape}"
    )
    volume = make_volume(folder / "volume.zarr", shape, model)
    predict_volume(  # a warm-up
        volume.crop(volume.box.clip(type(volume.box).of(windows.shape))),
        model,
        folder / "warm.zarr",
        resources=resources,
    )
    with cpu_prepared(resources.workers):
        plain, seconds = time_plain_windows(volume, model)
    report("plain float32, windows in order", shape, seconds)
    predictions = {}
    for precision in ("float32", "bfloat16") if bfloat16_is_fast() else ("float32",):
        start = Seconds.now()
        predictions[precision] = predict_volume(
            volume,
            model,
            folder / f"{precision}.zarr",
            config=PredictConfig(precision=precision),
            resources=resources,
        )
        report(f"ours {precision}", shape, start.since(), seconds)
        difference = np.abs(predictions[precision].read().astype(int) - plain)
        print(
            f"{precision} against plain: {difference.max()} grey levels at most, "
            f"{difference.mean():.4f} in the mean"
        )


def time_plain_windows(volume, model):
    """The prediction of a plain loop over windows, and the seconds it takes, after one window."""
    recipe, network = model.recipe.windows, model_network(model)
    grey = normalise(volume.read(), sample_intensity(volume), model.intensity)
    starts = (axis.starts for axis in window_axes(recipe, volume.shape))
    corners = list(product(*starts))
    run(network, grey, corners[:1], recipe.shape)
    weight = window_weight(recipe)
    total = np.zeros((len(model.channels), *grey.shape), np.float32)
    norm = np.zeros(grey.shape, np.float32)
    begun = Seconds.now()
    for corner in corners:
        probability = run(network, grey, [corner], recipe.shape)[0]
        place = tuple(slice(a, a + w) for a, w in zip(corner, recipe.shape, strict=True))
        total[(slice(None), *place)] += probability * weight
        norm[place] += weight
    levels = np.rint(255 * total / norm).astype(np.uint8)
    return levels, begun.since()


def deviations(predictions):
    exact = predictions["float32"].read().astype(int)
    for name, prediction in predictions.items():
        if name != "float32":
            difference = np.abs(prediction.read() - exact)
            print(
                f"{name} against ours in float32: {difference.max()} grey levels at most, "
                f"{difference.mean():.3f} in the mean"
            )


def agreement(folder, predictions, resources):
    """AP-75 of our instances when the plain prediction's are taken as the truth."""
    found = {
        name: segment_volume(prediction, folder / f"{name}-instances.zarr", resources=resources)
        for name, prediction in predictions.items()
    }
    for name in predictions:
        if name != "plain":
            scores = score_instances(found[name], found["plain"], resources=resources)
            average = scores.average_precision_coco["75"]
            print(f"instances of ours in {name} against the plain ones: AP-75 {average}")


if __name__ == "__main__":
    main()
