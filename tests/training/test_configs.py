"""The shipped configurations: each is read strictly, and trains when shrunk."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cristae.configuration import from_plain
from cristae.networks.unet import total_stride
from cristae.training.config import TrainConfig, check_train_config
from cristae.training.train import train_model
from cristae.volumes.dataset import Sample, sample_faults

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def read(path):
    tree = yaml.safe_load(path.read_text())
    samples = [from_plain(Sample, sample, path.name) for sample in tree["volumes"]]
    return from_plain(TrainConfig, tree["train"], path.name), samples


def test_all_are_there():
    assert {"general", "cdeep3m", "simulated", "epfl"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_fits_together(path):
    config, samples = read(path)
    check_train_config(config)
    assert [fault for sample in samples for fault in sample_faults(sample)] == []
    assert len({sample.name for sample in samples}) == len(samples)
    assert {sample.group for sample in samples} == {"train", "validation"}
    seeds = [sample.simulate.seed for sample in samples if sample.simulate is not None]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path.stem != "own"],  # that one runs in tests/test_docs.py
    ids=lambda path: path.stem,
)
def test_trains_when_shrunk(path, shared, tmp_path, monkeypatch):
    """One step of the config's own structure: narrow network, small boxes of its own samples."""
    monkeypatch.chdir(Path(__file__).parents[2])
    config, samples = read(path)
    network = replace(config.network, widths=tuple(4 for _ in config.network.widths))
    _, y, x = total_stride(network)
    small = replace(
        config,
        steps=1,
        batch=1,
        patch=(4, 2 * y, 2 * x),
        network=network,
        validation_patches=1,
        calibration_batches=1,
    )
    kept = {(s.group, s.simulate is None): s for s in samples}.values()
    model = train_model(small, [shrunk(s) for s in kept], tmp_path / "model.pt", threads=1)
    assert model.card["steps"] == "1"
    assert 0 <= float(model.card["validation_iou"]) <= 1
    assert model.card["data"]


def shrunk(sample):
    if sample.simulate is not None:
        return replace(sample, simulate=replace(sample.simulate, shape=(8, 160, 160)), z_steps=(1,))
    first = int(sample.roi.split(":")[0]) if sample.roi else 0
    return replace(sample, roi=f"{first}:{first + 8},200:500,200:500", z_steps=(1,))
