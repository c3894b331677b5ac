"""One run through every stage on simulated EM, killed on the way, done again, refused, redone."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas
import pytest
import tifffile
import yaml

from cristae.configuration import load_config
from cristae.errors import ConfigError, InputError, OutputExistsError
from cristae.pipeline import RunConfig, Running, report_run, run
from cristae.runfolder import RunFolder
from cristae.volumes.formats import open_volume

TRAIN = {
    "steps": 3,
    "batch": 1,
    "patch": [4, 32, 32],
    "network": {"widths": [4, 6], "strides": [[1, 2, 2]], "z_kernel_levels": [1]},
    "validation_patches": 1,
    "calibration_batches": 1,
    # random weights would find nothing to segment
    "thresholds": {"seed_threshold": 0.4, "contour_threshold": 0.9, "foreground_threshold": 0.3},
}


def simulated(name, group, seed, shape=(10, 96, 96)):
    size = [30.0, 16.0, 16.0]
    settings = {"shape": list(shape), "seed": seed, "voxel_size_nm": size}
    return {"name": name, "group": group, "simulate": settings}


def tree(out, **changes):
    volumes = [simulated("learn", "train", 1), simulated("check", "validation", 2)]
    volumes += [simulated("other", "test", 3)]
    return {"volumes": volumes, "out": str(out), "train": TRAIN, **changes}


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    run(load_config(RunConfig, tree(out)))
    return RunFolder(out)


def test_every_stage_leaves_its_output(finished):
    assert finished.samples() == ["check", "other"]
    for name in finished.samples():
        sample = finished.sample(name)
        prediction = open_volume(sample.prediction)
        assert prediction.channels == ("mask", "contour")
        assert prediction.shape == open_volume(sample.volume).shape
        instances = open_volume(sample.instances)
        assert instances.voxel_size_nm == (30.0, 16.0, 16.0)
        rows = sample.table.read_text().splitlines()
        assert len(rows) - 1 == instances.read().max()
        assert "average_precision_coco" in json.loads(sample.scores.read_text())
    pooled = json.loads(finished.scores.read_text())
    assert set(pooled["average_precision_coco"]) >= {"50", "75", "75_small"}
    assert 0 <= pooled["voxel"]["foreground_iou"] <= 1
    page = finished.report.read_text()
    assert "check" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    provenance = json.loads(finished.provenance.read_text())
    assert provenance["finished"] >= provenance["started"]
    assert yaml.safe_load(finished.config.read_text())["train"]["steps"] == 3


def test_the_same_run_again_changes_no_output(finished):
    before = contents(finished.root)
    run(load_config(RunConfig, tree(finished.root)))
    after = contents(finished.root)
    same = {path for path in before if before[path] == after.get(path)}
    assert set(before) == set(after)
    assert {path.name for path in set(before) - same} <= {"report.html", "provenance.json"}


def test_other_settings_are_refused_until_the_stage_is_overwritten(finished, tmp_path):
    changed = tree(finished.root, segment={"seed_threshold": 0.5})
    with pytest.raises(OutputExistsError, match=r"seed_threshold: 0.4 there, 0.5 now"):
        run(load_config(RunConfig, changed))
    prediction = contents(finished.sample("check").prediction)
    run(load_config(RunConfig, changed), Running(overwrite="segment"))
    assert contents(finished.sample("check").prediction) == prediction
    run(load_config(RunConfig, tree(finished.root)), Running(overwrite="segment"))


def test_killed_on_the_way_and_done_again_is_the_same(finished, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(tree(tmp_path / "killed")))
    command = [sys.executable, "-m", "cristae", "run", str(config), "-q"]
    child = subprocess.Popen(command)
    instances = RunFolder(tmp_path / "killed").sample("check").instances
    deadline = time.monotonic() + 120
    while not instances.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert subprocess.run(command, check=False).returncode == 0
    # weights depend on the number of threads, which the fixture's process may have set otherwise
    again = RunFolder(tmp_path / "killed")
    for name in ("check", "other"):
        assert (again.sample(name).root / "scores.json").is_file()
        volume = open_volume(again.sample(name).volume).read()
        assert (volume == open_volume(finished.sample(name).volume).read()).all()
    assert not list(again.root.rglob(".cristae"))


def test_what_is_not_known_is_not_scored(tmp_path):
    """Id 9 says that nothing is known, and the last rows are masked: one instance is left."""
    truth = np.zeros((8, 64, 64), np.uint8)
    truth[:, 4:12, 4:12] = 1
    truth[:, :, 40:] = 9
    truth[:, 56:62, 4:12] = 2
    mask = np.ones_like(truth)
    mask[:, 50:] = 0
    image = np.random.default_rng(0).integers(0, 255, truth.shape, np.uint8)
    arrays = {"image": image, "labels": truth, "mask": mask}
    for name, array in arrays.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", array)
    volume = {name: str(tmp_path / f"{name}.tif") for name in arrays}
    volume |= {"name": "part", "group": "test", "voxel_size_nm": [30.0, 8.0, 8.0]}
    config = {"out": str(tmp_path / "run"), "model": "general"}
    run(load_config(RunConfig, {**config, "volumes": [{**volume, "ignore_label": 9}]}))
    rows = pandas.read_csv(next(RunFolder(tmp_path / "run").sample("part").matches.glob("truth*")))
    assert rows["truth"].tolist() == [1]
    tifffile.imwrite(tmp_path / "mask.tif", mask[1:])
    with pytest.raises(
        InputError,
        match=r"mask .*shape \(7, 64, 64\).*image.tif: shape \(8, 64, 64\).*expected all of it",
    ):
        run(load_config(RunConfig, {**config, "volumes": [volume]}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "general"}, "expected exactly one of them"),
        ({"train": None}, "expected exactly one of them"),
        ({"volumes": [simulated("a", "train", 1)]}, "expected one of validation or test"),
        ({"volumes": [simulated("a", "test", 1)] * 2}, "'a' twice"),
        ({"volumes": [simulated("a/b", "test", 1)]}, "name 'a/b'"),
        ({"volumes": [{"name": "a", "group": "test"}]}, "neither image nor simulate"),
        ({"volumes": [simulated("a", "test", 1) | {"labels": "b.tif"}]}, "labels given beside"),
        ({"volumes": [{"name": "a", "group": "test", "image": "a", "mask": "b"}]}, "mask given wi"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_any_work(tmp_path, changes, says):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=says):
        run(load_config(RunConfig, tree(out, **changes)))
    assert not out.exists()


def test_a_wrong_path_is_named_before_any_work(tmp_path):
    sample = {"name": "a", "group": "test", "image": "nowhere.tif", "labels": "neither.tif"}
    out = tmp_path / "run"
    with pytest.raises(InputError) as caught:
        run(load_config(RunConfig, tree(out, volumes=[simulated("l", "train", 1), sample])))
    assert "nowhere.tif" in str(caught.value)
    assert "neither.tif" in str(caught.value)
    assert not out.exists()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        report_run(tmp_path)
