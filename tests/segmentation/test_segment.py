"""The stage as a user meets it: its output, its tables, its resumption, its promises."""

import errno
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image_label import ImageLabel
from scipy import ndimage
from tests.segmentation.helpers import SERIAL, noise

from cristae import __version__
from cristae.engine.executors import Resources
from cristae.errors import DiskSpaceError, InputError, MemoryLimitError, OutputExistsError
from cristae.segmentation import segment as stage
from cristae.segmentation import writing
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import read_instances_table, read_runs, segment_volume
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr, open_ome_zarr
from cristae.volumes.volume import array_volume

CONFIG = SegmentConfig(
    decoder="bc_watershed",
    foreground_threshold=0.55,
    seed_threshold=0.7,
    min_seed_size=3,
    min_size=10,
)
SMALL_ONES_GO = replace(CONFIG, min_size=60)
SHAPE = (13, 40, 37)


@pytest.fixture
def prediction():
    return array_volume(noise(SHAPE, 3)[:2], voxel_size_nm=(30.0, 8.0, 8.0))


@pytest.fixture
def labels(prediction, tmp_path):
    return segment_volume(prediction, tmp_path / "labels.zarr", config=CONFIG, resources=SERIAL)


def content(folder):
    """Every byte of the labels and tables, by file; metadata aside."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for part in ("0", "runs", "instances")
        for file in sorted((folder / part).rglob("*"))
        if file.is_file()
    }


def test_labels_carry_where_they_come_from(labels, prediction):
    assert labels.dtype == np.uint32
    assert labels.kind == "labels"
    assert labels.voxel_size_nm == (30, 8, 8)
    known = labels.attributes
    assert known["decoder"] == "bc_watershed"
    assert known["parameters"] == {
        "foreground_threshold": 0.55,
        "seed_threshold": 0.7,
        "contour_threshold": 0.8,
        "min_seed_size": 3,
        "min_size": 10,
        "small": "background",
    }
    assert (known["source"], known["version"]) == (prediction.name, __version__)
    assert known["record"]["summary"]["instances"] == labels.read().max()


@pytest.mark.parametrize("pyramid", [True, False])
def test_labels_are_ome_zarr_labels(tmp_path, pyramid):
    wide = array_volume(np.full((1, 2, 300, 20), 255, np.uint8), voxel_size_nm=(30.0, 8.0, 8.0))
    config, out = SegmentConfig(decoder="binary_connected"), tmp_path / "a.zarr"
    segment_volume(wide, out, config=config, pyramid=pyramid, resources=SERIAL)
    found = ImageLabel.from_zarr(zarr.open_group(out, mode="r")).attributes.ome
    assert found.image_label is not None
    assert len(found.multiscales[0].datasets) == 1 + pyramid


def test_runs_are_the_labels(labels):
    array = labels.read()
    runs = read_runs(labels.name)
    painted = np.zeros_like(array)
    for z, y, x0, x1, name in zip(*runs.values(), strict=True):
        assert (painted[z, y, x0:x1] == 0).all()
        painted[z, y, x0:x1] = name
    np.testing.assert_array_equal(painted, array)
    order = np.lexsort((runs["x0"], runs["y"], runs["z"]))
    np.testing.assert_array_equal(order, np.arange(order.size))
    ends = (runs["z"], runs["y"], runs["x1"], runs["id"])
    starts = (runs["z"], runs["y"], runs["x0"], runs["id"])
    assert not set(zip(*ends, strict=True)) & set(zip(*starts, strict=True))  # as long as can be


def test_runs_of_some_planes(labels):
    whole, part = read_runs(labels.name), read_runs(labels.name, (4, 6))
    chosen = (whole["z"] >= 4) & (whole["z"] < 6)
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][chosen])
    with pytest.raises(InputError, match="planes"):
        read_runs(labels.name, (4, 99))


def test_instances_table_counts_the_voxels(labels, prediction):
    array, mask = labels.read(), prediction.read()[0]
    table = read_instances_table(labels.name)
    np.testing.assert_array_equal(table["id"], np.arange(1, array.max() + 1))
    for k, name in enumerate(table["id"]):
        where = np.argwhere(array == name)
        low, high = where.min(axis=0), where.max(axis=0) + 1
        np.testing.assert_array_equal(table["box"][k], [*low, *high])
        assert table["voxels"][k] == len(where)
        assert table["confidence_sum"][k] == mask[array == name].sum(dtype=np.int64)
        assert table["cut"][k] == ((low == 0).any() or (high == SHAPE).any())


def test_tables_open_in_zarr_python(labels):
    group = zarr.open_group(labels.name, mode="r")
    assert set(group["runs"].array_keys()) == {"z", "y", "x0", "x1", "id", "plane_start"}
    assert group["instances/id"].shape == (labels.read().max(),)


def test_numbers_follow_the_first_voxels(labels):
    array = labels.read()
    names, first = np.unique(array, return_index=True)
    assert list(names[np.argsort(first[1:]) + 1]) == list(range(1, array.max() + 1))


def test_pyramid_and_no_pyramid(tmp_path):
    wide = array_volume(np.full((1, 2, 300, 20), 255, np.uint8))
    config = SegmentConfig(decoder="binary_connected")
    for pyramid in (True, False):
        out = tmp_path / f"{pyramid}.zarr"
        segment_volume(wide, out, config=config, pyramid=pyramid, resources=SERIAL)
        assert (out / "1").is_dir() == pyramid


def test_done_is_left_alone_and_other_settings_are_refused(prediction, labels, tmp_path):
    out = tmp_path / "labels.zarr"
    before = content(out)
    again = segment_volume(prediction, out, config=CONFIG, block_shape=(5, 9, 8), resources=SERIAL)
    assert content(out) == before
    assert again.shape == SHAPE
    other = SegmentConfig(decoder="bc_watershed", min_size=11)
    with pytest.raises(OutputExistsError, match="min_size: 10 there, 11 now"):
        segment_volume(prediction, out, config=other, resources=SERIAL)
    segment_volume(prediction, out, config=other, resources=SERIAL, overwrite=True)
    assert open_ome_zarr(out).attributes["parameters"]["min_size"] == 11


STEPS = ("label_step", "resolve_pieces", "decode_step", "write_step", "slab_step")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("other_blocks", [False, True])
def test_interrupted_equals_uninterrupted(
    prediction, labels, tmp_path, monkeypatch, step, other_blocks
):
    """Stopped in the midst of any step, then run again with the same or with other blocks."""
    monkeypatch.setattr(stage, "Layout", lambda: Layout((8, 32, 32), (8, 32, 32)))
    create = lambda *a, **k: create_ome_zarr(*a, **k, layout=Layout((8, 32, 32), (8, 32, 32)))  # noqa: E731
    monkeypatch.setattr(stage, "create_ome_zarr", create)
    arguments = {"config": CONFIG, "resources": SERIAL, "pyramid": False}
    whole = segment_volume(prediction, tmp_path / "whole.zarr", **arguments)
    np.testing.assert_array_equal(whole.read(), labels.read())
    real, calls = getattr(stage, step), []

    def stop_at_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == (1 if step in ("resolve_pieces", "decode_step") else 2):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    out = tmp_path / "stopped.zarr"
    monkeypatch.setattr(stage, step, stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        segment_volume(prediction, out, **arguments)
    monkeypatch.setattr(stage, step, real)
    blocks = (6, 11, 20) if other_blocks else None
    segment_volume(prediction, out, block_shape=blocks, **arguments)
    assert content(out) == content(tmp_path / "whole.zarr")
    assert not (out / ".cristae").exists()


def test_resume_does_only_what_is_missing(prediction, tmp_path, monkeypatch):
    labelled = []
    real = stage.label_step

    def count(job, index, box):
        labelled.append(index)
        if len(labelled) == 6:
            raise KeyboardInterrupt
        real(job, index, box)

    monkeypatch.setattr(stage, "label_step", count)
    arguments = {"config": CONFIG, "resources": SERIAL, "block_shape": (7, 20, 19)}
    with pytest.raises(KeyboardInterrupt):
        segment_volume(prediction, tmp_path / "out.zarr", **arguments)
    segment_volume(prediction, tmp_path / "out.zarr", **arguments)
    assert labelled == [0, 1, 2, 3, 4, 5, 5, 6, 7]


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_a_torn_scratch_file_is_made_again(prediction, labels, tmp_path, monkeypatch):
    real = stage.resolve_pieces
    monkeypatch.setattr(stage, "resolve_pieces", interrupt)
    arguments = {"config": CONFIG, "resources": SERIAL, "block_shape": (7, 20, 19)}
    out = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        segment_volume(prediction, out, **arguments)
    folder = out / ".cristae" / "scratch" / "7x20x19"
    tables = [folder / f"label-{i}" for i in range(4)]
    data = tables[0].read_bytes()
    tables[0].write_bytes(data[: len(data) // 2])
    tables[1].write_bytes(b"")
    tables[2].unlink()
    damaged = bytearray(tables[3].read_bytes())
    damaged[-100] ^= 1
    tables[3].write_bytes(damaged)
    monkeypatch.setattr(stage, "resolve_pieces", real)
    segment_volume(prediction, out, **arguments)
    np.testing.assert_array_equal(open_ome_zarr(out).read(), labels.read())


def test_float_and_uint16_predictions(prediction, labels, tmp_path):
    levels = prediction.read()
    wide = array_volume(levels.astype(np.uint16) * 257)
    exact = array_volume(((levels + 0.5) / 255.5).astype(np.float32).clip(0, 1))
    for name, volume in (("uint16", wide), ("float", exact)):
        found = segment_volume(volume, tmp_path / f"{name}.zarr", config=CONFIG, resources=SERIAL)
        np.testing.assert_array_equal(found.read(), labels.read())
        assert "truncated to 256 levels" in found.attributes["quantisation"]


def test_an_output_of_another_form_is_refused(prediction, tmp_path):
    with pytest.raises(InputError, match=r"found.tif: expected a name that ends with .zarr"):
        segment_volume(prediction, tmp_path / "found.tif", config=CONFIG, resources=SERIAL)
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_told_before_and_after_labelling(prediction, tmp_path, monkeypatch):
    tight = Resources(1, "serial", memory_gib=1e-6)
    with pytest.raises(MemoryLimitError, match="segment: needs"):
        segment_volume(prediction, tmp_path / "a.zarr", config=CONFIG, resources=tight)

    class FloodsOnly(stage.Promise):
        def __call__(self, part, bytes_needed):
            if "floods" in part:
                super().__call__(part, bytes_needed)

    monkeypatch.setattr(stage, "Promise", FloodsOnly)
    with pytest.raises(MemoryLimitError, match=r"floods.*voxels in box \d+:\d+"):
        segment_volume(prediction, tmp_path / "b.zarr", config=CONFIG, resources=tight)


def test_summary_line(prediction, tmp_path, caplog):
    arguments = {"config": CONFIG, "block_shape": (7, 20, 19), "resources": SERIAL}
    with caplog.at_level(logging.INFO, logger="cristae"):
        segment_volume(prediction, tmp_path / "a.zarr", **{**arguments, "config": SMALL_ONES_GO})
    (line,) = (m for m in caplog.messages if "instances" in m)
    table = read_instances_table(tmp_path / "a.zarr")
    kept = segment_volume(prediction, tmp_path / "b.zarr", **arguments)
    small = int(kept.read().max()) - table["id"].size
    label, _ = ndimage.label(prediction.read()[0] > int(255 * 0.55))  # a flood goes through faces
    _, seeds = np.unique(label[kept.read() > 0], return_counts=True)
    assert small > 0
    assert f"8 blocks of 7x20x19, {table['id'].size} instances, {small} small ones removed" in line
    assert f"largest component {seeds.max()} voxels" in line
    assert re.search(r", \d+(\.\d+)? [kMG]?voxels/s, peak memory \d+\.\d\d GiB$", line)


@pytest.mark.parametrize(
    ("part", "what"), [(stage, "write_instances_table"), (writing, "write_shard")]
)
def test_a_disk_that_runs_full(prediction, labels, tmp_path, monkeypatch, part, what):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    out, settings = tmp_path / "other.zarr", {"config": CONFIG, "resources": Resources(2)}
    with monkeypatch.context() as patch:
        patch.setattr(part, what, full)
        with pytest.raises(DiskSpaceError, match=re.escape(f"{out}: the disk is full")):
            segment_volume(prediction, out, **settings)
    segment_volume(prediction, out, **settings)
    assert content(out) == content(tmp_path / "labels.zarr")
