"""Grey values of a volume: one fixed sample, its statistics, and the rules that use them.

Statistics belong to a whole volume, never to a tile: every tile of a volume is normalised with the
same numbers, so predictions do not depend on the tiling. They are taken once from a sample that
depends on the shape alone (`sample_boxes`), and a converted volume carries them in its attributes.

Rules (the names a model file stores):

- ``window``: the 0.5th percentile of the sample becomes -1 and the 99.5th +1, linear between,
  clipped at -1.25 and +1.25. For any bit depth.
- ``uint8``: ``(v / 255 - 0.5) / 0.5``, as PyTorch Connectomics does. For 8-bit volumes only.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy

from cristae.errors import InputError
from cristae.grid import Box, Triple, spread_starts
from cristae.volumes.padding import Padding
from cristae.volumes.volume import Volume

RULES = ("window", "uint8")
LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5
CLIP = 1.25
MEAN_FAR, STD_FAR = 0.25, 0.15

_PLANES, _GRID, _SIDE = 8, 6, 128
_LINE_WINDOWS = 48
_LINE_SIGMAS_VX = (1.0, 1.5)
_LINE_PERCENT = 95.0
_INVERTED_BELOW = -0.02
_PADDING_VX = 9
INTENSITY_ATTRIBUTE = "intensity"
"""Under which a volume carries its statistics."""


@dataclass(frozen=True)
class IntensityStatistics:
    """Grey statistics of one volume.

    Attributes:
        low: 0.5th percentile of the sample, in grey values as stored.
        high: 99.5th percentile.
        mean: Mean of the sample.
        std: Standard deviation of the sample.
        minimum: Smallest value of the sample.
        maximum: Largest value of the sample.
        inverted_suspected: Whether membranes look brighter than their surroundings.
        line_contrast: Strength of dark lines over bright lines (`line_contrast`), 0 when unknown.
        sample: What was sampled, in words.
    """

    low: float
    high: float
    mean: float
    std: float
    minimum: float
    maximum: float
    inverted_suspected: bool
    line_contrast: float
    sample: str

    def to_dict(self) -> dict[str, Any]:
        """The statistics as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "IntensityStatistics":
        """The statistics back from `to_dict`.

        Raises:
            InputError: Keys that are missing or unknown, or values of another kind.
        """
        expected = {name: field.type for name, field in cls.__dataclass_fields__.items()}
        if not isinstance(values, dict) or set(values) != set(expected):
            found = f"keys {sorted(values)}" if isinstance(values, dict) else str(values)[:80]
            raise InputError(f"intensity statistics: found {found}, expected {sorted(expected)}")
        kinds = {"float": (int, float), "bool": (bool,), "str": (str,)}
        for name, value in values.items():
            kind = getattr(expected[name], "__name__", str(expected[name]))
            number = not isinstance(value, float) or math.isfinite(value)
            if not isinstance(value, kinds[kind]) or not number:
                raise InputError(f"intensity statistics: {name} {value!r} found, expected {kind}")
        return cls(**values)


def sample_boxes(shape: Triple) -> list[Box]:
    """The boxes a volume is sampled in: a lattice that depends on the shape alone.

    Eight planes, each with 6 x 6 squares of 128 x 128 voxels, the centres spread evenly; fewer
    where the volume is smaller. At most 4.7 million voxels.

    Args:
        shape: Extent (z, y, x) of the volume in voxels.

    Returns:
        Boxes inside the volume, in raster order of planes, then rows, then columns.
    """
    z, y, x = shape
    rows, columns = spread_starts(y, _SIDE, _GRID), spread_starts(x, _SIDE, _GRID)
    height, width = min(y, _SIDE), min(x, _SIDE)
    return [
        Box((k, j, i), (k + 1, j + height, i + width))
        for k in spread_starts(z, 1, _PLANES)
        for j in rows
        for i in columns
    ]


