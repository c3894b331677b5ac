r"""All geometry of a batch in one interpolation, on the training device.

A patch is cut from its volume as the box that it needs (`Cut`), axes along the volume's. The boxes
of a batch become one table of pixels, each a row with its values in all sections, so a pixel of a
turned patch is a weighted sum of four rows (of sixteen, where it is the mean of 2 x 2 samples), and
its id is one row::

    box of patch 0   box of patch 1          table                    pixel of a patch
    +--------+       +-----+            row 0 [ z0 z1 z2 ... ]
    |  /\    |       |     |    --->    row 1 [ z0 z1 z2 ... ]  --->  w0 row a + ... + w3 row d
    |  \/    |       +-----+            ...                           id: row of the nearest
    +--------+

Boxes differ in size and none is filled up; each pixel is computed by itself, so a patch does not
depend on those beside it. Places are float64, alike on every device, and ids stay integers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cristae.grid import Triple
from cristae.training.geometry import SectionGroup, Warp

Array = NDArray[Any]

ANTIALIAS_FROM = 1.2
"""Native voxels per working voxel above which each patch voxel is the mean of 2 x 2 samples."""


@dataclass(frozen=True)
class Cut:
    """What a patch is made of: its source box, and how it lies in there.

    Attributes:
        grey: float32 (y, x, z), normalised; sections as in the patch, native voxels in plane.
        labels: int32 ids, of the same shape.
        known: Where labels are known, bool of the same shape; None: everywhere.
        warp: Where the patch lies.
        corner: Native voxel (y, x) that is voxel 0 of the box.
    """

    grey: NDArray[np.float32]
    labels: NDArray[np.int32]
    known: NDArray[np.bool_] | None
    warp: Warp
    corner: tuple[int, int]

    @property
    def fine(self) -> int:
        """Samples along y and x that a voxel of the patch is the mean of."""
        factor = math.sqrt(abs(float(np.linalg.det(self.warp.matrix))))
        return 2 if factor > ANTIALIAS_FROM else 1


@dataclass(frozen=True)
class _View:
    """Sections of a patch that lie alike in their box.

    Attributes:
        cut: The patch's.
        number: Of the patch in the batch.
        group: The sections, and how they lie.
        first_row: Row of the box's first pixel in the table.
    """

    cut: Cut
    number: int
    group: SectionGroup
    first_row: int


def warp_patches(
    cuts: Sequence[Cut], patch: Triple, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make patches of their boxes.

    Args:
        cuts: A box for each patch.
        patch: Extent (z, y, x) in working voxels.
        device: Where they are made.

    Returns:
        Images float32 (n, z, y, x), linear; ids int32 of the same shape, nearest; and where these
        are known, float32 0 or 1, or None for everywhere.
    """
    views = _views(cuts)
    places = _places(views, patch, 1, device)
    grey = _table([cut.grey for cut in cuts], device)
    image = torch.empty((len(cuts), *patch), device=device)
    for fine in sorted({cut.fine for cut in cuts}):
        picks = [i for i, view in enumerate(views) if view.cut.fine == fine]
        chosen = [views[i] for i in picks]
        at = _places(chosen, patch, fine, device) if fine > 1 else places[picks]
        _write(_linear(grey, chosen, at, fine), chosen, image)
    nearest = places.round().int()
    rows = (_lines(views, nearest[:, 0]) + _columns(views, nearest[:, 1])).flatten()

    def near(boxes: Sequence[Array]) -> Tensor:
        table = _table(boxes, device)
        seen = torch.empty((len(cuts), *patch), dtype=table.dtype, device=device)
        _write(table.index_select(0, rows), views, seen)
        return seen

    known = None
    if any(cut.known is not None for cut in cuts):
        flags = [np.ones(c.labels.shape, bool) if c.known is None else c.known for c in cuts]
        known = near(flags).float()
    return image, near([cut.labels for cut in cuts]), known


