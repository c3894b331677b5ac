"""Bounded looks into volumes of any size: thinned-out labels, single planes, small boxes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cristae.grid import Box, Triple
from cristae.volumes.place import lay, spread_over
from cristae.volumes.volume import Array, Nanometres, Volume

#: Most voxels that are read at once, that are kept of a thinned-out volume, and that are read
#: for it altogether.
AT_ONCE = 16_000_000
KEPT = 12_000_000
READ = 256_000_000

#: Most voxels along a side of a plane that is shown.
PLANE_SIDE = 4096


@dataclass(frozen=True)
class Thinned:
    """Every n-th voxel of a part of a volume.

    Attributes:
        array: The voxels kept (z, y, x).
        stride: Voxels of the volume from one to the next.
        box: The part looked at.
        voxel_size: Distance from one to the next (nm, or voxels where the size is unknown).
    """

    array: Array
    stride: Triple
    box: Box
    voxel_size: Nanometres


def voxel_size_of(volume: Volume) -> tuple[Nanometres, str]:
    """Voxel size and its unit: cubes of one ``voxel`` where the size is unknown."""
    if volume.voxel_size_nm is None:
        return (1.0, 1.0, 1.0), "voxels"
    return volume.voxel_size_nm, "nm"


def thin_out(volume: Volume, *, kept: int | None = None, read: int | None = None) -> Thinned:
    """Read a volume at about equal steps along all axes, few enough voxels to hold.

    A volume of more than ``read`` voxels is looked at in its middle alone, a box of about equal
    sides.

    Args:
        volume: A volume without channels.
        kept: Most voxels of the result; `KEPT` by default.
        read: Most voxels read, a few at a time; `READ` by default.
    """
    size, _ = voxel_size_of(volume)
    box = _middle(volume.shape, size, READ if read is None else read)
    stride = _stride(box.shape, size, KEPT if kept is None else kept)
    array = np.concatenate(list(_slabs(volume, box, stride)), axis=0)
    z, y, x = (edge * step for edge, step in zip(size, stride, strict=True))
    return Thinned(array, stride, box, (z, y, x))


def _middle(shape: Triple, size: Nanometres, limit: int) -> Box:
    """The whole, or a box of at most ``limit`` voxels around the middle, as cubic as it can be."""
    extents = [length * edge for length, edge in zip(shape, size, strict=True)]
    side = max(extents)
    while True:
        kept = [
            max(1, min(length, int(side / edge))) for length, edge in zip(shape, size, strict=True)
        ]
        if kept[0] * kept[1] * kept[2] <= limit:
            break
        side *= 0.95
    start = [(length - keep) // 2 for length, keep in zip(shape, kept, strict=True)]
    return Box(
        (start[0], start[1], start[2]),
        (start[0] + kept[0], start[1] + kept[1], start[2] + kept[2]),
    )


def _stride(shape: Triple, size: Nanometres, kept: int) -> Triple:
    """Steps that come nearest to cubes and leave at most ``kept`` voxels."""
    step = min(size)
    while True:
        stride = [max(1, int(step / edge + 1e-9)) for edge in size]
        counts = [-(-length // each) for length, each in zip(shape, stride, strict=True)]
        if counts[0] * counts[1] * counts[2] <= kept:
            return stride[0], stride[1], stride[2]
        step *= 1.02


def _slabs(volume: Volume, box: Box, stride: Triple) -> Iterator[Array]:
    """The box thinned out, slab by slab along z, each a chunk deep where that fits at once."""
    area = box.shape[1] * box.shape[2]
    together = volume.chunk_shape[0] // stride[0] * stride[0]
    if together * area > AT_ONCE:
        together = 0
    depth, step = together or 1, together or stride[0]
    rows = max(stride[1], AT_ONCE // (depth * box.shape[2]) // stride[1] * stride[1])
    for z in range(box.start[0], box.stop[0], step):
        bands = []
        for y in range(box.start[1], box.stop[1], rows):
            stop = (min(z + depth, box.stop[0]), min(y + rows, box.stop[1]), box.stop[2])
            part = volume.read(Box((z, y, box.start[2]), stop))
            bands.append(part[:: stride[0], :: stride[1], :: stride[2]])
        yield np.concatenate(bands, axis=1)


def focus(thinned: Thinned) -> Triple:
    """A voxel (z, y, x) whose three planes show much: those with most foreground.

    Planes in the outer tenth are taken only where there is nothing else. The middle where there
    are no instances.
    """
    inside = thinned.array > 0
    point = []
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        count = inside.sum(axis=others).astype(np.float64)
        length = len(count)
        middle = np.abs((np.arange(length) + 0.5) / length - 0.5)
        count *= np.where(middle <= 0.4, 1.0, 0.5)
        best = int(np.argmax(count - 1e-6 * middle)) if count.any() else length // 2
        voxel = thinned.box.start[axis] + best * thinned.stride[axis]
        point.append(min(voxel, thinned.box.stop[axis] - 1))
    return point[0], point[1], point[2]


def plane_box(shape: Triple, axis: int, point: Triple) -> Box:
    """The plane across an axis through a point, at most `PLANE_SIDE` voxels along a side."""
    start, stop = list(point), [p + 1 for p in point]
    for k in range(3):
        if k == axis:
            continue
        side = min(shape[k], PLANE_SIDE)
        start[k] = min(max(0, point[k] - side // 2), shape[k] - side)
        stop[k] = start[k] + side
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def read_at(volume: Volume, reference: Volume, box: Box) -> Array:
    """Read the voxels of a volume that lie where a box of another volume lies.

    Args:
        volume: What to read; the first channel where it has several.
        reference: The volume whose voxels the box counts.
        box: Any box of ``reference``.

    Returns:
        Array (z, y, x) of the box's shape, 0 where ``volume`` has no voxels.

    Raises:
        InputError: The volumes do not lie on each other, see `lay`.
    """
    overlay = lay(reference, volume, crop=True)
    part = spread_over(reference, volume, overlay).read(box)
    return part if volume.channels is None else part[0]
