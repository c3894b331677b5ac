"""Prediction: any tiling equals one piece, and an interrupted run an uninterrupted one."""

import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cristae.engine.executors import Resources
from cristae.errors import InputError, MemoryLimitError, OutputExistsError
from cristae.grid import Box
from cristae.networks.families.unet.inference import TileNetwork
from cristae.networks.families.unet.network import UNetConfig
from cristae.networks.model import model_network, save_model
from cristae.prediction import request as request_module
from cristae.prediction import tiled as tiled_module
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.prediction.tile_inference import tile_probabilities, tta_flips
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr
from cristae.volumes.intensity import grey_moments, normalise, sample_intensity

FLOAT32 = PredictConfig(precision="float32")
ONE = Resources(workers=1)
HALO, LATTICE = (3, 45, 45), 8


def one_piece(array, model, invert=False):
    """The prediction by a plain pass of the network over the whole reflected volume."""
    statistics = sample_intensity(open_volume(array))
    image = normalise(array, statistics, model.intensity, invert)
    low = [HALO[0], 48, 48]
    high = [HALO[0], *(45 + -(n + 48 + 45) % LATTICE for n in array.shape[1:])]
    for axis, pads in enumerate(zip(low, high, strict=True)):
        widths = [(0, 0)] * 3
        widths[axis] = pads
        mode = "edge" if array.shape[axis] == 1 else "reflect"
        image = np.pad(image, widths, mode=mode)
    with torch.no_grad():
        logits = model_network(model)(torch.from_numpy(image)[None, None])[0]
    core = Box(tuple(low), tuple(low)).grow((0, 0, 0), array.shape)
    levels = 255 * torch.sigmoid(logits[(slice(None), *core.slices())]).numpy()
    return np.rint(levels).astype(np.uint8)


def assert_equal_law(found, expected):
    """float32: at most 1 grey level, on at most one voxel in 10^5 (or one at all)."""
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(1, 1e-5 * difference.size)


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        pytest.param((7, 90, 70), [None, (3, 33, 70), (7, 16, 50)], id="not divisible"),
        pytest.param((1, 40, 100), [None, (1, 40, 24)], id="one section"),
        pytest.param((2, 530, 20), [None, (2, 512, 20), (1, 100, 20)], id="two shards, narrow"),
    ],
)
def test_any_tiling_equals_the_one_piece_prediction(shape, blocks, make_model, texture, tmp_path):
    model, array = make_model(), texture(shape)
    found = [
        predict_volume(
            open_volume(array),
            model,
            tmp_path / f"{number}.zarr",
            config=FLOAT32,
            block_shape=block,
            resources=Resources(workers=1 + number % 2),
        ).read()
        for number, block in enumerate(blocks)
    ]
    assert found[0].std() > 5
    for other in found[1:]:
        assert_equal_law(other, found[0])
    # the plain network sums in another order, as its batch normalisation is not folded
    difference = np.abs(found[0].astype(int) - one_piece(array, model))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_bfloat16_tilings_differ_by_one_level_at_most(make_model, texture, tmp_path):
    model, volume = make_model(), open_volume(texture((6, 80, 120)))
    config = PredictConfig(precision="bfloat16")
    found = [
        predict_volume(
            volume, model, tmp_path / f"{i}.zarr", config=config, block_shape=block, resources=ONE
        ).read()
        for i, block in enumerate([None, (2, 40, 33)])
    ]
    assert np.abs(found[0].astype(int) - found[1]).max() <= 1
    exact = predict_volume(volume, model, tmp_path / "f.zarr", config=FLOAT32, resources=ONE).read()
    assert not np.array_equal(found[0], exact)  # it was bfloat16 indeed
    assert np.abs(found[0].astype(int) - exact).mean() < 1


