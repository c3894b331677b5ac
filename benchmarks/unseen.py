"""How many mitochondria of tissue that a model never saw are found: F1 at IoU .5.

Single sections and stacks of four are cut out of ../shared/data and predicted each on its own, with
nothing known but the voxel size. F1 is TP / (TP + (FP + FN) / 2); a pair is true beyond an IoU of
.5. True instances are the ids as they appear there: one that falls apart counts once a part
(26-connected), and what a mask leaves out does not count. Truth is as annotated, as users' is.

Counts of one source (one specimen) are pooled, the sources of a group averaged, so that a group
is not its largest source. Images of unknown thickness are seen as one section of 30 nm.

    python benchmarks/unseen.py [--small] [--model general] [--groups cells liver] [--out DIR]
    python benchmarks/unseen.py --set seed_threshold=0.8 --set foreground_threshold=0.4

Predictions are kept below ``--out``, so other thresholds cost seconds. The model has to have been
trained without the groups: `general` was without cells, liver and FAFB, and folds are trained by
``zero_shot.py --groups``. Without the data a simulated volume is scored.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import ndimage
from skimage.morphology import convex_hull_image

from cristae.configuration import load_config, to_plain
from cristae.engine.executors import Resources, available_cores
from cristae.engine.files import write_atomic, write_json
from cristae.engine.progress import log_to_stderr
from cristae.errors import InputError, raise_faults
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.networks.model import Model, load_model
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import Volume, array_volume

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "runs" / "unseen"

SECTION_NM = 30.0
"""Thickness of sections where it is not known; `general` takes next sections from here on."""

STACK = 4
QUIET = EvaluateConfig(bootstrap_samples=0, categories="none", relabel=True)
KINDS = ("single", "stack")


@dataclass(frozen=True)
class Place:
    """Where pieces are cut out of a volume.

    Attributes:
        folder: Of ``raw.tif`` and ``labels.tif``.
        voxel_size_nm: Of the pieces, (z, y, x).
        singles: Sections taken one by one.
        stacks: First sections of stacks of four.
        mask: Where labels count: ``file``, ``hull``: around the labelled cell, or everywhere.
    """

    folder: str
    voxel_size_nm: tuple[float, float, float]
    singles: Sequence[int]
    stacks: Sequence[int] = ()
    mask: str = "everywhere"


@dataclass(frozen=True)
class Piece:
    """A section or stack with its truth; the mask is 0 where that is not known."""

    name: str
    image: Volume
    labels: Volume
    mask: Volume | None = None

    @property
    def kind(self) -> str:
        """Whether it is a section or a stack."""
        return KINDS[self.image.shape[0] > 1]


HULL_MARGIN_NM = 400.0
"""How far the labelled cell reaches beyond the hull of its mitochondria."""

# sections without labels (1, 7 and 18 of the VNC), and the defects of EPFL's 155-157 are left out
SOURCES: dict[str, tuple[Place, ...]] = {
    "cdeep3m": (
        Place("cdeep3m_z010-029", (40.0, 5.9, 5.9), (2, 10, 18), (4, 12)),
        Place("cdeep3m_z050-059", (40.0, 5.9, 5.9), (2, 7), (0, 5)),
    ),
    "epfl": (Place("epfl_train", (5.0, 5.0, 5.0), (10, 50, 90, 130), (28, 68, 108)),),
    "vnc": (Place("vnc_stack1", (47.5, 4.6, 4.6), (3, 6, 10, 14, 17), (2, 8, 12)),),
    "fafb": (
        Place("fafb_z0-3", (40.0, 8.0, 8.0), (1,), (0,)),
        Place("fafb_z5-8", (40.0, 8.0, 8.0), (2,), (0,)),
    ),
    "cemmitolab10": (
        Place("cemmitolab10", (SECTION_NM, 27.0, 27.0), range(6), mask="file"),
        Place("cemmitolab10", (SECTION_NM, 13.5, 13.5), range(6, 10), mask="file"),
    ),
    "hela3": (Place("hela3", (50.0, 10.0, 10.0), range(3), mask="hull"),),
    "platelet1": (Place("platelet1", (50.0, 21.0, 21.0), (0,), mask="file"),),
    "liver": (
        Place("liver_fig2", (SECTION_NM, 9.3, 9.3), range(2)),
        Place("liver_tile", (SECTION_NM, 12.0, 12.0), (0,)),
    ),
}

GROUPS = {
    "brain": ("cdeep3m", "epfl"),
    "fly": ("vnc", "fafb"),
    "cells": ("cemmitolab10", "hela3", "platelet1"),
    "liver": ("liver",),
}
"""What is left out together; sources as the folders' names begin."""

