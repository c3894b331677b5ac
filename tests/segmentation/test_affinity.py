"""Affinities: components of edges, for any blocks, against SciPy's graph components."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.segmentation.helpers import EXECUTORS, decode, noise
from tests.segmentation.oracle import (
    agglomerate,
    canonical,
    components_of_edges,
    drop_small,
    edge_list,
    to_neighbors,
)

from cristae.engine.executors import Resources
from cristae.errors import ConfigError
from cristae.segmentation import segment as stage
from cristae.segmentation.affinity import OFFSETS
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.segmentation.segment import read_instances_table, segment_volume
from cristae.volumes.volume import array_volume

pytestmark = pytest.mark.usefixtures("processes")

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 11), st.integers(1, 11))
BLOCKS = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
SEEDS = st.integers(0, 10**6)
STEPS = [
    tuple(tuple(s if a == b else 0 for b in range(3)) for a, s in zip(axes, signs, strict=True))
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((-1, 1), repeat=3)
]


@settings(max_examples=60)
@given(
    SHAPES,
    BLOCKS,
    SEEDS,
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from(STEPS),
    st.sampled_from(["background", "neighbor"]),
    EXECUTORS,
)
def test_connected_equals_graph_components(
    shape, blocks, seed, smooth, size, offsets, small, resources
):
    affinities = noise(shape, seed, smooth=smooth)
    i, j, value = edge_list(affinities, offsets)
    holds = value > int(255 * 0.65)
    expected = components_of_edges(i[holds], j[holds], shape)
    if small == "neighbor":
        expected = canonical(to_neighbors(expected, size))
    expected = canonical(drop_small(expected, size))
    found = decode(
        affinities,
        block_shape=blocks,
        resources=resources,
        attributes={"offsets": [list(offset) for offset in offsets]},
        decoder="affinity_connected",
        affinity_threshold=0.65,
        min_size=size,
        small=small,
    )
    np.testing.assert_array_equal(found, expected)


def test_offsets_are_the_references_where_none_are_named():
    affinities = noise((5, 9, 8), 1, smooth=False)
    found = decode(affinities, decoder="affinity_connected", affinity_threshold=0.6, min_size=1)
    i, j, value = edge_list(affinities, ((-1, 0, 0), (0, -1, 0), (0, 0, -1)))
    holds = value > int(255 * 0.6)
    assert found.max() > 3
    np.testing.assert_array_equal(found, components_of_edges(i[holds], j[holds], found.shape))


def test_strangers_may_meet_end_to_end():
    """Two bars in one row, with no edge between them: two instances all the same."""
    affinities = np.zeros((3, 1, 1, 8), np.uint8)
    affinities[2, 0, 0, 1:] = 255
    affinities[2, 0, 0, 4] = 0
    for block in ((1, 1, 8), (1, 1, 4), (1, 1, 3)):
        found = decode(affinities, block_shape=block, decoder="affinity_connected", min_size=1)
        np.testing.assert_array_equal(found, [[[1, 1, 1, 1, 2, 2, 2, 2]]])


def test_an_edge_over_a_block_border_is_enough():
    affinities = np.zeros((3, 2, 2, 2), np.uint8)
    affinities[0, 1, 1, 0] = 255
    found = decode(affinities, block_shape=(1, 1, 1), decoder="affinity_connected", min_size=2)
    np.testing.assert_array_equal(np.argwhere(found), [[0, 1, 0], [1, 1, 0]])
    assert found.max() == 1


def test_edges_to_nothing_are_none():
    """The first plane of PyTorch Connectomics' targets holds the mask; it joins nothing."""
    affinities = np.zeros((3, 3, 3, 3), np.uint8)
    affinities[0, 0], affinities[1, :, 0], affinities[2, :, :, 0] = 255, 255, 255
    assert not decode(affinities, decoder="affinity_connected", min_size=1).any()


def test_confidence_is_the_mean_of_the_edges_to_the_voxels_before(tmp_path):
    affinities = noise((4, 9, 8), 6)
    config = SegmentConfig(decoder="affinity_connected", affinity_threshold=0.6, min_size=1)
    volume = segment_volume(
        array_volume(affinities), tmp_path / "a.zarr", config=config, block_shape=(3, 4, 5)
    )
    edges = affinities.copy()
    edges[0, 0], edges[1, :, 0], edges[2, :, :, 0] = 0, 0, 0
    mean = edges.sum(axis=0, dtype=int) // 3
    table, labels = read_instances_table(tmp_path / "a.zarr"), volume.read()
    assert table["id"].size > 0
    expected = [mean[labels == name].sum() for name in table["id"]]
    np.testing.assert_array_equal(table["confidence_sum"], expected)


