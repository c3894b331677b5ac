"""Segment: a prediction of any size becomes instances, the same bytes for any blocks and workers.

::

    prediction --label--> tables --resolve--> plan --flood--> labelled runs --write--> labels
       read once     a block each    no voxel     multi-seed pieces       a shard each, once

1. *label* reads every block once and keeps runs and components (`components`).
2. *resolve* joins them over the faces of the blocks (`resolve`).
3. *flood* decodes the pieces that hold several seeds, each whole and on its own (`flood`).
4. Instances are dilated, joined and filtered as the decoder says, then numbered 1..n in (z, y, x)
   order of the first voxel (`instances`).
5. *write* paints every shard of the labels, and the tables of runs and instances are written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cristae import __version__
from cristae.configuration import to_plain
from cristae.engine.executors import Resources, in_background
from cristae.engine.files import check_disk
from cristae.engine.ledger import Ledger, open_ledger
from cristae.engine.memory import (
    Promise,
    Stopwatch,
    memory_limit,
    peak_memory,
)
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, log, rate_text, takes_progress
from cristae.engine.records import settings_recorded
from cristae.engine.tasks import Task, run_step
from cristae.errors import MemoryLimitError
from cristae.grid import Box, Triple, tile
from cristae.labels.label_runs import READ_RUN_BYTES, TableReader
from cristae.labels.run_table import (
    RUN_COLUMNS,
    most_runs,
    read_instances_table,
    read_runs,
    write_instances_table,
    write_runs_table,
)
from cristae.labels.runs import Ints
from cristae.segmentation.asked import check_name, segment_settings
from cristae.segmentation.batches import PieceBatch
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.segmentation.instances import decide_instances
from cristae.segmentation.job import SegmentJob, shape_name
from cristae.segmentation.memory import (
    FIXED_BYTES,
    PLAN_BYTES,
    flood_workers,
    labelling_bytes,
    sampled_density,
    writing_bytes,
)
from cristae.segmentation.resolve import Resolution, joining_bytes, resolve_pieces
from cristae.segmentation.scratch import FolderScratch
from cristae.segmentation.steps import decode_step, label_step
from cristae.segmentation.writing import layers, slab_step, write_step
from cristae.volumes.finite import checked_voxels
from cristae.volumes.formats import Source, open_volume
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr, open_ome_zarr
from cristae.volumes.pyramid import build_pyramid, pyramid_memory
from cristae.volumes.restate import follow_size
from cristae.volumes.values import MASK_SETTING, settle_prediction
from cristae.volumes.volume import Volume

BUDGET_SHARE = 0.9
"""Share of the memory allowed that a component may take before it is cut."""

__all__ = ["SegmentConfig", "read_instances_table", "read_runs", "segment_volume"]


@takes_progress
def segment_volume(
    prediction: Source,
    out: str | Path,
    *,
    config: SegmentConfig | None = None,
    block_shape: Triple | None = None,
    pyramid: bool = True,
    resources: Resources | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Volume:
    """Decode a prediction into instances, out of core and exactly.

    The result is that of decoding the whole volume at once: it does not depend on block shape,
    workers or executor. Interrupted and run again, only what is missing is done.

    Args:
        prediction: (c, z, y, x) probabilities: mask, and as the decoder asks contour and
            distance, or three affinities with the attribute ``offsets`` where they are not with
            the voxel before along z, y, x; uint8 (255 is certain), uint16 or float in [0, 1]. Or
            (z, y, x): the mask. One of two values, 0 and 1, 255 or 65535 in any type, is taken for
            a mask (`settle_mask`). A volume, an array, or the path of one.
        out: Folder of the labels, ``NAME.zarr``.
        config: Decoder and parameters; what it leaves open comes from the prediction's own
            metadata, then from the decoder.
        block_shape: Extent (z, y, x) of the blocks read at a time; a shard of the output by
            default.
        pyramid: Write smaller levels, too.
        resources: Workers, executor and memory.
        overwrite: Replace an output made from other inputs or settings.
        progress: Called with a `Progress` as work is done.

    Returns:
        Labels (z, y, x), uint32 (uint64 beyond 2**32 - 1 instances), 0 background, 1..n in order
        of the first voxel. `read_runs` and `read_instances_table` read the tables inside.

    Raises:
        ConfigError: A decoder or parameter that cannot be used with this prediction.
        InputError: Probabilities outside [0, 1]; an output that is not named ``.zarr``.
        MemoryLimitError: It cannot fit; a piece too large for a flood is named with its box. With
            ``allow_approximate`` such a piece is cut, and its instances flagged in the table.
        DiskSpaceError: The output cannot fit, or did not.
        OutputExistsError: The output exists with other inputs or settings.
    """
    out, resources = user_path(out), resources or Resources()
    check_name(out)
    prediction = open_volume(prediction)
    inputs = {"prediction": prediction.identity.now()}
    own = overwrite or "quantisation" in prediction.attributes
    known = None if own else settings_recorded(out, inputs)
    decoding = resolve(config or SegmentConfig(), prediction)
    known_mask = None if known is None else int(known.get(MASK_SETTING, 0))
    prediction = settle_prediction(prediction, resources, known_mask)
    prediction = checked_voxels(prediction, resources, probabilities=True, out=out, inputs=inputs)
    settings = segment_settings(decoding, block_shape, pyramid)
    if MASK_SETTING in prediction.attributes:
        settings[MASK_SETTING] = prediction.attributes[MASK_SETTING]
    shape = Layout().fitted(prediction.shape).shard if block_shape is None else block_shape
    with open_ledger(
        out, stage="segment", inputs=inputs, settings=settings, overwrite=overwrite
    ) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
            follow_size(open_ome_zarr(out), out, prediction)
            return open_ome_zarr(out)
        check_disk(out, prediction.size // 16)
        folder = ledger.scratch / shape_name(shape)
        folder.mkdir(parents=True, exist_ok=True)
        job = SegmentJob(prediction, decoding, shape, FolderScratch(folder))
        promise = Promise(resources)
        promise("segment", labelling_bytes(job, sampled_density(job), pyramid, resources.workers))
        summary = _segment(job, out, ledger, resources, promise)
        if pyramid:
            _build_pyramid(out, ledger, resources, promise)
        ledger.finish(**summary)
    return open_ome_zarr(out)


def _segment(
    job: SegmentJob, out: Path, ledger: Ledger, resources: Resources, promise: Promise
) -> dict[str, Any]:
    watch = Stopwatch()
    leave = partial(leave_tables, job, resources)
    leave("label", job.blocks, label_step)
    promise("segment, joining", FIXED_BYTES + joining_bytes(job))
    plan = resolve_pieces(job, _budget(job, resources))
    check_disk(out, 96 * int(plan.runs.sum()))
    _promise_floods(plan, resources, promise)
    promise_rest = partial(_promise_rest, job, resources.workers, promise)
    promise_rest(plan.runs, plan.instances, None, 1 + job.decoding.reach[0])
    several = replace(resources, workers=flood_workers(plan, resources))
    floods = leave_tables(job, several, "flood", plan.batches, decode_step)
    columns, removed = decide_instances(job, plan, floods, leave, promise_rest)
    count = columns["id"].size
    labels = _create_labels(job, out, columns["id"].dtype)
    shards = tile(labels.box, labels.shard_shape or labels.chunk_shape)
    tasks = [Task(box, (str(box),), None, box.size) for box in shards]
    write = partial(write_step, job, labels)
    leave("runs", layers(job), slab_step)
    with in_background(partial(_write_tables, job, out, columns)):  # it mostly waits for the disk
        run_step("write", tasks, write, record=ledger, resources=resources, description="writing")
    summary = {
        "blocks": len(job.blocks),
        "block_shape": list(job.block_shape),
        "instances": count,
        "removed_small": removed,
        "largest_component": plan.largest,
        "approximate": int(columns["approximate"].sum()),
    }
    _log_summary(job, summary, watch.seconds)
    return summary


def _build_pyramid(out: Path, ledger: Ledger, resources: Resources, promise: Promise) -> None:
    """The smaller levels, the first of them from the run table."""
    labels = open_ome_zarr(out)
    runs = most_runs(out, labels.chunk_shape[0])
    needed = pyramid_memory(labels, resources.workers) + resources.workers * READ_RUN_BYTES * runs
    promise("segment, pyramid", FIXED_BYTES + needed)
    source = labels.with_(reader=TableReader(out, labels))
    build_pyramid(out, ledger=ledger, resources=resources, source=source)


def leave_tables(
    job: SegmentJob,
    resources: Resources,
    name: str,
    items: Sequence[Box | PieceBatch],
    step: Callable[[SegmentJob, int, Any], None],
) -> list[str]:
    """Run a step that leaves a table for each item; gives the names of the tables.

    Args:
        job: The segmentation.
        resources: Workers and executor.
        name: Of the step; tables are named by it and the item's number.
        items: Blocks or batches.
        step: Called with the job, an item's number and the item.
    """
    tasks = []
    for i, item in enumerate(items):
        reads, memory = (item, 0) if isinstance(item, Box) else (None, item.bytes)
        tasks.append(Task((i, item), (f"{name}-{i}",), reads, item.size, memory))
    names = [task.writes[0] for task in tasks]
    if name == "flood":  # the largest first, so that no worker is left with one at the end
        tasks.sort(key=lambda task: -task.size)
    run_step(name, tasks, partial(call_step, job, step), record=job.scratch, resources=resources)
    return names


def call_step(
    job: SegmentJob, step: Callable[[SegmentJob, int, Any], None], item: tuple[int, Any]
) -> None:
    """Call a step with a numbered item, for `run_step`."""
    step(job, *item)


def _promise_rest(
    job: SegmentJob, workers: int, promise: Promise, runs: Ints, *counts: Any
) -> None:
    """Promise what comes after the floods; counts are those of `writing_bytes`."""
    promise("segment, writing", writing_bytes(job, workers, runs, *counts))


def _promise_floods(plan: Resolution, resources: Resources, promise: Promise) -> None:
    if not plan.batches:
        return
    worst = max(plan.batches, key=lambda batch: batch.bytes)
    floods = sorted(batch.bytes for batch in plan.batches)
    needed = FIXED_BYTES + PLAN_BYTES * plan.instances
    needed += sum(floods[-flood_workers(plan, resources) :])
    try:
        promise("segment, floods", needed)
    except MemoryLimitError as error:
        low, high = worst.box
        box = ",".join(f"{a}:{b}" for a, b in zip(low, high, strict=True))
        raise MemoryLimitError(
            f"{error}; the largest piece that has to be decoded whole has {worst.largest} voxels "
            f"in box {box}. Higher thresholds need less; allow_approximate (--allow-approximate) "
            "cuts such a piece along the blocks, smaller blocks into smaller parts"
        ) from error


def _budget(job: SegmentJob, resources: Resources) -> int | None:
    """Memory over which a component is cut, the same for an interrupted run and the next."""
    if not job.decoding.approximate:
        return None
    if not job.scratch.holds("budget"):
        budget = int(BUDGET_SHARE * memory_limit(resources)) - FIXED_BYTES
        job.scratch.save("budget", {"bytes": np.array([budget])})
    return int(job.scratch.load("budget", "bytes")[0][0])


def _create_labels(job: SegmentJob, out: Path, dtype: np.dtype[Any]) -> Volume:
    made = {
        "decoder": job.decoding.decoder,
        "parameters": to_plain(job.decoding.parameters),
        "source": job.prediction.name,
        "version": __version__,
        "quantisation": _quantisation(job.prediction),
    }
    return create_ome_zarr(
        out,
        shape=job.prediction.shape,
        dtype=dtype,
        kind="labels",
        voxel_size_nm=job.prediction.voxel_size_nm,
        origin_nm=job.prediction.origin_nm,
        attributes=made,
    )


def _quantisation(prediction: Volume) -> str:
    if prediction.dtype == np.uint8:
        return str(prediction.attributes.get("quantisation", "uint8 as given"))
    return f"{prediction.dtype} truncated to 256 levels"


def _write_tables(job: SegmentJob, out: Path, columns: Mapping[str, Any]) -> None:
    files = [f"runs-{i}" for i in range(len(layers(job)))]
    count = np.concatenate([job.scratch.load(file, "count")[0] for file in files])
    starts = np.append(0, np.cumsum(count))
    write_runs_table(out, _layer_columns(job), starts, columns["id"].dtype)
    write_instances_table(out, columns)


def _layer_columns(job: SegmentJob) -> Iterator[dict[str, Any]]:
    for i in range(len(layers(job))):
        yield dict(zip(RUN_COLUMNS, job.scratch.load(f"runs-{i}", *RUN_COLUMNS), strict=True))


def _log_summary(job: SegmentJob, summary: Mapping[str, Any], seconds: float) -> None:
    log.info(
        "segment: %d blocks of %s, %d instances, %d small ones removed, largest component "
        "%d voxels, %s, peak memory %.2f GiB",
        summary["blocks"],
        job.name,
        summary["instances"],
        summary["removed_small"],
        summary["largest_component"],
        rate_text(job.prediction.box.size, seconds, "voxels"),
        peak_memory() / (1 << 30),
    )