SIMULATED = SimulationConfig((STACK + 1, 192, 192), (30.0, 8.0, 8.0), 4001)


def cut_pieces(place: Place, data: Path) -> Iterator[Piece]:
    """The sections and stacks of a place."""
    folder = data / place.folder
    for depth, starts in ((1, place.singles), (STACK, place.stacks)):
        for z in starts:
            opened = {
                kind: open_volume(
                    folder / f"{name}.tif",
                    voxel_size_nm=place.voxel_size_nm,
                    roi=f"{z}:{z + depth},:,:",
                    kind=kind,
                )
                for name, kind in (("raw", "image"), ("labels", "labels"))
            }
            mask = None
            if place.mask == "file":
                roi = f"{z}:{z + depth},:,:"
                mask = open_volume(folder / "mask.tif", voxel_size_nm=place.voxel_size_nm, roi=roi)
            elif place.mask == "hull":
                margin = HULL_MARGIN_NM / place.voxel_size_nm[1]
                hull = hull_mask(opened["labels"].read(), margin)
                mask = array_volume(hull, name="hull", voxel_size_nm=place.voxel_size_nm)
                mask = mask.with_(origin_nm=opened["labels"].origin_nm)
            yield Piece(f"{place.folder}-{KINDS[depth > 1]}-{z}", *opened.values(), mask)


def hull_mask(labels: np.ndarray, margin: float) -> np.ndarray:
    """1 within a margin, in pixels, of the convex hull of each section's labels."""
    hulls = [convex_hull_image(section > 0) for section in labels]
    near = [ndimage.distance_transform_edt(~hull) <= margin for hull in hulls]
    return np.stack(near).astype(np.uint8)


def simulated_pieces() -> Iterator[Piece]:
    """A section and a stack of simulated EM."""
    image, labels = (open_volume(volume) for volume in simulate_volume(SIMULATED))
    for z, depth in ((0, 1), (1, STACK)):
        parts = (
            array_volume(
                volume.read()[z : z + depth],
                name=f"simulated {z}",
                voxel_size_nm=SIMULATED.voxel_size_nm,
                kind=volume.kind,
            )
            for volume in (image, labels)
        )
        yield Piece(f"simulated-{KINDS[depth > 1]}-{z}", *parts)


def count_piece(
    piece: Piece, model: Model, folder: Path, thresholds: SegmentConfig, resources: Resources
) -> dict[str, Any]:
    """True, found and matched instances of a piece, and how many voxels are right."""
    kept = folder / piece.name
    # a single section is its own neighbour at any distance: no turns are needed
    config = PredictConfig(z_stride=1 if piece.kind == "single" else None)
    prediction = predict_volume(
        piece.image, model, kept / "prediction.zarr", config=config, resources=resources
    )
    found = segment_volume(
        prediction,
        kept / "instances.zarr",
        config=thresholds,
        pyramid=False,
        resources=resources,
        overwrite=True,
    )
    mask = piece.mask
    scores = score_instances(found, piece.labels, mask=mask, config=QUIET, resources=resources)
    assert scores.tables is not None
    truth, predicted = scores.tables.truth["iou"], scores.tables.prediction["iou"]
    return {
        "kind": piece.kind,
        "true": len(truth),
        "found": len(predicted),
        "matched": int((truth > 0.5).sum()),
        "foreground_iou": scores.voxel["foreground_iou"],
    }


