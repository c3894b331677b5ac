"""The pictures of a sample: sections with coloured instances, and views in space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.figures.canvas import ScaleBar, scale_bar
from cristae.figures.projection import project
from cristae.figures.raster import contrast_window, data_uri, jpeg, png
from cristae.figures.sections import (
    annotate,
    clear_plates,
    draw_cross,
    grey_picture,
    instance_overlay,
    overlay_png,
)
from cristae.grid import Box, Triple
from cristae.report.sampling import Thinned, plane_box, read_at, voxel_size_of
from cristae.volumes.volume import Volume

#: Columns of the large section and of the small ones; two for each of a screen's.
_LARGE, _SMALL = 1100, 760
_VIEW_WIDTH = 760
_QUALITY = 76
#: Axis that the views in space look along, and in words.
_LOOKING = {0: "from above, along z", 1: "from the front, along y"}
_WHITE = (255, 255, 255)
#: Axis cut, and axes (0 z, 1 y, 2 x) along rows and columns.
_PLANES = {"xy": (0, 1, 2), "yz": (2, 1, 0), "xz": (1, 0, 2)}


@dataclass(frozen=True)
class Section:
    """A section ready for a page.

    Attributes:
        name: Of the plane, ``xy``.
        position: Where the plane cuts, in words.
        image: Grey picture as ``data:`` address.
        instances: See-through picture of the instances, of the same size.
        truth: See-through outlines of the truth, or None.
        width: Columns of the pictures.
        height: Rows of the pictures.
        count: Instances in the section.
    """

    name: str
    position: str
    image: str
    instances: str
    truth: str | None
    width: int
    height: int
    count: int


@dataclass(frozen=True)
class SpaceView:
    """A picture in space ready for a page.

    Attributes:
        image: As ``data:`` address.
        width: Columns.
        height: Rows.
        bar: Scale bar.
        looking: Where from, in words.
    """

    image: str
    width: int
    height: int
    bar: ScaleBar
    looking: str


@dataclass(frozen=True)
class PicturedVolumes:
    """The volumes that sections are cut from.

    Attributes:
        image: Grey values.
        instances: Predicted ids, whose voxels count.
        truth: True ids, or None.
    """

    image: Volume
    instances: Volume
    truth: Volume | None


@dataclass(frozen=True)
class Viewpoint:
    """How sections are drawn: scale (nm a pixel), grey window, bar, whether cuts are marked."""

    scale: float
    window: tuple[float, float]
    bar: ScaleBar
    cross: bool


def grey_window(stack: PicturedVolumes, point: Triple) -> tuple[float, float]:
    """Grey values shown black and white: robust percentiles of the three planes at a point."""
    boxes = [plane_box(stack.instances.shape, axis, point) for axis in range(3)]
    return contrast_window([read_at(stack.image, stack.instances, box) for box in boxes])


def three_planes(
    stack: PicturedVolumes, point: Triple, window: tuple[float, float]
) -> dict[str, Section]:
    """The planes xy, yz and xz through a point, all at one scale, with where they cut."""
    look = _look(stack, point, window, _LARGE, cross=True)
    return {name: _section(stack, name, point, look) for name in _PLANES}


def more_sections(
    stack: PicturedVolumes, point: Triple, window: tuple[float, float], count: int
) -> list[Section]:
    """Sections xy at even distances through the volume, other than the one at a point."""
    depth = stack.instances.shape[0]
    places = np.linspace(0, depth, count + 2)[1:-1].astype(int).tolist()
    look = _look(stack, point, window, _SMALL, cross=False)
    return [
        _section(stack, "xy", (z, point[1], point[2]), look)
        for z in sorted(set(places) - {point[0]})
    ]


def _look(
    stack: PicturedVolumes, point: Triple, window: tuple[float, float], columns: int, *, cross: bool
) -> Viewpoint:
    """A look in which a section xy is this wide, or two pixels a voxel if that is less."""
    size, unit = voxel_size_of(stack.instances)
    wide = plane_box(stack.instances.shape, 0, point).shape[2]
    columns = min(columns, 2 * wide)
    scale = wide * size[2] / columns
    return Viewpoint(scale, window, scale_bar(columns, scale, 0.25, unit), cross)


def _section(stack: PicturedVolumes, name: str, point: Triple, look: Viewpoint) -> Section:
    cut, down, across = _PLANES[name]
    size, _ = voxel_size_of(stack.instances)
    box = plane_box(stack.instances.shape, cut, point)
    pixel, scale = (size[down], size[across]), look.scale
    at = f"{'zyx'[cut]} = {point[cut]}"
    grey, plates = annotate(
        grey_picture(_flat(stack.image, stack, box, name), pixel, scale, look.window),
        text=f"{name}  {at}",
        bar=look.bar,
    )
    labels = _flat(stack.instances, stack, box, name)
    overlay = instance_overlay(labels, pixel, scale)
    if look.cross:
        row, column = (
            (point[axis] + 0.5 - box.start[axis]) * size[axis] / scale for axis in (down, across)
        )
        draw_cross(overlay, row, column)
    clear_plates(overlay, plates)
    truth = None
    if stack.truth is not None:
        flat = _flat(stack.truth, stack, box, name)
        outlines = instance_overlay(flat, pixel, scale, fill=0.0, colour=_WHITE)
        clear_plates(outlines, plates)
        truth = data_uri(overlay_png(outlines))
    return Section(
        name=name,
        position=at,
        image=data_uri(jpeg(grey[..., 0], _QUALITY)),
        instances=data_uri(overlay_png(overlay)),
        truth=truth,
        width=grey.shape[1],
        height=grey.shape[0],
        count=int(np.count_nonzero(np.unique(labels))),
    )


def _flat(volume: Volume, stack: PicturedVolumes, box: Box, name: str) -> NDArray[Any]:
    """A box one voxel thin as the rows and columns of a plane."""
    cut, down, across = _PLANES[name]
    section: NDArray[Any] = np.take(read_at(volume, stack.instances, box), 0, axis=cut)
    return section if down < across else section.T


def views(thinned: Thinned, unit: str) -> Sequence[SpaceView]:
    """The instances along z, and along y."""
    shown = []
    for axis, looking in _LOOKING.items():
        picture, scale = project(thinned.array, thinned.voxel_size, axis, _VIEW_WIDTH)
        rows, columns = picture.shape[:2]
        bar = scale_bar(columns, scale, 0.2, unit)
        shown.append(SpaceView(data_uri(png(picture)), columns, rows, bar, looking))
    return shown
