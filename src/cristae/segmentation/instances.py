"""Instances: what was decoded is joined over slices or to neighbours, filtered, and numbered.

Up to here an instance has a number that only tells it from others: those that resolving knows come
first, then those of each flood. From sums over their voxels it is decided which go, which join
others, and what number each has in the end. No voxel is read again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.progress import log
from cristae.labels.runs import Ints
from cristae.labels.statistics import NOWHERE, Statistics, add_statistics, no_statistics
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.resolve import UNASSIGNED, Resolution
from cristae.segmentation.small import contact_step, merge_small
from cristae.segmentation.stacking import join_slices, overlap_step
from cristae.segmentation.steps import dilate_step, statistics_of

SPAN_FIELDS = ("blocks", "row", "instances", "removed")

Leave = Callable[..., list[str]]
Promise = Callable[..., None]


def decide_instances(
    job: SegmentJob, plan: Resolution, floods: Sequence[str], leave: Leave, promise: Promise
) -> tuple[dict[str, Any], int]:
    """Say which instances there are in the end; leaves ``spans``, ``number`` and what leads there.

    Args:
        job: The segmentation.
        plan: What every piece becomes.
        floods: Files of the floods.
        leave: Runs a step over all blocks.
        promise: Called with the runs of each block, the number of instances and, where there are
            any, of contacts: says what is needed, and refuses what cannot fit.

    Returns:
        Columns of the table of instances, and how many small ones were removed.
    """
    fresh, removed = _leave_spans(job, plan, floods)
    parts, runs, count = floods, plan.runs, int(fresh[-1])
    promise(runs, count)
    if job.decoding.reach != (0, 0):
        parts = leave("wide", job.blocks, dilate_step)
        runs = np.array([job.scratch.load(name, "start")[0].size for name in parts])
        promise(runs, count)
    totals = _totals(job, plan, parts, fresh)
    approximate = _from_cuts(job, plan, fresh)
    goes = np.arange(totals.voxels.size)
    if job.decoding.planar:
        goes, totals = _join_slices(job, totals, leave)
    if job.decoding.to_neighbor:
        goes = _join_neighbors(job, totals, goes, leave, partial(promise, runs, count))
    columns, went = _number(job, totals, goes, approximate)
    return columns, plan.removed + removed + went


def _leave_spans(job: SegmentJob, plan: Resolution, floods: Sequence[str]) -> tuple[Ints, int]:
    """Leave ``spans``: (block, flood, first row, last row) of flooded runs, by block.

    Returns:
        Number of the first instance that only each flood knows, and of the one after all; and how
        many small ones the floods dropped.
    """
    spans = [np.zeros((0, 4), np.int64)]
    fresh, removed = [plan.instances], 0
    for k, name in enumerate(floods):
        blocks, row, instances, gone = job.scratch.load(name, *SPAN_FIELDS)
        spans.append(np.stack([blocks, np.full_like(blocks, k), row[:-1], row[1:]], axis=1))
        removed += int(gone[0])
        fresh.append(fresh[-1] + int((instances < 0).sum()))
    together = np.concatenate(spans)
    together = together[np.argsort(together[:, 0], kind="stable")]
    numbers = np.array(fresh, np.int64)
    job.scratch.save("spans", {"spans": together, "fresh": numbers})
    return numbers, removed


def _totals(job: SegmentJob, plan: Resolution, parts: Sequence[str], fresh: Ints) -> Statistics:
    """Statistics of the instances as decoded."""
    totals = no_statistics(int(fresh[-1]))
    if job.decoding.reach == (0, 0):
        add_statistics(totals, plan.statistics, np.arange(plan.instances))
    for k, name in enumerate(parts):
        instances, statistics = statistics_of(job, name)
        if job.decoding.reach == (0, 0):
            instances = np.where(instances < 0, fresh[k] + ~instances, instances)
        add_statistics(totals, statistics, instances)
    return totals


def _from_cuts(job: SegmentJob, plan: Resolution, fresh: Ints) -> NDArray[np.bool_]:
    """Which instances come from components that were cut; warns where there are any."""
    found = np.zeros(int(fresh[-1]), bool)
    cuts = [k for k, batch in enumerate(plan.batches) if batch.cut]
    for k in cuts:
        (instances,) = job.scratch.load(f"flood-{k}", "instances")
        found[np.where(instances < 0, fresh[k] + ~instances, instances)] = True
    if cuts:
        log.warning(
            "segment: %d components too large for memory cut into %d parts; their instances are "
            "flagged as approximate",
            len({plan.batches[k].pieces for k in cuts}),
            len(cuts),
        )
    return found


def _join_slices(job: SegmentJob, totals: Statistics, leave: Leave) -> tuple[Ints, Statistics]:
    """Join instances of slices; what each becomes, and the statistics of what they become."""
    files = leave("overlap", job.blocks, overlap_step)
    tables = [job.scratch.load(file, "pairs", "count") for file in files]
    pairs, count = (np.concatenate(field) for field in zip(*tables, strict=True))
    least = job.decoding.parameters["slice_overlap"]
    goes = join_slices(pairs, count, totals.voxels, least)
    joined = no_statistics(goes.size)
    add_statistics(joined, totals, goes)
    return goes, joined


def _join_neighbors(
    job: SegmentJob,
    totals: Statistics,
    goes: Ints,
    leave: Leave,
    promise: Callable[[tuple[int, int]], None],
) -> Ints:
    """Give small instances to their neighbours; what each becomes, or `UNASSIGNED`.

    Args:
        job: The segmentation.
        totals: Statistics of the instances.
        goes: The instance that each instance is part of by now.
        leave: Runs a step.
        promise: Says that so many contacts, which touch so many instances, are held.
    """
    small = (totals.first != NOWHERE) & (totals.voxels < job.decoding.min_size)
    if not small.any():
        return goes
    order = np.arange(small.size)
    if not job.decoding.ordered:
        order = np.argsort(totals.first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    job.scratch.save("groups", {"rank": rank[goes], "small": small[order]})
    promise((0, 0))
    files = leave("contact", job.blocks, contact_step)
    tables = [job.scratch.load(file, "contacts", "count") for file in files]
    touched = sum(int(np.count_nonzero(contacts)) - len(contacts) for contacts, _ in tables)
    promise((sum(count.size for _, count in tables), touched))
    contacts, count = (np.concatenate(field) for field in zip(*tables, strict=True))
    size = job.decoding.min_size
    given = merge_small(contacts, count, totals.voxels[order], small[order], size)
    return np.append(order, UNASSIGNED)[given][rank[goes]]


def _number(
    job: SegmentJob, decoded: Statistics, goes: Ints, approximate: NDArray[np.bool_]
) -> tuple[dict[str, Any], int]:
    """Number the instances that stay, leave ``number``; table columns, and how many went."""
    kept_by = np.flatnonzero(goes != UNASSIGNED)
    totals = no_statistics(goes.size)
    add_statistics(totals, Statistics(*(field[kept_by] for field in decoded)), goes[kept_by])
    there = decoded.first != NOWHERE
    stays = (totals.first != NOWHERE) & (totals.voxels >= job.decoding.min_size)
    order = np.flatnonzero(stays)[np.argsort(totals.first[stays])]
    number = np.full(goes.size + 1, UNASSIGNED, np.int64)  # the last stands for unassigned ones
    number[order] = np.arange(1, order.size + 1)
    job.scratch.save("number", {"number": number[goes]})
    kept = Statistics(*(field[order] for field in totals))
    dtype = np.uint32 if order.size < 1 << 32 else np.uint64
    cut = (kept.low == 0).any(axis=1) | (kept.high == job.prediction.shape).any(axis=1)
    columns = {
        "id": np.arange(1, order.size + 1).astype(dtype),
        "box": np.concatenate([kept.low, kept.high], axis=1).astype(np.int32),
        "voxels": kept.voxels,
        "confidence_sum": kept.probability_sum,
        "cut": cut,
        "approximate": np.isin(order, goes[approximate]),
    }
    return columns, int(there.sum()) - order.size