def sample_intensity(volume: Volume, padding: Padding | None = None) -> IntensityStatistics:
    """Statistics of a volume's grey values, from the fixed sample.

    A volume that carries its statistics (written by `convert_volume`) is not read again. Padding,
    areas of exact zeros at least 9 x 9 voxels large in a plane, is left out, and so are values that
    are not finite; a volume of nothing else gives zeros. Channels are pooled.

    Args:
        volume: Image (or prediction) of any dtype.
        padding: Its own, which is left out whatever its value.

    Returns:
        Statistics in grey values as stored. ``inverted_suspected`` is True where bright lines beat
        dark lines by 2 % or more; False for volumes with channels, which have no contrast.

    Raises:
        InputError: What reading the volume raises.
    """
    stored = volume.attributes.get(INTENSITY_ATTRIBUTE)
    if stored is not None:
        return IntensityStatistics.from_dict(stored)
    content = volume.box if padding is None else padding.common
    boxes = [box.shift(content.start) for box in sample_boxes(content.shape)]
    windows = [volume.read(box) for box in boxes]
    values = [_content(window) for window in windows]
    pooled = np.concatenate(values) if values else np.zeros(0)
    contrast = 0.0 if volume.channels is not None else _sampled_contrast(windows)
    return _statistics(pooled, contrast, len(boxes), sum(window.size for window in windows))


def grey_moments(
    statistics: IntensityStatistics, rule: str, invert: bool = False
) -> tuple[float, float]:
    """Mean and standard deviation of a volume's sample as a network sees it, clipping apart.

    Args:
        statistics: Of the volume.
        rule: ``window`` or ``uint8``.
        invert: Whether the contrast is turned around.
    """
    low, high = (0.0, 255.0) if rule == "uint8" else (statistics.low, statistics.high)
    half = max((high - low) / 2, 1e-12)
    mean = (statistics.mean - (low + high) / 2) / half
    return (-mean if invert else mean), statistics.std / half


def is_far(moments: tuple[float, float], known: Sequence[Sequence[float]]) -> bool:
    """Whether `grey_moments` lie far from those of every known volume.

    Far is more than 0.25 in the mean or 0.15 in the standard deviation. Four sets of real EM from
    three kinds of microscope lie within 0.12 and 0.02 of each other by ``window``, and within 0.12
    and 0.09 by ``uint8``.

    Args:
        moments: Of the volume in question.
        known: Mean and standard deviation of each known volume; with none, nothing is far.
    """
    return bool(known) and all(
        abs(moments[0] - mean) > MEAN_FAR or abs(moments[1] - std) > STD_FAR for mean, std in known
    )


def line_contrast(windows: np.ndarray) -> float:
    """How much stronger dark lines are than bright ones; negative where bright lines prevail.

    Membranes are lines: dark in the usual contrast of electron micrographs, bright in inverted
    contrast. Each voxel's in-plane Hessian (scales of 1 and 1.5 voxels) has eigenvalues
    a >= b; a dark line scores a - abs(b) where positive, a bright line -b - abs(a). The result is
    log(D / B), D and B the 95th percentiles over all voxels, averaged over the two scales. Turning
    the contrast around negates it; brightness and contrast do not change it.

    Measured on real EM as stored: FIB-SEM at 5 nm 0.09, SBEM at 5.9 nm 0.06, ssTEM at 4.6 nm
    0.15; the same data binned 2, 3 and 4 times in plane stay above 0. Noise pulls it to 0.

    Args:
        windows: Squares of grey values (n, y, x).

    Returns:
        A number without unit; 0 where there are no lines at all.
    """
    ratios = []
    for sigma in _LINE_SIGMAS_VX:
        strengths = [_line_strengths(window.astype(np.float32), sigma) for window in windows]
        dark, bright = (
            float(np.percentile(np.stack(part), _LINE_PERCENT))
            for part in zip(*strengths, strict=True)
        )
        ratios.append(float(np.log(dark / bright)) if dark > 0 and bright > 0 else 0.0)
    return sum(ratios) / len(ratios)


def normalise(
    array: np.ndarray, statistics: IntensityStatistics, rule: str, invert: bool = False
) -> np.ndarray:
    """Grey values as the network sees them.

    Args:
        array: Grey values of any shape, real dtype.
        statistics: Of the whole volume, not of this array.
        rule: ``window`` or ``uint8`` (see the module's head).
        invert: Turn the contrast around (for bright membranes); the result is negated exactly.

    Returns:
        float32 of the same shape, in [-1.25, 1.25] (``window``) or [-1, 1] (``uint8``).

    Raises:
        InputError: An unknown rule; ``uint8`` for another dtype; ``window`` for a volume of one
            grey value; values that are not finite.
    """
    _check_rule(array.dtype, statistics, rule)
    if array.dtype.kind in "ui" and array.dtype.itemsize <= 2:
        info = np.iinfo(array.dtype)
        table = _apply(np.arange(info.min, info.max + 1), statistics, rule, invert)
        values: np.ndarray = table.take(array.astype(np.int64) - info.min if info.min else array)
        return values
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("grey values: found NaN or infinity, expected finite numbers")
    return _apply(array, statistics, rule, invert)


