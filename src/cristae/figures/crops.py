"""Close-ups of one place in three planes, with two sets of outlines over the grey picture."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cristae.figures.canvas import add_picture, draw_bar, new_figure, pixels, scale_bar, write_name
from cristae.figures.colours import PREDICTION, TRUTH, Rgb, to_hex
from cristae.figures.raster import jpeg
from cristae.figures.sections import grey_picture

Triple = tuple[int, int, int]
Nanometres = tuple[float, float, float]
LineStyle = str | tuple[float, tuple[float, ...]]
Layer = tuple[NDArray[np.generic], tuple[int, ...], Rgb, LineStyle]

_GAP = 10
_FONT_PX = 17
_GROUND = "#0c0e12"


@dataclass(frozen=True)
class Place:
    """A piece of a volume around a point.

    Attributes:
        image: Grey values (z, y, x).
        truth: Ids (z, y, x), or None.
        prediction: Ids (z, y, x), or None.
        point: Voxel (z, y, x) of the piece that all planes go through.
        voxel_size: Extent of a voxel (nm), (z, y, x).
        window: Grey values shown black and white.
        truth_ids: Ids of the truth this place is about, drawn strongly; others thinly.
        prediction_ids: Ids of the prediction this place is about.
        unit: What ``voxel_size`` is in.
    """

    image: NDArray[np.generic]
    truth: NDArray[np.generic] | None
    prediction: NDArray[np.generic] | None
    point: Triple
    voxel_size: Nanometres
    window: tuple[float, float]
    truth_ids: tuple[int, ...] = ()
    prediction_ids: tuple[int, ...] = ()
    unit: str = "nm"


#: Axis cut, axis down, axis to the right, and name of the panels from left to right.
PANELS = ((0, 1, 2, "xy"), (2, 1, 0, "yz"), (1, 0, 2, "xz"))


def place_picture(place: Place, *, width: int = 1080, height_limit: int = 420) -> bytes:
    """Three planes of a place side by side, all at one scale, as JPEG.

    Solid blue lines are the truth, broken orange ones the prediction; the instances the place is
    about have thick lines.

    Args:
        place: What to show.
        width: Columns of the picture; a smaller scale is taken where the height would exceed its
            limit, and the picture is then narrower.
        height_limit: Most rows of the picture.
    """
    scale = _scale(place, width, height_limit)
    panels = [_panel(place, scale, *panel[:3]) for panel in PANELS]
    height = max(grey.shape[0] for grey in panels)
    total = sum(grey.shape[1] for grey in panels) + _GAP * (len(panels) - 1)
    figure = new_figure(total, height, _GROUND)
    left = 0
    for grey, (cut, down, across, name) in zip(panels, PANELS, strict=True):
        rows, columns = grey.shape
        axes = add_picture(figure, grey, left)
        for labels, ids, colour, style in _layers(place):
            section = np.take(labels, place.point[cut], axis=cut)
            section = section if down < across else section.T
            _outlines(axes, section, ids, (rows, columns), (colour, style))
        if rows >= 60 and columns >= 40:
            write_name(axes, name, _FONT_PX)
        if name == "xy" and rows >= 90:
            draw_bar(axes, scale_bar(columns, scale, 0.4, place.unit), rows, _FONT_PX)
        left += columns + _GAP
    return jpeg(pixels(figure), 80)


def _layers(place: Place) -> list[Layer]:
    layers: list[Layer] = []
    if place.truth is not None:
        layers.append((place.truth, place.truth_ids, TRUTH, "solid"))
    if place.prediction is not None:
        layers.append((place.prediction, place.prediction_ids, PREDICTION, (0.0, (2.2, 1.1))))
    return layers


def _scale(place: Place, width: int, height_limit: int) -> float:
    """Finest scale (nm a pixel) at which the panels fit."""
    z, y, x = (
        length * size for length, size in zip(place.image.shape, place.voxel_size, strict=True)
    )
    return float(max((2 * x + z) / (width - 2 * _GAP), max(y, z) / height_limit))


def _panel(place: Place, scale: float, cut: int, down: int, across: int) -> NDArray[np.uint8]:
    section = np.take(place.image, place.point[cut], axis=cut)
    section = section if down < across else section.T
    pixel = (place.voxel_size[down], place.voxel_size[across])
    return grey_picture(section, pixel, scale, place.window)


def _outlines(
    axes: Axes,
    section: NDArray[np.generic],
    strong: tuple[int, ...],
    size: tuple[int, int],
    look: tuple[Rgb, LineStyle],
) -> None:
    """Draw the outline of every id of a section, those in ``strong`` thickly."""
    rows, columns = size
    colour, style = look
    x = (np.arange(-1, section.shape[1] + 1) + 0.5) * (columns / section.shape[1])
    y = (np.arange(-1, section.shape[0] + 1) + 0.5) * (rows / section.shape[0])
    for label in np.unique(section):
        if label == 0:
            continue
        thick = int(label) in strong
        axes.contour(
            x,
            y,
            np.pad(section == label, 1, mode="edge").astype(np.float32),
            levels=[0.5],
            colors=[to_hex(colour)],
            linewidths=[3.0 if thick else 1.2],
            linestyles=[style],
            alpha=1.0 if thick else 0.65,
        )
