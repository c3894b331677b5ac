"""Windows: as the reference blends them, the same however memory is short or runs are cut."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cristae.engine.executors import Resources
from cristae.errors import InputError, OutputExistsError
from cristae.grid import Box
from cristae.networks.families.pytc.checkpoint import load_pytc_model
from cristae.networks.families.pytc.network import PytcConfig, build_pytc_network
from cristae.networks.model import Model, model_network, save_model
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.windows import WindowRecipe, window_axes, window_weight
from cristae.prediction import plan as request_module
from cristae.prediction import regions, windowed
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr, open_ome_zarr
from cristae.volumes.intensity import sample_intensity

ONE = Resources(workers=1)
RECIPE = WindowRecipe((4, 16, 16), (2, 7, 9), padding=(1, 3, 2), chunks=(2, 1, 2))


@pytest.fixture
def pytc_model() -> Model:
    """A small network whose answer depends on the window."""
    torch.manual_seed(0)
    config = PytcConfig(
        block="residual_se",
        channels=("mask", "contour"),
        outputs=("sigmoid", "tanh"),
        widths=(4, 6),
        isotropy=(False, True),
    )
    return Model(
        config,
        build_pytc_network(config).state_dict(),
        config.channels,
        intensity="uint8",
        recipe=InferenceRecipe(windows=RECIPE),
    )


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """Shards of 4 x 16 x 16 voxels, so that small volumes have many."""
    monkeypatch.setattr(Layout.__init__, "__defaults__", ((2, 8, 8), (4, 16, 16)))


def plain(array: np.ndarray, model: Model, look=lambda image, find: find(image)) -> np.ndarray:
    """The blended prediction in float64, all in memory, a loop over windows."""
    recipe, network = model.recipe.windows, model_network(model)

    def outputs(window):
        with torch.no_grad():
            logits = network(torch.from_numpy(window)[None, None])[0].numpy()
        return np.stack([1 / (1 + np.exp(-logits[0])), (1 + np.tanh(logits[1])) / 2])

    low = recipe.padding
    high = [
        max(pad, window - n - pad)
        for n, pad, window in zip(array.shape, recipe.padding, recipe.shape, strict=True)
    ]
    image = (array.astype(np.float32) / 255 - 0.5) / 0.5
    for axis, pads in enumerate(zip(low, high, strict=True)):
        widths = [(0, 0)] * 3
        widths[axis] = pads
        image = np.pad(image, widths, mode="reflect" if array.shape[axis] > 1 else "edge")
    total = np.zeros((len(model.channels), *image.shape))
    norm = np.zeros(image.shape)
    weight = window_weight(recipe)
    starts = [
        sorted({min(a, n - w) for a in range(0, n - w + s, s)})
        for n, w, s in zip(image.shape, recipe.shape, recipe.stride, strict=True)
    ]
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                place = tuple(slice(a, a + w) for a, w in zip((z, y, x), recipe.shape, strict=True))
                total[(slice(None), *place)] += look(image[place].copy(), outputs) * weight
                norm[place] += weight
    core = Box(low, low).grow((0, 0, 0), array.shape)
    return np.rint(255 * (total / norm)[(slice(None), *core.slices())])


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.long)])
def test_equal_to_the_reference(shared: Path, tmp_path: Path, count: int) -> None:
    folder = shared / "golden" / "networks"
    golden = np.load(folder / "sliding_window.npz")
    case = "unet_plus_3d_residual_se_bn_bc"
    facts = json.loads((folder / f"{case}.json").read_text())
    window = golden["window"].tolist()
    tree = {
        "MODEL": {
            "ARCHITECTURE": facts["architecture"],
            "BLOCK_TYPE": facts["block_type"],
            "FILTERS": facts["filters"],
            "OUT_PLANES": 2,
            "TARGET_OPT": ["0", "4-1-1"],
            "INPUT_SIZE": window,
            "OUTPUT_SIZE": window,
        },
        "INFERENCE": {
            "OUTPUT_ACT": ["sigmoid", "sigmoid"],
            "STRIDE": golden["stride"].tolist(),
            "PAD_SIZE": golden["pad"].tolist(),
            "AUG_NUM": None if count == 1 else count,
        },
    }
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    model = load_pytc_model(folder / f"{case}.pth.tar", [tmp_path / "c.yaml"])
    found = predict_volume(
        open_volume(golden["raw"]),
        model,
        tmp_path / "p.zarr",
        config=PredictConfig(truncate=True),
        resources=ONE,
    )
    difference = np.abs(found.read().astype(int) - golden[f"prediction_tta_{count}"])
    assert difference.max() <= 1
    assert np.count_nonzero(difference) < 1e-3 * difference.size
    assert found.attributes["variants"] == count
    assert found.attributes["windows"]["shape"] == window


@pytest.mark.parametrize("blending", ["gaussian", "bump"])
@pytest.mark.parametrize("shape", [(9, 30, 41), (2, 12, 60), (1, 9, 7)])
def test_equal_to_a_plain_loop(pytc_model, texture, tmp_path, small_shards, shape, blending):
    model = replace(pytc_model, recipe=InferenceRecipe(windows=replace(RECIPE, blending=blending)))
    array = texture(shape)
    found = predict_volume(open_volume(array), model, tmp_path / "p.zarr", resources=ONE)
    difference = np.abs(found.read() - plain(array, model))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(1, 1e-3 * difference.size)
    assert found.attributes["precision"] == "float32"


@pytest.mark.parametrize(("count", "combine"), [(8, "mean"), (16, "mean"), (8, "max")])
def test_variants_equal_a_plain_loop(
    pytc_model, texture, tmp_path, small_shards, each_turn, count, combine
):
    """Each window turned by quarters, mirrored, and for 16 upside down; combined, then blended."""
    array = texture((5, 18, 22))
    pick = {"mean": np.mean, "max": np.max}[combine]

    def look(image, find):
        return pick(list(each_turn(image, find, count)), axis=0)

    config = PredictConfig(tta=count, combine=combine)
    volume, out = open_volume(array), tmp_path / "p.zarr"
    found = predict_volume(volume, pytc_model, out, config=config, resources=ONE).read()
    difference = np.abs(found - plain(array, pytc_model, look))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) < 1e-3 * difference.size
    assert np.abs(found - plain(array, pytc_model)).max() > 5


def test_windows_are_computed_once_each(pytc_model, texture, tmp_path, monkeypatch):
    """9 + 2, 30 + 6 and 41 + 4 voxels: 5 layers of 4 rows of 5 windows."""
    calls, probabilities = [], windowed.tile_probabilities
    monkeypatch.setattr(
        windowed, "tile_probabilities", lambda *a: (calls.append(0), probabilities(*a))[1]
    )
    found = predict_volume(
        open_volume(texture((9, 30, 41))), pytc_model, tmp_path / "p.zarr", resources=ONE
    )
    assert len(calls) == 5 * 4 * 5
    summary = found.attributes["record"]["summary"]
    assert summary["voxels_computed_per_voxel"] == pytest.approx(
        100 * 4 * 16 * 16 / (9 * 30 * 41), abs=1e-3
    )


def test_sums_on_disk_change_no_byte(pytc_model, texture, tmp_path, small_shards, monkeypatch):
    volume, found = open_volume(texture((9, 30, 41))), []
    for limit in (1 << 40, 0):
        monkeypatch.setattr("cristae.prediction.plan.MEMORY_MOST", limit)
        out = tmp_path / f"{limit}.zarr"
        found.append(predict_volume(volume, pytc_model, out, resources=ONE).read())
        assert not (out / ".cristae").exists()
    assert np.array_equal(found[0], found[1])


def test_where_memory_is_short_is_said(pytc_model, texture, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cristae.prediction.plan.MEMORY_MOST", 0)
    with caplog.at_level(logging.INFO, "cristae"):
        predict_volume(
            open_volume(texture((3, 20, 20))), pytc_model, tmp_path / "p.zarr", resources=ONE
        )
    assert "sums wait on disk" in caplog.text


@pytest.mark.parametrize("stop_after", [1, 7, 11])
def test_an_interrupted_sweep_goes_on(
    pytc_model, texture, tmp_path, small_shards, monkeypatch, stop_after
):
    volume = open_volume(texture((14, 30, 41)))
    whole = predict_volume(volume, pytc_model, tmp_path / "whole.zarr", resources=ONE).read()
    write, written = windowed.write_shards, []

    def fail(prediction, missing, group):
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(missing)
        return write(prediction, missing, group)

    monkeypatch.setattr(windowed, "write_shards", fail)
    with pytest.raises(KeyboardInterrupt):
        predict_volume(volume, pytc_model, tmp_path / "cut.zarr", resources=ONE)
    monkeypatch.setattr(windowed, "write_shards", write)
    calls, probabilities = [], windowed.tile_probabilities
    monkeypatch.setattr(
        windowed, "tile_probabilities", lambda *a: (calls.append(0), probabilities(*a))[1]
    )
    found = predict_volume(volume, pytc_model, tmp_path / "cut.zarr", resources=ONE)
    assert np.array_equal(found.read(), whole)
    if stop_after > 6:  # a whole row of shards is on disk: its own windows are not needed again
        assert len(calls) < 7 * 4 * 5


KILLED = """
import os, signal, sys
from cristae.engine.executors import Resources
from cristae.networks.model import load_model
from cristae.prediction import predict, windowed
from cristae.volumes.formats import open_volume

