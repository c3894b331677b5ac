"""Tiles: every voxel once, read boxes of one shape on the lattice that hold the halo."""

from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.errors import InputError
from cristae.grid import Box
from cristae.networks.context import Context
from cristae.prediction.tiles import choose_tiling, make_tiling

CONTEXT = Context((3, 45, 45), (1, 8, 8))
WASTE = attrgetter("waste")
extents = st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(1, 90))


@given(
    shape=extents,
    shard=st.tuples(st.integers(1, 16), st.integers(1, 32), st.integers(1, 32)),
    core=extents,
    halo=st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 20)),
    lattice=st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
    factors=st.tuples(
        st.sampled_from([1.0, 0.7, 2.0]), st.floats(0.4, 2.5), st.sampled_from([1.0, 1.37])
    ),
)
def test_any_tiling_covers_the_volume_once(shape, shard, core, halo, lattice, factors):
    tiling = make_tiling(shape, shard, Context(halo, lattice), factors, core)
    times = np.zeros(shape, int)
    count = 0
    for group in tiling.groups():
        assert all(corner % s == 0 for corner, s in zip(group.start, shard, strict=True))
        assert sum(part.size for part in tiling.shards(group)) == group.size
        for box in tiling.cores(group):
            times[box.slices()] += 1
            count += 1
            read = tiling.read_box(box)
            assert read.shape == tiling.read
            assert all(a % step == 0 for a, step in zip(read.start, lattice, strict=True))
            assert all(n % step == 0 for n, step in zip(read.shape, lattice, strict=True))
            assert read.contains(tiling.working_core(box).grow(halo))
    assert (times == 1).all()
    assert count == tiling.count()


def test_waste_is_voxels_read_over_voxels_written():
    """Cores of 64 in 128 along x, halo 45 on a lattice of 8: 64 + 2 x 48 = 160 read for each."""
    tiling = make_tiling((10, 128, 128), (10, 128, 128), CONTEXT, (1.0, 1.0, 1.0), (10, 128, 64))
    assert tiling.read == (16, 224, 160)
    assert tiling.count() == 2
    assert tiling.waste == pytest.approx(2 * 16 * 224 * 160 / (10 * 128 * 128))


def test_resampled_waste_counts_on_the_working_grid():
    """At a factor of 2 a core of 128 needs working voxels -1 to 64, 66 of them, and the halo."""
    tiling = make_tiling((1, 128, 128), (1, 128, 128), CONTEXT, (1.0, 2.0, 2.0), (1, 128, 128))
    assert tiling.working_core(Box.of((1, 128, 128))) == Box((0, -1, -1), (1, 65, 65))
    assert tiling.read == (7, 160, 160)
    assert tiling.waste == pytest.approx(7 * 160 * 160 / (64 * 64))


def test_more_memory_means_less_waste():
    shape, shard, factors = (100, 2000, 3000), (64, 512, 512), (1.0, 1.0, 1.0)

    def choose(voxels):
        def fits(tiling):
            return np.prod(tiling.read) <= voxels

        return choose_tiling(shape, shard, CONTEXT, factors, fits, WASTE)

    tilings = [choose(voxels) for voxels in (1e5, 1e6, 1e7, 1e8, 1e9)]
    wastes = [tiling.waste for tiling in tilings]
    assert wastes == sorted(wastes, reverse=True)
    assert tilings[-1].core == shape  # all of it at once
    for tiling, voxels in zip(tilings, (1e5, 1e6, 1e7, 1e8, 1e9), strict=True):
        assert np.prod(tiling.read) <= voxels


def test_the_smallest_is_offered_where_nothing_fits():
    tiling = choose_tiling(
        (64, 512, 512), (64, 512, 512), CONTEXT, (1.0,) * 3, lambda t: False, WASTE
    )
    assert tiling.core == (1, 8, 8)


def test_a_block_shape_under_one_is_refused():
    with pytest.raises(InputError, match=r"block shape \(4, 0, 8\)"):
        make_tiling((8, 8, 8), (8, 8, 8), CONTEXT, (1.0,) * 3, (4, 0, 8))
