from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.intensity import (
    IntensityStatistics,
    line_contrast,
    normalise,
    sample_boxes,
    sample_intensity,
)
from cristae.volumes.volume import array_volume

REAL = ("epfl_train", "cdeep3m_z010-029", "cdeep3m_z050-059", "vnc_stack1")


def membranes(seed: int = 0, shape: tuple[int, int, int] = (3, 256, 256)) -> np.ndarray:
    """Grey noise on a bright ground with dark lines every 16 voxels."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(150, 8, shape)
    grey[:, ::16] -= 80
    grey[:, :, ::16] -= 80
    return np.clip(grey, 20, 255).astype(np.uint8)


@given(st.tuples(st.integers(1, 40), st.integers(1, 900), st.integers(1, 900)))
def test_sample_lies_inside_apart_and_is_bounded(shape: tuple[int, int, int]) -> None:
    boxes = sample_boxes(shape)
    assert all(Box.of(shape).contains(box) and not box.empty for box in boxes)
    assert sum(box.size for box in boxes) <= 4_800_000
    assert all(a.clip(b).empty for a in boxes[:40] for b in boxes if a != b)


def test_statistics_are_those_of_a_volume_no_larger_than_the_sample() -> None:
    array = np.random.default_rng(0).integers(1, 60000, (4, 100, 90)).astype(np.uint16)
    found = sample_intensity(array_volume(array))
    assert found.low == np.percentile(array, 0.5)
    assert found.high == np.percentile(array, 99.5)
    assert (found.minimum, found.maximum) == (array.min(), array.max())
    assert found.mean == pytest.approx(array.mean(), rel=1e-12)
    assert found.std == pytest.approx(array.std(), rel=1e-12)
    assert IntensityStatistics.from_dict(found.to_dict()) == found


def test_zero_padding_is_left_out_and_single_zeros_are_not() -> None:
    inner = membranes()
    inner[0, 5, 5] = 0
    padded = np.zeros((3, 512, 512), np.uint8)
    padded[:, :256, :256] = inner
    assert sample_intensity(array_volume(padded)).minimum == 0
    inner[0, 5, 5] = 40
    padded[:, :256, :256] = inner
    found = sample_intensity(array_volume(padded))
    assert found.minimum == inner.min() > 0
    assert not found.inverted_suspected


def test_values_that_are_not_finite_are_left_out_of_the_sample() -> None:
    array = np.linspace(1, 2, 2 * 64 * 64).reshape(2, 64, 64).astype(np.float32)
    array[0, :3] = np.nan
    found = sample_intensity(array_volume(array))
    assert np.isfinite([found.low, found.high, found.mean, found.std]).all()


def test_stored_statistics_are_used_for_crops_too() -> None:
    volume = array_volume(membranes())
    stored = sample_intensity(volume)
    carried = volume.with_(attributes={"intensity": stored.to_dict()})
    assert sample_intensity(carried.crop(Box((0, 0, 0), (1, 20, 20)))) == stored


def test_an_empty_ground_has_statistics_and_no_window() -> None:
    found = sample_intensity(array_volume(np.zeros((2, 50, 50), np.uint8)))
    assert (found.low, found.high, found.inverted_suspected) == (0, 0, False)
    with pytest.raises(InputError, match="one grey value"):
        normalise(np.zeros((2, 2), np.uint8), found, "window")


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_line_contrast_knows_dark_lines_whatever_their_direction(turn: int) -> None:
    image = np.rot90(membranes()[:, :, ::-1], turn, (1, 2))
    assert line_contrast(image) > 0.2
    assert line_contrast(255 - image) == pytest.approx(-line_contrast(image), abs=1e-4)
    assert line_contrast(image * 7.0 + 3) == pytest.approx(line_contrast(image), abs=1e-3)


@pytest.mark.parametrize("name", REAL)
def test_real_em_and_its_negative(shared: Path, name: str) -> None:
    path = shared / "data" / name / "raw.tif"
    pages = [0, 5, 9] if "epfl" not in name else [0, 80, 164]
    image = np.stack([tifffile.imread(path, key=page) for page in pages])
    for factor in (1, 2):
        y, x = (n // factor * factor for n in image.shape[1:])
        binned = image[:, :y, :x].reshape(3, y // factor, factor, -1, factor).mean((2, 4))
        wide = np.round(binned * 200 + 500).astype(np.uint16)
        assert not sample_intensity(array_volume(wide)).inverted_suspected
        assert sample_intensity(array_volume(65535 - wide)).inverted_suspected


STATISTICS = IntensityStatistics(100.0, 200.0, 150.0, 20.0, 0.0, 255.0, False, 0.1, "by hand")


def test_window_by_hand() -> None:
    grey = np.array([0, 87, 100, 125, 150, 200, 213, 255], np.uint8)
    expected = np.array([-1.25, -1.25, -1, -0.5, 0, 1, 1.25, 1.25], np.float32)
    found = normalise(grey, STATISTICS, "window")
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert np.array_equal(normalise(grey, STATISTICS, "window", invert=True), -expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_window_does_not_depend_on_the_dtype(dtype: type) -> None:
    grey = np.arange(0, 120).reshape(2, 3, 20).astype(dtype)
    shifted = IntensityStatistics(10.0, 90.0, 0.0, 0.0, 0.0, 0.0, False, 0.0, "")
    reference = normalise(grey.astype(np.float64), shifted, "window")
    assert np.array_equal(normalise(grey, shifted, "window"), reference)


def test_uint8_rule_is_that_of_the_reference() -> None:
    grey = np.arange(256, dtype=np.uint8)
    expected = (grey.astype(np.float32) / 255 - 0.5) / 0.5
    assert np.array_equal(normalise(grey, STATISTICS, "uint8"), expected)
    assert np.array_equal(normalise(grey, STATISTICS, "uint8", invert=True), expected[::-1])


def test_what_a_rule_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match="found uint16"):
        normalise(np.zeros(3, np.uint16), STATISTICS, "uint8")
    with pytest.raises(InputError, match="expected one of window, uint8"):
        normalise(np.zeros(3, np.uint8), STATISTICS, "robust")
    with pytest.raises(InputError, match="NaN"):
        normalise(np.array([1.0, np.nan]), STATISTICS, "window")
    with pytest.raises(InputError, match="expected"):
        IntensityStatistics.from_dict({"low": 1})
