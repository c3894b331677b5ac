"""How well a model tells touching mitochondria apart, on volumes where every instance has its id.

Simulated pairs, chains and clusters at 30x8x8, 8x8x8 and 5x5x5 nm, from seeds that no configuration
trains on, and real instances of EPFL's training half (where ../shared has it) copied against one
another with a membrane between, at 5 nm and with every sixth section (30x5x5 nm). The raw of the
copies was trained on by the shipped weights; where they lie was not.

Scored are the touching instances alone: how many are found at IoU .5 and .75, and the accuracy
TP / (TP + FP + FN), where FP are predictions that belong to one of them and do not match it.

    python benchmarks/touching.py [--small] [--model general] [--json OUT.json] [--workers 2]
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cristae.demo import DEMO_VOLUME
from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.networks.model import load_model
from cristae.prediction.predict import predict_volume
from cristae.samples.dilation import dilate_labels
from cristae.segmentation.segment import segment_volume
from cristae.simulation.simulate import SimulationConfig, simulate_volume, touching_pairs
from cristae.training.copy_paste import CopyPasteConfig, copy_paste_touching
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import Volume, array_volume

EPFL = Path(__file__).resolve().parents[2] / "shared" / "data" / "epfl_train"
EPFL_WIDENING_NM = 17.0
COPIES = 40

CLEAR = replace(DEMO_VOLUME, touching_share=0.9)
ANY_LOOK = SimulationConfig(mitochondria_fraction=0.09, touching_share=0.9)

SIMULATED = {
    "simulated 30x8x8, clear": ((48, 896, 896), (30.0, 8.0, 8.0), 3001, CLEAR),
    "simulated 30x8x8, any look": ((48, 896, 896), (30.0, 8.0, 8.0), 3002, ANY_LOOK),
    "simulated 8x8x8, clear": ((128, 512, 512), (8.0, 8.0, 8.0), 3003, CLEAR),
    "simulated 5x5x5, clear": ((160, 640, 640), (5.0, 5.0, 5.0), 3004, CLEAR),
}


def simulated(small: bool) -> Iterator[tuple[str, Volume, Volume]]:
    """(name, image, truth) of each simulated volume."""
    for name, (shape, size, seed, base) in SIMULATED.items():
        shape = (shape[0], shape[1], shape[2] // 2) if small else shape
        config = replace(base, shape=shape, voxel_size_nm=size, seed=seed)
        yield name, *simulate_volume(config)


def pasted(small: bool) -> Iterator[tuple[str, Volume, Volume]]:
    """(name, image, truth) of real instances copied beside others."""
    image = open_volume(EPFL / "raw.tif").read()
    labels = open_volume(EPFL / "labels.tif").read()
    if small:
        image, labels = (array[:96, :384, :512] for array in (image, labels))
    labels = dilate_labels(labels.astype(np.int32), EPFL_WIDENING_NM, (5.0, 5.0, 5.0))
    config = CopyPasteConfig(share=1.0, copies=COPIES, membrane_px=(2, 3))
    random = np.random.default_rng(3005)
    grey, ids = copy_paste_touching(image.astype(np.float32) / 127.5 - 1, labels, config, random)
    image = np.clip(np.rint((grey + 1) * 127.5), 0, 255).astype(np.uint8)
    for name, step in (("EPFL copies 5x5x5", 1), ("EPFL copies 30x5x5", 6)):
        size = (5.0 * step, 5.0, 5.0)
        yield (
            name,
            array_volume(image[::step], voxel_size_nm=size, kind="image"),
            array_volume(ids[::step].astype(np.uint32), voxel_size_nm=size, kind="labels"),
        )


def touching_figures(labels: Volume, truth: Volume) -> dict[str, float]:
    """Touching instances, the share of them found, and the accuracy, at IoU .5 and .75.

    Shares are nan where none touch.
    """
    config = EvaluateConfig(bootstrap_samples=0)
    tables = score_instances(labels, truth, config=config).tables
    touching = np.unique(touching_pairs(truth.read()))
    iou = tables.truth["iou"][np.isin(tables.truth["truth"], touching)]
    near = np.isin(tables.prediction["truth"], touching)
    figures: dict[str, float] = {"touching": len(iou)}
    for threshold in (0.5, 0.75):
        # beyond .5 an instance matches one prediction at most
        found = int((iou > threshold).sum())
        wrong = int((tables.prediction["iou"][near] <= threshold).sum())
        figures[f"found_{threshold}"] = found / len(iou) if len(iou) else np.nan
        figures[f"accuracy_{threshold}"] = found / (len(iou) + wrong) if len(iou) else np.nan
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="touching mitochondria alone")
    parser.add_argument("--small", action="store_true", help="half of each volume")
    parser.add_argument("--model", default="general")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    model, resources = load_model(options.model), Resources(options.workers)
    volumes = list(simulated(options.small))
    if EPFL.exists():
        volumes += list(pasted(options.small))
    else:
        print(f"{EPFL}: not there; real copies are left out")
    print(f"{'volume':28}{'touching':>9}{'found .5':>10}{'.75':>7}{'accuracy .5':>13}{'.75':>7}")
    results = {}
    for name, image, truth in volumes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            prediction = predict_volume(image, model, out / "p.zarr", resources=resources)
            labels = segment_volume(prediction, out / "s.zarr", pyramid=False, resources=resources)
            results[name] = f = touching_figures(labels, truth)
        print(
            f"{name:28}{f['touching']:9.0f}{f['found_0.5']:10.2f}{f['found_0.75']:7.2f}"
            f"{f['accuracy_0.5']:13.2f}{f['accuracy_0.75']:7.2f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