def pooled(counts: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Counts of several pieces together and their F1; None of none."""
    if not counts:
        return None
    true, found, matched = (sum(each[k] for each in counts) for k in ("true", "found", "matched"))
    f1 = 2 * matched / (true + found) if true + found else 0.0
    return {"true": true, "found": found, "matched": matched, "f1": f1}


def score_source(
    pieces: Iterator[Piece],
    model: Model,
    folder: Path,
    thresholds: SegmentConfig,
    resources: Resources,
) -> dict[str, Any]:
    """Each piece of a source, and all of a kind together."""
    counts = {p.name: count_piece(p, model, folder, thresholds, resources) for p in pieces}
    kinds = {kind: pooled([c for c in counts.values() if c["kind"] == kind]) for kind in KINDS}
    return {"pieces": counts, **kinds}


def mean_of(sources: Mapping[str, Mapping[str, Any]], kind: str) -> float | None:
    """Mean F1 of the sources that have such pieces."""
    known = [source[kind]["f1"] for source in sources.values() if source[kind] is not None]
    return float(np.mean(known)) if known else None


def score_groups(
    names: Sequence[str], model: Model, out: Path, setting: tuple[Path, SegmentConfig, Resources]
) -> dict[str, Any]:
    """F1 of some groups; written as they are done.

    Args:
        names: Of `GROUPS`, or ``simulated``.
        model: One that never saw them.
        out: Where predictions are kept, by model, and ``GROUP.json`` is written.
        setting: Folder of the data, thresholds that replace the model's, workers.

    Returns:
        By group: its sources, and the mean F1 over them of each kind.
    """
    data, thresholds, resources = setting
    results = {}
    for name in names:
        sources = {}
        for source in GROUPS.get(name, (name,)):
            places = SOURCES.get(source, ())
            pieces = (piece for place in places for piece in cut_pieces(place, data))
            sources[source] = score_source(
                pieces if places else simulated_pieces(),
                model,
                out / model.fingerprint,
                thresholds,
                resources,
            )
        means = {kind: mean_of(sources, kind) for kind in KINDS}
        given = {k: v for k, v in to_plain(thresholds).items() if v is not None}
        known = {"model": to_plain(model.thresholds), "replaced": given}
        results[name] = {"sources": sources, **means, "thresholds": known}
        write_json(out / f"{name}.json", results[name])
    return results


HEAD = ("group", "source", "single: true", "found", "F1", "stacks: true", "found", "F1")


def rows_of(group: str, result: Mapping[str, Any]) -> list[str]:
    """Lines of the table: one a source, and the mean where there are several."""
    lines = []
    for source, scores in result["sources"].items():
        cells = [group, source]
        for kind in KINDS:
            each = scores[kind]
            cells += (
                ["-"] * 3
                if each is None
                else [str(each["true"]), str(each["found"]), figure(each["f1"])]
            )
        lines.append(cells)
    if len(lines) > 1:
        single, stack = (figure(result[kind]) for kind in KINDS)
        lines.append([group, "**mean**", "", "", single, "", "", stack])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def figure(value: float | None) -> str:
    """``.768``; ``-`` where it is not defined."""
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def table_of(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table of some groups."""
    head = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines = [line for group, result in results.items() for line in rows_of(group, result)]
    return "\n".join([*head, *lines]) + "\n"


def with_thresholds(model: Model, other: Model) -> Model:
    """A model that is decoded as another one is."""
    return replace(
        model,
        decoder=other.decoder,
        thresholds=other.thresholds,
        threshold_voxel_size_nm=other.threshold_voxel_size_nm,
    )


def read_thresholds(pairs: Sequence[str]) -> SegmentConfig:
    """``NAME=VALUE`` pairs as decoder settings."""
    faults = [f"--set {pair}: expected NAME=VALUE" for pair in pairs if "=" not in pair]
    raise_faults("unseen", faults, InputError)
    named = dict(pair.split("=", 1) for pair in pairs)
    return load_config(SegmentConfig, {k: yaml.safe_load(v) for k, v in named.items()})


def measure(options: argparse.Namespace, out: Path) -> None:
    """Score and print."""
    names = options.groups or list(GROUPS)
    if options.small or not options.data.is_dir():
        if not options.small:
            print(f"{options.data}: not there; simulated EM is scored, which is no unseen tissue")
        names = ["simulated"]
    setting = (options.data, read_thresholds(options.set), Resources(options.workers))
    model = load_model(options.model)
    if options.thresholds:
        model = with_thresholds(model, load_model(options.thresholds))
    text = table_of(score_groups(names, model, out, setting))
    print(text, end="")
    write_atomic(out / "table.md", lambda file: file.write(text.encode()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a simulated section and stack")
    parser.add_argument("--model", default="general")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS))
    parser.add_argument("--thresholds", metavar="MODEL", help="decode as this one is decoded")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, help=f"{OUT}; --small: a temporary folder")
    parser.add_argument("--workers", type=int, default=available_cores())
    options = parser.parse_args(arguments)
    if options.out or not options.small:
        measure(options, options.out or OUT)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    log_to_stderr(logging.INFO)
    main()
