"""Every stage in 30 blocks or more by every executor: the same outputs, to the last digit."""

from functools import partial

import numpy as np
import pytest
from tests.bytes.hashes import record_digest, text_digest, tree_digest, zarr_digests
from tests.bytes.networks import numbers, unet, windowed
from tests.segmentation.conftest import tmp_path  # noqa: F401 - in memory
from typer.testing import CliRunner

from cristae import challenge
from cristae.cli import app
from cristae.engine import tasks
from cristae.engine.executors import EXECUTORS, Resources
from cristae.evaluation.evaluate import EvaluateConfig, ScoreFiles, evaluate_volume
from cristae.labels import blocks
from cristae.measurement.measure import measure_instances
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.segmentation.segment import SegmentConfig, segment_volume
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import ZarrReader, create_ome_zarr
from cristae.volumes.volume import Volume

pytestmark = pytest.mark.usefixtures("processes")

WAYS = {
    "serial": Resources(1, "serial"),
    "threads": Resources(3),
    "processes": Resources(2, "processes"),
}
SHAPE = (30 * 64, 8, 16)
"""Thirty shards."""

BLOCK = (64, 8, 16)
SIZE = (30.0, 16.0, 16.0)
PLAIN = PredictConfig(precision="float32")


def stored(path, array, kind):
    lead = array.shape[:-3]
    channels = ("mask", "contour")[: lead[0]] if lead else None
    made = create_ome_zarr(
        path,
        shape=array.shape[-3:],
        dtype=array.dtype,
        kind=kind,
        voxel_size_nm=SIZE,
        channels=channels,
    )
    made.write(made.box, array)
    return open_volume(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An image, a prediction, and labels: tubes that run through many blocks."""
    place = tmp_path_factory.mktemp("inputs")
    grey = numbers(int(np.prod(SHAPE)), 1).reshape(SHAPE).astype(np.uint8)
    levels = np.full((2, *SHAPE), 20, np.uint8)
    levels[0, :, 1:4, 1:7] = levels[0, :, 5:7, 2:15] = 220
    levels[:, 50::50] = 10
    levels[1, ::50, :, :] = 200
    labels = np.zeros(SHAPE, np.uint16)
    for number, z in enumerate(range(0, SHAPE[0], 48)):
        labels[z : z + 40, 1:7, 2:14] = number + 1
    return {
        "image": stored(place / "image.zarr", grey, "image"),
        "prediction": stored(place / "prediction.zarr", levels, "prediction"),
        "labels": stored(place / "labels.zarr", labels, "labels"),
    }


def convert(inputs, out, how):
    convert_volume(inputs["image"], out / "v.zarr", resources=how)
    return zarr_digests(out / "v.zarr")


def predict(inputs, out, how):
    predict_volume(
        inputs["image"], unet(3), out / "p.zarr", config=PLAIN, block_shape=BLOCK, resources=how
    )
    return zarr_digests(out / "p.zarr", record=False)


def predict_windows(inputs, out, how):
    image = inputs["image"].crop(inputs["image"].box.clip(blocks.Box.of((80, 8, 16))))
    predict_volume(image, windowed(4), out / "w.zarr", config=PLAIN, resources=how)
    return zarr_digests(out / "w.zarr", record=False)


def segment(inputs, out, how):
    config = SegmentConfig(decoder="bc_watershed")
    prediction = inputs["prediction"]
    segment_volume(prediction, out / "i.zarr", config=config, block_shape=BLOCK, resources=how)
    return zarr_digests(out / "i.zarr", record=False)


def evaluate(inputs, out, how):
    moved = inputs["labels"].read()
    moved[20:900] = np.roll(moved[20:900], 2, 1)
    shifted = stored(out / "found.zarr", moved, "labels")
    evaluate_volume(
        shifted,
        inputs["labels"],
        ScoreFiles(out / "s.json", out / "tables"),
        config=EvaluateConfig(categories="volume", bootstrap_samples=5),
        block_shape=BLOCK,
        resources=how,
    )
    files = sorted((out / "tables").iterdir())
    return {file.name: text_digest(file.read_text()) for file in [out / "s.json", *files]}


def measure(inputs, out, how):
    measure_instances(inputs["labels"], out / "m.csv", resources=how)
    record = record_digest(out / "m.csv")
    return {"table": text_digest((out / "m.csv").read_text()), "record": record}


def submit(inputs, out, how):
    both = inputs["labels"], inputs["labels"]
    made = challenge.submit_instances(*both, out / "s.zip", resources=how)
    return {"zip": tree_digest(list(made.read_bytes()))}


STAGES = (convert, predict, predict_windows, segment, evaluate, measure, submit)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_executor_gives_the_same(stage, inputs, tmp_path, monkeypatch):  # noqa: F811
    for name, value in (("SHAPE", SHAPE), ("BLOCK", BLOCK), ("CHUNK", (32, 8, 8))):
        monkeypatch.setattr(challenge, name, value)
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", int(np.prod(BLOCK)))
    steps, read, way, call_each, real = [], [], [], tasks.call_each, Volume.read

    def watched(function, named, resources, ordered=False):
        steps.append(0)
        read.clear()
        for task, result in call_each(function, named, resources, ordered):
            steps[-1] += 1
            if way[-1] == "serial":  # what was read since was for this task
                assert all(task.reads.contains(box) for box in read), task
                read.clear()
            yield task, result

    def noted(volume, box=None, *more):
        if volume.shape == SHAPE and isinstance(volume.reader, ZarrReader) and box is not None:
            read.append(box.clip(volume.box))
        return real(volume, box, *more)

    monkeypatch.setattr(Volume, "read", noted)
    monkeypatch.setattr(tasks, "call_each", watched)
    found = {}
    for name, how in WAYS.items():
        (tmp_path / name).mkdir()
        way.append(name)
        found[name] = stage(inputs, tmp_path / name, how)
        assert max(steps) >= 30, name
        steps.clear()
    assert found["serial"] == found["threads"] == found["processes"]


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_the_option_is_what_does_the_work(kind, inputs, tmp_path, monkeypatch):  # noqa: F811
    opened = []

    def watched(name, real, *arguments):
        opened.append(name)
        return real(*arguments)

    for name, real in list(EXECUTORS.items()):
        monkeypatch.setitem(EXECUTORS, name, partial(watched, name, real))
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", int(np.prod(BLOCK)))
    words = ["measure", str(inputs["labels"].name), str(tmp_path / "m.csv"), "--executor", kind]
    done = CliRunner().invoke(app, [*words, "--workers", "2"])
    assert done.exit_code == 0, done.output
    assert opened == [kind]
