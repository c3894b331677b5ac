"""A drawing surface of an exact number of pixels, with letters and scale bars for pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

#: Figures are drawn at this resolution, where one point is one pixel.
DPI = 72

_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class ScaleBar:
    """A bar of a round length.

    Attributes:
        pixels: Length on the picture.
        text: The length in words, as ``500 nm`` or ``2 µm``.
    """

    pixels: float
    text: str


@dataclass(frozen=True)
class Plate:
    """A rectangle of pixels that holds letters; half-open."""

    left: int
    top: int
    right: int
    bottom: int


def scale_bar(
    width: int, nm_per_pixel: float, fraction: float = 0.25, unit: str = "nm"
) -> ScaleBar:
    """The longest bar of 1, 2 or 5 times a power of ten within ``fraction`` of the width.

    Args:
        width: Columns of the picture.
        nm_per_pixel: Scale of the picture.
        fraction: Share of the width the bar may take.
        unit: What lengths are in; thousands of ``nm`` are written as µm.

    Example:
        >>> scale_bar(1000, 8.0)
        ScaleBar(pixels=250.0, text='2 µm')
    """
    limit = width * nm_per_pixel * fraction
    power = 10.0 ** np.floor(np.log10(limit))
    length = max(step * power for step in _STEPS if step * power <= limit * (1 + 1e-9))
    in_um = unit == "nm" and length >= 1000
    text = f"{length / 1000:g} µm" if in_um else f"{length:g} {unit}"
    return ScaleBar(pixels=float(length / nm_per_pixel), text=text)


def new_figure(width: int, height: int, ground: str = "black") -> Figure:
    """An empty figure of this many pixels."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=ground)
    FigureCanvasAgg(figure)
    return figure


def add_picture(figure: Figure, picture: NDArray[np.uint8], left: int = 0, top: int = 0) -> Axes:
    """Put a picture into a figure, pixel on pixel.

    Args:
        figure: From `new_figure`.
        picture: Grey levels (rows, columns) or colours (rows, columns, 3).
        left: Column of the figure where the picture starts.
        top: Row of the figure where the picture starts.

    Returns:
        Axes over the picture whose units are its pixels, (0, 0) the upper left corner.
    """
    rows, columns = picture.shape[:2]
    width, height = (float(length) * DPI for length in figure.get_size_inches())
    box = (left / width, 1 - (top + rows) / height, columns / width, rows / height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    axes.imshow(rgb, extent=(0, columns, rows, 0), interpolation="none", aspect="auto")
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    return axes


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure: uint8 (rows, columns, 3)."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def write_name(axes: Axes, text: str, font_px: float) -> Plate:
    """Write into the upper left corner: white letters of this height on a dark plate."""
    margin = round(0.35 * font_px)
    return _write(axes, text, (margin, margin), font_px, bar=None)


def draw_bar(axes: Axes, bar: ScaleBar, rows: int, font_px: float) -> Plate:
    """Draw a scale bar with its length above it into the lower left corner, on a dark plate."""
    margin = round(0.35 * font_px)
    height = round(2.1 * font_px)
    return _write(axes, bar.text, (margin, rows - margin - height), font_px, bar=bar)


def _write(
    axes: Axes, text: str, corner: tuple[int, int], font_px: float, *, bar: ScaleBar | None
) -> Plate:
    left, top = corner
    inner = round(0.4 * font_px)
    letters = axes.text(
        left + inner,
        top + 0.72 * font_px,
        text,
        va="center",
        ha="left",
        color="white",
        fontsize=font_px * 0.9,
        fontweight="normal" if bar else "bold",
        zorder=5,
    )
    canvas: Any = axes.figure.canvas
    width = float(letters.get_window_extent(canvas.get_renderer()).width)
    height = round((2.1 if bar else 1.45) * font_px)
    if bar is not None:
        width = max(width, bar.pixels)
        thick = max(3, round(0.25 * font_px))
        low = top + height - inner - thick
        look: dict[str, Any] = {"facecolor": "white", "linewidth": 0, "antialiased": False}
        axes.add_patch(Rectangle((left + inner, low), bar.pixels, thick, zorder=5, **look))
    plate = Plate(left, top, left + round(width) + 2 * inner, top + height)
    size = (plate.right - left, plate.bottom - top)
    axes.add_patch(Rectangle((left, top), *size, fc=(0.04, 0.05, 0.07, 0.72), lw=0, zorder=4))
    return plate
