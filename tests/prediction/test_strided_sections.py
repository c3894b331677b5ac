"""Thin sections in turns: every k-th one at once, turns interpolated and averaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.prediction.test_predict import assert_equal_law

from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.grid import Box
from cristae.networks.context import Context
from cristae.networks.model import load_model, model_network, save_model
from cristae.networks.recipe import InferenceRecipe, z_stride
from cristae.networks.strided_sections import StridedSectionRunner, strided_context
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.intensity import normalise, sample_intensity

ONE = Resources(workers=1)


class Sums:
    """A runner whose output is the sum of a section and those before and behind it."""

    precision = "float32"

    def probabilities(self, image, core):
        padded = np.pad(image, ((1, 1), (0, 0), (0, 0)))
        total = padded[:-2] + padded[1:-1] + padded[2:]
        return torch.from_numpy(np.stack([total, -total])[(slice(None), *core.slices())])


def oracle(image, step):
    """Each turn interpolated linearly on every section of an endless image, and their mean."""
    depth = image.shape[0]
    turns = []
    for turn in range(step):
        seen = image[turn::step]
        padded = np.pad(seen, ((1, 1), (0, 0), (0, 0)))
        found = padded[:-2] + padded[1:-1] + padded[2:]
        at = np.arange(turn, depth, step)
        columns = found.reshape(len(at), -1).T
        turns.append(np.stack([np.interp(np.arange(depth), at, each) for each in columns]))
    mean = np.mean(turns, axis=0).T.reshape(image.shape)
    return np.stack([mean, -mean])


@given(
    step=st.integers(2, 6),
    start=st.integers(0, 9),
    depth=st.integers(1, 9),
    blocks=st.integers(0, 3),
)
def test_turns_are_interpolated_and_averaged(step, start, depth, blocks):
    halo = strided_context(Context((1, 0, 0), (1, 1, 1)), step).halo_vx[0]
    assert halo == 2 * step - 1
    first = start + halo
    extent = -(-(first + depth + halo) // step) * step + blocks * step
    image = np.random.default_rng(step).random((extent, 3, 4), np.float32)
    core = Box((first, 1, 0), (first + depth, 3, 4))
    found = StridedSectionRunner(Sums(), step).probabilities(image, core).numpy()
    expected = oracle(image.astype(float), step)[(slice(None), *core.slices())]
    assert np.allclose(found, expected, atol=1e-5)


def test_a_core_without_its_halo_takes_what_there_is():
    image = np.ones((4, 2, 2), np.float32)
    for core in (Box.of(image.shape), Box((0, 0, 0), (1, 2, 2)), Box((3, 0, 0), (4, 2, 2))):
        found = StridedSectionRunner(Sums(), 4).probabilities(image, core)
        assert found.shape == (2, *core.shape)
        assert np.allclose(found[0].numpy(), 1)  # one section a turn, no neighbours


@pytest.mark.parametrize(
    ("spacing", "section", "step"),
    [(None, 5, 1), (30, 5, 6), (30, 8, 4), (30, 20, 1), (30, 50, 1), (30, float("inf"), 1)],
)
def test_sections_are_about_as_far_apart_as_wanted(spacing, section, step):
    assert z_stride(spacing, section) == step


def in_one_piece(array, model, step):
    """255 p of every section by whole turns over the reflected volume."""
    statistics = sample_intensity(open_volume(array))
    image = normalise(array, statistics, model.intensity)
    pads = [(5 * step, 5 * step + -len(array) % step), (48, 48 + 4), (48, 48 + 4)]
    for axis, along in enumerate(pads):
        image = np.pad(image, [along if a == axis else (0, 0) for a in range(3)], "reflect")
    turns = []
    for turn in range(step):
        seen = torch.from_numpy(image[turn::step].copy())[None, None]
        with torch.no_grad():
            turns.append(torch.sigmoid(model_network(model)(seen)[0]).numpy())
    raw = np.empty((2, *image.shape), np.float32)
    for turn, found in enumerate(turns):
        raw[:, turn::step] = found
    weights = [step - abs(shift) for shift in range(1 - step, step)]
    z0, (d, h, w) = 5 * step, array.shape
    mean = sum(
        weight * raw[:, z0 + shift : z0 + shift + d]
        for weight, shift in zip(weights, range(1 - step, step), strict=True)
    ) / sum(weights)
    return 255 * mean[:, :, 48 : 48 + h, 48 : 48 + w]


@pytest.mark.parametrize("block", [None, (2, 17, 30)])
def test_a_prediction_equals_whole_turns(make_model, texture, tmp_path, block):
    array, model = (
        texture((17, 44, 52)),
        replace(make_model(), recipe=InferenceRecipe(section_spacing_nm=30.0)),
    )
    volume = open_volume(array, voxel_size_nm=(10.0, 8.0, 8.0))
    config = PredictConfig(precision="float32")
    found = predict_volume(
        volume, model, tmp_path / "a.zarr", config=config, block_shape=block, resources=ONE
    )
    assert found.attributes["section_step"] == 3
    assert np.abs(found.read() - in_one_piece(array, model, 3)).max() < 1
    plain = predict_volume(
        volume, model, tmp_path / "b.zarr", config=replace(config, z_stride=1), resources=ONE
    )
    assert plain.attributes["section_step"] == 1
    assert not np.array_equal(plain.read(), found.read())


def test_turns_are_tile_invariant_with_everything(make_model, texture, tmp_path):
    volume, models = open_volume(texture((13, 60, 70))), [make_model(), make_model()]
    mask = np.zeros((13, 60, 70), np.uint8)
    mask[3:9, 10:, :44] = 1
    config = PredictConfig(precision="float32", z_stride=4, tta=16)
    found = [
        predict_volume(
            volume,
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


def test_the_model_file_keeps_the_spacing(make_model, tmp_path):
    model = replace(make_model(), recipe=InferenceRecipe(section_spacing_nm=30.0))
    save_model(model, tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt").recipe.section_spacing_nm == 30.0
    with pytest.raises(InputError, match=r"section_spacing_nm -1.*more than 0"):
        save_model(
            replace(model, recipe=InferenceRecipe(section_spacing_nm=-1.0)), tmp_path / "n.pt"
        )


def test_a_step_below_one_is_refused(make_model, texture, tmp_path):
    with pytest.raises(InputError, match="z_stride 0: expected at least 1"):
        predict_volume(
            open_volume(texture((4, 40, 40))),
            make_model(),
            tmp_path / "a.zarr",
            config=PredictConfig(z_stride=0),
        )
