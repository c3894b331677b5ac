"""What the instances of a setting are worth: scored against the truth, or compared with others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cristae.engine.memory import Promise
from cristae.errors import ConfigError
from cristae.evaluation.evaluate import EvaluateConfig, Scores, scores_of_table
from cristae.evaluation.metrics import METRICS
from cristae.evaluation.overlaps import Overlaps, overlaps_of_table
from cristae.grid import Box, Triple, tile
from cristae.labels.blocks import TABLE_BYTES, TablePromise
from cristae.labels.label_runs import LabelledRuns, volume_runs
from cristae.labels.overlap_table import (
    LabelRuns,
    OverlapTable,
    merge_overlap_tables,
    overlaps_of_runs,
)
from cristae.labels.runs import Raster
from cristae.segmentation.job import Decoding
from cristae.volumes.volume import Volume

Value = int | float

SCORES = {
    "ap_75": "average_precision_coco/75",
    "ap_50": "average_precision_coco/50",
    "accuracy_75": "matching/0.75/all/accuracy",
    "accuracy_50": "matching/0.5/all/accuracy",
    "f1_50": "matching/0.5/all/f1",
    "panoptic_quality_50": "matching/0.5/all/panoptic_quality",
    "foreground_iou": "voxel/foreground_iou",
    "adapted_rand_error": "voxel/adapted_rand_error",
}
"""Short names of scores; any other number of ``scores.json`` is named by its keys, ``a/b/c``."""

ERRORS = (
    *("fp", "fn", "missing", "background"),
    *("over_segmentation", "under_segmentation", "many_to_many"),
)
"""Counts that are better when they are lower; of metrics, `METRICS` says it."""

JUDGED_RUN_BYTES = 100
"""Memory for each run of a setting's instances while they are compared, beside the table of pairs
(measured)."""

SLAB_RUNS = 1 << 18
"""Runs that are compared at a time."""


@dataclass(frozen=True)
class TriedSetting:
    """One combination of the grid, and what it gives.

    Attributes:
        values: What was tried, by parameter.
        decoder: Name of the decoder.
        parameters: Every parameter of the decoder.
        instances: How many it finds.
        voxels: How many voxels they have together.
        median_voxels: Of an instance; 0 where there is none.
        scores: Against the truth; None without.
        value: The score asked for; None without truth, or where it is not defined.
        iou_with_base: Foreground IoU with the base setting. Only without truth.
        against_base: How its instances overlap those of the base setting (the truth of the
            table). Only without truth, and of the settings whose instances are kept.
    """

    values: Mapping[str, Value]
    decoder: str
    parameters: Mapping[str, Any]
    instances: int
    voxels: int
    median_voxels: float
    scores: Scores | None = None
    value: float | None = None
    iou_with_base: float = 1.0
    against_base: Overlaps | None = None


class Judge:
    """Scores instances against the truth, or compares them with the base setting's."""

    def __init__(
        self,
        shape: Triple,
        truth: Volume | None,
        config: EvaluateConfig,
        score: str,
        promise: Promise,
    ) -> None:
        self.shape, self.raster, self.config = shape, Raster(shape), config
        self.score, self.promise = keys_of(score), promise
        self.other: LabelRuns | None = None
        self.scored = truth is not None
        if truth is not None:
            found = volume_runs(truth, promise.resources, promise)
            self._compare_with(found.rows(self.raster))

    def _compare_with(self, rows: LabelRuns) -> None:
        self.other = rows
        self.promise.held += sum(column.nbytes for column in rows)

    def __call__(self, decoding: Decoding, found: LabelledRuns) -> TriedSetting:
        """What a setting gives; where there is no truth, the first one is the base."""
        self.promise("tune, scores", JUDGED_RUN_BYTES * len(found.label))
        rows = found.rows(self.raster)
        voxels = np.bincount(found.label.astype(np.int64), found.runs.length)[1:].astype(np.int64)
        setting = TriedSetting(
            {},
            decoding.decoder,
            decoding.parameters,
            len(voxels),
            int(voxels.sum()),
            float(np.median(voxels)) if len(voxels) else 0.0,
        )
        if self.other is None:
            self._compare_with(rows)
            return setting
        if not self.scored:
            table = self._overlaps(rows, self.other)
            return replace(setting, against_base=table, iou_with_base=likeness(table))
        scores = self._scores(rows, self.other)
        return replace(setting, scores=scores, value=score_of(scores, self.score))

    def _overlaps(self, found: LabelRuns, other: LabelRuns) -> Overlaps:
        """Some planes after the other, so that memory is promised before the table is large."""
        needed = JUDGED_RUN_BYTES * len(found.row) + TABLE_BYTES
        promise = TablePromise("tune", needed, self.promise)
        runs = max(len(found.row), len(other.row), 1)
        slabs = tile(
            Box.of(self.shape), (max(1, SLAB_RUNS * self.shape[0] // runs), *self.shape[1:])
        )

        def tables() -> Iterator[OverlapTable]:
            for slab in slabs:
                counted = overlaps_of_runs(
                    self._part(found, slab), self._part(other, slab), self.shape
                )
                yield OverlapTable(counted.labels, counted.facts, slab.size)

        counted = merge_overlap_tables(tables(), promise)
        return overlaps_of_table(counted, Box.of(self.shape), self.shape)

    def _part(self, rows: LabelRuns, slab: Box) -> LabelRuns:
        ends = np.array([slab.start[0], slab.stop[0]]) * self.shape[1]
        here = slice(*np.searchsorted(rows.row, ends))
        return LabelRuns(rows.row[here], rows.start[here], rows.stop[here], rows.label[here])

    def _scores(self, found: LabelRuns, other: LabelRuns) -> Scores:
        return scores_of_table(self._overlaps(found, other), None, self.config)


def keys_of(name: str) -> str:
    """Keys ``a/b/c`` of a score: of a name of `SCORES` or `METRICS`, else the name itself."""
    if name in METRICS:
        return f"{METRICS[name].block}/{name}"
    return SCORES.get(name, name)


def lower_is_better(keys: str) -> bool:
    """Whether a score, given by its keys, is better when it is lower."""
    name = keys.rsplit("/", 1)[-1]
    return METRICS[name].better == "lower" if name in METRICS else name in ERRORS


def table_scores() -> tuple[str, ...]:
    """Keys of the scores that a table of settings has: those of `SCORES`, and added metrics."""
    added = (keys_of(name) for name, metric in METRICS.items() if metric.block == "metrics")
    return (*SCORES.values(), *added)


def score_of(scores: Scores | None, name: str) -> float | None:
    """A number of the scores by its keys, ``a/b/c``; None where it is not defined.

    Raises:
        ConfigError: No such number; what could stand there is listed.
    """
    node: Any = None if scores is None else scores.to_dict()
    if node is None:
        return None
    for key in name.split("/"):
        if not isinstance(node, dict) or key not in node:
            there = ", ".join(node) if isinstance(node, dict) else "a number"
            raise ConfigError(
                f"score {name!r}: {key!r} found, expected one of {there}; short names are "
                f"{', '.join(dict.fromkeys([*SCORES, *METRICS]))}"
            )
        node = node[key]
    if isinstance(node, dict | list):
        raise ConfigError(
            f"score {name!r}: expected one of the numbers below it: {', '.join(map(str, node))}"
        )
    return None if node is None else float(node)


def bytes_of(found: LabelledRuns, setting: TriedSetting) -> int:
    """Memory of instances that are kept, and of how they overlap the base's."""
    table = setting.against_base
    runs = sum(array.nbytes for array in (*found.runs, found.label))
    return runs + (0 if table is None else table.nbytes)


def likeness(table: Overlaps) -> float:
    """Foreground IoU of a setting with the base."""
    shared = int(table.voxels.sum())
    union = int(table.prediction.voxels.sum()) + int(table.truth.voxels.sum()) - shared
    return shared / union if union else 1.0
