"""Commands that score, search and hand in, from the command line to the files."""

import re

import numpy as np
import pytest
import torch
from tests.segmentation.helpers import noise
from typer.testing import CliRunner

from cristae import challenge, cli
from cristae.errors import CristaeError, InputError
from cristae.evaluation.scores import Scores, load_scores, write_scores
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, load_model, save_model
from cristae.volumes.convert import convert_volume
from cristae.volumes.volume import array_volume

NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))


def cristae(*arguments):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
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


def test_a_decoder_given_to_tune_leaves_the_rest_of_its_file(pair, tmp_path):
    file = tmp_path / "tune.yaml"
    file.write_text(
        "score: foreground_iou\ngrid: {foreground_threshold: [0.35, 0.5]}\n"
        "segment: {decoder: bc_watershed, min_size: 3}\n"
    )
    out = ("--out", tmp_path / "tuned", "-q")
    text = cristae("tune", *pair, "--config", file, "--decoder", "binary_connected", *out)
    assert "decoder: binary_connected" in text
    assert "min_size: 3" in text


def test_tune_without_truth_cannot_write(pair, tmp_path):
    with pytest.raises(CristaeError, match="needs a TRUTH"):
        cristae("tune", pair[0], "--write", tmp_path / "model.pt", "-q")


def test_submit_needs_both_volumes_or_a_file_to_check(tmp_path):
    with pytest.raises(CristaeError, match="expected --human, --rat and OUT"):
        cristae("submit", "--human", "a.zarr", tmp_path / "out.zip")
    with pytest.raises(CristaeError, match="expected alone"):
        cristae("submit", "--check", "out.zip", "--rat", "a.zarr")


def test_submit_and_check(tmp_path, monkeypatch):
    monkeypatch.setattr(challenge, "SHAPE", (2, 8, 8))
    monkeypatch.setattr(challenge, "CHUNK", (1, 4, 8))
    labels = np.zeros((4, 8, 8), np.int32)
    labels[1:, 2:5, 3:6] = 7
    convert_volume(array_volume(labels, kind="labels"), tmp_path / "a.zarr", pyramid=False)
    sources = ("--human", tmp_path / "a.zarr", "--rat", tmp_path / "a.zarr")
    with pytest.raises(CristaeError, match="--roi takes a part"):
        cristae("submit", *sources, tmp_path / "out.zip", "-q")
    cristae("submit", *sources, tmp_path / "out.zip", "--roi", "2:4,:,:", "-q")
    text = cristae("submit", "--check", tmp_path / "out.zip", "-q")
    assert text.count("uint8  1 instances, 14.06 % of the voxels") == 2


def test_info_of_a_data_set_folder(tmp_path):
    (tmp_path / "EM30-R" / "im").mkdir(parents=True)
    for n in range(5):
        (tmp_path / "EM30-R" / "im" / f"im{n:04d}.png").touch()
    assert "MitoEM data set, rat" in cristae("info", tmp_path / "EM30-R")
    with pytest.raises(CristaeError, match="--roi: for a volume"):
        cristae("info", tmp_path / "EM30-R", "--roi", "0:1,:,:")


def test_compare_prints_and_writes_what_is_named(tmp_path):
    for name, value in (("one", 0.5), ("two", 0.6)):
        run = tmp_path / name
        run.mkdir()
        (run / "run.yaml").write_text("model: general\n")
        precision = dict.fromkeys(("50:95", "50", "75", "75_small", "75_medium"), value)
        write_scores(Scores(precision), run / "scores.json")
    runs = (tmp_path / "one", tmp_path / "two")
    out = tmp_path / "table.tex"
    text = cristae("compare", *runs, "--score", "ap_75", "--out", out, "-q")
    row = "| two | general | unknown | **0.600** | **0.600** | **0.600** |"
    assert row in re.sub(" +", " ", text)
    assert "\\textbf{0.600}" in out.read_text()


