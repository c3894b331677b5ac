"""What joins volumes: a submission to the challenge, and runs side by side."""

import zipfile
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
from tests.bytes.hashes import (
    Found,
    array_digest,
    record_digest,
    table_digest,
    text_digest,
    tree_digest,
    zarr_digests,
)
from tests.bytes.networks import unet
from tests.bytes.stages import SERIAL, TWO, in_pieces
from tests.bytes.volumes import CASES, tiff

from cristae import challenge
from cristae.engine.files import read_json
from cristae.evaluation.compare import compare_runs, write_comparisons
from cristae.networks.model import save_model
from cristae.pipeline import RunConfig, Running, run
from cristae.pipeline import stages as pipeline
from cristae.prediction.predict import PredictConfig
from cristae.runfolder import RunFolder
from cristae.samples.dataset import Sample
from cristae.segmentation.config import SegmentConfig
from cristae.volumes.volume import array_volume

SIZE = (30.0, 16.0, 16.0)
SHARED = ("array", "tiff")
"""The volumes that are run together."""


def submissions(folder: Path) -> dict[str, str]:
    """Two label volumes as the challenge takes them; `challenge.SHAPE` and its like are small."""
    found = Found("submission")
    pair = [
        array_volume(case.labels()[: challenge.SHAPE[0], :40, :44].astype(dtype), name=case.name)
        for case, dtype in zip(CASES[:2], (np.int64, np.uint16), strict=True)
    ]
    ways = {name: folder / f"{name}.zip" for name in ("whole", "cut", "threads")}

    def call(out, resources):
        challenge.submit_instances(*pair, out, resources=resources)

    in_pieces(call, ways["whole"], ways["cut"])
    call(ways["threads"], TWO)
    for (_, out), how in zip(ways.items(), ("", "interrupted", "two threads"), strict=True):
        found.add("submit", how, zip_digests(out, folder) | {"record": record_digest(out)})
        handed = challenge.submission_text(challenge.check_submission(out, SERIAL))
        found.add("submit", how, {"check": text_digest(handed)})
    return found.digests


def zip_digests(path: Path, folder: Path) -> dict[str, str]:
    """Every dataset of every file in a zip, with what it is stored as."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with h5py.File(archive.extract(name, folder / path.stem)) as file:
                for key, dataset in file.items():
                    stored = f"{dataset.chunks} {dataset.compression} {dataset.shuffle}"
                    found[f"{name}:{key}"] = array_digest(dataset[...])
                    found[f"{name}:{key} storage"] = text_digest(stored)
    return found


def runs(folder: Path) -> dict[str, str]:
    """Two runs of two volumes: every output, the story, pooled scores, and both side by side."""
    found = Found("run")
    samples = []
    for case in CASES:
        if case.name in SHARED:
            image = tiff()(folder / f"{case.name} image", case.grey()).name
            truth = tiff()(folder / f"{case.name} truth", case.labels().astype(np.uint16)).name
            samples.append(Sample(case.name, image, truth, voxel_size_nm=SIZE, group="test"))
    save_model(unet(12, most=3), folder / "whole.pt")
    predict = PredictConfig(device="cpu", precision="float32")
    for name, decoder in (("one", None), ("other", "binary_connected")):
        segment = SegmentConfig(decoder=decoder, min_size=6, foreground_threshold=0.5)
        out, model = str(folder / name), str(folder / "whole.pt")
        config = RunConfig(tuple(samples), out, model, predict=predict, segment=segment)
        with patch.object(pipeline, "report_run"):  # of pictures, which take long
            run(config, Running(SERIAL if decoder else TWO))
        add_run(found, name, RunFolder(folder / name))
    tables = [folder / f"table{suffix}" for suffix in (".md", ".tex", ".html")]
    for by in ("pool", "sample"):
        scores = ["ap_50", "ap_75", "accuracy_75", "f1_50", "voxel/adapted_rand_error"]
        compared = compare_runs([folder / "one", folder / "other"], scores, by=by)
        write_comparisons(compared, tables, overwrite=True)
        texts = {table.name: table_digest(table.read_text()) for table in tables}
        records = {f"record of {table.name}": record_digest(table) for table in tables}
        found.add(f"compare by {by}", "", texts | records)
    return found.digests


def add_run(found: Found, name: str, folder: RunFolder) -> None:
    for sample in folder.samples():
        of = folder.sample(sample)
        for path in (of.volume, of.truth, of.prediction, of.instances):
            found.add(f"{name}/{sample}/{path.stem}", "", zarr_digests(path))
        texts = [of.scores, of.table, *sorted(of.matches.glob("*.csv"))]
        files = {path.name: text_digest(path.read_text()) for path in texts}
        files |= {f"record of {path.name}": record_digest(path) for path in (of.scores, of.table)}
        found.add(f"{name}/{sample}", "", files)
    story = read_json(folder.provenance)
    pooled = text_digest(folder.scores.read_text())
    found.add(
        name,
        "",
        {
            "provenance.json": tree_digest(story),
            "keys of provenance.json": text_digest(" ".join(sorted(story))),
            "scores.json": pooled,
            "record of scores.json": record_digest(folder.scores),
        },
    )
