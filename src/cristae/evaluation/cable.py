"""Cable lengths of the truth, and the categories made of them.

``cable_length_timise_nm`` is what TIMISE calls cable length: the skeleton is traced as if voxels
were cubes of side 1 (``const`` = 300 voxels, so hardly ever a branch), and its vertices take their
places in nm only afterwards. ``skeleton_length_nm`` is traced in physical space (``const`` =
300 nm), from one far end to the others, and is what a person means by the length. The categories
are TIMISE's, of the first.

Instances are traced from their runs, which are gathered for many of them at a time; the blocks
that hold none of these are not read. An instance of more than `TRACED_VOXELS` voxels is traced on
a grid 2, 4, ... times as coarse, which ``traced_grid_vx`` says: an instance so large is found
long on any of them, and the others do not wait for it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.ledger import Ledger
from cristae.engine.memory import Promise
from cristae.engine.progress import log
from cristae.engine.tasks import Task, fitting_workers, run_step
from cristae.evaluation.overlaps import Floats, Instances
from cristae.evaluation.placement import Compared
from cristae.grid import Box
from cristae.labels.blocks import blocks_of
from cristae.labels.label_runs import block_runs
from cristae.labels.runs import Raster, Runs, merge_ends
from cristae.labels.skeleton import Rules, trace_parts
from cristae.labels.voxels import ALL_FACES, BYTES_PER_VOXEL, coarsened, parts_of
from cristae.volumes.volume import Nanometres, Volume

LIMITS_NM = (1000.0, 4000.0)
"""Cable length from which an instance is medium, and large."""

TIMISE, PHYSICAL, GRID = "cable_length_timise_nm", "skeleton_length_nm", "traced_grid_vx"

TRACED_VOXELS = 2_000_000
"""Most voxels of an instance that are traced as they are."""

GATHERED_RUNS, GATHERED_VOXELS = 1 << 21, 1 << 24
"""Runs held at a time, and the voxels they are expected to have."""

SCANNED_BYTES, RUN_BYTES, GATHERED_BYTES, FOUND_BYTES = 60, 90, 600, 300
"""Memory for each run of a block, run gathered, instance gathered and instance measured
(measured)."""

_CELL_VX = (128, 1024, 1024)
_STEP = "cable lengths"

Found = tuple[int, float, float, int]
"""Row of an instance, its two lengths in nm, and the grid."""


@dataclass(frozen=True)
class _Source:
    """The true labels that are compared, and what their voxels measure."""

    truth: Volume
    mask: Volume | None
    voxel_size_nm: Nanometres


@dataclass(frozen=True)
class _Instance:
    """Runs of an instance on a grid so many times as coarse as the voxels."""

    row: int
    label: int
    grid: int
    runs: Runs = field(repr=False)


def truth_lengths(
    placed: Compared,
    box: Box,
    truth: Instances,
    voxel_size_nm: Nanometres,
    resources: Resources,
    ledger: Ledger | None = None,
    held: int = 0,
) -> Mapping[str, Floats]:
    """Cable lengths of true instances.

    Args:
        placed: The volumes compared, from `place_volumes`.
        box: What was compared, in the coordinates of ``truth``; where it ends, instances are cut.
        truth: The instances.
        voxel_size_nm: Voxel size (z, y, x).
        resources: Workers, executor and memory.
        ledger: Remembers the instances that are measured.
        held: Bytes that the caller holds meanwhile.

    Returns:
        (truths,) ``cable_length_timise_nm`` and ``skeleton_length_nm`` in nm, and
        ``traced_grid_vx``: voxels of the grid each was traced on, 1 but for the largest.

    Raises:
        MemoryLimitError: Not even one instance at a time fits.
    """
    promise = _promised(truth, resources, held)
    source = _Source(placed.truth, placed.mask, voxel_size_nm)
    start, stop = truth.start - np.array(box.start), truth.stop - np.array(box.start)

    def measured(rows: NDArray[np.intp]) -> list[Found]:
        parts = _gathered(source, truth.labels, (start, stop), rows, promise)
        measure = partial(_measure, source)
        return [one for part in parts for _, one in run_tasks(measure, part, promise.resources)]

    batches = _batches(start, stop, truth.voxels)
    tasks = [Task(rows, (key,), None, len(rows)) for key, rows in batches.items()]
    alone = replace(resources, executor="serial")  # each shares its instances out
    found = run_step(_STEP, tasks, measured, record=ledger, resources=alone, unit="instances")
    table = np.zeros((len(truth), 3))
    for row, *values in chain.from_iterable(found.values()):
        table[row] = values
    coarse = int((table[:, 2] > 1).sum())
    if coarse:
        log.info(
            "evaluate: %d instances of more than %d voxels traced on a coarser grid (%s)",
            *(coarse, TRACED_VOXELS, GRID),
        )
    return {TIMISE: table[:, 0], PHYSICAL: table[:, 1], GRID: table[:, 2].astype(np.int64)}


def length_codes(lengths: Mapping[str, Floats]) -> NDArray[np.int64]:
    """(truths,) index into `matching.CATEGORIES` by TIMISE's cable length."""
    return np.searchsorted(LIMITS_NM, lengths[TIMISE], side="right").astype(np.int64)


