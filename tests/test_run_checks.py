"""A run finds every fault of every stage and volume before the first stage writes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas
import pytest
import tifffile
import torch
import yaml
from tests.programs import start

from cristae.configuration import load_config
from cristae.engine import files
from cristae.engine.executors import Resources
from cristae.errors import (
    BusyError,
    ConfigError,
    CristaeError,
    DiskSpaceError,
    InputError,
    MemoryLimitError,
    OutputExistsError,
)
from cristae.evaluation.compare import compare_runs, markdown
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, save_model
from cristae.pipeline import RunConfig, Running, report_run, run

NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
SHAPE = (6, 48, 48)
ONE = Running(Resources(1, "serial"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of other weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        state = build_network(NETWORK).state_dict()
        # random weights find something at these
        thresholds = {"seed_threshold": 0.4, "contour_threshold": 0.9, "foreground_threshold": 0.3}
        sizes = {"min_size": 1, "min_seed_size": 1}
        model = Model(
            NETWORK,
            state,
            ("mask", "contour"),
            working_voxel_size_nm=(None, 8.0, 8.0),
            thresholds=thresholds | sizes,
        )
        save_model(model, folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    grey = np.random.default_rng(0).integers(60, 200, SHAPE).astype(np.uint8)
    truth = np.zeros(SHAPE, np.int16)
    truth[1:5, 8:20, 8:20] = 1
    arrays = {
        "grey": grey,
        "flat": grey * 0 + 7,
        "colours": np.stack([grey] * 4),
        "truth": truth,
        "below": np.where(truth > 0, -1, 0).astype(np.int16),
        "half": (truth / 2).astype(np.float32),
        "short": truth[1:],
        "none": (truth * 0).astype(np.uint8),
    }
    for name, array in arrays.items():
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack")
    return folder


def sample(sources, name, image="grey", labels="truth", **changes):
    fields = {
        "name": name,
        "group": "test",
        "image": str(sources / f"{image}.tif"),
        "labels": labels and str(sources / f"{labels}.tif"),
        "voxel_size_nm": [30.0, 8.0, 8.0],
    }
    return {key: value for key, value in (fields | changes).items() if value is not None}


def config(models, out, *volumes, model="one", **changes):
    tree = {"volumes": list(volumes), "out": str(out), "model": str(models / f"{model}.pt")}
    quick = {"bootstrap_samples": 0, "categories": "none"}
    return load_config(RunConfig, {**tree, "evaluate": quick, **changes})


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


FAULTS = {
    "voxel size": ({"voxel_size_nm": None}, InputError, "voxel size unknown"),
    "no contrast": ({"image": "flat"}, InputError, "flat.tif"),
    "channels": ({"image": "colours", "labels": None}, InputError, "colours.tif"),
    "negative labels": ({"labels": "below"}, InputError, "label -1"),
    "fractional labels": ({"labels": "half"}, InputError, "label 0.5"),
    "another shape": ({"labels": "short"}, InputError, "short.tif"),
    "no file": ({"labels": "nowhere"}, InputError, "nowhere.tif"),
    "not negative": ({"negative": True}, InputError, "negative: true"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_last_volume_is_found_before_the_first_is_begun(
    models, sources, tmp_path, name
):
    changes, error, says = FAULTS[name]
    out = tmp_path / "run"
    good, bad = sample(sources, "a"), sample(sources, "b", **changes)
    with pytest.raises(error, match=says):
        run(config(models, out, good, bad), ONE)
    assert not out.exists()


def test_faults_of_all_volumes_come_in_one_error(models, sources, tmp_path):
    bad = [sample(sources, name, **changes) for name, (changes, _, _) in FAULTS.items()]
    bad = [{**each, "name": f"v{i}"} for i, each in enumerate(bad)]
    with pytest.raises(InputError) as caught:
        run(config(models, tmp_path / "run", *bad), ONE)
    for _, _, says in FAULTS.values():
        assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "running", "error", "says"),
    [
        ({"segment": {"decoder": "bcd_watershed"}}, ONE, ConfigError, "bcd_watershed"),
        ({"segment": {"seed_threshold": 1.5}}, ONE, ConfigError, "seed_threshold"),
        ({"evaluate": {"bootstrap_samples": -1}}, ONE, ConfigError, "bootstrap_samples"),
        ({"predict": {"tta": 8, "z_stride": 0}}, ONE, InputError, "z_stride 0"),
        ({"model": "nowhere.pt"}, ONE, InputError, "nowhere.pt"),
        ({}, Running(Resources(1, "serial", 0.0001)), MemoryLimitError, "are allowed by --memory"),
    ],
)
def test_what_a_later_stage_cannot_do_is_found_first(
    models, sources, tmp_path, changes, running, error, says
):
    out = tmp_path / "run"
    with pytest.raises(error, match=says):
        run(config(models, out, sample(sources, "a"), **changes), running)
    assert not out.exists()


def test_room_on_disk_is_that_of_all_volumes(models, sources, tmp_path, monkeypatch):
    """Each of two fits, both do not."""
    free = int(1.5 * 4 * np.prod(SHAPE))
    usage = type(files.shutil.disk_usage(tmp_path))(1 << 40, 0, free)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    volumes = [sample(sources, name, labels=None) for name in "ab"]
    with pytest.raises(DiskSpaceError, match=r"(?s)a/volume.zarr.*b/prediction.zarr.*are free"):
        run(config(models, tmp_path / "run", *volumes), ONE)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def once(models, sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("once") / "run"
    run(config(models, folder, sample(sources, "a"), sample(sources, "b")), ONE)
    return folder


@pytest.fixture
def finished(once, tmp_path):
    """A copy of a finished run, which is as good as the run itself."""
    return shutil.copytree(once, tmp_path / "run")


def test_a_refused_run_leaves_its_folder_as_it_was(finished, models, sources):
    before = contents(finished)
    volumes = [sample(sources, "a"), sample(sources, "b")]
    refused = [
        (config(models, finished, *volumes, model="two"), ONE),
        (config(models, finished, *volumes, segment={"min_size": 9}), ONE),
        (config(models, finished, *volumes, evaluate={"bootstrap_samples": 3}), ONE),
        (config(models, finished, sample(sources, "a", roi="1:,:,:"), volumes[1]), ONE),
        (config(models, finished, volumes[0], sample(sources, "b", image="flat")), ONE),
        # new volumes besides: not begun either
        (config(models, finished, sample(sources, "0"), *volumes, model="two"), ONE),
    ]
    for made, running in refused:
        with pytest.raises(CristaeError) as caught:
            run(made, running)
        assert "b" in str(caught.value)
        assert contents(finished) == before
    # what an earlier stage leaves is judged although a later one is done again
    with pytest.raises(OutputExistsError):
        run(refused[0][0], Running(ONE.resources, "segment"))
    assert contents(finished) == before


@pytest.mark.long
def test_the_story_is_appended_to(finished, models, sources):
    volumes = [sample(sources, "a"), sample(sources, "b")]
    first = json.loads((finished / "provenance.json").read_text())
    assert "history" not in first
    run(config(models, finished, *volumes, segment={"min_size": 9}), Running(overwrite="segment"))
    last = json.loads((finished / "provenance.json").read_text())
    (before,) = last["history"]
    assert before.pop("config")["segment"]["min_size"] is None
    assert before == first
    assert last["finished"] >= first["finished"]
    run(config(models, finished, *volumes, segment={"min_size": 9}), ONE)
    again = json.loads((finished / "provenance.json").read_text())["history"]
    assert [("config" in call) for call in again] == [True, False]
    assert yaml.safe_load((finished / "run.yaml").read_text())["segment"]["min_size"] == 9
    assert "earlier calls" in (finished / "report.html").read_text()


KILLED = """
import os, signal, sys
from cristae.configuration import load_config
from cristae.engine.executors import Resources
from cristae.pipeline import RunConfig, Running, run, stages
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(stages, sys.argv[2], die)
run(load_config(RunConfig, sys.argv[1]), Running(Resources(1, "serial"), "predict"))
"""


@pytest.mark.long
@pytest.mark.parametrize("at", ["predict_volume", "_pool_scores", "finish_call"])
def test_the_model_that_made_the_scores_is_credited_after_a_kill(
    finished, models, sources, tmp_path, at
):
    """Killed while another model is at work: before it, before and after its scores."""
    assert compare_runs([finished]).rows[0].model == "one"
    tree = {
        "volumes": [sample(sources, "a"), sample(sources, "b")],
        "out": str(finished),
        "model": str(models / "two.pt"),
        "evaluate": {"bootstrap_samples": 0, "categories": "none"},
    }
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "again.yaml"), at]
    assert subprocess.run(command, check=False, env=os.environ).returncode == -signal.SIGKILL
    if at == "_pool_scores":
        with pytest.raises(InputError, match="not of the scores that are there"):
            compare_runs([finished])
    else:
        expected = "one" if at == "predict_volume" else "two"
        assert compare_runs([finished]).rows[0].model == expected
    story = json.loads((finished / "provenance.json").read_text())
    assert "finished" not in story
    assert story["history"][0]["model"].endswith("one.pt")


WAITING = """
import sys
from cristae.configuration import load_config
from cristae.engine.executors import Resources
from cristae.pipeline import RunConfig, Running, run, stages
def wait(*_, **__):
    print("at work", flush=True)
    sys.stdin.read()