def _apply(
    array: np.ndarray, statistics: IntensityStatistics, rule: str, invert: bool
) -> np.ndarray:
    if rule == "uint8":
        grey = 255 - array if invert else array
        scaled = (grey.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        return scaled.astype(np.float32, copy=False)
    centre = (statistics.low + statistics.high) / 2
    half = (statistics.high - statistics.low) / 2
    scaled = np.clip((array.astype(np.float64) - centre) / half, -CLIP, CLIP)
    return (-scaled if invert else scaled).astype(np.float32)


def _check_rule(dtype: np.dtype[Any], statistics: IntensityStatistics, rule: str) -> None:
    if rule not in RULES:
        raise InputError(f"intensity rule: found {rule!r}, expected one of {', '.join(RULES)}")
    if rule == "uint8" and dtype != np.uint8:
        raise InputError(f"intensity rule 'uint8': found {dtype} voxels, expected uint8")
    if rule == "window" and not statistics.low < statistics.high:
        raise InputError(
            f"intensity rule 'window': the sample has one grey value ({statistics.low:g}), "
            f"expected a volume with contrast (sampled: {statistics.sample})"
        )


def _content(window: np.ndarray) -> np.ndarray:
    """Finite values of a window ([c,] 1, y, x) that are not padding, flat."""
    keep = ~_padding(window)
    if window.dtype.kind == "f":
        keep &= np.isfinite(window)
    values: np.ndarray = window[keep]
    return values


def _padding(window: np.ndarray) -> np.ndarray:
    """Where a window holds areas of exact zeros at least 9 x 9 voxels large (or as its edge)."""
    zero: np.ndarray = window == 0
    if not zero.any():
        return zero
    square = tuple(min(_PADDING_VX, n) for n in window.shape[-2:])
    footprint = (1,) * (window.ndim - 2) + square
    eroded = scipy.ndimage.minimum_filter(zero, size=footprint, mode="nearest")
    opened: np.ndarray = zero & scipy.ndimage.maximum_filter(eroded, size=footprint, mode="nearest")
    return opened


def _sampled_contrast(windows: list[np.ndarray]) -> float:
    """`line_contrast` of up to 48 of the windows that have grey values everywhere."""
    full = [w[0] for w in windows if _content(w).size == w.size and w.min() < w.max()]
    if not full or min(full[0].shape) < 8:
        return 0.0
    chosen = np.unique(np.linspace(0, len(full) - 1, min(_LINE_WINDOWS, len(full))).astype(int))
    return line_contrast(np.stack([full[i] for i in chosen]))


def _line_strengths(plane: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    smooth = scipy.ndimage.gaussian_filter(plane, sigma)
    yy = scipy.ndimage.correlate1d(smooth, (1, -2, 1), axis=0)
    xx = scipy.ndimage.correlate1d(smooth, (1, -2, 1), axis=1)
    slope = scipy.ndimage.correlate1d(smooth, (-0.5, 0, 0.5), axis=0)
    xy = scipy.ndimage.correlate1d(slope, (-0.5, 0, 0.5), axis=1)
    mean, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    larger, smaller = mean + spread, mean - spread
    dark = np.maximum(larger - np.abs(smaller), 0)
    bright = np.maximum(-smaller - np.abs(larger), 0)
    return dark, bright


def _statistics(
    values: np.ndarray, contrast: float, boxes: int, sampled: int
) -> IntensityStatistics:
    sample = f"{boxes} boxes of {sampled} voxels"
    if values.size < sampled:
        sample += f", {sampled - values.size} of them left out (areas of zeros, not finite)"
    if not values.size:
        return IntensityStatistics(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False, 0.0, sample)
    low, high = np.percentile(values, [LOW_PERCENT, HIGH_PERCENT])
    return IntensityStatistics(
        low=float(low),
        high=float(high),
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        minimum=float(values.min()),
        maximum=float(values.max()),
        inverted_suspected=contrast < _INVERTED_BELOW,
        line_contrast=contrast,
        sample=sample,
    )