def test_an_image_is_no_instances(pair, tmp_path):
    grey = array_volume(np.ones((6, 24, 32), np.uint8), voxel_size_nm=(30, 8, 8), kind="image")
    convert_volume(grey, tmp_path / "image.zarr", pyramid=False)
    image, truth = tmp_path / "image.zarr", pair[1]
    table = tmp_path / "instances.csv"
    for arguments in (
        ("evaluate", image, truth),
        ("evaluate", truth, image),
        ("measure", image, table),
    ):
        with pytest.raises(InputError, match=r"image\.zarr: kind 'image' found, expected labels"):
            cristae(*arguments)
    assert not table.exists()


def test_tables_without_scores_follow_the_rule_of_every_output(pair, tmp_path):
    _, truth = pair
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "notes.txt").write_text("mine")
    command = ("evaluate", truth, truth, "--csv", tables, "-q")
    cristae(*command)
    made = (tables / "predictions.csv").read_bytes()
    with pytest.raises(CristaeError, match=r"tables: holds tables .* --overwrite replaces them"):
        cristae(*command)
    cristae(*command, "--overwrite")
    assert (tables / "predictions.csv").read_bytes() == made
    (tables / "predictions.csv").write_text("a person's")
    with pytest.raises(CristaeError, match="tables"):
        cristae(*command, "--overwrite")
    assert (tables / "predictions.csv").read_text() == "a person's"
    assert (tables / "notes.txt").read_text() == "mine"


def test_evaluate_takes_masks_channels_parts_and_blocks(pair, tmp_path):
    prediction, truth = pair
    labels = np.zeros((6, 24, 32), np.uint8)
    labels[2, 3:6, 4:9] = labels[4, 3:6, 4:9] = 1
    mask = np.ones_like(labels)
    mask[4:] = 0
    for name, array in (("found", labels), ("mask", mask)):
        volume = array_volume(array, voxel_size_nm=(30.0, 8.0, 8.0), kind="labels")
        convert_volume(volume, tmp_path / f"{name}.zarr", pyramid=False)
    found, masked = tmp_path / "found.zarr", tmp_path / "mask.zarr"
    counts = []
    for options in ((), ("--relabel",), ("--relabel", "--mask", masked)):
        out = tmp_path / f"{len(options)}.json"
        given = (*options, "--json", out, "--csv", tmp_path / f"csv{len(options)}", "-q")
        cristae("evaluate", found, found, *given, "--block-shape", "2,9,9")
        counts.append(load_scores(out).matching["0.75"]["all"]["tp"])
    assert counts == [1, 2, 1]
    part = ("--roi", "0:6,0:24,0:20")
    cristae("convert", truth, tmp_path / "part.zarr", *part, "-q")
    with pytest.raises(CristaeError, match="expected the same place"):
        cristae("evaluate", truth, tmp_path / "part.zarr", "-q")
    both = ("--scores", prediction, "--scores-channel", "1")
    text = cristae("evaluate", truth, tmp_path / "part.zarr", "--crop", *both, "-q")
    assert "1.000" in text
    assert "Ranked by size" not in text
    (tmp_path / "ranks.csv").write_text("instance,score\n1,0.5\n")
    text = cristae("evaluate", found, found, "--scores", tmp_path / "ranks.csv", "-q")
    assert "Ranked by size" not in text


@pytest.mark.parametrize("name", ["volume.zarr", "truth.zarr"])
def test_simulate_checks_both_outputs_before_it_writes_the_first(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("of a person")
    with pytest.raises(CristaeError, match=name):
        cristae("simulate", tmp_path, "--set", "shape=[4,64,64]", "--overwrite", "-q")
    assert [path.name for path in tmp_path.rglob("*")] == [name, "mine.txt"]


def test_a_voxel_size_given_later_is_another_evaluation(pair, tmp_path):
    out = ("--json", tmp_path / "scores.json", "--set", "bootstrap_samples=0", "-q")
    cristae("evaluate", pair[1], pair[1], *out)
    cristae("evaluate", pair[1], pair[1], *out)
    with pytest.raises(CristaeError, match=r"voxel_size_nm: \[30\.0, 8\.0, 8\.0\] there"):
        cristae("evaluate", pair[1], pair[1], *out, "--voxel-size", "60,16,16")
