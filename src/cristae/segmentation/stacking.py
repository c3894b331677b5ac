"""Stacking: the instances of single slices, joined by overlap into instances of the volume.

As ``stitch_3d`` of PyTorch Connectomics v1 does it, and with a total order: an instance of a slice
offers itself to the one of the next slice that it overlaps best (voxels of both over voxels of
either), if that overlap is ``slice_overlap`` or more; an instance takes the best offer. Of equal
overlaps the lowest number wins. So every instance continues at most one other::

    z      a a a a . b b          overlap of a and c: 3 of 6, of b and c: 1 of 6
    z + 1  . c c c c c .  <- a    c takes a, b ends here
"""

from dataclasses import dataclass, replace

import numpy as np

from cristae.grid import Box
from cristae.labels.runs import Ints, Runs, intersect
from cristae.segmentation.config import Preset
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.steps import runs_around
from cristae.segmentation.watershed import Watershed


def overlap_step(job: SegmentJob, index: int, box: Box) -> None:
    """Count what instances of a block's slices have in common with those of the next slice.

    The slice behind the block is read, too. Leaves ``pairs`` (n, 2) of instances, the one of the
    earlier slice first, and ``count`` (n,) of common voxels in this block.
    """
    raster = job.raster
    halo = box.grow((0, 0, 0), (1, 0, 0)).clip(job.prediction.box)
    runs, name = runs_around(job, halo)
    last = int(np.searchsorted(runs.start, box.stop[0] * raster.plane))
    shifted = Runs(runs.start[:last] + raster.plane, runs.length[:last])
    common, before, behind = intersect(shifted, runs)
    both = np.stack([name[before], name[behind]], axis=1)
    pairs, which = np.unique(both, axis=0, return_inverse=True)
    count = np.zeros(len(pairs), np.int64)
    np.add.at(count, which.reshape(-1), common.length)
    job.scratch.save(f"overlap-{index}", {"pairs": pairs, "count": count})


def join_slices(pairs: Ints, count: Ints, voxels: Ints, least: float) -> Ints:
    """The first slice's instance of the stack that each instance is part of.

    Args:
        pairs: Rows of `overlap_step`, of all blocks; equal ones may stand apart.
        count: Common voxels of each.
        voxels: Voxels of each instance.
        least: Overlap, from 0 to 1, under which nothing is joined.
    """
    pairs, which = np.unique(pairs, axis=0, return_inverse=True)
    common = np.zeros(len(pairs), np.int64)
    np.add.at(common, which.reshape(-1), count)
    overlap = common / (voxels[pairs].sum(axis=1) - common)
    enough = overlap >= least
    (before, behind), overlap = pairs[enough].T, overlap[enough]
    order = np.lexsort((behind, -overlap, before))
    offers = order[np.unique(before[order], return_index=True)[1]]
    before, behind, overlap = before[offers], behind[offers], overlap[offers]
    order = np.lexsort((before, -overlap, behind))
    taken = order[np.unique(behind[order], return_index=True)[1]]
    root = np.arange(voxels.size, dtype=np.int64)
    root[behind[taken]] = before[taken]
    while (root[root] != root).any():
        root = root[root]
    return root


@dataclass(frozen=True)
class Stacked(Watershed):
    """A watershed slice by slice, whose instances are then joined (`join_slices`)."""

    planar = True


def without_contour(preset: Preset, channels: int) -> Preset:
    """The preset for a prediction of so many channels: it does without a contour."""
    if channels > 1:
        return preset
    defaults = {k: v for k, v in preset.defaults.items() if k != "contour_threshold"}
    return replace(preset, channels=1, defaults=defaults)


DECODER = Decoder(Stacked, ("mask", "contour"), fitted=without_contour)
