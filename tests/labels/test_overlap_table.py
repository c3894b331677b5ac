"""Tallies against a brute-force count, and the law that the pieces equal the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.errors import InputError
from cristae.grid import Box, tile
from cristae.labels import overlap_table as overlap_table_module
from cristae.labels.overlap_kernels import FACTS, FIRST, START, STOP, SUM, VOXELS, WEIGHT
from cristae.labels.overlap_table import (
    OverlapTable,
    as_labels,
    check_extent,
    check_signs,
    collapse,
    merge_overlap_tables,
    overlaps_of_block,
)


def brute_force(first, second, weights=None):
    """The same rows, one pair after the other with np.unique and np.nonzero."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()], axis=1), axis=0)
    rows = []
    for u, v in pairs[(pairs != 0).any(axis=1)]:
        where = np.nonzero((first == u) & (second == v))
        facts = np.zeros(FACTS, np.int64)
        facts[VOXELS] = len(where[0])
        facts[START] = [w.min() for w in where]
        facts[STOP] = [w.max() + 1 for w in where]
        facts[FIRST] = np.ravel_multi_index(where, first.shape).min()
        facts[SUM] = [w.sum() for w in where]
        if weights is not None and u != 0:
            facts[WEIGHT] = weights[:, *where].astype(np.int64).sum()
        rows.append((int(u), int(v), facts))
    return rows


def assert_equal(overlap_table, rows):
    assert [tuple(int(i) for i in pair) for pair in overlap_table.labels] == [r[:2] for r in rows]
    np.testing.assert_array_equal(
        overlap_table.facts, np.array([r[2] for r in rows]).reshape(-1, FACTS)
    )


shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 40))


@given(shapes, st.integers(0, 2**32 - 1), st.sampled_from([np.uint16, np.uint64]))
def test_equals_brute_force(shape, seed, dtype):
    rng = np.random.default_rng(seed)
    first = np.repeat(rng.integers(0, 5, shape), 3, axis=2)[..., : shape[2]].astype(dtype)
    second = np.repeat(rng.integers(0, 4, shape), 5, axis=2)[..., : shape[2]].astype(dtype)
    weights = rng.integers(0, 256, (2, *shape)).astype(np.uint8)
    overlap_table = overlaps_of_block(first, second, weights)
    assert_equal(overlap_table, brute_force(first, second, weights))
    assert overlap_table.voxels == first.size


@pytest.mark.parametrize("dtype", [np.uint16, np.uint64])
def test_runs_of_every_length_in_long_rows(dtype):
    """Ends on, before and behind the strides in which voxels are looked at."""
    first = np.tril(np.ones((150, 150), dtype), -1)[None]
    second = np.ascontiguousarray(2 * first[..., ::-1])
    assert_equal(overlaps_of_block(first, second), brute_force(first, second))
    assert_equal(overlaps_of_block(first, first), brute_force(first, first))


@given(shapes, shapes, st.integers(0, 2**32 - 1))
def test_pieces_equal_the_whole(shape, block, seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 4, shape).astype(np.uint16)
    second = rng.integers(0, 4, shape).astype(np.uint16)
    parts = [
        overlaps_of_block(
            first[b.slices()].copy(), second[b.slices()].copy(), corner=b.start, extent=shape
        )
        for b in tile(Box.of(shape), block)
    ]
    whole = overlaps_of_block(first, second)
    for merged in (merge_overlap_tables(parts), merge_overlap_tables(parts[::-1])):
        np.testing.assert_array_equal(merged.labels, whole.labels)
        np.testing.assert_array_equal(merged.facts, whole.facts)
        assert merged.voxels == whole.voxels


def test_largest_ids_are_kept_apart():
    top = 2**64 - 1
    first = np.array([[[0, top, top, top - 1]]], np.uint64)
    second = np.array([[[top, top, 0, 1]]], np.uint64)
    overlap_table = overlaps_of_block(first, second)
    assert overlap_table.labels.tolist() == [[0, top], [top - 1, 1], [top, 0], [top, top]]
    assert overlap_table.facts[:, VOXELS].tolist() == [1, 1, 1, 1]