def test_resampled_predictions_do_not_depend_on_tiles(make_model, texture, tmp_path):
    model = make_model(working_voxel_size_nm=(None, 8.0, 8.0))
    volume = open_volume(texture((3, 90, 100)), voxel_size_nm=(30.0, 5.9, 11.0))
    found = [
        predict_volume(
            volume, model, tmp_path / f"{i}.zarr", config=FLOAT32, block_shape=block, resources=ONE
        ).read()
        for i, block in enumerate([None, (2, 31, 100), (3, 64, 40)])
    ]
    assert found[0].shape == (2, 3, 90, 100)
    for other in found[1:]:
        assert_equal_law(other, found[0])


def test_an_enlarged_image_predicts_alike(make_model, texture, tmp_path):
    """Twice the pixels at half the size are resampled to the same working grid."""
    model = make_model(working_voxel_size_nm=(None, 8.0, 8.0))
    small = texture((2, 60, 60))
    large = small.repeat(2, 1).repeat(2, 2)
    found = []
    for name, array, size in (("small", small, 8.0), ("large", large, 4.0)):
        volume = open_volume(array, voxel_size_nm=(30.0, size, size))
        found.append(
            predict_volume(volume, model, tmp_path / f"{name}.zarr", config=FLOAT32, resources=ONE)
        )
    coarse = found[1].read().reshape(2, 2, 60, 2, 60, 2).mean((3, 5))
    fine = found[0].read().astype(float)
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.8


@pytest.mark.parametrize(("tta", "combine"), [(4, "mean"), (8, "max"), (16, "min")])
def test_variants_are_tile_invariant(make_model, texture, tmp_path, tta, combine):
    model, volume = make_model(), open_volume(texture((4, 70, 90)))
    config = PredictConfig(precision="float32", tta=tta, combine=combine)
    found = [
        predict_volume(
            volume, model, tmp_path / f"{i}.zarr", config=config, block_shape=block, resources=ONE
        ).read()
        for i, block in enumerate([None, (3, 20, 37)])
    ]
    assert_equal_law(found[0], found[1])
    plain = predict_volume(volume, model, tmp_path / "p.zarr", config=FLOAT32, resources=ONE)
    assert not np.array_equal(plain.read(), found[0])


def test_the_variants_are_flips_and_transposes():
    assert tta_flips(1) == [((), False)]
    assert tta_flips(4) == [((), False), ((1,), False), ((2,), False), ((1, 2), False)]
    for count in (8, 16):
        found = tta_flips(count)
        assert len(set(found)) == count
        assert sum(transposed for _, transposed in found) == count // 2
        assert any(0 in axes for axes, _ in found) == (count == 16)


@pytest.mark.parametrize(
    ("combine", "oracle"), [("mean", np.mean), ("min", np.min), ("max", np.max)]
)
@pytest.mark.parametrize("count", [4, 16])
def test_variants_are_combined_over_turned_tiles(make_model, count, combine, oracle):
    network = TileNetwork(model_network(make_model()), "float32")
    image = np.random.default_rng(0).normal(size=(3, 16, 24)).astype(np.float32)
    core = Box((0, 2, 3), (3, 12, 20))
    found = tile_probabilities(network, image, core, count, combine)
    parts = []
    for axes, transposed in tta_flips(count):
        turned = np.flip(image, axes)
        turned = np.swapaxes(turned, 1, 2) if transposed else turned
        whole = torch.sigmoid(network.logits(turned.copy(), Box.of(turned.shape))).numpy()
        whole = np.swapaxes(whole, 2, 3) if transposed else whole
        back = np.flip(whole, [axis + 1 for axis in axes])
        parts.append(back[(slice(None), *core.slices())])
    np.testing.assert_allclose(found, oracle(parts, 0), atol=1e-5)
    turned = Box((0, 4, 4), (3, 14, 21))  # the core in the tile turned around in both axes
    again = tile_probabilities(network, np.flip(image, (1, 2)).copy(), turned, count, combine)
    np.testing.assert_allclose(again.flip(2, 3), found, atol=1e-5)


