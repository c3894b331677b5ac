"""The overlap table against np.unique of stacked pairs, and how volumes are placed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.evaluation import overlap_pass
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.overlaps import pool
from cristae.evaluation.placement import Compared
from cristae.grid import Box
from cristae.labels import blocks
from cristae.labels.blocks import overlaps_of_blocks
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr
from cristae.volumes.volume import array_volume

SERIAL = Resources(workers=1, executor="serial")
SIZE = (30.0, 8.0, 8.0)


def table_of(prediction, truth, scores=None, mask=None, **options):
    volumes = Compared(
        array_volume(prediction, name="found"),
        array_volume(truth, name="true"),
        None if scores is None else array_volume(scores, name="scores"),
        options.pop("score_channel", None),
        None if mask is None else array_volume(mask, name="mask"),
    )
    return overlap_table(volumes, resources=SERIAL, **options)


def pairs_of(table):
    return {
        (int(table.prediction.labels[p]), int(table.truth.labels[t])): int(n)
        for p, t, n in zip(table.predicted, table.true, table.voxels, strict=True)
    }


def counts(array):
    ids, voxels = np.unique(array[array > 0], return_counts=True)
    return dict(zip(ids.tolist(), voxels.tolist(), strict=True))


def sizes(instances):
    return dict(zip(instances.labels.tolist(), instances.voxels.tolist(), strict=True))


def assert_same(one, two):
    for a, b in ((one.prediction, two.prediction), (one.truth, two.truth)):
        for name in a.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("predicted", "true", "voxels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@given(st.integers(0, 2**32 - 1))
def test_equals_unique_of_stacked_pairs(seed):
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, 5, (4, 5, 9)).astype(np.uint16)
    truth = rng.integers(0, 4, (4, 5, 9)).astype(np.uint16)
    table = table_of(prediction, truth)
    stacked = np.stack([prediction.ravel(), truth.ravel()], axis=1)
    found, voxels = np.unique(stacked, axis=0, return_counts=True)
    expected = {
        (int(p), int(t)): int(n) for (p, t), n in zip(found, voxels, strict=True) if p and t
    }
    assert pairs_of(table) == expected
    assert sizes(table.prediction) == counts(prediction)
    assert sizes(table.truth) == counts(truth)
    for (p, t), iou in zip(pairs_of(table), table.iou, strict=True):
        a, b = prediction == p, truth == t
        assert iou == (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("chunk", [(1, 1, 1), (2, 3, 7), (5, 8, 24)])
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_blocks_and_workers_change_nothing(monkeypatch, labels, chunk, executor):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 50)
    prediction, truth = labels(1)
    scores = np.random.default_rng(2).random((2, *truth.shape)).astype(np.float32)
    whole = table_of(prediction, truth, scores)
    volumes = Compared(
        array_volume(prediction).with_(chunk_shape=chunk),
        array_volume(truth).with_(chunk_shape=(1, 2, 2)),
        array_volume(scores).with_(chunk_shape=(1, 1, 3)),
    )
    resources = Resources(workers=3, executor=executor)
    assert_same(overlap_table(volumes, resources=resources), whole)


def test_processes_give_the_same(labels):
    prediction, truth = labels(1)
    volumes = Compared(array_volume(prediction), array_volume(truth))
    resources = Resources(workers=2, executor="processes")
    assert_same(overlap_table(volumes, resources=resources), table_of(prediction, truth))


def test_facts_of_instances():
    prediction = np.zeros((3, 4, 5), np.int64)
    prediction[1, 1:3, 2] = 2**40
    truth = np.zeros((3, 4, 5), np.uint8)
    truth[1, 2, 1:4] = 9
    table = table_of(prediction, truth)
    assert table.prediction.labels.tolist() == [2**40]
    assert table.prediction.first.tolist() == [[1, 1, 2]]
    assert table.prediction.centroids.tolist() == [[1.0, 1.5, 2.0]]
    assert table.truth.start.tolist() == [[1, 2, 1]]
    assert table.truth.stop.tolist() == [[2, 3, 4]]
    assert table.truth.cut.tolist() == [False]
    assert table.iou.tolist() == [0.25]


@pytest.mark.parametrize(
    ("scores", "channel", "expected"),
    [
        pytest.param(np.full((1, 1, 4), 51, np.uint8), None, 0.2, id="uint8"),
        pytest.param(np.full((1, 1, 4), 65535, np.uint16), None, 1.0, id="uint16"),
        pytest.param(np.full((1, 1, 4), True), None, 1.0, id="bool"),
        pytest.param(np.array([[[0.25, 0.75, 0.0, 1.0]]]), None, 0.5, id="float"),
        pytest.param(np.stack([np.zeros((1, 1, 4)), np.ones((1, 1, 4))]), None, 0.5, id="mean"),
        pytest.param(np.stack([np.zeros((1, 1, 4)), np.ones((1, 1, 4))]), 1, 1.0, id="channel"),
    ],
)
def test_mean_scores(scores, channel, expected):
    prediction = np.array([[[3, 3, 0, 0]]], np.uint8)
    table = table_of(prediction, prediction, scores, score_channel=channel)
    assert table.mean_scores.tolist() == [expected]


def test_without_scores_there_is_no_mean():
    assert table_of(np.ones((1, 1, 1), np.uint8), np.ones((1, 1, 1), np.uint8)).mean_scores is None


def test_masked_voxels_do_not_count(labels):
    prediction, truth = labels(4)
    mask = np.random.default_rng(0).random(truth.shape) < 0.5
    assert_same(table_of(prediction, truth, mask=mask), table_of(prediction * mask, truth * mask))


def test_select_keeps_rows_together(labels):
    prediction, truth = labels(5)
    table = table_of(prediction, truth)
    part = table.select(table.prediction.labels != 2, table.truth.labels != 3)
    expected = {k: n for k, n in pairs_of(table).items() if k[0] != 2 and k[1] != 3}
    assert pairs_of(part) == expected


def test_pooled_volumes_stay_apart(labels):
    one, two = (table_of(*labels(seed)) for seed in (1, 2))
    both = pool([one, two])
    assert len(both.truth) == len(one.truth) + len(two.truth)
    assert sorted(both.iou.tolist()) == sorted([*one.iou.tolist(), *two.iou.tolist()])
    assert (both.predicted[len(one.voxels) :] >= len(one.prediction)).all()


def whole_and_part(labels):
    prediction, truth = labels(7)
    whole = array_volume(truth, name="truth.zarr", voxel_size_nm=SIZE)
    found = array_volume(prediction, name="found.zarr", voxel_size_nm=SIZE)
    box = whole.box.grow((-1, -2, -3))
    return found.crop(box), whole, prediction[box.slices()], truth[box.slices()]


def test_volumes_are_placed_by_their_origins(labels):
    part, whole, prediction, truth = whole_and_part(labels)
    table = overlap_table(Compared(part, whole), crop=True, resources=SERIAL)
    assert_same(table, table_of(prediction, truth))
    other_way = overlap_table(Compared(whole, part), crop=True, resources=SERIAL)
    assert other_way.prediction.start.min(axis=0).tolist() == [1, 2, 3]


def test_corners_can_be_laid_on_each_other(labels):
    part, _, prediction, truth = whole_and_part(labels)
    volumes = Compared(part, array_volume(truth))
    assert_same(overlap_table(volumes, align="corner"), table_of(prediction, truth))


def test_cut_is_seen_from_the_part_compared(labels):
    part, whole, _, _ = whole_and_part(labels)
    whole_table = overlap_table(Compared(whole, part), crop=True, resources=SERIAL)
    part_table = overlap_table(Compared(part, whole), crop=True, resources=SERIAL)
    assert whole_table.truth.cut.tolist() == part_table.truth.cut.tolist()


ONES = np.ones((4, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        pytest.param(
            array_volume(ONES),
            array_volume(ONES[:3]),
            r"truth array: shape \(3, 4, 4\).* array: shape \(4, 4, 4\).*expected the same place",
            id="shapes",
        ),
        pytest.param(
            array_volume(ONES, voxel_size_nm=SIZE),
            array_volume(ONES, voxel_size_nm=SIZE).with_(origin_nm=(0.0, 4.0, 0.0)),
            r"\(0.0, 0.5, 0.0\) voxels from array, expected whole voxels",
            id="half a voxel",
        ),
        pytest.param(
            array_volume(ONES, voxel_size_nm=SIZE),
            array_volume(ONES, voxel_size_nm=(30.0, 12.0, 12.0)),
            r"voxel size 30 x 12 x 12 nm.* 30 x 8 x 8 nm.*a whole number of times",
            id="voxel sizes",
        ),
        pytest.param(
            array_volume(np.ones((2, 4, 4, 4), np.uint8)),
            array_volume(ONES).with_(dtype=np.dtype(complex)),
            r"(?s)2 faults.*channels channel_0, channel_1.*complex128",
            id="all at once",
        ),
        pytest.param(
            array_volume(ONES), array_volume(-ONES.astype(np.int8)), "label -1", id="negative"
        ),
        pytest.param(array_volume(ONES), array_volume(ONES / 2), "label 0.5", id="fractional"),
    ],
)
def test_what_cannot_be_compared(prediction, truth, message):
    with pytest.raises(InputError, match=message):
        overlap_table(Compared(prediction, truth), resources=SERIAL)


def test_volumes_that_do_not_meet():
    far = array_volume(ONES).with_(origin_nm=(9.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not meet"):
        overlap_table(Compared(array_volume(ONES), far), crop=True)


@pytest.mark.parametrize(
    ("scores", "channel", "message"),
    [
        pytest.param(ONES[:2], None, "scores at 0:2,0:4,0:4 does not cover", id="small"),
        pytest.param(ONES.astype(np.int8), None, "scores are int8", id="signed"),
        pytest.param(
            ONES * 1.5, None, r"scores: values from 1.5 to 1.5, expected \[0, 1\]", id="too large"
        ),
        pytest.param(ONES * np.nan, None, r"scores: values from nan to nan", id="nan"),
        pytest.param(ONES, 1, "score channel 1, scores have channels 0 to 0", id="channel"),
    ],
)
def test_scores_that_cannot_rank(scores, channel, message):
    with pytest.raises(InputError, match=message):
        table_of(ONES, ONES, scores, score_channel=channel)


@pytest.fixture
def stored(tmp_path):
    """Two label volumes on disk, in chunks of (4, 8, 8), mostly 0; and their arrays."""
    rng, volumes, arrays = np.random.default_rng(3), [], []
    for name, dtype in (("found", np.uint32), ("true", np.int64)):
        labels = np.zeros((11, 40, 60), dtype)
        labels[2:9, 3:30, 5:33] = rng.integers(0, 9, (7, 9, 7)).repeat(3, 1).repeat(4, 2)
        labels[10, 39, 50:] = 70
        volume = create_ome_zarr(
            tmp_path / f"{name}.zarr",
            shape=labels.shape,
            dtype=dtype,
            kind="labels",
            voxel_size_nm=SIZE,
            layout=Layout((4, 8, 8), (8, 16, 24)),
        )
        volume.write(volume.box, labels)
        volumes.append(volume)
        arrays.append(labels)
    return volumes, arrays


@pytest.mark.parametrize(
    "part",
    [
        Box((0, 0, 0), (11, 40, 60)),
        Box((1, 5, 9), (11, 33, 55)),
        Box((4, 8, 8), (5, 9, 60)),
    ],
)
def test_chunks_give_the_table_of_arrays(stored, monkeypatch, part):
    volumes, arrays = stored
    passes = []

    def watched(function, *args, **options):
        passes.append(function)
        return overlaps_of_blocks(function, *args, **options)

    monkeypatch.setattr(overlap_pass, "overlaps_of_blocks", watched)
    found = overlap_table(Compared(*(v.crop(part) for v in volumes)), resources=SERIAL)
    expected = table_of(*(a[part.slices()] for a in arrays))
    assert_same(found, expected)
    assert passes[0].chunks is not None
    assert len(found.voxels) > 1


def test_volumes_whose_chunks_do_not_meet_are_compared_by_voxels(stored):
    volumes, arrays = stored
    one, two = Box((0, 0, 0), (8, 30, 50)), Box((1, 2, 3), (9, 32, 53))
    found = overlap_table(
        Compared(volumes[0].crop(one), volumes[1].crop(two)), align="corner", resources=SERIAL
    )
    assert_same(found, table_of(arrays[0][one.slices()], arrays[1][two.slices()]))


def test_negative_labels_of_chunks_are_refused(stored):
    volumes, arrays = stored
    arrays[1][5, 5, 5] = -3
    volumes[1].write(volumes[1].box, arrays[1])
    with pytest.raises(InputError, match="label -3 in box"):
        overlap_table(Compared(*volumes), resources=SERIAL)
