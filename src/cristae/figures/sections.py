"""Sections through a volume: grey picture, coloured instances over it, scale bar."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cristae.figures.canvas import (
    Plate,
    ScaleBar,
    add_picture,
    draw_bar,
    new_figure,
    pixels,
    write_name,
)
from cristae.figures.colours import Rgb, instance_colours
from cristae.figures.raster import (
    physical_size,
    png,
    resize_image,
    resize_labels,
    to_grey,
)


def grey_picture(
    section: NDArray[np.generic],
    pixel_size: tuple[float, float],
    nm_per_pixel: float,
    window: tuple[float, float],
) -> NDArray[np.uint8]:
    """A section as grey levels in true proportions.

    Args:
        section: Grey values (rows, columns).
        pixel_size: Extent of one voxel along rows and columns (nm).
        nm_per_pixel: Scale of the picture.
        window: Values shown black and white.

    Returns:
        uint8 (rows, columns) of `physical_size`.
    """
    size = physical_size((section.shape[0], section.shape[1]), pixel_size, nm_per_pixel)
    return to_grey(resize_image(section, size), window)


def annotate(
    picture: NDArray[np.uint8],
    *,
    text: str = "",
    bar: ScaleBar | None = None,
    font_px: float = 19,
) -> tuple[NDArray[np.uint8], list[Plate]]:
    """Write a name and draw a scale bar into a picture, pixel for pixel.

    Args:
        picture: Grey levels (rows, columns) or colours (rows, columns, 3).
        text: Written in the upper left corner.
        bar: Drawn in the lower left corner, its length above it.
        font_px: Height of the letters; the name is left out of a picture under three times as
            high, the bar of one under five times.

    Returns:
        uint8 (rows, columns, 3), and the pixels the letters and the bar take.
    """
    rows, columns = picture.shape[:2]
    figure = new_figure(columns, rows)
    axes = add_picture(figure, picture)
    plates = []
    if text and rows >= 3 * font_px:
        plates.append(write_name(axes, text, font_px))
    if bar is not None and rows >= 5 * font_px and bar.pixels < 0.9 * columns:
        plates.append(draw_bar(axes, bar, rows, font_px))
    return pixels(figure), plates


def clear_plates(overlay: NDArray[np.uint8], plates: Sequence[Plate]) -> None:
    """Make a see-through picture clear, in place, where letters are beneath it."""
    for plate in plates:
        overlay[plate.top : plate.bottom, plate.left : plate.right] = 0


def instance_overlay(
    labels: NDArray[np.generic],
    pixel_size: tuple[float, float],
    nm_per_pixel: float,
    *,
    fill: float = 0.34,
    line_px: int = 2,
    colour: Rgb | None = None,
) -> NDArray[np.uint8]:
    """Instances of a section as a see-through picture: translucent inside, a solid outline.

    Args:
        labels: Ids (rows, columns), 0 the background.
        pixel_size: Extent of one voxel along rows and columns (nm).
        nm_per_pixel: Scale of the picture.
        fill: Opacity inside, 0..1.
        line_px: Width of the outline, inside the instance.
        colour: One colour for all; by id when None.

    Returns:
        uint8 (rows, columns, 4) of `physical_size`: red, green, blue, opacity.
    """
    size = physical_size((labels.shape[0], labels.shape[1]), pixel_size, nm_per_pixel)
    shown = resize_labels(labels, size)
    ids = np.unique(labels)
    table = np.zeros((len(ids), 4), dtype=np.uint8)
    table[:, :3] = instance_colours(ids) if colour is None else colour
    inside = table.copy()
    inside[:, 3] = round(255 * fill)
    line = table.copy()
    line[:, 3] = 255
    inside[ids == 0] = 0
    line[ids == 0] = 0
    index = np.searchsorted(ids, shown)
    return np.asarray(np.where(_border(shown, line_px)[..., None], line[index], inside[index]))


def _border(labels: NDArray[np.generic], width: int) -> NDArray[np.bool_]:
    """Pixels within ``width`` of a pixel of another id, along rows and columns."""
    border = np.zeros(labels.shape, dtype=bool)
    for step in range(1, width + 1):
        for axis in (0, 1):
            if labels.shape[axis] <= step:
                continue
            first = [slice(None)] * 2
            second = [slice(None)] * 2
            first[axis] = slice(None, -step)
            second[axis] = slice(step, None)
            differs = labels[tuple(first)] != labels[tuple(second)]
            border[tuple(first)] |= differs
            border[tuple(second)] |= differs
    return border


def draw_cross(overlay: NDArray[np.uint8], row: float | None, column: float | None) -> None:
    """Mark in place where the other planes cut: broken white lines, left free near the crossing."""
    height, width = overlay.shape[:2]
    dash_rows, dash_columns = (np.arange(length) % 12 < 6 for length in (height, width))
    if row is not None and column is not None:
        dash_rows = dash_rows & (np.abs(np.arange(height) - row) > 16)
        dash_columns = dash_columns & (np.abs(np.arange(width) - column) > 16)
    white = (255, 255, 255, 170)
    if row is not None:
        overlay[min(height - 1, int(row)), dash_columns] = white
    if column is not None:
        overlay[dash_rows, min(width - 1, int(column))] = white


def overlay_png(overlay: NDArray[np.uint8]) -> bytes:
    """A see-through picture as PNG; one without any opacity becomes a single clear pixel."""
    return png(overlay if overlay[..., 3].any() else overlay[:1, :1])
