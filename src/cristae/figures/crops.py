"""Close-ups of one place in three planes, with two sets of outlines over the grey picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cristae.figures.canvas import add_picture, draw_bar, new_figure, pixels, scale_bar, write_name
from cristae.figures.colours import PREDICTION, TRUTH, Rgb, to_hex
from cristae.figures.raster import jpeg
from cristae.figures.sections import grey_picture

Planes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
Nanometres = tuple[float, float, float]
LineStyle = str | tuple[float, tuple[float, ...]]
Layer = tuple[Planes, tuple[int, ...], Rgb, LineStyle]

_GAP = 8
_FONT_PX = 24
_GROUND = "#0c0e12"


#: Name of the panels, and the axes (0 z, 1 y, 2 x) along rows and columns.
PANELS = (("xy", 1, 2), ("yz", 1, 0), ("xz", 0, 2))


@dataclass(frozen=True)
class ThreePlanes:
    """Three planes through a point; each triple in the order of `PANELS`.

    Attributes:
        image: Grey values (rows, columns).
        truth: Ids (rows, columns), or None.
        prediction: Ids (rows, columns), or None.
        voxel_size: Extent of a voxel (z, y, x).
        window: Grey values shown black and white.
        truth_ids: Ids of the truth this place is about, drawn strongly; others thinly.
        prediction_ids: Ids of the prediction this place is about.
        unit: What ``voxel_size`` is in.
    """

    image: Planes
    truth: Planes | None
    prediction: Planes | None
    voxel_size: Nanometres
    window: tuple[float, float]
    truth_ids: tuple[int, ...] = ()
    prediction_ids: tuple[int, ...] = ()
    unit: str = "nm"


def place_picture(place: ThreePlanes, *, width: int = 760, height_limit: int = 900) -> bytes:
    """Three planes of a place, all at one scale, as JPEG: xy, yz to its right, xz below it.

    Solid blue lines are the truth, broken orange ones the prediction; the instances the place is
    about have thick lines.

    Args:
        place: What to show.
        width: Columns of the picture; a smaller scale is taken where the height would exceed its
            limit, and the picture is then narrower.
        height_limit: Most rows of the picture.
    """
    scale = _scale(place, width, height_limit)
    size = place.voxel_size
    panels = [
        grey_picture(section, (size[down], size[across]), scale, place.window)
        for section, (_, down, across) in zip(place.image, PANELS, strict=True)
    ]
    rows, columns = panels[0].shape
    corners = ((0, 0), (columns + _GAP, 0), (0, rows + _GAP))
    figure = new_figure(
        columns + _GAP + panels[1].shape[1], rows + _GAP + panels[2].shape[0], _GROUND
    )
    for i, (grey, (left, top)) in enumerate(zip(panels, corners, strict=True)):
        axes = add_picture(figure, grey, left, top)
        for labels, ids, colour, style in _layers(place):
            _outlines(axes, labels[i], ids, (grey.shape[0], grey.shape[1]), (colour, style))
        if min(grey.shape) >= 2.5 * _FONT_PX:
            write_name(axes, PANELS[i][0], _FONT_PX)
        if i == 0 and rows >= 5 * _FONT_PX:
            draw_bar(axes, scale_bar(columns, scale, 0.4, place.unit), rows, _FONT_PX)
    return jpeg(pixels(figure), 76)


def _layers(place: ThreePlanes) -> list[Layer]:
    layers: list[Layer] = []
    if place.truth is not None:
        layers.append((place.truth, place.truth_ids, TRUTH, "solid"))
    if place.prediction is not None:
        layers.append((place.prediction, place.prediction_ids, PREDICTION, (0.0, (2.2, 1.1))))
    return layers


def _scale(place: ThreePlanes, width: int, height_limit: int) -> float:
    """Finest scale (nm a pixel) at which the panels fit."""
    rows, columns = place.image[0].shape
    y, x = rows * place.voxel_size[1], columns * place.voxel_size[2]
    z = place.image[2].shape[0] * place.voxel_size[0]
    return float(max((x + z) / (width - _GAP), (y + z) / (height_limit - _GAP)))


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
            linewidths=[3.6 if thick else 1.7],
            linestyles=[style],
            alpha=1.0 if thick else 0.7,
        )
