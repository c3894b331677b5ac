"""Decoders as the command line, a configuration and a prediction's metadata reach them."""

import numpy as np
import pytest
from tests.segmentation.helpers import noise
from tests.segmentation.oracle import (
    canonical,
    components_of_edges,
    drop_small,
    edge_list,
    to_neighbors,
)
from typer.testing import CliRunner

from cristae.cli import app
from cristae.configuration import load_config
from cristae.pipeline import RunConfig
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr

VOLUMES = [{"name": "a", "image": "a.tif"}]
STEPS = ((0, 0, 1), (-1, 0, 0), (0, 1, 0))


@pytest.fixture
def prediction(tmp_path):
    """Affinities in another order and direction than the default, as their metadata says."""
    array = noise((5, 12, 11), 7)
    volume = create_ome_zarr(
        tmp_path / "prediction.zarr",
        shape=array.shape[1:],
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=(30.0, 8.0, 8.0),
        channels=("affinity_x", "affinity_z", "affinity_y"),
        attributes={
            "decoder": "affinity_connected",
            "thresholds": {"affinity_threshold": 0.62, "min_size": 12},
            "offsets": [list(step) for step in STEPS],
        },
    )
    volume.write(volume.box, array)
    return array


def command(tmp_path, *words):
    arguments = ["segment", str(tmp_path / "prediction.zarr"), str(tmp_path / "out.zarr"), *words]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return open_ome_zarr(tmp_path / "out.zarr")


@pytest.mark.parametrize("small", ["background", "neighbor"])
def test_metadata_and_options_reach_the_decoder(tmp_path, prediction, small):
    found = command(tmp_path, "--set", f"small={small}", "--block-shape", "3,5,4", "-q")
    i, j, value = edge_list(prediction, STEPS)
    holds = value > int(255 * 0.62)
    expected = components_of_edges(i[holds], j[holds], prediction.shape[1:])
    if small == "neighbor":
        expected = to_neighbors(expected, 12)
    expected = canonical(drop_small(expected, 12))
    assert expected.max() > 1
    np.testing.assert_array_equal(found.read(), expected)
    assert found.attributes["decoder"] == "affinity_connected"
    assert found.attributes["parameters"]["affinity_threshold"] == 0.62
    assert found.attributes["parameters"]["small"] == small


def test_agglomeration_and_approximation_by_command(tmp_path, prediction):
    words = ("--decoder", "affinity_agglomeration", "--set", "merge_threshold=0.6")
    found = command(tmp_path, *words, "--allow-approximate", "-q")
    settings = found.attributes["record"]["settings"]
    assert settings["merge_threshold"] == 0.6
    assert settings["allow_approximate"] is True
    assert found.attributes["record"]["summary"]["approximate"] == 0


def test_a_run_configuration_holds_them_all():
    words = {"decoder": "stack_2d", "slice_overlap": 0.4, "small": "neighbor"}
    config = load_config(
        RunConfig,
        {"out": "run", "volumes": VOLUMES, "segment": {**words, "allow_approximate": True}},
        ["segment.affinity_threshold=0.3", "segment.merge_threshold=0.4"],
    )
    assert (config.segment.slice_overlap, config.segment.small) == (0.4, "neighbor")
    assert (config.segment.affinity_threshold, config.segment.merge_threshold) == (0.3, 0.4)
    assert config.segment.allow_approximate
