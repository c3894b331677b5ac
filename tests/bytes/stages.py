"""Every stage on a volume, in several ways that must come to the same: digests of what it leaves.

Ways are other blocks, other workers, arrays in memory, and an interruption in the middle, after
which the same call goes on.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tests.bytes.hashes import (
    Found,
    array_digest,
    record_digest,
    text_digest,
    tree_digest,
    zarr_digests,
)
from tests.bytes.volumes import FROM_LEVEL, Case

from cristae import pytc
from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    ScoreFiles,
    evaluate_volume,
    score_instances,
    write_scores,
)
from cristae.measurement.measure import measure_instances
from cristae.measurement.table import write_table
from cristae.prediction.predict import predict_volume
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.tuning.tune import TuneConfig, tune_decoder
from cristae.volumes.convert import convert_volume
from cristae.volumes.volume import Volume, array_volume

SERIAL, TWO = Resources(1, "serial"), Resources(2, "threads")
BLOCKS = ((5, 18, 26), (8, 20, 60))
PYTC = {
    "bc_watershed": ("seed_threshold", "contour_threshold", "foreground_threshold"),
    "binary_connected": ("foreground_threshold",),
    "binary_watershed": ("seed_threshold", "foreground_threshold"),
    "bc_connected": ("foreground_threshold", "contour_threshold"),
    "bcd_watershed": (
        *("seed_threshold", "contour_threshold", "foreground_threshold"),
        *("distance_seed_threshold", "distance_foreground_threshold"),
    ),
}
"""Decoders that have a function with PyTorch Connectomics' name, and its first arguments."""


class Cut(BaseException):
    """What ends a stage in the middle."""


@contextmanager
def ticking(stop: int | None = None) -> Iterator[list[int]]:
    """Count what a stage reads, makes durable and puts in place; end it at one of these."""
    ticks = [0]
    real = {(Volume, "read"): Volume.read, (os, "fsync"): os.fsync, (os, "replace"): os.replace}

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if str(args[-1]).endswith((".nbi", ".nbc")):  # a kernel's cache, written once
                return function(*args, **named)
            ticks[0] += 1
            if ticks[0] == stop:
                raise Cut
            return function(*args, **named)

        return call

    for (owner, name), function in real.items():
        setattr(owner, name, counted(function))
    try:
        yield ticks
    finally:
        for (owner, name), function in real.items():
            setattr(owner, name, function)


def in_pieces(call: Callable[[Path, Resources], Any], whole: Path, cut: Path) -> None:
    """Do a stage at once, and again with two interruptions in the middle."""
    with ticking() as ticks:
        call(whole, SERIAL)
    for share in (0.4, 0.15):
        stop = max(1, int(share * ticks[0]))  # of what is left, too
        try:
            with ticking(stop):
                call(cut, SERIAL)
        except Cut:
            continue
        raise AssertionError(f"{cut.name}: was not interrupted at {stop} of {ticks[0]}")
    call(cut, SERIAL)


def collect(case: Case, folder: Path) -> dict[str, str]:
    """Digests of all that a volume's stages leave, by ``volume/stage/output``."""
    found = Found(case.name)
    grey, levels, labels = case.grey(), case.levels(), case.labels()
    image = convert(found, "convert", case.image(folder / "image", grey), folder)
    truth = convert(
        found, "convert truth", case.truth(folder / "truth", labels.astype(np.uint16)), folder
    )
    predict(found, case, image, folder)
    prediction = case.predicted(folder / "predicted", levels)
    instances = [
        segment(found, prediction, decoder, parameters, folder)
        for decoder, parameters in case.decoders.items()
    ]
    for function in PYTC.keys() & case.decoders.keys():
        add_pytc(found, function, case.decoders[function], prediction, levels)
    evaluate(found, case, (instances[0], truth, prediction), folder)
    measure(found, "measure", instances[0], folder)
    if case.tune is not None:
        tune(found, case, prediction, truth)
    return found.digests


