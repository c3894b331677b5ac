"""Padding: the border of one constant value that aligned stacks have around their sections.

Beside such a border a network sees an edge that is not there in the tissue. So a prediction reads
the image mirrored where it ends (`read_content`), as it does at the border of a volume::

    section   0 0 0 0 0 0 0
              0 0 a b c d 0      content: a rectangle, of each section its own
              0 0 e f g h 0
              0 0 0 0 0 0 0

Sections of one value at both ends of a volume are padding too; between others they are left as they
are. What is not a rectangle counts as one: its bounding box.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import index, lt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.executors import Resources, run_tasks
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.volume import Array, Volume, read_reflected, reflect

PADDING_ATTRIBUTE = "padding"
"""Under which a volume carries its padding; None where it has none."""

Rectangle = tuple[int, int, int, int]
"""First row, end of rows, first column, end of columns."""


@dataclass(frozen=True)
class Padding:
    """Where a volume has content.

    Attributes:
        shape: Extent (z, y, x) of the volume.
        sections: First section with content, and the end of them.
        rectangles: Content of sections, from the section named on, in order; the first is that of
            section 0.
    """

    shape: Triple
    sections: tuple[int, int]
    rectangles: tuple[tuple[int, Rectangle], ...]

    @property
    def common(self) -> Box:
        """What is content in all sections; all content, where that is empty."""
        found = np.array([rectangle for _, rectangle in self.rectangles])
        (y0, _, x0, _), (_, y1, _, x1) = found.max(axis=0).tolist(), found.min(axis=0).tolist()
        if y0 >= y1 or x0 >= x1:
            (y0, _, x0, _), (_, y1, _, x1) = found.min(axis=0).tolist(), found.max(axis=0).tolist()
        return Box((self.sections[0], y0, x0), (self.sections[1], y1, x1))

    def runs(self, first: int, stop: int) -> Iterator[tuple[int, int, Rectangle]]:
        """Runs of sections that share a rectangle, within an interval of sections."""
        ends = [*(start for start, _ in self.rectangles[1:]), self.shape[0]]
        for (start, rectangle), end in zip(self.rectangles, ends, strict=True):
            if max(start, first) < min(end, stop):
                yield max(start, first), min(end, stop), rectangle

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "shape": list(self.shape),
            "sections": list(self.sections),
            "rectangles": [[start, *rectangle] for start, rectangle in self.rectangles],
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Padding":
        """Back from `to_dict`.

        Raises:
            InputError: Anything else.
        """
        try:
            z, y, x = map(index, values["shape"])
            first, stop = map(index, values["sections"])
            rows = [tuple(map(index, row)) for row in values["rectangles"]]
            rectangles = tuple((a, (b, c, d, e)) for a, b, c, d, e in rows)
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"padding: found {str(values)[:80]}, expected cristae's") from error
        starts = [start for start, _ in rectangles]
        inside = all(0 <= a < b <= y and 0 <= c < d <= x for _, (a, b, c, d) in rectangles)
        ordered = starts[:1] == [0] and all(map(lt, starts, [*starts[1:], z]))
        if not (inside and ordered and 0 <= first < stop <= z):
            raise InputError(f"padding: found {str(values)[:80]}, expected what fits {z, y, x}")
        return cls((z, y, x), (first, stop), rectangles)

    def cropped(self, box: Box) -> "Padding | None":
        """That of a part of the volume; None where the part has none, or nothing else."""
        low, high = (max(self.sections[0], box.start[0]), min(self.sections[1], box.stop[0]))
        rows = []
        for first, stop, (y0, y1, x0, x1) in self.runs(box.start[0], box.stop[0]):
            y0, y1 = (min(max(y - box.start[1], 0), box.shape[1]) for y in (y0, y1))
            x0, x1 = (min(max(x - box.start[2], 0), box.shape[2]) for x in (x0, x1))
            rows += [(y0, y1, x0, x1)] * (stop - first)
        return _padding(box.shape, (low - box.start[0], high - box.start[0]), rows)

    def coarser(self, shape: Triple, step: Triple) -> "Padding | None":
        """That of a smaller level: voxels that hold nothing but content.

        Args:
            shape: Extent (z, y, x) of the level.
            step: Voxels of the volume in one of the level, along (z, y, x).
        """

        def inner(first: int, stop: int, axis: int) -> tuple[int, int]:
            at_end = stop == self.shape[axis]  # its last voxel may stand for fewer
            return -(-first // step[axis]), shape[axis] if at_end else stop // step[axis]

        rows = []
        for z in range(shape[0]):
            found = np.array([r for _, _, r in self.runs(z * step[0], (z + 1) * step[0])])
            (y0, _, x0, _), (_, y1, _, x1) = found.max(axis=0).tolist(), found.min(axis=0).tolist()
            rows.append((*inner(y0, y1, 1), *inner(x0, x1, 2)))
        return _padding(shape, inner(*self.sections, 0), rows)


def find_padding(volume: Volume, resources: Resources | None = None) -> Padding | None:
    """The padding of an image; a volume that carries it is not read again.

    Args:
        volume: Image (z, y, x). Its first and last rows and columns are read, and sections that
            have a border as a whole.
        resources: Workers.

    Returns:
        The padding; None where there is none, for a volume of a single value, and for volumes with
        channels.

    Raises:
        InputError: What reading the volume raises.
    """
    if volume.channels is not None:
        return None
    stored = volume.attributes.get(PADDING_ATTRIBUTE, ...)
    if stored is not ...:
        return _carried(volume, stored)
    depth = volume.chunk_shape[0]
    slabs = [(z, min(z + depth, volume.shape[0])) for z in range(0, volume.shape[0], depth)]
    found = dict(run_tasks(partial(_look, volume), slabs, resources or Resources()))
    looked = [one for slab in slabs for one in found[slab]]
    full = [z for z, one in enumerate(looked) if one is not None]
    if not full:
        return None
    whole = (0, volume.shape[1], 0, volume.shape[2])
    rows = [whole if one is None else one for one in looked]
    return _padding(volume.shape, (full[0], full[-1] + 1), rows)


def read_content(volume: Volume, padding: Padding | None, box: Box) -> Array:
    """Read a box that may reach into padding and outside: mirrored at the border of the content.

    The border voxel itself is not repeated, as in `read_reflected`.

    Args:
        volume: What is read.
        padding: Its own; None where it has none.
        box: Any box that is not empty.

    Returns:
        (z, y, x) array of the box's shape.
    """
    if padding is None:
        return read_reflected(volume, box)
    low, high = padding.sections
    sections = reflect(np.arange(box.start[0], box.stop[0]) - low, high - low) + low
    first, stop = int(sections.min()), int(sections.max()) + 1
    parts = []
    for a, b, (y0, y1, x0, x1) in padding.runs(first, stop):
        content = volume.crop(Box((a, y0, x0), (b, y1, x1)))
        _, by, bx = box.start
        there = Box((0, by - y0, bx - x0), (b - a, box.stop[1] - y0, box.stop[2] - x0))
        parts.append(read_reflected(content, there))
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(array[sections - first])


def content_mask(volume: Volume, padding: Padding) -> Volume:
    """A mask in the place of a volume: 1 where it has content, 0 in the padding."""
    return volume.with_(
        name=f"content of {volume.name}",
        reader=ContentReader(padding),
        dtype=np.dtype(np.uint8),
        corner=(0, 0, 0),
        kind=None,
        attributes={},
        identity=volume.identity.read_as("where it has content"),
    )


@dataclass(frozen=True)
class ContentReader:
    """Reads 1 where a volume has content, 0 in its padding."""

    padding: Padding

    def read(self, box: Box) -> Array:
        """The (z, y, x) uint8 mask of a box."""
        mask: NDArray[np.uint8] = np.zeros(box.shape, np.uint8)
        low, high = self.padding.sections
        first, stop = max(low, box.start[0]), min(high, box.stop[0])
        for a, b, (y0, y1, x0, x1) in self.padding.runs(first, stop):
            content = Box((a, y0, x0), (b, y1, x1)).clip(box)
            if not content.empty:
                mask[content.relative_to(box.start).slices()] = 1
        return mask


def _carried(volume: Volume, stored: Any) -> Padding | None:
    if stored is None:
        return None
    return Padding.from_dict(stored).cropped(volume.box.shift(volume.corner))


def _look(volume: Volume, slab: tuple[int, int]) -> list[Rectangle | None]:
    """The content of each section; None where there is none."""
    first, stop = slab
    _, height, width = volume.shape
    edges = [
        volume.read(Box((first, y0, x0), (stop, y1, x1))).reshape(stop - first, -1)
        for y0, y1, x0, x1 in (
            (0, 1, 0, width),
            (height - 1, height, 0, width),
            (0, height, 0, 1),
            (0, height, width - 1, width),
        )
    ]
    return [_content(volume, z, [edge[z - first] for edge in edges]) for z in range(first, stop)]


def _content(volume: Volume, z: int, edges: list[Array]) -> Rectangle | None:
    _, height, width = volume.shape
    constant = [edge[0] for edge in edges if (edge == edge[0]).all()]
    if not constant:
        return 0, height, 0, width
    values, counts = np.unique(constant, return_counts=True)
    section = volume.read(Box((z, 0, 0), (z + 1, height, width)))[0]
    other = section != values[np.argmax(counts)]
    rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
    if not rows.size:
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _padding(shape: Triple, sections: tuple[int, int], rows: list[Rectangle]) -> Padding | None:
    """A padding from the rectangle of every section; None where it is none, or all there is.

    A section whose rectangle is empty counts as content all over.
    """
    whole = (0, shape[1], 0, shape[2])
    rows = [r if r[0] < r[1] and r[2] < r[3] else whole for r in rows]
    starts = [z for z in range(len(rows)) if z == 0 or rows[z] != rows[z - 1]]
    if sections[0] >= sections[1] or (sections == (0, shape[0]) and set(rows) == {whole}):
        return None
    return Padding(shape, sections, tuple((z, rows[z]) for z in starts))
