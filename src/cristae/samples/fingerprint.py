"""The fingerprint of a labelled volume: what a plan needs to know of it, from a bounded sample.

Grey values are sampled as everywhere (`cristae.volumes.intensity`), labels in boxes spread evenly
over the volume: at most as many as are asked for, whatever its size, one in memory at a time. An
instance is known as far as a box shows it: extents are lower bounds, and volumes are those of the
instances that end inside their box, which are the smaller ones.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy

from cristae.grid import Box, Triple, spread_starts
from cristae.samples.dataset import OpenedSample, voxel_size_of
from cristae.samples.held import compact_ids
from cristae.volumes.intensity import IntensityStatistics, sample_intensity
from cristae.volumes.volume import Array, Nanometres

LABEL_BOX: Triple = (32, 512, 512)
LABEL_BOXES = 12
ENOUGH = 20
"""Instances that end inside their box, from which on the others do not count for volumes."""


@dataclass(frozen=True)
class Fingerprint:
    """What was found of a labelled volume.

    Attributes:
        name: Of the sample.
        shape: Extent (z, y, x) in voxels.
        voxel_size_nm: Voxel size (z, y, x).
        intensity: Statistics of the grey values.
        foreground_share: Share of the known voxels that are in instances.
        instances: Number seen, each box counted by itself.
        whole: Number of them that end inside their box.
        volume_um3: 5th, 50th and 95th percentile of the volumes of whole ones (of all, where few
            are whole); None where none was seen.
        across_nm: Median of the shorter of all extents along y and x; None likewise.
        extent_nm: 90th percentile of all extents (z, y, x); None likewise.
        sampled: What was looked at, in words.
    """

    name: str
    shape: Triple
    voxel_size_nm: Nanometres
    intensity: IntensityStatistics
    foreground_share: float
    instances: int
    whole: int
    volume_um3: tuple[float, float, float] | None
    across_nm: float | None
    extent_nm: Nanometres | None
    sampled: str

    @property
    def text(self) -> str:
        """A few lines."""
        size = " x ".join(f"{v:g}" for v in self.voxel_size_nm)
        extent = " x ".join(map(str, self.shape))
        grey = self.intensity
        lines = [
            f"{self.name}: {extent} voxels of {size} nm",
            f"  grey     {grey.low:g} to {grey.high:g} (0.5 to 99.5 %), mean {grey.mean:.4g}"
            + ("; membranes look bright: consider `invert: true`" * grey.inverted_suspected),
            f"  labels   {100 * self.foreground_share:.2f} % foreground, {self.instances} "
            f"instances, {self.whole} of them whole, in {self.sampled}",
        ]
        if self.volume_um3 and self.extent_nm and self.across_nm:
            volumes = ", ".join(f"{v:.3g}" for v in self.volume_um3)
            lines.append(
                f"  sizes    {volumes} um3 (5, 50 and 95 %), {self.across_nm:.0f} nm across "
                f"(median), {', '.join(f'{e:.0f}' for e in self.extent_nm)} nm along z, y, x (90 %)"
            )
        return "\n".join(lines)


def fingerprint_sample(opened: OpenedSample, boxes: int = LABEL_BOXES) -> Fingerprint:
    """Look at a sample's grey values and labels, at a bounded number of places.

    Args:
        opened: The sample; where its mask is 0 nothing is known.
        boxes: Boxes of labels read at most, of 32 x 512 x 512 voxels.

    Raises:
        InputError: What reading the volumes raises.
    """
    places = label_boxes(opened.labels.shape, boxes)
    found, foreground, known = [np.zeros((0, 5), np.int64)], 0, 0
    for box in places:
        labels = opened.labels.read(box)
        inside = np.ones(labels.shape, bool)
        if opened.mask is not None:
            inside = opened.mask.read(box) != 0
            labels = np.where(inside, labels, 0)
        known += int(inside.sum())
        foreground += int(np.count_nonzero(labels))
        found.append(_measured(labels))
    table = np.concatenate(found)
    size = np.array(voxel_size_of(opened))
    whole = table[:, 4] == 1
    counted = table[whole] if whole.sum() >= ENOUGH else table
    across, extents = _extents(table, size)
    return Fingerprint(
        name=opened.sample.name,
        shape=opened.image.shape,
        voxel_size_nm=voxel_size_of(opened),
        intensity=sample_intensity(opened.image),
        foreground_share=foreground / max(1, known),
        instances=len(table),
        whole=int(whole.sum()),
        volume_um3=_volumes(counted, size),
        across_nm=across,
        extent_nm=extents,
        sampled=f"{len(places)} boxes, {sum(box.size for box in places) / 1e6:.3g} Mvoxels of "
        f"{opened.labels.size / 1e6:.3g}",
    )


def label_boxes(shape: Triple, most: int) -> list[Box]:
    """At most so many boxes, spread evenly: along the longest axes first."""
    size = [min(n, extent) for n, extent in zip(shape, LABEL_BOX, strict=True)]
    room = [n // extent for n, extent in zip(shape, size, strict=True)]
    counts = [1, 1, 1]
    while True:
        free = [a for a in range(3) if counts[a] < room[a]]
        if not free:
            break
        axis = max(free, key=lambda a: room[a] / counts[a])
        if np.prod(counts) // counts[axis] * (counts[axis] + 1) > most:
            break
        counts[axis] += 1
    starts = [spread_starts(n, e, c) for n, e, c in zip(shape, size, counts, strict=True)]
    extent = (size[0], size[1], size[2])
    return [Box((z, y, x), (z, y, x)).grow((0, 0, 0), extent) for z, y, x in product(*starts)]


def _measured(labels: Array) -> Array:
    """Voxels, extents (z, y, x), and whether it ends inside, of each instance in a box."""
    compact = compact_ids(labels)
    voxels = np.bincount(compact.reshape(-1))
    rows = []
    for one, place in enumerate(scipy.ndimage.find_objects(compact), start=1):
        if place is not None:
            ends = [s.start > 0 and s.stop < n for s, n in zip(place, labels.shape, strict=True)]
            extents = [s.stop - s.start for s in place]
            rows.append([voxels[one], *extents, all(ends)])
    return np.array(rows, np.int64).reshape(-1, 5)


def _volumes(table: Array, size_nm: Array) -> tuple[float, float, float] | None:
    if not len(table):
        return None
    volumes = table[:, 0] * size_nm.prod() / 1e9
    low, middle, high = (float(v) for v in np.percentile(volumes, (5, 50, 95)))
    return low, middle, high


def _extents(table: Array, size_nm: Array) -> tuple[float | None, Nanometres | None]:
    """Median of the shorter extents in plane, and the 90th percentile along each axis."""
    if not len(table):
        return None, None
    extents = table[:, 1:4] * size_nm
    z, y, x = (float(e) for e in np.percentile(extents, 90, axis=0))
    return float(np.median(extents[:, 1:].min(axis=1))), (z, y, x)