def convert(found: Found, stage: str, source: Volume, folder: Path) -> Volume:
    kind = "labels" if stage.endswith("truth") else "image"

    def call(out: Path, resources: Resources) -> Volume:
        return convert_volume(source, out, kind=kind, resources=resources)

    whole, cut, threads = (folder / f"{stage} {way}.zarr" for way in ("whole", "cut", "threads"))
    in_pieces(call, whole, cut)
    call(threads, TWO)
    found.add(stage, "", zarr_digests(whole))
    found.add(stage, "interrupted", zarr_digests(cut))
    found.add(stage, "two threads", zarr_digests(threads))
    return call(whole, SERIAL)


def predict(found: Found, case: Case, image: Volume, folder: Path) -> None:
    mask = None
    if case.masked:
        z, y, x = np.indices([-(-n // 2) for n in case.shape])
        size = tuple(2 * n for n in image.voxel_size_nm or ())
        mask = array_volume(((z + y // 4 + x // 5) % 3 > 0).astype(np.uint8), voxel_size_nm=size)
    models = case.models
    found.add("predict", "", {"model": "+".join(model.fingerprint for model in case.models)})
    first, *others = case.predict

    def call(name: str, out: Path, resources: Resources, source: Volume, **how: Any) -> Volume:
        config = case.config(name)
        return predict_volume(
            source, models, out, config=config, mask=mask, resources=resources, **how
        )

    def out_of(name: str, how: str = "") -> Path:
        return folder / f"predict {name} {how}.zarr"

    stage = f"predict {first}".strip()
    whole, cut = out_of(first), out_of(first, "cut")
    in_pieces(lambda out, resources: call(first, out, resources, image), whole, cut)
    found.add(stage, "", zarr_digests(whole))
    found.add(stage, "interrupted", zarr_digests(cut))
    out = out_of(first, "blocks")
    how: dict[str, Any] = {"block_shape": case.blocks}
    if models[0].recipe.windows:
        how = {"chunks": folder / "chunks"}
    call(first, out, TWO, image, **how)
    found.add(stage, "blocks, two threads", zarr_digests(out))
    if "chunks" in how:
        found.add(stage, "", {"chunk files": chunk_digest(how["chunks"])})
    if first != FROM_LEVEL:  # an array has no smaller levels
        call(first, out_of(first, "array"), SERIAL, twin_of(image))
        arrays = zarr_digests(out_of(first, "array"), record=False)
        found.add(stage, "array in memory", arrays)
    for name in others:
        call(name, out_of(name), TWO, image)
        found.add(f"predict {name}", "", zarr_digests(out_of(name)))
    prediction = call(first, whole, SERIAL, image)
    instances = segment_volume(prediction, folder / "network.zarr", resources=SERIAL)
    found.add("segment the network's", "", zarr_digests(folder / "network.zarr"))
    measure(found, "measure the network's", instances, folder)


def twin_of(volume: Volume) -> Volume:
    """The same as an array in memory, with all that is known of it."""
    twin = array_volume(volume.read(), voxel_size_nm=volume.voxel_size_nm)
    return twin.with_(origin_nm=volume.origin_nm, attributes=volume.attributes, kind=volume.kind)


def chunk_digest(folder: Path) -> str:
    """Names of chunk files, and the volume that they are."""
    names = sorted(path.name for path in folder.glob("*.h5"))
    return text_digest("\n".join([*names, array_digest(pytc.readvol(folder))]))


def segment(
    found: Found, prediction: Volume, decoder: str, parameters: dict[str, Any], folder: Path
) -> Volume:
    stage = f"segment {decoder}"
    config = SegmentConfig(decoder=decoder, **parameters)

    def call(source: Volume, out: Path, resources: Resources, block_shape: Any = None) -> Volume:
        return segment_volume(
            source, out, config=config, resources=resources, block_shape=block_shape
        )

    whole, cut = folder / f"{stage}.zarr", folder / f"{stage} cut.zarr"
    in_pieces(lambda out, resources: call(prediction, out, resources), whole, cut)
    found.add(stage, "", zarr_digests(whole))
    found.add(stage, "interrupted", zarr_digests(cut))
    exact = not parameters.get("allow_approximate")  # else blocks are a setting
    one, other = BLOCKS if exact else (None, None)
    ways = [(f"blocks {one}", prediction, SERIAL, one)]
    ways.append((f"array in memory, two threads, blocks {other}", twin_of(prediction), TWO, other))
    for how, source, resources, shape in ways:
        out = folder / f"{stage} {how}.zarr"
        call(source, out, resources, shape)
        found.add(stage, how, zarr_digests(out, record=shape is None))
    return call(prediction, whole, SERIAL)


def add_pytc(
    found: Found, name: str, parameters: dict[str, Any], prediction: Volume, levels: np.ndarray
) -> None:
    """What the function of PyTorch Connectomics' name gives, in the type of the labels on disk."""
    more = {"thres_small": parameters["min_size"]}
    more["remove_small_mode"] = parameters.get("small", "background")
    if "min_seed_size" in parameters:
        more["seed_thres"] = parameters["min_seed_size"]
    if "dilation" in parameters:
        more["dilation_struct"] = parameters["dilation"]
    thresholds = [parameters[threshold] for threshold in PYTC[name]]
    labels = getattr(pytc, name)(prediction.read(), *thresholds, **more)
    again = {"array 0": array_digest(labels.astype(np.uint32))}
    found.add(f"segment {name}", f"pytc.{name}", again)


def evaluate(found: Found, case: Case, volumes: tuple[Volume, ...], folder: Path) -> None:
    instances, truth, prediction = volumes
    scores = prediction if case.ranked else None
    config = EvaluateConfig(**{"bootstrap_samples": 50, **case.evaluate})

    def call(out: Path, resources: Resources, block_shape: Any = None) -> None:
        evaluate_volume(
            instances,
            truth,
            ScoreFiles(out / "scores.json", out / "errors"),
            scores=scores,
            config=config,
            resources=resources,
            block_shape=block_shape,
        )

    whole, cut, blocks = (folder / f"evaluate {way}" for way in ("whole", "cut", "blocks"))
    for out in (whole, cut, blocks):
        out.mkdir()
    in_pieces(call, whole, cut)
    call(blocks, TWO, (5, 18, 26))
    for out, how in ((whole, ""), (cut, "interrupted"), (blocks, "blocks, two threads")):
        record = {"record": record_digest(out / "scores.json")}
        found.add("evaluate", how, score_digests(out) | record)
    of_arrays = folder / "evaluate arrays"
    of_arrays.mkdir()
    twins = twin_of(instances), twin_of(truth)
    result = score_instances(*twins, scores=scores, config=config, resources=SERIAL)
    write_scores(result, of_arrays / "scores.json", of_arrays / "errors")
    found.add("evaluate", "arrays in memory", score_digests(of_arrays))


def score_digests(folder: Path) -> dict[str, str]:
    files = [folder / "scores.json", *sorted((folder / "errors").glob("*.csv"))]
    return {file.name: text_digest(file.read_text()) for file in files}


def measure(found: Found, stage: str, instances: Volume, folder: Path) -> None:
    def call(out: Path, resources: Resources) -> pd.DataFrame:
        return measure_instances(instances, out, resources=resources)

    whole, cut, memory = (folder / f"{stage} {way}.csv" for way in ("whole", "cut", "memory"))
    in_pieces(call, whole, cut)
    write_table(memory, measure_instances(twin_of(instances), resources=TWO))
    for out, how in ((whole, ""), (cut, "interrupted"), (memory, "array in memory")):
        found.add(stage, how, {"instances.csv": text_digest(out.read_text())})
    found.add(stage, "", {"record": record_digest(whole)})
    found.add(stage, "interrupted", {"record": record_digest(cut)})


def tune(found: Found, case: Case, prediction: Volume, truth: Volume) -> None:
    """Every setting with its scores; without a truth, what each changes."""
    decoder, parameters = next(iter(case.decoders.items()))
    fixed = {name: value for name, value in parameters.items() if name not in (case.tune or {})}
    config = TuneConfig(SegmentConfig(decoder=decoder, **fixed), case.tune)
    ways = (("tune", truth, "", SERIAL), ("tune", truth, "two threads", TWO))
    for stage, pair, how, resources in (*ways, ("tune without truth", None, "", TWO)):
        result = tune_decoder(prediction, pair, config=config, resources=resources)
        table = pd.DataFrame(dict(result.table())).to_csv(index=False)
        chosen = {"best": result.best, "base": result.base, "kept": sorted(result.kept)}
        found.add(stage, how, {"table": text_digest(table), "choice": tree_digest(chosen)})
