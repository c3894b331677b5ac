"""Commands that score, search and hand in, from the command line to the files."""

import logging

import numpy as np
import pytest
import torch
from tests.segmentation.helpers import noise
from typer.testing import CliRunner

from cristae import cli
from cristae.errors import CristaeError
from cristae.networks.model import Model, load_model, save_model
from cristae.networks.unet import UNetConfig, build_network
from cristae.volumes.convert import convert_volume
from cristae.volumes.volume import array_volume

NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))


@pytest.fixture(autouse=True)
def quiet_after():
    """The commands start logging; tests after these shall not hear of it."""
    logger = logging.getLogger("cristae")
    before = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = before


def cristae(*arguments):
    result = CliRunner().invoke(cli.app, ["-q" if a is None else str(a) for a in arguments])
    if isinstance(result.exception, CristaeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def pair(tmp_path):
    """A prediction of two channels and a truth, as files."""
    prediction = noise((6, 24, 32), 3)[:2]
    truth = (np.indices(prediction.shape[1:])[2] // 8 + 1) * (prediction[0] > 90)
    volumes = {"prediction": prediction, "truth": truth.astype(np.uint16)}
    for name, array in volumes.items():
        kind = "labels" if name == "truth" else "prediction"
        convert_volume(
            array_volume(array, voxel_size_nm=(30.0, 8.0, 8.0), kind=kind),
            tmp_path / f"{name}.zarr",
            pyramid=False,
        )
    return tmp_path / "prediction.zarr", tmp_path / "truth.zarr"


def test_tune_writes_the_best_thresholds_into_a_model(pair, tmp_path):
    torch.manual_seed(0)
    network = build_network(NETWORK)
    model = Model(NETWORK, network.state_dict(), NETWORK.channels, decoder="bc_watershed")
    save_model(model, tmp_path / "model.pt")
    text = cristae(
        *("tune", *pair, "--out", tmp_path / "tuned", "--write", tmp_path / "model.pt", "-q"),
        *("--score", "foreground_iou", "--set", "segment.min_size=4"),
        *("--set", "grid.foreground_threshold=[0.3,0.35,0.5]", "--set", "segment.min_seed_size=1"),
    )
    assert "decoder: bc_watershed" in text
    assert "foreground_threshold: 0.35" in text
    tuned = load_model(tmp_path / "model.pt")
    assert tuned.thresholds["foreground_threshold"] == 0.35
    assert tuned.card["earlier_thresholds"] == [{"decoder": "bc_watershed", "thresholds": {}}]


def test_tune_without_truth_cannot_write(pair, tmp_path):
    with pytest.raises(CristaeError, match="needs a TRUTH"):
        cristae("tune", pair[0], "--write", tmp_path / "model.pt", "-q")