source, model, out = sys.argv[1:]
write = windowed.write_shards

def die_after_first(*arguments):
    yield from write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

windowed.write_shards = die_after_first
predict.predict_volume(
    open_volume(source), load_model(model), out, resources=Resources(workers=1)
)
"""


def test_a_killed_sweep_is_taken_up(pytc_model, texture, tmp_path):
    array = texture((3, 20, 530))  # two shards
    source = create_ome_zarr(
        tmp_path / "v.zarr", shape=array.shape, dtype="uint8", kind="image", voxel_size_nm=None
    )
    source.write(source.box, array)
    save_model(pytc_model, tmp_path / "m.pt")
    paths = [str(tmp_path / name) for name in ("v.zarr", "m.pt", "p.zarr")]
    died = subprocess.run([sys.executable, "-c", KILLED, *paths], check=False, env=dict(os.environ))
    assert died.returncode == -signal.SIGKILL
    source = open_ome_zarr(tmp_path / "v.zarr", str(tmp_path / "v.zarr"))
    whole, resumed = (
        predict_volume(source, pytc_model, out, resources=ONE)
        for out in (tmp_path / "whole.zarr", tmp_path / "p.zarr")
    )
    assert np.array_equal(resumed.read(), whole.read())


def test_the_source_is_read_once(pytc_model, texture, tmp_path):
    array, read = texture((9, 30, 41)), []

    class Reader:
        def read(self, box):
            read.append(box)
            return array[box.slices()].copy()

    volume = open_volume(array)
    known = {"intensity": sample_intensity(volume).to_dict()}  # so that no sample is read
    volume = volume.with_(reader=Reader(), attributes=known)
    predict_volume(volume, pytc_model, tmp_path / "p.zarr", resources=ONE)
    assert sum(box.size for box in read) == array.size


def test_a_recipe_may_be_overruled(pytc_model, texture, tmp_path):
    model = replace(
        pytc_model,
        recipe=InferenceRecipe(windows=replace(RECIPE, tta=4, combine="max")),
    )
    volume = open_volume(texture((3, 20, 20)))
    asked = predict_volume(
        volume,
        model,
        tmp_path / "asked.zarr",
        config=PredictConfig(tta=1, combine="mean"),
        resources=ONE,
    )
    largest = predict_volume(volume, model, tmp_path / "largest.zarr", resources=ONE)
    assert (asked.attributes["variants"], largest.attributes["combine"]) == (1, "max")
    assert (largest.read() >= asked.read()).mean() > 0.99  # the plain window is one of the four


def test_reduced_precision_is_taken_only_when_asked_for(pytc_model, texture, tmp_path, caplog):
    volume = open_volume(texture((3, 20, 20)))
    exact = predict_volume(volume, pytc_model, tmp_path / "a.zarr", resources=ONE).read()
    for precision in ("bfloat16", "float16"):
        with caplog.at_level(logging.INFO, "cristae"):
            found = predict_volume(
                volume,
                pytc_model,
                tmp_path / f"{precision}.zarr",
                config=PredictConfig(precision=precision),
                resources=ONE,
            )
        assert found.attributes["precision"] == precision
        assert np.abs(found.read().astype(int) - exact).max() <= 12
        assert f"on a sample {precision} is off float32" in caplog.text


def test_block_shapes_are_for_tiles(pytc_model, texture, tmp_path):
    with pytest.raises(
        InputError, match=r"own windows, \(4, 16, 16\), which are its blocks; expected none"
    ):
        predict_volume(
            open_volume(texture((3, 20, 20))),
            pytc_model,
            tmp_path / "p.zarr",
            block_shape=(1, 9, 9),
        )


def test_windows_take_next_sections(pytc_model, texture, tmp_path):
    with pytest.raises(InputError, match=r"z_stride 2: the model runs on its own windows"):
        predict_volume(
            open_volume(texture((3, 20, 20))),
            pytc_model,
            tmp_path / "p.zarr",
            config=PredictConfig(z_stride=2),
        )


def test_chunk_files_are_the_prediction(pytc_model, texture, tmp_path, monkeypatch):
    volume, folder = open_volume(texture((9, 30, 41))), tmp_path / "chunks"
    ask = {"resources": ONE, "chunks": folder}
    found = predict_volume(volume, pytc_model, tmp_path / "p.zarr", **ask)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "result_0-4-0-30-0-20.h5",
        "result_0-4-0-30-20-41.h5",
        "result_4-9-0-30-0-20.h5",
        "result_4-9-0-30-20-41.h5",
    ]
    with h5py.File(folder / names[1]) as file:
        assert list(file) == ["vol0"]
        assert np.array_equal(file["vol0"], found.read(Box((0, 0, 20), (4, 30, 41))))
    assert np.array_equal(open_volume(folder).read(), found.read())
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / names[0]).unlink()
    predict_volume(volume, pytc_model, tmp_path / "p.zarr", **ask)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [name for name in names if before[name] != after[name]] == [names[0]]


def test_chunk_files_of_others_are_left_alone(pytc_model, texture, tmp_path):
    volume, folder = open_volume(texture((9, 30, 41))), tmp_path / "chunks"
    folder.mkdir()
    with h5py.File(folder / "result_0-4-0-30-0-20.h5", "w") as file:
        file["vol0"] = np.zeros((2, 4, 30, 20), np.uint8)
    (folder / "result_0-9-0-30-0-41.h5").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    ask = {"resources": ONE, "chunks": folder}
    with pytest.raises(OutputExistsError) as error:
        predict_volume(volume, pytc_model, tmp_path / "p.zarr", **ask)
    assert "0-9-0-30-0-41.h5: chunk of another grid" in str(error.value)
    assert "0-4-0-30-0-20.h5: of another prediction found" in str(error.value)
    assert not (tmp_path / "p.zarr").exists()
    (folder / "result_0-9-0-30-0-41.h5").unlink()
    predict_volume(volume, pytc_model, tmp_path / "p.zarr", **ask, overwrite=True)
    assert len(list(folder.glob("*.h5"))) == 4
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("memory", [None, 0])
def test_a_mask_leaves_out_windows_and_clears(
    pytc_model, texture, tmp_path, small_shards, monkeypatch, memory
):
    if memory is not None:
        monkeypatch.setattr(request_module, "MEMORY_MOST", memory)
    volume = open_volume(texture((9, 40, 41)))
    mask = np.zeros(volume.shape, np.uint8)
    mask[7:, 30:, 2:9] = 1  # the first layers of windows have nothing to do
    whole = predict_volume(volume, pytc_model, tmp_path / "w.zarr", resources=ONE)
    calls, probabilities = [], windowed.tile_probabilities
    monkeypatch.setattr(
        windowed, "tile_probabilities", lambda *a: (calls.append(0), probabilities(*a))[1]
    )
    monkeypatch.setattr(regions, "CELL", (1, 4, 4))
    found = predict_volume(
        volume, pytc_model, tmp_path / "m.zarr", mask=open_volume(mask), resources=ONE
    )
    assert np.array_equal(found.read(), whole.read() * mask)
    assert found.read().any()
    count = math.prod(len(axis.starts) for axis in window_axes(RECIPE, volume.shape))
    assert 0 < len(calls) < count / 2
    assert found.attributes["record"]["summary"]["voxels_computed_per_voxel"] == pytest.approx(
        len(calls) * math.prod(RECIPE.shape) / (9 * 40 * 41), abs=1e-3
    )


def test_several_checkpoints_are_averaged(pytc_model, texture, tmp_path):
    volume = open_volume(texture((4, 20, 20)))
    torch.manual_seed(1)
    state = build_pytc_network(pytc_model.network_config).state_dict()
    models = [pytc_model, replace(pytc_model, state_dict=state)]
    alone = [
        predict_volume(volume, model, tmp_path / f"{i}.zarr", resources=ONE).read().astype(float)
        for i, model in enumerate(models)
    ]
    both = predict_volume(volume, models, tmp_path / "both.zarr", resources=ONE).read()
    assert np.abs(both - np.mean(alone, 0)).max() <= 1
    assert np.abs(alone[0] - alone[1]).max() > 5


@pytest.mark.parametrize(
    ("norm", "limit", "case"),
    [
        pytest.param("bn", 1 << 40, "plain", marks=pytest.mark.long),
        ("bn", 0, "plain"),
        pytest.param("gn", 1 << 40, "plain", marks=pytest.mark.long),
        pytest.param("bn", 1 << 40, "masked pair, turned", marks=pytest.mark.long),
    ],
)
def test_the_promise_holds_the_peak(tmp_path, norm, limit, case):
    """In a process of its own: peak above imports <= promise <= 2 x peak, in memory and on disk."""
    config = PytcConfig(block="residual_se", widths=(32, 64, 96, 128, 160), norm=norm)
    state = build_pytc_network(config).state_dict()
    recipe = WindowRecipe((9, 129, 129), (9, 128, 128))
    model = Model(
        config, state, ("mask",), intensity="uint8", recipe=InferenceRecipe(windows=recipe)
    )
    save_model(model, tmp_path / "m.pt")
    script = """
import sys, numba, numpy as np
from cristae.engine.memory import peak_memory
from cristae.engine.executors import Resources
from cristae.networks.model import load_model
from cristae.prediction import plan, predict
from cristae.volumes.formats import open_volume

plan.MEMORY_MOST = int(sys.argv[3])
volume = open_volume(np.random.default_rng(0).integers(0, 255, (8, 128, 256), np.uint8))
promised = []
keep = predict.promise_memory
predict.promise_memory = lambda s, n, r: (promised.append(n), keep(s, n, r))
before = peak_memory()
models, mask, config = [load_model(sys.argv[1])], None, predict.PredictConfig()
if sys.argv[4] != "plain":
    models, config = 2 * models, predict.PredictConfig(tta=4)
    mask = open_volume(np.tile(np.uint8([1, 0]), (8, 128, 128)))
predict.predict_volume(
    volume, models, sys.argv[2], config=config, mask=mask, resources=Resources(workers=1)
)
print(promised[0], peak_memory() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "m.pt"), str(tmp_path / "p.zarr")]
    command += [str(limit), case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    promise, peak = map(int, done.stdout.split())
    print(limit, promise / 2**20, peak / 2**20)
    assert peak <= promise <= 2 * peak
