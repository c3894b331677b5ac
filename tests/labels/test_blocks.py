"""Blocks fill a volume, on the chunk grids, within their size."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.labels import blocks
from cristae.labels.blocks import blocks_of, memory_of, pieces_of, read_block
from cristae.volumes.volume import array_volume

triples = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


def volume_of(shape, chunk, corner=(0, 0, 0)):
    array = np.zeros(shape, np.uint8)
    return array_volume(array).with_(chunk_shape=chunk, corner=corner)


@given(triples, triples, triples, triples)
def test_blocks_fill_the_volume_once(shape, chunk, other, corner):
    filled = np.zeros(shape, int)
    for block in blocks_of([volume_of(shape, chunk, corner), volume_of(shape, other)]):
        filled[block.slices()] += 1
    assert (filled == 1).all()


def test_no_chunk_of_either_volume_is_cut(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 30_000)
    shape, chunks = (60, 100, 200), ((6, 8, 10), (4, 8, 25))
    parts = blocks_of([volume_of(shape, c) for c in chunks])
    assert max(b.size for b in parts) <= 30_000
    for block in parts:
        for chunk in chunks:
            assert all(a % c == 0 for a, c in zip(block.start, chunk, strict=True))
    assert parts[0].shape == (12, 8, 200)


def test_chunks_that_share_no_small_multiple_set_the_block_by_the_larger(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 100)
    parts = blocks_of([volume_of((50, 50, 50), (7, 3, 1)), volume_of((50, 50, 50), (5, 2, 2))])
    assert parts[0].shape == (7, 3, 4)


def test_blocks_lie_on_the_grid_of_the_source(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 256)
    part = volume_of((8, 8, 8), (4, 8, 8), corner=(3, 0, 0))
    assert [b.start[0] for b in blocks_of([part])] == [0, 1, 5]


@given(triples, triples, st.integers(1, 40))
def test_pieces_fill_a_block_and_cut_no_chunk(shape, chunk, most):
    volume = volume_of(shape, chunk)
    assert pieces_of(volume.box, [volume]) == [volume.box]  # in memory
    volume = volume.with_(reader=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "PIECE_VOXELS", most)
        pieces = pieces_of(volume.box, [volume])
    filled = np.zeros(shape, int)
    for piece in pieces:
        filled[piece.slices()] += 1
        assert all(a % min(c, n) == 0 for a, c, n in zip(piece.start, chunk, shape, strict=True))
    assert (filled == 1).all()


def test_memory_counts_a_block_a_worker():
    parts = blocks_of([volume_of((4, 4, 4), (2, 4, 4))])
    size = max(b.size for b in parts)
    two = memory_of(parts, 3, Resources(workers=2)) - blocks.TABLE_BYTES
    assert two == min(2, len(parts)) * size * 3
    assert memory_of(parts, 3, Resources(workers=8, executor="serial")) == (
        blocks.TABLE_BYTES + size * 3
    )


@pytest.mark.parametrize("corner", [(0, 0, 0), (1, 2, 3)])
def test_a_view_is_what_reading_gives(corner):
    array = np.arange(math.prod((2, 4, 5, 6))).reshape(2, 4, 5, 6)
    volume = array_volume(array)
    part = volume.crop(volume.box.grow(tuple(-c for c in corner), (0, 0, 0)))
    block = part.box.grow((0, -1, 0))
    np.testing.assert_array_equal(read_block(part, block), part.read(block))
    assert np.shares_memory(read_block(part, block), array)
