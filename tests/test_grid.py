import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.errors import InputError
from cristae.grid import Box, parse_roi, snap, tile

extents = st.tuples(*[st.integers(1, 9)] * 3)


@given(shape=extents, block=extents)
def test_tiles_fill_a_box_once_in_raster_order(shape, block):
    corner = (3, -2, 5)
    box = Box.of(shape).shift(corner)
    count = np.zeros(shape, int)
    blocks = tile(box, block)
    for part in blocks:
        count[part.relative_to(corner).slices()] += 1
    assert (count == 1).all()
    assert blocks == sorted(blocks)


@given(shape=extents, multiple=extents)
def test_snap_is_the_smallest_box_on_the_lattice(shape, multiple):
    box = Box.of(shape).shift((-4, 7, 1))
    snapped = snap(box, multiple)
    assert snapped.contains(box)
    for axis, m in enumerate(multiple):
        assert snapped.start[axis] % m == 0
        assert snapped.stop[axis] % m == 0
        assert box.start[axis] - snapped.start[axis] < m
        assert snapped.stop[axis] - box.stop[axis] < m


def test_clip_grow_and_contains():
    box = Box((0, 0, 0), (4, 4, 4))
    assert box.grow((1, 0, 2)).start == (-1, 0, -2)
    assert box.grow((0, 0, 0), (0, 0, 3)).shape == (4, 4, 7)
    assert box.clip(Box((5, 0, 0), (6, 1, 1))).empty
    assert box.contains(box.clip(Box((2, 2, 2), (9, 9, 9))))
    assert not box.contains(Box((0, 0, 0), (5, 1, 1)))


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0:2,1:3,2:4", Box((0, 1, 2), (2, 3, 4))),
        (":,5:,:-1", Box((0, 5, 0), (10, 20, 29))),
        ("-3:,0:1,0:1", Box((7, 0, 0), (10, 1, 1))),
    ],
)
def test_roi_as_the_user_writes_it(text, box):
    assert parse_roi(text, (10, 20, 30)) == box


@pytest.mark.parametrize("text", ["0:1,0:1", "0:11,0:1,0:1", "3:3,0:1,0:1", "a:b,0:1,0:1", ""])
def test_roi_that_cannot_be_used_is_named(text):
    with pytest.raises(InputError, match="roi"):
        parse_roi(text, (10, 20, 30))


def test_a_block_without_extent_is_refused():
    with pytest.raises(InputError, match=r"\(0, 1, 1\)"):
        tile(Box.of((2, 2, 2)), (0, 1, 1))
