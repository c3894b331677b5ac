"""Masks, the coarse pass, ensembles, and the grids a prediction is read from and written on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.grid import Box, tile
from cristae.networks.families.unet.network import UNetConfig
from cristae.prediction import regions as regions_module
from cristae.prediction import tiled as tiled_module
from cristae.prediction.grids import plan_grids
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.prediction.regions import Occupancy, Region
from cristae.prediction.skip import coarse_size, signal_region
from cristae.prediction.tile_inference import ImageInput
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.intensity import sample_intensity
from cristae.volumes.volume import array_volume

FLOAT32 = PredictConfig(precision="float32")
ONE = Resources(workers=1)


@pytest.fixture
def predict(tmp_path):
    numbers = iter(range(100))

    def call(volume, model, **options):
        options = {"config": FLOAT32, "resources": ONE} | options
        return predict_volume(volume, model, tmp_path / f"{next(numbers)}.zarr", **options)

    return call


def corner_mask(shape):
    """Tissue in one corner, a ragged edge included."""
    mask = np.zeros(shape, np.uint8)
    mask[: shape[0] // 2, : shape[1] // 2, : shape[2] // 3] = 1
    mask[0, shape[1] // 2, 3] = 7
    return mask


def test_a_mask_clears_what_is_outside_and_nothing_else(make_model, texture, predict, monkeypatch):
    model, volume = make_model(), open_volume(texture((6, 40, 60)))
    mask = corner_mask(volume.shape)
    whole = predict(volume, model).read()
    computed, levels = [], tiled_module.Lane.levels
    monkeypatch.setattr(
        tiled_module.Lane, "levels", lambda j, s, *a: (computed.append(s.part), levels(j, s, *a))[1]
    )
    found = predict(volume, model, mask=open_volume(mask), block_shape=(2, 20, 20))
    difference = np.abs(found.read().astype(int) - whole * (mask > 0))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 1
    assert found.read().any()
    assert 0 < len(computed) < 9 + 2  # of 18 tiles; the ragged voxel needs one more
    assert all(mask[core.slices()].any() for core in computed)


def test_a_coarser_mask_covers_the_same_place(make_model, texture, predict):
    volume = open_volume(texture((4, 40, 60)), voxel_size_nm=(30.0, 8.0, 8.0))
    coarse = np.zeros((2, 10, 15), np.uint8)
    coarse[0, 2:5, 3:9] = 1
    fine = coarse.repeat(2, 0).repeat(4, 1).repeat(4, 2)
    model = make_model()
    sized = open_volume(coarse, voxel_size_nm=(60.0, 32.0, 32.0))
    one = predict(volume, model, mask=sized).read()
    assert np.array_equal(one, predict(volume, model, mask=open_volume(fine)).read())
    assert one.any()


def test_a_mask_that_does_not_fit_is_refused(make_model, texture, predict):
    with pytest.raises(InputError, match=r"mask array: shape \(2, 9, 9\).*expected \(2, 16, 16\)"):
        predict(
            open_volume(texture((2, 16, 16))),
            make_model(),
            mask=open_volume(np.ones((2, 9, 9), np.uint8)),
        )


def test_occupied_cells_are_those_with_a_voxel_inside():
    mask = np.zeros((20, 150, 80), np.uint8)
    mask[17, 140, 70] = 1
    cells = Occupancy([Region(array_volume(mask), (1.0, 1.0, 1.0))], mask.shape)
    assert cells.reaches(Box((10, 100, 50), (18, 150, 90)))
    assert not cells.reaches(Box((0, 0, 0), (16, 150, 80)))
    assert not cells.reaches(Box((0, 0, 0), (20, 150, 64)))
    assert not cells.reaches(Box((-9, 0, 0), (0, 9, 9)))


@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 200), st.integers(1, 300)),
    most=st.sampled_from([2, 1 << 20]),
)
def test_hulls_hold_what_is_occupied_of_each_box(data, shape, most):
    mask = np.zeros(shape, np.uint8)
    for _ in range(data.draw(st.integers(0, 3))):
        place = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
        mask[tuple(slice(a, a + data.draw(st.integers(1, 70))) for a in place)] = 1
    core = data.draw(st.tuples(*(st.integers(1 + n // 5, n) for n in shape)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(regions_module, "MOST_CELLS", most)
        cells = Occupancy([Region(array_volume(mask), (1.0, 1.0, 1.0))], shape)
    spans = tuple(
        tuple((a, min(a + c, n)) for a in range(0, n, c)) for n, c in zip(shape, core, strict=True)
    )
    found = [Box(tuple(a), tuple(b)) for a, b in zip(*cells.hulls(spans), strict=True)]
    assert found == list(brute_hulls(mask, core, cells.cell))


def brute_hulls(mask, core, cell):
    """Every box in turn: its occupied cells, one by one."""
    for box in tile(Box.of(mask.shape), core):
        parts = [
            each.clip(box)
            for each in tile(Box.of(mask.shape), cell)
            if mask[each.slices()].any() and not each.clip(box).empty
        ]
        if parts:
            low, high = np.array([p.start for p in parts]), np.array([p.stop for p in parts])
            yield Box(tuple(low.min(axis=0)), tuple(high.max(axis=0)))


def test_tiles_are_chosen_by_what_is_wanted_of_them(make_model, texture, predict, caplog):
    """Two far corners: a tile around both would be nearly all of the volume."""
    volume = open_volume(texture((8, 512, 1024)))
    mask = np.zeros(volume.shape, np.uint8)
    mask[:, 70:120, 10:60] = mask[:, 400:440, 900:960] = 1
    model, read = make_model(), []
    with caplog.at_level("INFO", "cristae"), pytest.MonkeyPatch.context() as patched:
        levels = tiled_module.Lane.levels
        patched.setattr(
            tiled_module.Lane, "levels", lambda j, s, *a: (read.append(s), levels(j, s, *a))[1]
        )
        found = predict(volume, model, mask=open_volume(mask))
    assert [seen.part for seen in read] == [
        Box((0, 64, 0), (8, 128, 64)),
        Box((0, 384, 896), (8, 448, 960)),
    ]
    # 64 + 2 x 49 on a lattice of 8, and 8 + 2 x 3 sections
    views = [view for seen in read for view in seen.views]
    assert [(box.shape, image.shape) for box, image in views] == [((14, 176, 176),) * 2] * 2
    share = 2 * 14 * 176 * 176 / volume.size
    assert "128 tiles of 14x176x176, cores of 8x64x64, 2 of them with something" in caplog.text
    assert caplog.text.count(f"{share:.2f} voxels computed a voxel written") == 2
    summary = found.attributes["record"]["summary"]
    assert summary["voxels_computed_per_voxel"] == pytest.approx(share, abs=1e-3)
    box = Box((0, 380, 880), (8, 460, 980))
    cells = predict(volume, model, mask=open_volume(mask), block_shape=(8, 40, 512)).read(box)
    assert np.abs(found.read(box).astype(int) - cells).max() <= 1
    near = predict(volume, model, mask=open_volume(mask), block_shape=(8, 512, 1024)).read(box)
    assert near.any()
    difference = np.abs(found.read(box).astype(int) - near)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 1


def test_an_interrupted_coarse_pass_goes_on_with_other_tiles(
    make_model, texture, tmp_path, monkeypatch
):
    """Resin beside tissue; stopped at the second shard, then taken up with small blocks."""
    array = texture((4, 60, 1100))
    array[:, :, 500:] = 128
    volume = open_volume(array, voxel_size_nm=(30.0, 8.0, 8.0))
    model, config = make_model(), replace(FLOAT32, skip_empty=True)
    coarse = replace(model, working_voxel_size_nm=coarse_size(model, volume.voxel_size_nm))
    levels = predict_volume(
        volume,
        coarse,
        tmp_path / "coarse.zarr",
        config=replace(FLOAT32, grid="working"),
        resources=ONE,
    ).read()
    resin, tissue = levels[..., 160:].max(), levels[..., :100].max()
    assert resin < tissue
    monkeypatch.setattr("cristae.prediction.skip.SIGNAL", (int(resin) + int(tissue)) / 2 / 255)
    whole = predict_volume(volume, model, tmp_path / "whole.zarr", config=config, resources=ONE)
    write, calls = tiled_module.write_shards, []

    def stop_at_second(prediction, missing, *arguments):
        if prediction.shape == volume.shape:
            calls.append(missing)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return write(prediction, missing, *arguments)

    cut = {"out": tmp_path / "cut.zarr", "config": config, "resources": ONE}
    monkeypatch.setattr(tiled_module, "write_shards", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        predict_volume(volume, model, block_shape=(4, 60, 512), **cut)
    monkeypatch.setattr(tiled_module, "write_shards", write)
    found = predict_volume(volume, model, block_shape=(2, 30, 100), **cut).read()
    expected = whole.read()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(1, 1e-5 * expected.size)
    empty = ~expected.any(axis=(0, 1, 2))
    assert 300 < np.count_nonzero(empty) < 1000


@pytest.mark.parametrize(
    ("combine", "oracle"), [("mean", np.mean), ("min", np.min), ("max", np.max)]
)
def test_an_ensemble_combines_its_models(make_model, texture, predict, combine, oracle):
    volume, config = open_volume(texture((3, 40, 50))), replace(FLOAT32, combine=combine)
    models = [make_model(), other_model(make_model)]
    alone = [predict(volume, model).read().astype(float) for model in models]
    assert np.abs(alone[0] - alone[1]).max() > 20
    for block in (None, (2, 17, 30)):
        found = predict(volume, models, config=config, block_shape=block)
        assert np.abs(found.read() - oracle(alone, 0)).max() <= 1
    assert found.attributes["model"] == "+".join(model.fingerprint for model in models)


def other_model(make_model):
    """Other weights, and a network of another halo and lattice."""
    network = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
    return make_model(network)


def test_an_ensemble_must_agree(make_model, texture, predict):
    models = [make_model(), make_model(intensity="uint8", working_voxel_size_nm=(None, 8.0, 8.0))]
    with pytest.raises(InputError) as error:
        predict(open_volume(texture((2, 16, 16))), models)
    for part in ("model 2: intensity uint8, the first has window", "working_voxel_size_nm"):
        assert part in str(error.value)


def test_the_working_grid_holds_what_the_network_found(make_model, texture, predict):
    """On its grid nothing is interpolated; back on the source's grid it is the default's output."""
    size = (30.0, 4.0, 8.0)
    volume = open_volume(texture((3, 81, 50)), voxel_size_nm=size)
    model = make_model(working_voxel_size_nm=(None, 8.0, 8.0))
    config = replace(FLOAT32, grid="working")
    found = [
        predict(volume, model, config=config, block_shape=block) for block in (None, (2, 17, 30))
    ]
    assert found[0].shape == (3, 41, 50)
    assert found[0].voxel_size_nm == (30.0, 8.0, 8.0)
    assert found[0].origin_nm == (0.0, 2.0, 0.0)
    assert np.abs(found[0].read().astype(int) - found[1].read()).max() <= 1
    source = predict(volume, model).read().astype(float)
    pairs = found[0].read()[:, :, :40].astype(float)
    middle = (pairs[:, :, 1:-1] * 3 + pairs[:, :, :-2]) / 4  # a quarter voxel before the centre
    assert np.abs(source[:, :, 2:-3:2][:, :, :38] - middle).max() <= 1.01


def test_a_level_of_the_pyramid_is_read(make_model, texture, tmp_path, predict):
    array = texture((4, 600, 40)).repeat(4, 2)
    volume = open_volume(array, voxel_size_nm=(30.0, 2.0, 2.0), kind="image")
    stored = convert_volume(volume, tmp_path / "v.zarr", resources=ONE)
    grids = plan_grids(stored, (None, 9.0, 9.0))
    view = grids.views[0]
    assert view.level == (1, 4, 4)  # 8 nm: the next would be coarser than 9 nm
    assert view.read.shape == (4, 150, 40)
    assert view.read_factors == (1.0, 1.125, 1.125)
    assert view.output_factors == (1.0, 4.5, 4.5)
    part = stored.crop(Box((0, 2, 4), (4, 600, 160)))  # begins inside a voxel of that level
    assert plan_grids(part, (None, 9.0, 9.0)).read_level == [1, 2, 2]
    same = array[:, 2:, 4:].reshape(4, 299, 2, 78, 2).mean((2, 4))
    assert np.abs(plan_grids(part, (None, 9.0, 9.0)).views[0].read.read() - same).max() <= 0.5
    found = predict(stored, make_model(working_voxel_size_nm=(None, 8.0, 8.0)))
    assert found.attributes["read_level"] == [1, 4, 4]
    several = plan_grids(stored, (None, 9.0, 9.0), scales=(0.5, 1.0, 2.0))
    assert several.read_level == [[1, 2, 2], [1, 4, 4], [1, 4, 4]]  # the coarsest there is
    assert [view.output_factors[1] for view in several.views] == [2.25, 4.5, 9.0]
    assert found.shape == volume.shape


def test_levels_and_source_are_one_image_on_the_working_grid(tmp_path):
    """A ramp, which any mean and any interpolation keep, is the same read either way."""
    ramp = np.zeros((2, 600, 40), np.uint16) + 4 * np.arange(600, dtype=np.uint16)[:, None]
    volume = open_volume(ramp, voxel_size_nm=(30.0, 2.0, 2.0), kind="image")
    stored = convert_volume(volume, tmp_path / "v.zarr", resources=ONE)
    grids, statistics = plan_grids(stored, (None, 9.0, 2.0)), sample_intensity(stored)
    assert grids.read_level == [1, 1, 1]  # x would be too coarse
    view = plan_grids(stored, (None, 9.0, 9.0)).views[0]
    box = Box((0, 2, 1), (2, 130, 8))
    fine, coarse = (
        ImageInput(read, statistics, "window", False, factors).read(box)
        for read, factors in ((stored, (1.0, 4.5, 4.5)), (view.read, view.read_factors))
    )
    np.testing.assert_allclose(coarse, fine, atol=1e-4)
    assert np.ptp(fine) > 1


def test_cells_without_signal_are_left_out():
    coarse = np.zeros((1, 40, 100, 100), np.uint8)
    coarse[0, 5, 5, 5] = 200
    source = array_volume(np.zeros((40, 400, 400), np.uint8), voxel_size_nm=(30.0, 8.0, 8.0))
    volume = array_volume(coarse, channels=("mask",))
    region, share = signal_region(volume, source, (None, 32.0, 32.0), (1.0, 1.0, 1.0))
    assert share == 8 / (3 * 7 * 7)
    inside = region.inside(source.box)
    assert inside[:32, :128, :128].all()
    assert np.count_nonzero(inside) == 32 * 128 * 128


def test_skipping_changes_nothing_where_there_is_signal(make_model, texture, predict, caplog):
    """A network that fires everywhere has nothing to skip; one that never does skips all."""
    volume = open_volume(texture((3, 60, 60)), voxel_size_nm=(30.0, 8.0, 8.0))
    model, config = make_model(), replace(FLOAT32, skip_empty=True)
    plain = predict(volume, model)
    skipped = predict(volume, model, config=config)
    assert np.array_equal(skipped.read(), plain.read())
    assert skipped.attributes["skip_empty"] is True
    state = dict(model.state_dict)
    state["head.bias"] = torch.full_like(state["head.bias"], -50.0)
    silent = replace(model, state_dict=state)
    with caplog.at_level("INFO", "cristae"):
        assert not predict(volume, silent, config=config).read().any()
    assert "keeps 0.0 % of the cells" in caplog.text
    assert "1 of them empty" in caplog.text


def test_skipping_needs_sizes_and_free_tiles(make_model, texture, predict):
    with pytest.raises(InputError, match="skip_empty: voxel size unknown"):
        predict(
            open_volume(texture((2, 16, 16))),
            make_model(),
            config=replace(FLOAT32, skip_empty=True),
        )
