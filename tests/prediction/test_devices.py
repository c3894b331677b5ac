"""Prediction on several devices, and in the memory of a GPU; the processor stands in for both."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from cristae.cli import app
from cristae.engine.executors import Resources
from cristae.engine.tasks import OverlappedTask, Task, run_step
from cristae.errors import ConfigError, InputError, MemoryLimitError
from cristae.networks.families.pytc.network import PytcConfig, build_pytc_network
from cristae.networks.model import Model, save_model
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.windows import WindowRecipe
from cristae.prediction import request, tile_inference, tiled, windowed
from cristae.prediction.lanes import lanes_of
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.prediction.resample import apply_taps, source_taps
from cristae.volumes.formats import open_volume

CPU = torch.device("cpu")
FLOAT32 = PredictConfig(precision="float32")
ONE = Resources(1)


@pytest.fixture
def hands(monkeypatch):
    """Runners in the order of their work; as many devices as the test says."""
    used, probabilities = [], tile_inference.tile_probabilities

    def watched(runner, *arguments):
        used.append(id(runner))
        return probabilities(runner, *arguments)

    for module in (tiled, windowed):
        monkeypatch.setattr(module, "tile_probabilities", watched)

    def devices(count):
        used.clear()
        monkeypatch.setattr(request, "find_devices", lambda wanted: (CPU,) * count)
        return used

    return devices


@pytest.fixture
def windows():
    torch.manual_seed(0)
    config = PytcConfig(widths=(4, 6), isotropy=(False, True))
    recipe = WindowRecipe((4, 16, 16), (2, 8, 8), (1, 2, 2))
    state = build_pytc_network(config).state_dict()
    return Model(
        config, state, config.channels, intensity="uint8", recipe=InferenceRecipe(windows=recipe)
    )


@pytest.mark.parametrize("count", [2, 3])
def test_devices_take_tiles_in_turn(make_model, texture, tmp_path, hands, count):
    volume, model = open_volume(texture((5, 50, 70))), make_model()
    found = []
    for devices in (1, count):
        used = hands(devices)
        out = tmp_path / f"{devices}.zarr"
        ask = {"config": FLOAT32, "block_shape": (2, 50, 24), "resources": ONE}
        found.append(predict_volume(volume, model, out, **ask).read())
        assert len(used) == 9
        assert len(set(used)) == devices
        shares = [used.count(each) for each in set(used)]
        assert max(shares) - min(shares) <= 1
    assert np.array_equal(*found)


def test_devices_take_windows_in_turn(windows, texture, tmp_path, hands):
    volume, found = open_volume(texture((5, 20, 41))), []
    for devices in (1, 2):
        used = hands(devices)
        out = tmp_path / f"{devices}.zarr"
        found.append(predict_volume(volume, windows, out, resources=ONE).read())
        assert len(set(used)) == devices
    assert np.array_equal(*found)


def test_tiles_fit_the_memory_of_a_gpu(make_model, texture, tmp_path, monkeypatch, caplog):
    volume, model = open_volume(texture((40, 100, 100))), make_model()
    found, reads = [], []
    for room in (1 << 40, 23 << 20):
        monkeypatch.setattr("cristae.prediction.plan.device_room", lambda devices, r=room: r)
        with caplog.at_level("INFO", "cristae"):
            out = tmp_path / f"{room}.zarr"
            found.append(predict_volume(volume, model, out, config=FLOAT32, resources=ONE))
        line = next(r for r in reversed(caplog.records) if "tiles of" in r.msg)
        assert "GiB of a GPU's memory" in line.getMessage()
        reads.append(np.prod(line.args[1:4]))
    assert reads[1] < reads[0]
    difference = np.abs(found[0].read().astype(int) - found[1].read())
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 8


def test_what_does_not_fit_a_gpu_is_refused(make_model, windows, texture, tmp_path, monkeypatch):
    monkeypatch.setattr("cristae.prediction.plan.device_room", lambda devices: 1000)
    volume = open_volume(texture((4, 40, 40)))
    for name, model in (("tiles.zarr", make_model()), ("windows.zarr", windows)):
        with pytest.raises(MemoryLimitError, match=r"of a GPU's memory.*--device cpu"):
            predict_volume(volume, model, tmp_path / name, resources=ONE)
        assert not (tmp_path / name / "0").exists()


def test_a_missing_device_is_told_with_all_other_faults(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    colours = open_volume(np.zeros((2, 9, 9), np.uint8), kind="labels")
    config = PredictConfig(device="cuda")
    with pytest.raises(InputError, match=r"(?s)expected an image.*device cuda: not found here"):
        predict_volume(colours, make_model(), tmp_path / "p.zarr", config=config)
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.parametrize("command", ["predict", "preview", "run"])
def test_commands_refuse_a_missing_device_before_any_work(
    make_model, tmp_path, monkeypatch, command
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((2, 9, 9), np.uint8))
    save_model(make_model(), tmp_path / "model.pt")
    image, model, out = (str(tmp_path / name) for name in ("image.tif", "model.pt", "out.zarr"))
    paths = [image, out, "--model", model] if command == "run" else [image, model, out]
    done = CliRunner().invoke(app, [command, *paths, "--voxel-size", "30,8,8", "--device", "cuda"])
    assert "device cuda: not found here, expected auto or one of cpu" in str(done.exception)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.tif", "model.pt"]


def test_the_device_is_no_setting_of_the_record(make_model, texture, tmp_path, caplog):
    volume, model, out = open_volume(texture((2, 20, 20))), make_model(), tmp_path / "p.zarr"
    config = replace(FLOAT32, device="cpu")
    found = predict_volume(volume, model, out, config=config, resources=ONE)
    assert found.attributes["device"] == "cpu"
    with caplog.at_level("INFO", "cristae"):
        predict_volume(volume, model, out, config=FLOAT32, resources=ONE)
    assert "already done" in caplog.text


def test_probabilities_are_interpolated_alike_on_any_device():
    array = np.random.default_rng(0).random((2, 12, 8, 9), dtype=np.float32)
    for axis, factor in ((1, 0.7), (2, 1.9), (3, 2.5)):
        taps = source_taps(3, 8, factor)
        start = int(taps.index.min())
        expected = apply_taps(array, axis, taps, start)
        found = tile_inference._take(torch.from_numpy(array), axis, taps, start)
        assert np.array_equal(found.numpy(), expected)


def test_lanes_work_at_the_same_time_each_by_one_thread():
    together, seen = threading.Barrier(2, timeout=20), []

    def make(name):
        def lane(data):
            seen.append((name, data))
            if data < 2:
                together.wait()  # passes only while the other lane is at work, too
            return data

        return lane

    compute = lanes_of(make, "ab", SimpleNamespace(in_processes=False))
    work = OverlappedTask(compute, read=lambda i: (i, i if i < 4 else None))
    tasks = [Task(i, ()) for i in range(5)]
    run_step("step", tasks, work, record=None, resources=Resources(2))
    assert sorted(seen) == [("a", 0), ("a", 2), ("b", 1), ("b", 3)]


def test_processes_are_refused_on_a_gpu_before_any_work(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "cristae.prediction.checks.find_devices", lambda wanted: (torch.device("cuda"),)
    )
    with pytest.raises(ConfigError, match=r"processes with device cuda found, expected device cpu"):
        predict_volume(
            open_volume(np.zeros((2, 9, 9), np.uint8)),
            make_model(),
            tmp_path / "p.zarr",
            resources=Resources(2, "processes"),
        )
    assert not list(tmp_path.iterdir())
