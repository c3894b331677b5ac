"""The shipped configurations: each is read strictly, and trains when shrunk."""

from dataclasses import replace
from pathlib import Path

import imagecodecs
import pytest
import tifffile
import yaml

from cristae.configuration import from_plain
from cristae.networks.families.unet.context import network_context
from cristae.networks.families.unet.network import total_stride
from cristae.samples.dataset import Sample, sample_faults
from cristae.training.config import TrainConfig
from cristae.training.config_checks import check_train_config
from cristae.training.train import train_model
from cristae.training.validation import check_decoder, check_tuning

from .conftest import toy_arrays

MITOEM = tuple(f"mitoem_{v}_{k}" for v in "rh" for k in ("a", "ac", "bc", "bcd", "u2d_b", "u2d_bc"))
MITOEM_ALL = {"mitoem_rh_bc", *MITOEM}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def read(path):
    tree = yaml.safe_load(path.read_text())
    samples = [from_plain(Sample, sample, path.name) for sample in tree["volumes"]]
    return from_plain(TrainConfig, tree["train"], path.name), samples


def test_all_are_there():
    there = {path.stem for path in CONFIGS}
    assert {"general", "cdeep3m", "simulated", "epfl", "mitoem_rh_bc", *MITOEM} <= there


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_fits_together(path):
    config, samples = read(path)
    check_train_config(config)
    check_decoder(config)
    check_tuning(config)
    assert config.tune
    assert [fault for sample in samples for fault in sample_faults(sample)] == []
    assert len({sample.name for sample in samples}) == len(samples)
    assert {sample.group for sample in samples} == {"train", "validation"}
    seeds = [sample.simulate.seed for sample in samples if sample.simulate is not None]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path.stem not in {*MITOEM_ALL, "own"}],
    ids=lambda path: path.stem,
)
def test_trains_when_shrunk(path, shared, tmp_path, monkeypatch):
    """Steps of the config's own structure: narrow network, small boxes of its own samples."""
    monkeypatch.chdir(Path(__file__).parents[2])
    config, samples = read(path)
    kept = {(s.group, s.simulate is None): s for s in samples}.values()
    model = train_model(small(config), [shrunk(s) for s in kept], tmp_path / "model.pt", threads=1)
    assert model.card["steps"] == "3"
    assert 0 <= float(model.card["validation_iou"]) <= 1
    assert model.card["data"]
    assert_tuned(model, config)


@pytest.mark.parametrize("name", sorted(MITOEM_ALL))
def test_mitoem_trains_when_shrunk(name, mitoem_folders, tmp_path, monkeypatch):
    """As above, from folders of a few small slices in the official layout."""
    monkeypatch.chdir(mitoem_folders)
    config, samples = read(CONFIGS[0].with_name(f"{name}.yaml"))
    # thresholds of the twins would be searched in the same way once more
    made = replace(small(config), tune="mitoem_h" not in name)
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    trained = [s.name for s in samples if s.group == "train"]
    assert model.card["trained_on"] == ", ".join(trained)
    assert 0 <= float(model.card["validation_iou"]) <= 1
    assert 0 <= float(model.card["validation_ap75"]) <= 1
    if made.tune:
        assert_tuned(model, config)
    halo = network_context(model.network_config).halo_vx
    assert (halo[0] == 0) == ("u2d" in name)


def assert_tuned(model, config):
    """The model's thresholds are those that a search ended with."""
    assert model.card["earlier_thresholds"][0]["decoder"] == config.decoder
    assert set(model.thresholds) > set(config.thresholds)


@pytest.fixture(scope="module")
def mitoem_folders(tmp_path_factory):
    """Sections 396 to 403 of both volumes, their labels in the folders of their parts."""
    root = tmp_path_factory.mktemp("mitoem")
    for seed, volume in enumerate(("MitoEM-R", "MitoEM-H")):
        image, labels = toy_arrays((8, 96, 96), seed)
        for part, first in (("mito-train-v2", 396), ("mito-val-v2", 400)):
            for folder in ("im", part):
                (root / volume / folder).mkdir(parents=True, exist_ok=True)
            for z in range(first, first + 4):
                png = imagecodecs.png_encode(image[z - 396])
                (root / volume / "im" / f"im{z:04d}.png").write_bytes(png)
                tifffile.imwrite(root / volume / part / f"seg{z:04d}.tif", labels[z - 396])
    return root


def small(config):
    """The configuration with a narrow network, for three steps of one small patch."""
    network = replace(config.network, widths=tuple(4 for _ in config.network.widths))
    _, y, x = total_stride(network)
    patch = (min(4, config.patch[0]), 2 * y, 2 * x)
    return replace(
        config,
        steps=3,
        batch=1,
        patch=patch,
        network=network,
        validation_patches=1,
        calibration_batches=1,
        validate_ap_box=(4, 2 * y, 2 * x),
        validate_ap_boxes=1,
    )


def shrunk(sample):
    if sample.simulate is not None:
        return replace(sample, simulate=replace(sample.simulate, shape=(8, 160, 160)), z_steps=(1,))
    first = int(sample.roi.split(":")[0]) if sample.roi else 0
    return replace(sample, roi=f"{first}:{first + 8},200:500,200:500", z_steps=(1,))