def test_transposes_need_equal_steps_in_the_plane(make_model, texture, tmp_path):
    network = UNetConfig(widths=(4, 6), strides=((1, 2, 4),), z_kernel_levels=(1,))
    config = PredictConfig(tta=8)
    with pytest.raises(InputError, match=r"tta 8: the network steps \(4, 8\)"):
        predict_volume(
            open_volume(texture((2, 16, 16))),
            make_model(network),
            tmp_path / "p.zarr",
            config=config,
        )


def test_truncation_is_told_and_one_level_lower_at_most(make_model, texture, tmp_path):
    volume, model = open_volume(texture((2, 30, 30))), make_model()
    rounded, truncated = (
        predict_volume(
            volume,
            model,
            tmp_path / f"{truncate}.zarr",
            config=replace(FLOAT32, truncate=truncate),
            resources=ONE,
        )
        for truncate in (False, True)
    )
    difference = rounded.read().astype(int) - truncated.read()
    assert set(np.unique(difference)) == {0, 1}
    assert truncated.attributes["quantisation"] == "truncated"


def test_inverted_contrast_is_turned(make_model, texture, tmp_path):
    model, array = make_model(), texture((3, 40, 40))
    plain = predict_volume(
        open_volume(array), model, tmp_path / "a.zarr", config=FLOAT32, resources=ONE
    )
    config = PredictConfig(invert=True, precision="float32")
    turned = predict_volume(
        open_volume(255 - array), model, tmp_path / "b.zarr", config=config, resources=ONE
    )
    assert np.abs(plain.read().astype(int) - turned.read()).max() <= 1
    assert turned.attributes["input_intensity"]["inverted"] is True


def test_what_travels_with_a_prediction(make_model, texture, tmp_path):
    model = make_model(decoder="bc_watershed", thresholds={"foreground": 0.7})
    volume = open_volume(texture((9, 60, 60)), voxel_size_nm=(30.0, 8.0, 8.0), roi="4:8,8:40,16:60")
    found = predict_volume(volume, model, tmp_path / "p.zarr", resources=ONE)
    assert (found.shape, found.channels, found.dtype) == (
        (4, 32, 44),
        ("mask", "contour"),
        np.uint8,
    )
    assert found.kind == "prediction"
    assert found.voxel_size_nm == (30.0, 8.0, 8.0)
    assert found.origin_nm == (120.0, 64.0, 128.0)
    attributes = found.attributes
    assert attributes["decoder"] == "bc_watershed"
    assert attributes["thresholds"] == {"foreground": 0.7}
    assert attributes["quantisation"] == "rounded"
    assert attributes["model"] == model.fingerprint
    assert attributes["precision"] in ("float32", "bfloat16")
    assert attributes["input_intensity"]["statistics"]["high"] > 0
    assert attributes["record"]["summary"]["voxels"] == 4 * 32 * 44


def test_a_section_of_a_thin_stack_is_not_asked_for_a_whole_instance(make_model, texture, tmp_path):
    """100 voxels of 30x8x8 nm are 1,536 of 5 nm; one section shows a sixth of them."""
    model = make_model(thresholds={"min_size": 100}, threshold_voxel_size_nm=(30.0, 8.0, 8.0))
    array = texture((8, 32, 40))
    for sections, least in ((1, 256), (2, 512), (8, 1536)):
        volume = open_volume(array[:sections], voxel_size_nm=(5.0, 5.0, 5.0))
        found = predict_volume(volume, model, tmp_path / f"{sections}.zarr", resources=ONE)
        assert found.attributes["thresholds"] == {"min_size": least}


def test_new_thresholds_pass_on_without_a_new_prediction(make_model, texture, tmp_path, caplog):
    volume, out = open_volume(texture((2, 30, 30))), tmp_path / "p.zarr"
    first = predict_volume(volume, make_model(thresholds={"foreground": 0.7}), out, resources=ONE)
    before = first.read()
    with caplog.at_level(logging.INFO, "cristae"):
        again = predict_volume(volume, make_model(thresholds={"foreground": 0.5}), out)
    assert "already done" in caplog.text
    assert again.attributes["thresholds"] == {"foreground": 0.5}
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.read(), before)


