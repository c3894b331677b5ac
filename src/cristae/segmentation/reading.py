"""Reading: the channels of a block as levels, in layers of whole chunks."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from cristae.grid import Box
from cristae.labels.runs import Runs
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.levels import Levels, quantise
from cristae.segmentation.scanning import ThresholdRule, scan_rule
from cristae.volumes.volume import Volume

LAYER = 32
"""Planes read at a time, or as many as a chunk has."""


def read_channels(job: SegmentJob, box: Box) -> Levels:
    """The channels the decoder reads, as (c, z, y, x) uint8."""
    array = job.prediction.read(box)
    array = array[None] if array.ndim == 3 else array[: job.decoding.channels]
    return quantise(array, f"{job.prediction.name}, box {box}")


def read_layers(job: SegmentJob, box: Box) -> Iterator[tuple[Box, Levels]]:
    """The channels of a box, layer by layer: the box of each, and (c, z, y, x) uint8."""
    for layer in layers_of(job.prediction, box):
        yield layer, read_channels(job, layer)


def layers_of(volume: Volume, box: Box) -> list[Box]:
    """Cut a box into layers of whole chunks.

    Arrays of that size are taken and given back without a page fault, those of whole shards not.
    """
    step = layer_depth(volume)
    (first, *_), stop = box.start, box.stop[0]
    cuts = [first, *range((first // step + 1) * step, stop, step), stop]
    return [Box((low, *box.start[1:]), (high, *box.stop[1:])) for low, high in pairwise(cuts)]


def layer_depth(volume: Volume) -> int:
    """Planes of a layer."""
    chunk = volume.chunk_shape[0]
    return -(-LAYER // chunk) * chunk


def sample_rules(job: SegmentJob, box: Box, rules: Sequence[ThresholdRule]) -> tuple[float, float]:
    """Runs of all rules, and voxels that pass the first, a voxel of a box."""
    planes = tuple(read_channels(job, box))
    found = [scan_rule(planes, box, job.raster, rule) for rule in rules]
    # long ones at a side go on in the boxes beside this one
    share = box.shape[2] / min(job.block_shape[2], job.prediction.shape[2])
    beyond = sum(_count_beyond(runs, box, job) for runs in found)
    count = sum(runs.start.size for runs in found) - (1 - share) * beyond
    return count / box.size, float(found[0].length.sum()) / box.size


def _count_beyond(runs: Runs, box: Box, job: SegmentJob) -> int:
    """How many runs of a box reach a side along x and are longer than half of it."""
    _, _, x = job.raster.locate(runs.start)
    at_side = (x == box.start[2]) | (x + runs.length == box.stop[2])
    return int(np.count_nonzero(at_side & (2 * runs.length > box.shape[2])))