def _promised(truth: Instances, resources: Resources, held: int) -> Promise:
    """Promises tracing the largest instances with as many workers as memory allows.

    What is gathered for that is promised as it is found (`_scan`).
    """
    held += FOUND_BYTES * len(truth)
    largest = np.sort(np.minimum(truth.voxels, TRACED_VOXELS))[::-1]
    runs = min(GATHERED_RUNS, int(truth.voxels.sum())) * (RUN_BYTES + GATHERED_BYTES)
    workers = fitting_workers((largest * BYTES_PER_VOXEL).tolist(), resources, held + runs)
    promise = Promise(replace(resources, workers=workers))
    promise.held = held + int(largest[:workers].sum()) * BYTES_PER_VOXEL
    promise(f"evaluate, {_STEP}", 0)
    return promise


def _batches(
    start: NDArray[np.int64], stop: NDArray[np.int64], voxels: NDArray[np.int64]
) -> dict[str, NDArray[np.intp]]:
    """Rows of instances that lie near each other, as many as are gathered at a time."""
    z, y, x = ((start + stop) // 2 // np.array(_CELL_VX)).T
    order = np.lexsort((x, y, z))
    number = (np.cumsum(voxels[order]) - 1) // GATHERED_VOXELS
    return {str(i): order[number == i] for i in np.unique(number).tolist()}


def _gathered(
    source: _Source,
    labels: NDArray[np.uint64],
    boxes: tuple[NDArray[np.int64], NDArray[np.int64]],
    rows: NDArray[np.intp],
    promise: Promise,
    grid: int = 1,
) -> Iterator[list[_Instance]]:
    """The instances of some rows, largest first; in parts where they have too many runs."""
    found = _scan(source, labels[rows], (boxes[0][rows], boxes[1][rows]), promise, grid)
    if found is not None:
        runs, which = found
        limits = np.searchsorted(which, np.arange(len(rows) + 1))
        instances = [
            _Instance(int(row), int(labels[row]), grid, runs.take(slice(limits[i], limits[i + 1])))
            for i, row in enumerate(rows)
        ]
        yield sorted(instances, key=lambda each: -len(each.runs.start))
    elif len(rows) > 1:
        for half in np.array_split(rows, 2):
            yield from _gathered(source, labels, boxes, half, promise)
    else:
        yield from _gathered(source, labels, boxes, rows, promise, 2 * grid)


def _scan(
    source: _Source,
    labels: NDArray[np.uint64],
    boxes: tuple[NDArray[np.int64], NDArray[np.int64]],
    promise: Promise,
    grid: int,
) -> tuple[Runs, NDArray[np.int64]] | None:
    """Runs of some instances, and the instance of each, ascending; None where they are too many."""
    volumes = [source.truth] if source.mask is None else [source.truth, source.mask]
    start, stop = boxes
    blocks = [
        block
        for block in blocks_of(volumes)
        if ((start < np.array(block.stop)) & (stop > np.array(block.start))).all(axis=1).any()
    ]
    order = np.argsort(labels)
    parts, count, most = [], 0, 0
    scan, resources = partial(_scan_block, source, labels[order], grid), promise.resources
    for _, (scanned, part) in run_tasks(scan, blocks, resources):
        count, most = count + len(part[1]), max(most, scanned)
        needed = SCANNED_BYTES * resources.workers * most + RUN_BYTES * count
        promise(f"evaluate, {_STEP}", needed + GATHERED_BYTES * len(labels))
        if count > GATHERED_RUNS:
            return None
        parts.append(part)
    which, voxel_index, length = (np.concatenate(column) for column in zip(*parts, strict=True))
    which = order[which]
    by_place = np.lexsort((voxel_index, which))
    runs = Runs(voxel_index[by_place], length[by_place])
    return merge_ends(runs, which[by_place])


def _scan_block(
    source: _Source, labels: NDArray[np.uint64], grid: int, block: Box
) -> tuple[int, tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int32]]]:
    """How many runs a block has; of those with one of the labels its index, place and length."""
    voxel_index, length, name = block_runs(source.truth, block, source.mask)
    which = np.minimum(np.searchsorted(labels, name), len(labels) - 1)
    mine = labels[which] == name
    runs = Runs(voxel_index[mine], length[mine])
    if grid > 1:  # one instance alone
        runs, _ = coarsened(runs, Raster(source.truth.shape), grid)
        return len(name), (np.zeros(len(runs.start), np.intp), *runs)
    return len(name), (which[mine], *runs)


def _measure(source: _Source, instance: _Instance) -> Found:
    nz, ny, nx = (-(-n // instance.grid) for n in source.truth.shape)
    runs, raster, grid = instance.runs, Raster((nz, ny, nx)), instance.grid
    while int(runs.length.sum()) > TRACED_VOXELS:
        runs, raster = coarsened(runs, raster)
        grid *= 2
    z, y, x = source.voxel_size_nm
    size, side = (grid * z, grid * y, grid * x), float(grid)
    parts = list(parts_of(runs, raster))
    as_cubes = trace_parts(parts, (side, side, side), Rules(faces=ALL_FACES))
    physical = trace_parts(parts, size, Rules(faces=ALL_FACES, cut_ends=False))
    return instance.row, as_cubes.length(size), physical.length(size), grid