setattr(stages, sys.argv[2], wait)
run(load_config(RunConfig, sys.argv[1]), Running(Resources(1, "serial"), "predict"))
"""


@pytest.mark.long
@pytest.mark.parametrize("at", ["check_run", "predict_volume"])
def test_two_runs_on_one_folder_are_refused(finished, models, sources, tmp_path, at):
    """The second one, before it writes; also where the first has not begun to write."""
    volumes = [sample(sources, "a"), sample(sources, "b")]
    tree = {"volumes": volumes, "out": str(finished), "model": str(models / "two.pt")}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(tree))
    first = start(WAITING, tmp_path / "first.yaml", at, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "at work\n"
    before = contents(finished)
    with pytest.raises(BusyError, match="run: another process is writing it"):
        run(config(models, finished, *volumes), ONE)
    assert contents(finished) == before
    first.kill()
    first.communicate()
    run(config(models, finished, *volumes), Running(ONE.resources, "predict"))
    story = json.loads((finished / "provenance.json").read_text())
    assert len(story["history"]) == (1 if at == "check_run" else 2)


@pytest.mark.long
def test_scores_of_release_01_are_credited_by_the_last_finished_call(finished, models):
    (finished / "scores.json.cristae.json").unlink()
    assert compare_runs([finished]).rows[0].model == "one"
    story = json.loads((finished / "provenance.json").read_text())
    new = {**story, "model": "two.pt", "history": [story]}
    del new["finished"]
    (finished / "provenance.json").write_text(json.dumps(new))
    (finished / "run.yaml").write_text(yaml.safe_dump({"model": "two.pt"}))
    assert compare_runs([finished]).rows[0].model == "one"
    assert report_run(finished).is_file()


@pytest.mark.parametrize(
    "name",
    [
        "run.yaml",
        "provenance.json",
        "scores.json",
        "report.html",
        "a/volume.zarr",
        "a/prediction.zarr/x",
        "a/instances.csv",
        "a/scores.json",
        "a/errors/truth.csv",
    ],
)
def test_a_file_of_others_is_never_replaced(models, sources, tmp_path, name):
    out = tmp_path / "run"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"of": "a person"}')
    before = contents(out)
    with pytest.raises(CristaeError, match=name.removesuffix("/x")):
        run(config(models, out, sample(sources, "a")), Running(ONE.resources, "convert"))
    assert contents(out) == before


@pytest.mark.long
def test_files_of_others_that_are_not_in_the_way_stay(models, sources, tmp_path):
    out = tmp_path / "run"
    (out / "a" / "errors").mkdir(parents=True)
    for name in ("notes.txt", "a/mine.csv", "a/errors/mine.csv"):
        (out / name).write_text("of a person")
    run(config(models, out, sample(sources, "a")), ONE)
    run(config(models, out, sample(sources, "a")), Running(ONE.resources, "convert"))
    for name in ("notes.txt", "a/mine.csv", "a/errors/mine.csv"):
        assert (out / name).read_text() == "of a person"


@pytest.mark.long
def test_a_negative_volume_is_run_and_scored(models, sources, tmp_path):
    """All that is found in it is false, with labels of 0 and without labels."""
    volumes = [
        sample(sources, "a"),
        sample(sources, "n", labels="none", negative=True),
        sample(sources, "o", labels=None, negative=True),
    ]
    run(config(models, tmp_path / "run", *volumes), ONE)
    for name in "no":
        scores = json.loads((tmp_path / "run" / name / "scores.json").read_text())
        counts = scores["matching"]["0.5"]["all"]
        assert counts["tp"] == counts["fn"] == 0
        assert counts["accuracy"] is None
    pooled = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert pooled["matching"]["0.5"]["all"]["fn"] <= 1


@pytest.mark.long
def test_a_run_that_finds_nothing_is_scored_reported_and_compared(models, sources, tmp_path):
    """Truth that is missed, no truth, and a volume that nobody labelled."""
    volumes = [
        sample(sources, "a"),
        sample(sources, "n", labels="none", negative=True),
        sample(sources, "u", labels=None),
    ]
    made = config(models, tmp_path / "run", *volumes, segment={"seed_threshold": 1.0})
    page = run(made, ONE).read_text()
    assert all(name in page for name in "anu")
    for name in "anu":
        assert len(pandas.read_csv(tmp_path / "run" / name / "instances.csv")) == 0
    pooled = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert pooled["average_precision_coco"]["75"] == 0.0
    assert (pooled["matching"]["0.5"]["all"]["fp"], pooled["matching"]["0.5"]["all"]["fn"]) == (
        0,
        1,
    )
    assert compare_runs([tmp_path / "run"]).rows[0].model == "one"
    assert markdown(compare_runs([tmp_path / "run"], by="sample"))