@pytest.mark.parametrize(
    "offsets",
    [[[-1, 0, 0], [0, -1, 0]], [[-3, 0, 0], [0, -1, 0], [0, 0, -1]], [[0, 0, 1]] * 3, [1]],
)
def test_other_offsets_are_refused(offsets):
    prediction = array_volume(np.zeros((3, 2, 3, 4), np.uint8))
    prediction = prediction.with_(attributes={"offsets": offsets})
    with pytest.raises(ConfigError, match=r"offsets: .* found, expected three of one voxel"):
        resolve(SegmentConfig(decoder="affinity_connected"), prediction)


def test_default_offsets_are_those_of_the_targets():
    assert OFFSETS == ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    prediction = array_volume(np.zeros((2, 2, 3, 4), np.uint8))
    with pytest.raises(ConfigError, match="needs affinity_z, affinity_y, affinity_x"):
        resolve(SegmentConfig(decoder="affinity_connected"), prediction)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8)),
    BLOCKS,
    SEEDS,
    st.booleans(),
    st.sampled_from([(0.4, 0.8, 0.5), (0.5, 0.9, 0.5), (0.3, 0.6, 0.65), (0.6, 0.5, 0.7)]),
    st.sampled_from(STEPS),
    st.sampled_from(["background", "neighbor"]),
    EXECUTORS,
)
def test_agglomeration_equals_the_whole_volumes(
    shape, blocks, seed, smooth, thresholds, offsets, small, resources
):
    cut, fragment, merge = thresholds
    affinities = noise(shape, seed, smooth=smooth)
    levels = [int(255 * t) for t in thresholds]
    expected = agglomerate(affinities, offsets, *levels)
    if small == "neighbor":
        expected = canonical(to_neighbors(expected, 3))
    expected = canonical(drop_small(expected, 3))
    found = decode(
        affinities,
        block_shape=blocks,
        resources=resources,
        attributes={"offsets": [list(offset) for offset in offsets]},
        decoder="affinity_agglomeration",
        affinity_threshold=cut,
        seed_threshold=fragment,
        merge_threshold=merge,
        min_size=3,
        small=small,
    )
    np.testing.assert_array_equal(found, expected)


def test_agglomeration_joins_by_the_mean_and_not_by_the_best_edge():
    """Two plates touch along a row of four edges: .9 once, .4 thrice; the mean is .525."""
    affinities = np.zeros((3, 1, 2, 4), np.uint8)
    affinities[2, 0, :, 1:] = 255
    affinities[1, 0, 1] = [229, 102, 102, 102]
    parameters = {"decoder": "affinity_agglomeration", "affinity_threshold": 0.3, "min_size": 1}
    for merge, count in ((0.52, 1), (0.53, 2)):
        found = decode(
            affinities,
            block_shape=(1, 1, 3),
            merge_threshold=merge,
            seed_threshold=0.95,
            **parameters,
        )
        assert found.max() == count
        assert (found > 0).all()


def test_merge_threshold_below_the_cut_is_refused():
    prediction = array_volume(np.zeros((3, 2, 3, 4), np.uint8))
    config = SegmentConfig(
        decoder="affinity_agglomeration", affinity_threshold=0.6, merge_threshold=0.55
    )
    expected = r"merge_threshold: 0.55 found, expected at least affinity_threshold \(0.6\)"
    with pytest.raises(ConfigError, match=expected):
        resolve(config, prediction)


def test_interrupted_agglomeration_equals_uninterrupted(tmp_path, monkeypatch):
    affinities = noise((9, 40, 37), 3)
    parameters = {
        "decoder": "affinity_agglomeration",
        "affinity_threshold": 0.45,
        "seed_threshold": 0.65,
        "merge_threshold": 0.5,
        "min_size": 2,
    }
    whole = decode(affinities, **parameters)
    assert whole.max() > 3
    real, volume = stage.decode_step, array_volume(affinities)

    def stop(*_):
        raise KeyboardInterrupt

    arguments = {"config": SegmentConfig(**parameters), "resources": Resources(1, "serial")}
    monkeypatch.setattr(stage, "decode_step", stop)
    with pytest.raises(KeyboardInterrupt):
        segment_volume(volume, tmp_path / "a.zarr", **arguments)
    monkeypatch.setattr(stage, "decode_step", real)
    found = segment_volume(volume, tmp_path / "a.zarr", **arguments)
    np.testing.assert_array_equal(found.read(), whole)