def test_table_grows_over_thousands_of_pairs():
    first = np.arange(1, 20_001, dtype=np.uint32).reshape(1, 100, 200)
    overlap_table = overlaps_of_block(first, first[:, ::-1].copy())
    assert len(overlap_table.labels) == 20_000
    assert overlap_table.labels[:, 0].tolist() == list(range(1, 20_001))
    assert (overlap_table.facts[:, VOXELS] == 1).all()


def test_dtypes_of_different_width_meet():
    first = np.array([[[1, 0, 300]]], np.uint16)
    second = np.array([[[255, 255, 0]]], np.uint8)
    assert overlaps_of_block(first, second).labels.tolist() == [[0, 255], [1, 255], [300, 0]]


def test_many_parts_are_merged_on_the_way(monkeypatch):
    monkeypatch.setattr(overlap_table_module, "_MERGE_ROWS", 3)
    array = np.random.default_rng(0).integers(0, 5, (40, 3, 4)).astype(np.uint8)
    planes = (
        overlaps_of_block(plane, plane, corner=(z, 0, 0), extent=array.shape)
        for z, plane in enumerate(np.split(array, 40))
    )
    merged, whole = merge_overlap_tables(planes), overlaps_of_block(array, array)
    np.testing.assert_array_equal(merged.labels, whole.labels)
    np.testing.assert_array_equal(merged.facts, whole.facts)


def test_collapse_sums_over_the_other_label():
    first = np.array([[[5, 5, 5, 0, 2]]], np.uint8)
    second = np.array([[[0, 9, 4, 4, 4]]], np.uint8)
    overlap_table = overlaps_of_block(first, second)
    labels, facts = collapse(overlap_table, 0)
    assert labels.tolist() == [2, 5]
    assert facts[:, VOXELS].tolist() == [1, 3]
    assert facts[:, FIRST].tolist() == [4, 0]
    labels, facts = collapse(overlap_table, 1)
    assert labels.tolist() == [4, 9]
    assert facts[:, STOP].tolist() == [[1, 1, 5], [1, 1, 2]]


def test_nothing_merges_to_nothing():
    assert merge_overlap_tables([]).voxels == 0
    labels, facts = collapse(OverlapTable.empty(), 1)
    assert labels.shape == (0,)
    assert facts.shape == (0, FACTS)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        pytest.param(np.array([[[True, False]]]), [1, 0], id="bool"),
        pytest.param(np.array([[[3, 0]]], np.int64), [3, 0], id="signed"),
        pytest.param(np.array([[[3.0, 0.0]]], np.float32), [3, 0], id="whole floats"),
        pytest.param(np.array([[[259, 1]]], ">u2"), [259, 1], id="big endian"),
    ],
)
def test_labels_of_many_types(array, expected):
    labels = as_labels(array, "a", Box.of((1, 1, 2)))
    assert labels.dtype.kind == "u"
    assert labels.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("array", "message"),
    [
        pytest.param(np.array([[[-2.0]]]), r"seg.h5: label -2.0 in box .*from 0"),
        pytest.param(np.array([[[1.5]]]), r"seg.h5: label 1.5 in box .*whole"),
        pytest.param(np.array([[[np.nan]]]), r"seg.h5: label nan in box .*whole"),
        pytest.param(np.array([[[1j]]]), r"seg.h5: labels are complex128"),
    ],
)
def test_labels_that_are_none(array, message):
    with pytest.raises(InputError, match=message):
        as_labels(array, "seg.h5", Box.of((1, 1, 1)))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_negative_labels_are_seen_in_the_tally(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    good, bad = np.array([[[0, 1, high]]], dtype), np.array([[[high, -1, low]]], dtype)
    box = Box.of((1, 1, 3))
    overlap_table = overlaps_of_block(as_labels(good, "good", box), as_labels(bad, "bad", box))
    check_signs(overlap_table, 0, good.dtype, "good", box)
    with pytest.raises(InputError, match=rf"bad: label {low} in box .*none under 0"):
        check_signs(overlap_table, 1, bad.dtype, "bad", box)


def test_sums_that_could_overflow_are_refused():
    check_extent((10**4, 10**5, 10**4), "large")
    with pytest.raises(InputError, match="huge"):
        check_extent((10**6, 10**6, 10**6), "huge")
