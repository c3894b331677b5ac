"""Memory: what the steps of a segmentation take, by voxels, runs, pieces and instances."""

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.tasks import fitting_workers
from cristae.grid import Box, tile
from cristae.labels.runs import Ints
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.reading import layer_depth
from cristae.segmentation.resolve import Resolution
from cristae.segmentation.writing import band_bytes, layers
from cristae.volumes.formats.ome_zarr import CHUNK, Layout
from cristae.volumes.pyramid import pyramid_memory

LABEL_RUN_BYTES, LABEL_VALUE_BYTES = 96, 3
"""Memory of labelling, for each run and each foreground voxel of a block (measured)."""

LAYER_RUN_BYTES, TABLE_RUN_BYTES, SHARD_RUN_BYTES, MOVED_RUN_BYTES = 75, 65, 60, 100
"""Memory for each run gathered, put into its table, painted, or moved or counted (measured; of
tables the columns of one layer, their copies, and what is left of the layer before)."""

PLAN_BYTES, HELD_BYTES, NUMBER_BYTES = 80, 250, 420
"""Memory for each instance while pieces are flooded, while runs are moved and written, and while
instances are numbered (measured)."""

CONTACT_BYTES, TOUCH_BYTES = 225, 40
"""Memory for each contact of small instances, and for each of these that it touches, while they are
given away (measured)."""

SAMPLES = 8
"""Chunks read before the start to see how many runs a voxel makes."""

FIXED_BYTES = 32 << 20
"""Memory that no size changes."""


def labelling_bytes(
    job: SegmentJob, density: tuple[float, float], pyramid: bool, workers: int
) -> int:
    """Memory of a segmentation as far as it is known before its components are, imports apart.

    Args:
        job: The segmentation.
        density: Most runs and most foreground a voxel, `sampled_density`.
        pyramid: Whether smaller levels are written.
        workers: Blocks at a time.
    """
    volume, layout = job.prediction, Layout().fitted(job.prediction.shape)
    block = Box.of(job.block_shape).clip(volume.box).size
    channels = len(volume.channels or ("mask",))
    itemsize = volume.dtype.itemsize
    runs, foreground = density
    tables = LABEL_RUN_BYTES * runs + LABEL_VALUE_BYTES * foreground
    edges = job.decoding.voxel_bytes
    if job.decoding.whole_blocks:
        read = block
    else:
        z, y, x = Box.of(job.block_shape).clip(volume.box).shape
        read = min(z, layer_depth(volume)) * y * x
    reading, kept = read * channels * (itemsize + (itemsize > 1)), block * (edges + tables)
    if edges:  # which channels become before there are runs
        labelling = max(reading + block * edges, kept)
    else:  # of values there are two copies while layers are read, and three thereafter
        labelling = max(reading + kept - block * foreground, kept)
    shard = Box.of(layout.shard).clip(volume.box).size
    writing = band_bytes(layout) + int(shard * SHARD_RUN_BYTES * runs)
    needed = workers * int(max(labelling, writing))
    if pyramid:
        labels = volume.with_(dtype=np.dtype(np.uint32), channels=None, shard_shape=layout.shard)
        needed = max(needed, pyramid_memory(labels, workers))
    return FIXED_BYTES + needed


def writing_bytes(
    job: SegmentJob,
    workers: int,
    runs: Ints,
    instances: int,
    contacts: tuple[int, int] | None = None,
    growth: int = 1,
) -> int:
    """Memory of what comes after the floods, imports apart.

    Args:
        job: The segmentation.
        workers: Tasks at a time.
        runs: Runs of each block.
        instances: Instances as decoded.
        contacts: Of the small instances that go to neighbours, and how many instances these touch;
            None where none goes.
        growth: How many runs may still become of one.
    """
    layout = Layout().fitted(job.prediction.shape)
    layer = sorted(sum(runs[i] for i, _ in job.blocks_in(box)) for box in layers(job))
    shards = tile(job.prediction.box, layout.shard)
    painted = max(sum(runs[i] for i, _ in job.blocks_in(shard)) for shard in shards)
    shard = band_bytes(layout) + SHARD_RUN_BYTES * int(painted)
    moves = job.decoding.planar or growth > 1 or contacts is not None
    moving = MOVED_RUN_BYTES * growth * int(runs.max()) if moves else 0
    gathering = LAYER_RUN_BYTES * int(sum(layer[-workers:]))
    table = TABLE_RUN_BYTES * int(layer[-1])
    most = max(gathering, table + workers * shard, workers * moving)
    rows, touched = contacts or (0, 0)
    held = HELD_BYTES * instances + CONTACT_BYTES * rows + TOUCH_BYTES * touched
    return FIXED_BYTES + max(most + held, NUMBER_BYTES * instances)


def flood_workers(plan: Resolution, resources: Resources) -> int:
    """How many of the largest batches fit at once; at least one is tried."""
    held = FIXED_BYTES + PLAN_BYTES * plan.instances
    return fitting_workers((batch.bytes for batch in plan.batches), resources, held)


def sampled_density(job: SegmentJob) -> tuple[float, float]:
    """Most runs and most foreground a voxel in a few chunks spread over the volume."""
    chunks = tile(job.prediction.box, CHUNK)
    runs = foreground = 0.0
    for i in np.unique(np.linspace(0, len(chunks) - 1, SAMPLES).astype(int)):
        found = job.decoding.sample(job, chunks[i])
        runs, foreground = max(runs, found[0]), max(foreground, found[1])
    return runs, foreground
