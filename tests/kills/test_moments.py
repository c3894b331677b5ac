"""Every stage, killed at many moments and called again: the outputs of an undisturbed call."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
import yaml
from tests.kills.killing import command, killed, moments, undisturbed
from tests.programs import cristae

from cristae.engine.files import read_json
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, save_model

pytestmark = pytest.mark.long

SHAPE = (6, 40, 1100)
"""Three shards."""

NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
SIZE = ("--voxel-size", "30,8,8")
QUIET = ("-q", "--workers", "1")
SUBMISSION = f"""
from cristae import challenge
challenge.SHAPE, challenge.CHUNK, challenge.BLOCK = {SHAPE}, (2, 20, 128), (2, 40, 256)
"""
TIMES = ("seconds", "waited")
"""Columns of a training's table that no second run repeats."""


def truth_of(shape):
    truth = np.zeros(shape, np.uint16)
    for i, x in enumerate(range(6, shape[2] - 16, 20), start=1):
        truth[1:5, 8:20, x : x + 10] = i
        truth[2:5, 24:34, x + 4 : x + 12] = 2000 + i
    return truth


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Sources, a model, and an output of every stage."""
    folder = tmp_path_factory.mktemp("inputs")
    truth = truth_of(SHAPE)
    noise = np.random.default_rng(0).normal(0, 12, SHAPE)
    grey = (np.where(truth > 0, 80, 170) + noise).clip(0, 255).astype(np.uint8)
    for name, array in (("grey", grey), ("true", truth)):
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack")
    torch.manual_seed(0)
    # random weights find something at these
    thresholds = {"seed_threshold": 0.4, "contour_threshold": 0.9, "foreground_threshold": 0.3}
    model = Model(
        NETWORK,
        build_network(NETWORK).state_dict(),
        ("mask", "contour"),
        working_voxel_size_nm=(None, 8.0, 8.0),
        thresholds=thresholds | {"min_size": 1, "min_seed_size": 1},
    )
    save_model(model, folder / "model.pt")
    sample = {
        "image": str(folder / "grey.tif"),
        "labels": str(folder / "true.tif"),
        "voxel_size_nm": [30.0, 8.0, 8.0],
    }
    train = {
        "out": "training",
        "volumes": [
            {"name": "learned", "group": "train", **sample},
            {"name": "measured", "group": "validation", **sample},
        ],
        "train": {
            "steps": 4,
            "batch": 1,
            "patch": [4, 32, 32],
            "warmup_steps": 2,
            "validate_every": 2,
            "validation_patches": 2,
            "calibration_batches": 2,
            "checkpoint_every": 1,
            "intensity": "uint8",
            "network": {"widths": [4, 6], "strides": [[1, 2, 2]], "z_kernel_levels": [1]},
        },
    }
    run = {
        "volumes": [{"name": name, "group": "test", **sample} for name in "ab"],
        "model": str(folder / "model.pt"),
        "evaluate": {"bootstrap_samples": 5, "categories": "volume"},
    }
    for name, tree in (("train", train), ("run", run)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    for arguments in (
        ("convert", folder / "grey.tif", folder / "volume.zarr", *SIZE),
        ("convert", folder / "true.tif", folder / "truth.zarr", *SIZE, "--kind", "labels"),
        ("predict", folder / "volume.zarr", folder / "model.pt", folder / "prediction.zarr"),
        ("segment", folder / "prediction.zarr", folder / "instances.zarr"),
    ):
        made = cristae(*arguments, *QUIET)
        assert made.returncode == 0, made.stderr
    return folder


def commands(inputs, out):
    """By stage: its command, its output, and a command that takes it as input."""
    volume, truth, model = inputs / "volume.zarr", inputs / "truth.zarr", inputs / "model.pt"
    prediction, instances = inputs / "prediction.zarr", inputs / "instances.zarr"
    other = out.parent / "other.zarr"
    return {
        "convert": (
            ("convert", inputs / "grey.tif", out / "o.zarr", *SIZE),
            out / "o.zarr",
            ("predict", out / "o.zarr", model, other),
        ),
        "predict": (
            ("predict", volume, model, out / "o.zarr"),
            out / "o.zarr",
            ("segment", out / "o.zarr", other),
        ),
        "segment": (
            ("segment", prediction, out / "o.zarr"),
            out / "o.zarr",
            ("measure", out / "o.zarr", out.parent / "other.csv"),
        ),
        "evaluate": (
            ("evaluate", instances, truth, "--json", out / "s.json", "--csv", out / "tables"),
            out / "s.json",
            None,
        ),
        "measure": (("measure", instances, out / "t.csv"), out / "t.csv", None),
        "tune": (
            *(("tune", prediction, truth, "--out", out / "tuned", "--set", GRID),),
            out / "tuned" / "TUNED.yaml",
            None,
        ),
        "submit": (
            ("submit", "--human", instances, "--rat", truth, out / "s.zip"),
            out / "s.zip",
            None,
        ),
        "train": (("train", inputs / "train.yaml", "--out", out / "m.pt"), out / "m.pt", None),
        "run": (("run", inputs / "run.yaml", "--set", f"out={out / 'run'}"), out / "run", None),
    }


GRID = "grid.foreground_threshold=[0.3,0.35]"
STAGES = (
    *("convert", "predict", "segment", "evaluate", "measure"),
    *("tune", "submit", "train", "run"),
)


def contents(folder):
    """All that lies in a folder, without what no second call repeats."""
    return {
        str(path.relative_to(folder)): _content(path) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def _content(path):
    if path.name == "zarr.json":
        tree = json.loads(path.read_text())
        record = tree.get("attributes", {}).get("cristae", {}).get("record", {})
        record.pop("summary", None)  # it says how long the last call took
        return tree
    if path.name.endswith(".cristae.json"):
        record = json.loads(path.read_text())
        return {key: record.get(key) for key in ("stage", "settings", "finished", "id")}
    if path.suffix == ".pt":
        return str(torch.load(path, weights_only=True))
    if path.name == "m.csv":
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return [{key: row[key] for key in row if key not in TIMES} for row in rows]
    if path.name in ("provenance.json", "report.html"):
        return None
    return path.read_bytes()


def is_unfinished(output):
    """Whether a folder of ours waits to be finished."""
    attributes = (read_json(output / "zarr.json") or {}).get("attributes", {})
    finished = "record" in attributes.get("cristae", {})
    return (output / ".cristae" / "identity.json").is_file() and not finished


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_many_moments_and_called_again(inputs, tmp_path, stage):
    torch.set_printoptions(threshold=1 << 30, precision=9)
    out = tmp_path / "out"
    arguments, output, next_one = commands(inputs, out)[stage]
    prelude = SUBMISSION if stage == "submit" else ""
    arguments = (*arguments, *QUIET)
    changes = undisturbed(arguments, out, prelude)
    expected = contents(out)
    assert output.exists()
    refused = 0
    for at in moments(changes, stage):
        shutil.rmtree(out)
        killed(arguments, out, at, prelude)
        if next_one is not None and is_unfinished(output):
            told = cristae(*next_one, *QUIET)
            assert (told.returncode, "unfinished" in told.stderr) == (2, True), (at, told.stderr)
            refused += 1
        undisturbed(arguments, out, prelude)
        found = contents(out)
        assert list(found) == list(expected), f"killed at {at} of {changes}"
        differ = [name for name in expected if found[name] != expected[name]]
        assert not differ, f"killed at {at} of {changes}"
    assert (refused > 0) == (next_one is not None)


def test_training_made_anew_and_killed_on_the_way_is_not_gone_on_with(inputs, tmp_path):
    """Other settings with `--overwrite`, killed while the old record and checkpoint go."""
    torch.set_printoptions(threshold=1 << 30, precision=9)
    out, old = tmp_path / "out", tmp_path / "old"
    before = (*commands(inputs, out)["train"][0], *QUIET)
    other = (*before, "--set", "train.seed=7")
    undisturbed((*before, "--set", "train.steps=2"), out)
    shutil.copytree(out, old)
    again = (*other, "--overwrite")
    undisturbed(again, out)
    expected = contents(out)
    for at in (1, 2, 3, 4, 6, 8, 10, 12, 14):
        shutil.rmtree(out)
        shutil.copytree(old, out)
        killed(again, out, at)
        told = command(other, out)
        if told.returncode == 2:  # the old record is still there
            assert "seed: " in told.stderr
            undisturbed(again, out)
        assert contents(out) == expected, f"killed at {at}"


@pytest.mark.parametrize("stage", ["measure", "train"])
def test_a_file_in_place_of_one_that_a_killed_stage_wrote_stays(inputs, tmp_path, stage):
    out = tmp_path / "out"
    arguments, output, _ = commands(inputs, out)[stage]
    prelude = SUBMISSION if stage == "submit" else ""
    arguments = (*arguments, *QUIET)
    changes = undisturbed(arguments, out, prelude)
    record = output.with_name(output.name + ".cristae.json")
    for at in range(changes - 4, 0, -4):
        shutil.rmtree(out)
        killed(arguments, out, at, prelude)
        if not record.exists():
            break  # the output has its name since a few changes
    ours = output.read_bytes()
    output.write_bytes(ours + b" ")
    for more in ((), ("--overwrite",)):
        told = command((*arguments, *more), out, prelude=prelude)
        assert told.returncode == 2, told.stderr
        assert f"{output.name}: not made by cristae, or changed since" in told.stderr
        assert output.read_bytes() == ours + b" "
    output.write_bytes(ours)
    undisturbed(arguments, out, prelude)
    assert record.exists()
