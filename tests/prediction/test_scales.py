"""Images seen at several scales: the outputs' combination on one grid, in any tiling."""

from dataclasses import replace

import numpy as np
import pytest
from tests.prediction.test_predict import assert_equal_law

from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.networks.families.pytc.network import PytcConfig, build_pytc_network
from cristae.networks.model import load_model, save_model
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.windows import WindowRecipe
from cristae.prediction.estimate import prediction_work
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import array_volume

ONE = Resources(1)
SIZE = (30.0, 8.0, 8.0)
WORKING = (None, 8.0, 8.0)
SCALES = (0.75, 1.0, 1.5)
FLOAT32 = PredictConfig(precision="float32")


def volume_of(array, size=SIZE):
    return array_volume(array, voxel_size_nm=size, kind="image")


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_scales_are_combined_on_the_grid_of_the_output(make_model, texture, tmp_path, combine):
    volume = volume_of(texture((5, 60, 90)))
    model = make_model(working_voxel_size_nm=WORKING, recipe=InferenceRecipe(scales=SCALES))
    config = replace(FLOAT32, combine=combine)
    found = predict_volume(volume, model, tmp_path / "a.zarr", config=config, resources=ONE)
    each = [
        predict_volume(
            volume,
            make_model(working_voxel_size_nm=(None, 8 * scale, 8 * scale)),
            tmp_path / f"{scale}.zarr",
            config=FLOAT32,
            resources=ONE,
        ).read()
        for scale in SCALES
    ]
    expected = np.max(each, 0) if combine == "max" else np.mean(each, 0)
    assert found.attributes["scales"] == list(SCALES)
    assert np.abs(found.read() - expected.astype(float)).max() <= 1
    assert all(np.abs(found.read() - one.astype(float)).max() > 5 for one in each)


def test_scales_are_tile_invariant_with_everything(make_model, texture, tmp_path):
    array = texture((13, 60, 70))
    models = [make_model(working_voxel_size_nm=WORKING) for _ in range(2)]
    mask = np.zeros(array.shape, np.uint8)
    mask[3:9, 10:, :44] = 1
    config = PredictConfig(precision="float32", z_stride=2, tta=4, scales=SCALES)
    found = [
        predict_volume(
            volume_of(array),
            models,
            tmp_path / f"{i}.zarr",
            config=config,
            mask=open_volume(mask),
            block_shape=block,
            resources=ONE,
        ).read()
        for i, block in enumerate([None, (3, 20, 37)])
    ]
    assert_equal_law(found[0], found[1])
    assert not found[0][:, mask == 0].any()
    assert found[0][:, mask == 1].std() > 1


@pytest.mark.parametrize("grid", ["source", "working"])
def test_a_scale_of_nearly_one_changes_nearly_nothing(make_model, texture, tmp_path, grid):
    volume = volume_of(texture((3, 100, 100)), (30.0, 4.0, 4.0))
    model = make_model(working_voxel_size_nm=WORKING)
    one, near = (
        predict_volume(
            volume,
            model,
            tmp_path / f"{len(scales)}.zarr",
            config=replace(FLOAT32, grid=grid, scales=scales),
            resources=ONE,
        )
        for scales in ((1.0,), (1.0, 1.0001))
    )
    assert one.shape == near.shape
    assert (one.voxel_size_nm, one.origin_nm) == (near.voxel_size_nm, near.origin_nm)
    assert one.read().std() > 5
    assert np.abs(one.read() - near.read().astype(float)).max() <= 2


def test_what_scales_take_is_foretold(make_model, texture, tmp_path):
    volume = volume_of(texture((5, 60, 90)))
    model = make_model(working_voxel_size_nm=WORKING, recipe=InferenceRecipe(scales=SCALES))
    work = prediction_work(volume, model, FLOAT32, "float32", ONE)
    made = predict_volume(volume, model, tmp_path / "a.zarr", config=FLOAT32, resources=ONE)
    done = made.attributes["record"]["summary"]["voxels_computed_per_voxel"]
    assert work.computed / volume.size == pytest.approx(done, abs=1e-3)


def test_the_model_file_keeps_the_scales(make_model, tmp_path):
    model = make_model(working_voxel_size_nm=WORKING, recipe=InferenceRecipe(scales=SCALES))
    save_model(model, tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt").recipe.scales == SCALES


@pytest.mark.parametrize("scales", [(), (1.0, 1.0), (0.1, 1.0), (5.0,)])
def test_scales_that_cannot_be_are_refused(make_model, texture, tmp_path, scales):
    model = make_model(working_voxel_size_nm=WORKING)
    said = r"expected different numbers from 0\.25 to 4"
    with pytest.raises(InputError, match=said):
        save_model(replace(model, recipe=InferenceRecipe(scales=scales)), tmp_path / "m.pt")
    with pytest.raises(InputError, match=said):
        predict_volume(
            volume_of(texture((4, 40, 40))),
            model,
            tmp_path / "a.zarr",
            config=PredictConfig(scales=scales),
        )


def test_scales_need_a_working_voxel_size_and_no_windows(make_model, texture, tmp_path):
    torch_config = PytcConfig(widths=(4, 6), isotropy=(False, True))
    recipe = WindowRecipe((4, 16, 16), (2, 8, 8), (1, 2, 2))
    windows = make_model()
    windows = replace(
        windows,
        network_config=torch_config,
        state_dict=build_pytc_network(torch_config).state_dict(),
        channels=torch_config.channels,
        recipe=InferenceRecipe(windows=recipe),
    )
    volume = volume_of(texture((4, 40, 40)))
    for model, said in (
        (make_model(), "expected 1, as nothing is resampled in the plane"),
        (replace(windows, working_voxel_size_nm=WORKING), "the model runs on its own windows"),
    ):
        with pytest.raises(InputError, match=said):
            predict_volume(
                volume, model, tmp_path / "a.zarr", config=PredictConfig(scales=(1.0, 2.0))
            )
    with pytest.raises(InputError, match=r"the model runs on its own windows"):
        save_model(
            replace(
                windows,
                working_voxel_size_nm=WORKING,
                recipe=InferenceRecipe(windows=recipe, scales=SCALES),
            ),
            tmp_path / "m.pt",
        )