def test_other_settings_need_overwrite(make_model, texture, tmp_path):
    volume, model, out = open_volume(texture((2, 30, 30))), make_model(), tmp_path / "p.zarr"
    predict_volume(volume, model, out, config=FLOAT32, resources=ONE)
    inverted = replace(FLOAT32, invert=True)
    with pytest.raises(OutputExistsError, match=r"invert: False there, True now"):
        predict_volume(volume, model, out, config=inverted, resources=ONE)
    found = predict_volume(volume, model, out, config=inverted, resources=ONE, overwrite=True)
    assert found.attributes["input_intensity"]["inverted"] is True


def test_an_interrupted_run_goes_on_with_other_blocks(make_model, texture, tmp_path, monkeypatch):
    volume, model = open_volume(texture((66, 30, 530))), make_model()  # four shards
    expected = predict_volume(
        volume, model, tmp_path / "whole.zarr", config=FLOAT32, resources=ONE
    ).read()
    done, write = [], tiled_module.write_shards

    def fail_at_third(prediction, missing, group):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(missing)
        return write(prediction, missing, group)

    out = tmp_path / "cut.zarr"
    monkeypatch.setattr(tiled_module, "write_shards", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict_volume(volume, model, out, config=FLOAT32, block_shape=(64, 30, 512), resources=ONE)
    monkeypatch.setattr(tiled_module, "write_shards", write)
    computed, levels = [], tiled_module.Lane.levels

    def counted(lane, seen):
        computed.append(seen.part)
        return levels(lane, seen)

    monkeypatch.setattr(tiled_module.Lane, "levels", counted)
    found = predict_volume(
        volume, model, out, config=FLOAT32, block_shape=(16, 30, 200), resources=ONE
    )
    assert_equal_law(found.read(), expected)
    assert all(core.start[0] >= 64 for core in computed)  # only the two shards that were missing
    assert not (out / ".cristae").exists()


KILLED = """
import os, signal, sys
from cristae.engine.executors import Resources
from cristae.networks.model import load_model
from cristae.prediction import predict, tiled
from cristae.volumes.formats import open_volume

source, model, out = sys.argv[1:]
write = tiled.write_shards

def die_after_first(*arguments):
    yield from write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

tiled.write_shards = die_after_first
predict.predict_volume(
    open_volume(source), load_model(model), out,
    config=predict.PredictConfig(precision="float32"), resources=Resources(workers=1),
    block_shape=(2, 512, 40),
)
"""


def test_a_killed_run_is_taken_up(make_model, texture, tmp_path):
    array, model = texture((2, 1030, 40)), make_model()
    source = create_ome_zarr(
        tmp_path / "v.zarr", shape=array.shape, dtype="uint8", kind="image", voxel_size_nm=None
    )
    source.write(source.box, array)
    save_model(model, tmp_path / "m.pt")
    paths = [str(tmp_path / name) for name in ("v.zarr", "m.pt", "p.zarr")]
    died = subprocess.run([sys.executable, "-c", KILLED, *paths], check=False, env=dict(os.environ))
    assert died.returncode == -signal.SIGKILL
    source = open_ome_zarr(tmp_path / "v.zarr", str(tmp_path / "v.zarr"))
    whole, resumed = (
        predict_volume(source, model, out, config=FLOAT32, block_shape=(2, 512, 40), resources=ONE)
        for out in (tmp_path / "whole.zarr", tmp_path / "p.zarr")
    )
    assert np.array_equal(resumed.read(), whole.read())


@pytest.mark.long
def test_the_promise_holds_the_peak(make_model, tmp_path):
    """In a process of its own: peak above imports <= promise <= 2 x peak, each run by itself."""
    save_model(make_model(UNetConfig()), tmp_path / "m.pt")
    script = """
import sys, numpy as np
from dataclasses import replace
from cristae.engine.memory import peak_memory
from cristae.engine.executors import Resources
from cristae.networks.model import load_model
from cristae.networks.recipe import InferenceRecipe
from cristae.prediction import predict
from cristae.volumes.formats import open_volume

volume = open_volume(np.random.default_rng(0).integers(0, 255, (16, 192, 192), np.uint8))
promised = []
keep = predict.promise_memory
predict.promise_memory = lambda s, n, r: (promised.append(n), keep(s, n, r))
precision, case = sys.argv[3].split("-")
before = peak_memory()
model = load_model(sys.argv[1])
if case == "resampled":
    volume = volume.with_(voxel_size_nm=(30.0, 8.0, 8.0))
    model = replace(model, working_voxel_size_nm=(None, 6.0, 6.0))
if case == "scales":
    volume = volume.with_(voxel_size_nm=(30.0, 8.0, 8.0))
    recipe = InferenceRecipe(scales=(0.8, 1.0, 1.25))
    model = replace(model, working_voxel_size_nm=(None, 8.0, 8.0), recipe=recipe)
tta, step = 4 if case == "flips" else 1, 4 if case == "turns" else 1
config = predict.PredictConfig(precision=precision, tta=tta, z_stride=step)
models, mask = (model,), None
if case == "masked pair":
    models, mask = (model, model), open_volume(np.tile(np.uint8([0, 1]), (16, 192, 96)))
predict.predict_volume(
    volume, models, sys.argv[2], config=config, mask=mask, resources=Resources(workers=1)
)
print(promised[0], peak_memory() - before)
"""
    cases = ("float32-plain", "bfloat16-plain", "float32-resampled")
    for case in (
        *cases,
        "bfloat16-flips",
        "float32-masked pair",
        "float32-turns",
        "float32-scales",
    ):
        command = [sys.executable, "-c", script, str(tmp_path / "m.pt")]
        command += [str(tmp_path / f"{case}.zarr"), case]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        promise, peak = map(int, done.stdout.split())
        print(case, promise / 2**20, peak / 2**20)
        assert peak <= promise <= 2 * peak


def test_memory_that_cannot_do_is_refused_with_the_number_that_can(make_model, texture, tmp_path):
    volume = open_volume(texture((64, 128, 128)))
    with pytest.raises(
        MemoryLimitError, match=r"needs 0\.\d+ GiB of memory, 0\.01 GiB are allowed"
    ):
        predict_volume(
            volume, make_model(), tmp_path / "p.zarr", resources=Resources(1, "serial", 0.01)
        )


def test_less_memory_means_smaller_tiles_and_the_same_result(make_model, texture, tmp_path, caplog):
    volume, model = open_volume(texture((64, 200, 200))), make_model()
    with caplog.at_level(logging.INFO, "cristae"):
        small, large = (
            predict_volume(
                volume,
                model,
                tmp_path / f"{gib}.zarr",
                config=FLOAT32,
                resources=Resources(1, "serial", gib),
            ).read()
            for gib in (0.16, 2.0)
        )
    assert_equal_law(small, large)
    tiles = [r.args[0] for r in caplog.records if "tiles of" in r.msg]
    assert tiles[0] > tiles[1] == 1


def test_the_summary_says_what_bounds_the_run(make_model, texture, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "cristae"):
        predict_volume(open_volume(texture((2, 30, 30))), make_model(), tmp_path / "p.zarr")
    summary = caplog.records[-1].getMessage()
    for part in ("Mvoxels in", "voxels/s", "voxels computed a voxel written", "bound by", "peak"):
        assert part in summary


@pytest.mark.parametrize(
    ("opened", "changes", "expected"),
    [
        ({"kind": "labels"}, {}, "a volume of labels found, expected an image"),
        ({}, {"working_voxel_size_nm": (None, 8.0, 8.0)}, "voxel size unknown.*--voxel-size"),
        ({"dtype": np.uint16}, {"intensity": "uint8"}, "uint16 voxels found.*expects uint8"),
        ({"channels": 2}, {}, "2 channels found, expected an image without: --index c=0"),
        ({"value": 7}, {}, "one grey value"),
    ],
)
def test_sources_the_model_cannot_take_are_refused(opened, changes, expected, make_model, tmp_path):
    shape = (opened["channels"], 2, 16, 16) if "channels" in opened else (2, 16, 16)
    array = np.random.default_rng(0).integers(0, 255, shape).astype(opened.get("dtype", np.uint8))
    if "value" in opened:
        array[:] = opened["value"]
    volume = open_volume(array, kind=opened.get("kind"))
    with pytest.raises(InputError, match=expected):
        predict_volume(volume, make_model(**changes), tmp_path / "p.zarr", resources=ONE)


def test_all_faults_are_told_at_once(make_model, tmp_path):
    array = np.zeros((2, 16, 16), np.uint16)
    model = make_model(intensity="uint8", working_voxel_size_nm=(None, 8.0, 8.0))
    with pytest.raises(InputError) as error:
        predict_volume(open_volume(array, kind="labels"), model, tmp_path / "p.zarr")
    for part in ("labels found", "uint16 voxels", "voxel size unknown"):
        assert part in str(error.value)
    assert not (tmp_path / "p.zarr").exists()


def test_grey_values_far_from_training_are_warned_of(make_model, texture, tmp_path, caplog):
    volume = open_volume(texture((2, 30, 30)))
    mean, std = grey_moments(sample_intensity(volume), "window")
    for name, known, warned in (
        ("near", [[9.0, 9.0], [mean + 0.2, std]], False),
        ("bright", [[mean - 0.3, std]], True),
        ("flat", [[mean, std + 0.2]], True),
        ("unknown", [], False),
    ):
        caplog.clear()
        model = make_model(card={"grey": known})
        predict_volume(volume, model, tmp_path / f"{name}.zarr", config=FLOAT32, resources=ONE)
        assert ("far from the model's training data" in caplog.text) == warned


def test_moments_are_those_of_normalised_voxels(texture):
    array = texture((8, 64, 64))
    statistics = sample_intensity(open_volume(array))
    for rule, invert in (("uint8", False), ("uint8", True), ("window", False)):
        voxels = normalise(array, statistics, rule, invert)
        found = grey_moments(statistics, rule, invert)
        np.testing.assert_allclose(found, (voxels.mean(), voxels.std()), atol=0.01)


def test_suspected_inversion_is_warned_of(make_model, texture, tmp_path, caplog, monkeypatch):
    volume = open_volume(texture((2, 30, 30)))
    suspected = replace(sample_intensity(volume), inverted_suspected=True)
    monkeypatch.setattr(request_module, "sample_intensity", lambda *_: suspected)
    predict_volume(volume, make_model(), tmp_path / "a.zarr", resources=ONE)
    assert "--invert" in caplog.text
    caplog.clear()
    predict_volume(
        volume, make_model(), tmp_path / "b.zarr", config=PredictConfig(invert=True), resources=ONE
    )
    assert "--invert" not in caplog.text


def test_places_that_cannot_be_written_are_named_before_work(make_model, texture, tmp_path):
    volume, model, file = open_volume(texture((2, 16, 16))), make_model(), tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError) as error:
        predict_volume(volume, model, tmp_path / "p.tif", chunks=file)
    assert "p.tif: expected a name that ends with .zarr" in str(error.value)
    assert "file: a file found, expected a folder" in str(error.value)
    with pytest.raises(InputError, match=r"file/p\.zarr: cannot be made here"):
        predict_volume(volume, model, file / "p.zarr")


def test_grey_values_that_cannot_be_read_are_named(make_model, texture, tmp_path):
    array = texture((2, 16, 16)).astype(np.float32)
    array[1, 3, 3] = np.nan
    flat, options = np.full(array.shape, 7, np.uint8), {"config": FLOAT32, "resources": ONE}
    for grey, message in (
        (array, "array: .*NaN at voxel 1, 3, 3"),
        (flat, "array: .*one grey value"),
    ):
        with pytest.raises(InputError, match=message):
            predict_volume(
                open_volume(grey), make_model(), tmp_path / f"{grey.dtype}.zarr", **options
            )
