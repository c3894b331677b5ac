"""Thinned-out looks: what is kept, how much is read, and where."""

import numpy as np
import pytest

from cristae.grid import Box
from cristae.report import sampling
from cristae.report.sampling import focus, plane_box, read_at, thin_out
from cristae.volumes.volume import array_volume


def volume(shape, size=(30.0, 8.0, 8.0), chunk=(64, 64, 64)):
    array = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    return array, array_volume(array, voxel_size_nm=size).with_(chunk_shape=chunk)


@pytest.mark.parametrize("kept", [200, 2_000, 40_000])
@pytest.mark.parametrize("chunk", [(1, 16, 16), (5, 16, 16), (64, 64, 64)])
@pytest.mark.parametrize("at_once", [60, 4_000, 10**7])
def test_thinning_is_striding_whatever_the_chunks(kept, chunk, at_once, monkeypatch):
    monkeypatch.setattr(sampling, "AT_ONCE", at_once)
    array, source = volume((23, 40, 37), chunk=chunk)
    thinned = thin_out(source, kept=kept)
    z, y, x = thinned.stride
    assert thinned.array.size <= kept
    assert (thinned.array == array[::z, ::y, ::x]).all()
    assert thinned.voxel_size == (30.0 * z, 8.0 * y, 8.0 * x)


def test_steps_are_about_equal_in_space():
    _, source = volume((60, 200, 200))
    z, y, x = thin_out(source, kept=40_000).stride
    assert y == x > z
    assert 0.4 < 30 * z / (8 * y) < 2.5


def test_a_large_volume_is_looked_at_in_its_middle():
    array, source = volume((40, 100, 100))
    thinned = thin_out(source, read=50_000)
    assert thinned.box.size <= 50_000
    assert source.box.contains(thinned.box)
    middle = [(a + b) / 2 for a, b in zip(thinned.box.start, thinned.box.stop, strict=True)]
    assert middle == pytest.approx([20, 50, 50], abs=1)
    lengths = [n * e for n, e in zip(thinned.box.shape, (30, 8, 8), strict=True)]
    assert max(lengths) < 1.2 * min(lengths)
    assert (thinned.array == array[thinned.box.slices()]).all()


def test_focus_is_where_most_foreground_is():
    labels = np.zeros((20, 50, 60), np.uint8)
    labels[12, 5:45, 5:55] = 1
    labels[5:15, 30, 5:55] = 2
    labels[5:15, 5:45, 41] = 3
    assert focus(thin_out(array_volume(labels))) == (12, 30, 41)


def test_focus_of_nothing_is_the_middle():
    assert focus(thin_out(array_volume(np.zeros((20, 50, 60), np.uint8)))) == (10, 25, 30)


def test_planes_are_cut_to_a_window_around_the_point(monkeypatch):
    monkeypatch.setattr(sampling, "PLANE_SIDE", 40)
    assert plane_box((10, 100, 200), 0, (3, 95, 60)) == Box((3, 60, 40), (4, 100, 80))
    assert plane_box((10, 100, 200), 2, (3, 95, 60)) == Box((0, 60, 60), (10, 100, 61))


def test_volumes_are_laid_on_one_another_by_their_origins():
    array, source = volume((10, 20, 20))
    part = source.crop(Box((2, 5, 5), (8, 15, 15)))
    box = Box((1, 4, 4), (5, 9, 9))
    seen = read_at(part, source, box)
    expected = np.zeros_like(array)
    expected[2:8, 5:15, 5:15] = array[2:8, 5:15, 5:15]
    assert (seen == expected[box.slices()]).all()
    outside = read_at(part, source, Box((0, 0, 0), (1, 3, 3)))
    assert not outside.any()
    channels = array_volume(np.stack([array, array + 1]), voxel_size_nm=(30.0, 8.0, 8.0))
    assert (read_at(channels, source, box) == array[box.slices()]).all()
