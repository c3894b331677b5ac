"""Colours: one fixed colour for every instance id, and the few colours with a meaning.

Conversions follow B. Ottosson's OKLab (2020, https://bottosson.github.io/posts/oklab/).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rgb = tuple[int, int, int]

#: Outlines of the truth, and of the prediction, on grey images (told apart by any colour vision).
TRUTH: Rgb = (61, 214, 255)
PREDICTION: Rgb = (255, 138, 31)

_GOLDEN = 0.6180339887498949
#: Lightness and chroma in OKLCH, taken in turn so that near hues still differ.
_TONES = np.array([(0.78, 0.150), (0.66, 0.185), (0.86, 0.125), (0.72, 0.120)])


def instance_colours(ids: ArrayLike) -> NDArray[np.uint8]:
    """The colour of every id, the same in every picture and every run.

    Hue goes round by the golden ratio, so ids that follow one another (neighbours, mostly, as ids
    are given in raster order) are far apart; lightness and chroma change as well.

    Args:
        ids: Instance ids of any shape; 0, the background, is black.

    Returns:
        uint8 of shape ``ids.shape + (3,)``: red, green, blue.
    """
    identifiers = np.asarray(ids).astype(np.uint64)
    hue = 2 * np.pi * ((identifiers % np.uint64(1 << 24)).astype(np.float64) * _GOLDEN % 1.0)
    tone = _TONES[(identifiers % np.uint64(len(_TONES))).astype(np.intp)]
    rgb = oklch_to_rgb(tone[..., 0], tone[..., 1], hue)
    rgb[identifiers == 0] = 0
    return rgb


def oklch_to_rgb(lightness: ArrayLike, chroma: ArrayLike, hue: ArrayLike) -> NDArray[np.uint8]:
    """OKLCH (lightness 0..1, chroma, hue in radians) to sRGB bytes, clipped to what a screen has.

    Example:
        >>> oklch_to_rgb(1.0, 0.0, 0.0).tolist()
        [255, 255, 255]
    """
    light = np.asarray(lightness, dtype=np.float64)
    a = np.asarray(chroma) * np.cos(hue)
    b = np.asarray(chroma) * np.sin(hue)
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * curved), dtype=np.uint8)


def to_hex(colour: Rgb) -> str:
    """A colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