def on_device(array: Array, device: torch.device) -> Tensor:
    """An array as a tensor on a device; a GPU fetches it while the processor goes on."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        with torch.cuda.device(device):  # a thread of its own begins with the first GPU
            return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _views(cuts: Sequence[Cut]) -> list[_View]:
    views, first = [], 0
    for number, cut in enumerate(cuts):
        views += [_View(cut, number, group, first) for group in cut.warp.groups()]
        first += math.prod(cut.labels.shape[:2])
    return views


def _table(boxes: Sequence[Array], device: torch.device) -> Tensor:
    """The pixels of all boxes (y, x, z), a row each: (pixels, z)."""
    return torch.cat([on_device(box, device).flatten(0, 1) for box in boxes])


def _places(views: Sequence[_View], patch: Triple, fine: int, device: torch.device) -> Tensor:
    """Where samples lie in their boxes, in voxels from the first one's centre.

    Returns:
        float64 (views, 2, y, x), ``fine`` samples a voxel along y and x.
    """
    size = (patch[1] * fine, patch[2] * fine)
    y, x = (
        (torch.arange(n, dtype=torch.float64, device=device) + 0.5) / fine - n / (2 * fine)
        for n in size
    )
    facts = [
        (*v.group.shift, *v.group.matrix.flat, *np.subtract(v.cut.warp.centre, v.cut.corner) - 0.5)
        for v in views
    ]
    columns = on_device(np.array(facts, float).T.copy(), device)[..., None, None]
    shift_y, shift_x, yy, yx, xy, xx, start_y, start_x = columns  # each (views, 1, 1)
    y, x = y[:, None] + shift_y, x + shift_x
    bends = {i: v.cut.warp.bend for i, v in enumerate(views) if v.cut.warp.bend is not None}
    if bends:
        lattice = on_device(np.stack(list(bends.values())), device).double()
        field = lattice.new_zeros((len(views), 2, *size))
        field[list(bends)] = functional.interpolate(
            lattice, size, mode="bicubic", align_corners=True
        )
        y, x = y + field[:, 0], x + field[:, 1]
    # products and sums apart, so that no device rounds them in one
    return torch.stack([yy * y + yx * x + start_y, xy * y + xx * x + start_x], dim=1)


def _linear(table: Tensor, views: Sequence[_View], places: Tensor, fine: int) -> Tensor:
    """Rows (views of pixels, z) interpolated linearly in plane, each a mean of samples."""
    low = places.floor()
    (y, x), (first_y, first_x) = (places - low).float().unbind(1), low.int().unbind(1)
    lines = [_lines(views, first_y + k) for k in (0, 1)]
    columns = [_columns(views, first_x + k) for k in (0, 1)]
    shares = [(1 - y) / fine**2, y / fine**2], [1 - x, x]
    corners = [(a, b) for a in (0, 1) for b in (0, 1)]
    samples = [(a, b) for a in range(fine) for b in range(fine)]

    def bags(parts: list[Tensor]) -> Tensor:
        split = [part[:, a::fine, b::fine] for part in parts for a, b in samples]
        return torch.stack(split, dim=-1).flatten(0, 2)

    rows = bags([lines[a] + columns[b] for a, b in corners])
    weights = bags([shares[0][a] * shares[1][b] for a, b in corners])
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


def _lines(views: Sequence[_View], y: Tensor) -> Tensor:
    """Row of the table where a line of a box begins; beyond the box, its outermost one."""
    facts = [(v.first_row, v.cut.labels.shape[0] - 1, v.cut.labels.shape[1]) for v in views]
    first, last, width = on_device(np.array(facts, np.int32).T.copy(), y.device)[..., None, None]
    return cast("Tensor", first + torch.minimum(y.clamp(min=0), last) * width)


def _columns(views: Sequence[_View], x: Tensor) -> Tensor:
    """Columns of a box; beyond it, its outermost one."""
    lasts = np.array([v.cut.labels.shape[1] - 1 for v in views], np.int32)
    return torch.minimum(x.clamp(min=0), on_device(lasts, x.device)[:, None, None])


def _write(rows: Tensor, views: Sequence[_View], stack: Tensor) -> None:
    """Write rows (pixels of all views, z) as the views' sections of patches (n, z, y, x)."""
    for view, part in zip(views, rows.view(len(views), -1, rows.shape[1]), strict=True):
        planes, sections = stack[view.number].flatten(1), view.group.sections
        if len(sections) == len(planes):
            planes.copy_(part.t())
        else:
            planes[sections] = part.t()[sections]
