"""What the coarse pass of `cristae predict --skip-empty` leaves out, and what it loses by it.

A simulated volume, part of which is bare resin, is predicted twice by the same model, in full and
with the coarse pass. (In tissue mitochondria lie closer than cells and their neighbours reach, so
there is little to leave out there.) Printed are the share of voxels left out, both times and the
coarse pass's, the voxels computed a voxel written, the share of true instances whose voxels all lie
in what is kept, the share of true voxels kept, and how well the instances of both predictions
agree.

    python benchmarks/skip.py [--shape 64,512,1024] [--density 0.03] [--resin 0.6] [--threads 2]
                              [--model NAME]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources, available_cores
from cristae.evaluation.evaluate import score_instances
from cristae.networks.model import load_model
from cristae.prediction import predict as predict_module
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.segmentation.segment import segment_volume
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.volumes.formats import open_volume


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="64,512,1024")
    parser.add_argument("--density", type=float, default=0.03, help="of mitochondria in tissue")
    parser.add_argument("--resin", type=float, default=0.6, help="share of the volume")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--model", default="general")
    options = parser.parse_args()
    shape = tuple(map(int, options.shape.split(",")))
    model = load_model(options.model)
    size = tuple(w or d for w, d in zip(model.working_voxel_size_nm, (30.0, 8.0, 8.0), strict=True))
    simulation = SimulationConfig(
        shape=shape, voxel_size_nm=size, seed=78, mitochondria_fraction=options.density
    )
    image, truth = with_resin(*simulate_volume(simulation), options.resin)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), image, truth, model, Resources(workers=options.threads))


def with_resin(image, truth, share):
    """The same volumes, their far end along x bare: one bright grey with a little noise."""
    grey, ids = image.read().copy(), truth.read().copy()
    place = (slice(None), slice(None), slice(round((1 - share) * grey.shape[2]), None))
    noise = np.random.default_rng(0).normal(np.percentile(grey, 90), 4, grey[place].shape)
    grey[place], ids[place] = noise.clip(0, 255).astype(grey.dtype), 0
    if not ids.any():
        raise SystemExit("no mitochondrion in this volume: raise --shape or --density")
    return (
        open_volume(array, voxel_size_nm=image.voxel_size_nm, kind=kind)
        for array, kind in ((grey, "image"), (ids, "labels"))
    )


def compare(folder, image, truth, model, resources):
    regions, find = [], predict_module.signal_region

    def kept(*arguments):
        print(f"coarse pass: {time.perf_counter() - begun:.1f} s", flush=True)
        region, share = find(*arguments)
        regions.append(region)
        return region, share

    predict_module.signal_region = kept
    instances = {}
    for name, skip in (("full", False), ("skip", True)):
        begun = time.perf_counter()
        prediction = predict_volume(
            image,
            model,
            folder / f"{name}.zarr",
            config=PredictConfig(skip_empty=skip),
            resources=resources,
        )
        seconds = time.perf_counter() - begun
        waste = prediction.attributes["record"]["summary"]["voxels_computed_per_voxel"]
        print(f"{name}: {seconds:.1f} s, {waste:.2f} voxels computed a voxel", flush=True)
        instances[name] = segment_volume(
            prediction, folder / f"{name}-instances.zarr", resources=resources
        )
    inside, ids = regions[0].inside(image.box), truth.read()
    total, whole = np.bincount(ids.ravel()), np.bincount(ids[inside], minlength=ids.max() + 1)
    there = np.flatnonzero(total[1:]) + 1
    print(
        f"{100 * (1 - inside.mean()):.1f} % of the voxels left out; of {len(there)} true instances "
        f"({100 * np.mean(ids > 0):.2f} % of the voxels) "
        f"{np.mean(whole[there] == total[there]):.4f} lie whole in what is kept, "
        f"{np.mean(whole[there] > 0):.4f} in part, and "
        f"{whole[1:].sum() / total[1:].sum():.5f} of their voxels"
    )
    for threshold in ("50", "75"):
        scores = score_instances(instances["skip"], instances["full"], resources=resources)
        print(
            f"instances with the coarse pass against the full ones: AP-{threshold} "
            f"{scores.average_precision_coco[threshold]}"
        )


if __name__ == "__main__":
    main()
