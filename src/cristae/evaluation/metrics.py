"""Scores as pure functions of the overlap table: average precision, and the table of metrics.

Average precision is that of mAP_3Dvolume (COCO's, on 3D instances): predictions in order of their
rank, each with the truth it overlaps best; no one-to-one assignment is made, which an IoU above
one half implies. Every function takes the table, or what another one made of it, so that nothing
is computed twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.evaluation.overlaps import Floats, Overlaps

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU .50:.05:.95, the very floats the reference compares with."""

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)

Rows = NDArray[np.intp]
NONE = -1
"""Row that stands for no instance."""


@dataclass(frozen=True)
class SizeRange:
    """Instances of more than ``above`` and at most ``up_to`` voxels (None: any number)."""

    name: str
    above: int
    up_to: int | None

    def holds(self, voxels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where a voxel count lies in the range."""
        inside = voxels > self.above
        return inside if self.up_to is None else inside & (voxels <= self.up_to)


ALL = SizeRange("all", 0, None)


def size_ranges(thresholds: tuple[int, int] = (5000, 15000)) -> tuple[SizeRange, ...]:
    """The ranges all, small, medium and large between two voxel counts."""
    low, high = thresholds
    small, medium = SizeRange("small", 0, low), SizeRange("medium", low, high)
    return (ALL, small, medium, SizeRange("large", high, None))


@dataclass(frozen=True)
class Best:
    """For each prediction the truth it overlaps best.

    Attributes:
        rows: (predictions,) rows of the truth, `NONE` where nothing overlaps.
        iou: (predictions,) their IoU, 0 where nothing overlaps.
    """

    rows: Rows
    iou: Floats


def rank(table: Overlaps, scores: Floats | None = None) -> Rows:
    """Rows of the predictions in ranking order: highest score first, equal ones by ascending id.

    Args:
        table: The overlap table.
        scores: (predictions,) ranking scores; the voxel counts by default, as in mAP_3Dvolume.
            The order by size hides small false positives: they come last, where every truth that
            can be found has been found, and lower the average precision hardly at all.
    """
    by = table.prediction.voxels if scores is None else scores
    return np.lexsort((np.arange(len(by)), -by))


def best_truth(table: Overlaps, within: SizeRange = ALL) -> Best:
    """Each prediction's truth of highest IoU among those in a size range; ties: the lowest id."""
    keep = within.holds(table.truth.voxels)[table.true]
    return _best(table.predicted[keep], table.true[keep], table.iou[keep], len(table.prediction))


def best_prediction(table: Overlaps, order: Rows) -> Best:
    """Each truth's prediction of highest IoU; ties: the first in ranking order."""
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    best = _best(table.true, place[table.predicted], table.iou, len(table.truth))
    rows = np.where(best.rows >= 0, order[best.rows] if len(order) else NONE, NONE)
    return Best(rows, best.iou)


def _best(owner: Rows, other: Rows, iou: Floats, owners: int) -> Best:
    """Per owner the partner of highest IoU; ties: the lowest partner."""
    rows, best = np.full(owners, NONE, np.intp), np.zeros(owners)
    order = np.lexsort((other, -iou, owner))
    first = order[np.r_[True, owner[order][1:] != owner[order][:-1]][: len(order)]]
    rows[owner[first]], best[owner[first]] = other[first], iou[first]
    return Best(rows, best)


@dataclass(frozen=True)
class Curve:
    """Outcome of every prediction in ranking order, at one IoU threshold and in one size range.

    Attributes:
        hit: (predictions,) it found a truth of the range.
        miss: (predictions,) it did not; predictions that are neither are ignored.
        truths: Number of truth instances in the range.
    """

    hit: NDArray[np.bool_]
    miss: NDArray[np.bool_]
    truths: int

    @property
    def recall(self) -> Floats:
        """(predictions,) share of the truth found so far."""
        return np.asarray(np.cumsum(self.hit) / max(self.truths, 1))

    @property
    def precision(self) -> Floats:
        """(predictions,) share of the predictions so far that are hits, made non-increasing."""
        hits, misses = np.cumsum(self.hit), np.cumsum(self.miss)
        return np.maximum.accumulate((hits / np.maximum(hits + misses, 1))[::-1])[::-1]

    @property
    def average_precision(self) -> float | None:
        """Mean precision at recall 0, .01, ..., 1; None where the range has no truth."""
        if self.truths == 0:
            return None
        return float(precision_at_levels(self.recall, self.precision).mean())


def precision_at_levels(recall: Floats, precision: Floats) -> Floats:
    """Precision at recall 0, .01, ..., 1: that of the first place reaching the level, else 0."""
    places = np.searchsorted(recall, RECALL_LEVELS, side="left")
    return np.append(precision, 0.0)[places]


@dataclass(frozen=True)
class Matches:
    """What average precision needs of a table, computed once by `match`.

    Attributes:
        table: The overlap table.
        ranges: The size ranges, ``all`` first.
        order: Rows of the predictions in ranking order.
        best: By range name, each prediction's best truth of that range.
    """

    table: Overlaps
    ranges: tuple[SizeRange, ...]
    order: Rows
    best: Mapping[str, Best]

    def curve(self, iou: float, within: str = "all") -> Curve:
        """Outcome of the predictions at an IoU threshold for the truth of a size range.

        A prediction that overlaps no truth of the range stands for its best truth of any size;
        where that is a match it is ignored, as is an unmatched prediction of another size.
        """
        table, best, whole = self.table, self.best[within], self.best["all"]
        size_range = next(r for r in self.ranges if r.name == within)
        found = best.rows >= 0
        rows = np.where(found, best.rows, whole.rows)
        matched = (rows >= 0) & (np.where(found, best.iou, whole.iou) >= iou)
        wanted = size_range.holds(table.truth.voxels)
        own_size = size_range.holds(table.prediction.voxels)
        hit = matched & np.append(wanted, False)[rows]
        miss = ~matched & own_size
        return Curve(hit[self.order], miss[self.order], int(wanted.sum()))

    def average_precision(self) -> dict[str, float | None]:
        """AP over IoU .50:.05:.95, at .50, at .75, and at .75 by size.

        Returns:
            Keys ``50:95``, ``50``, ``75``, ``75_small``, ``75_medium``, ``75_large``; None where a
            range has no truth.
        """
        at = {t: self.curve(t).average_precision for t in IOU_THRESHOLDS.tolist()}
        values = [value for value in at.values() if value is not None]
        scores = {
            "50:95": float(np.mean(values)) if values else None,
            "50": at[IOU_THRESHOLDS.tolist()[0]],
            "75": at[IOU_THRESHOLDS.tolist()[5]],
        }
        for size_range in self.ranges[1:]:
            curve = self.curve(IOU_THRESHOLDS.tolist()[5], size_range.name)
            scores[f"75_{size_range.name}"] = curve.average_precision
        return scores


def match(
    table: Overlaps, scores: Floats | None = None, thresholds: tuple[int, int] = (5000, 15000)
) -> Matches:
    """Rank the predictions and find each one's best truth, of any size and of each size range.

    Args:
        table: The overlap table.
        scores: (predictions,) ranking scores; voxel counts by default, see `rank`.
        thresholds: Most voxels of a small and of a medium instance.
    """
    ranges = size_ranges(thresholds)
    best = {r.name: best_truth(table, r) for r in ranges}
    return Matches(table, ranges, rank(table, scores), best)


def metric_scores(table: Overlaps, block: str) -> dict[str, float | None]:
    """The numbers of all metrics of a block of ``scores.json``, by name."""
    return {name: m.function(table) for name, m in METRICS.items() if m.block == block}


def foreground_iou(table: Overlaps) -> float | None:
    """Jaccard index of "is in an instance", over all voxels; None without any foreground."""
    shared, predicted, true = _foreground(table)
    union = predicted + true - shared
    return shared / union if union else None


def foreground_dice(table: Overlaps) -> float | None:
    """Dice coefficient of "is in an instance", over all voxels; None without any foreground."""
    shared, predicted, true = _foreground(table)
    return 2 * shared / (predicted + true) if predicted + true else None


def _foreground(table: Overlaps) -> tuple[int, int, int]:
    """Voxels of both, of the prediction and of the truth."""
    both = int(table.voxels.sum())
    return both, int(table.prediction.voxels.sum()), int(table.truth.voxels.sum())


def adapted_rand_error(table: Overlaps) -> float | None:
    """1 - 2PR / (P + R) of voxel pairs; 0 is perfect, None without truth.

    With n_ij the voxels that truth i shares with prediction j (j = 0: background), a_i and b_j
    their sums over j and i, and sums over truth i > 0 only: P = S / sum b_j(b_j - 1),
    R = S / sum a_i(a_i - 1), S = sum n_ij(n_ij - 1). Arganda-Carreras et al. 2015,
    doi:10.3389/fnana.2015.00142. As in scikit-image, the prediction's background within the truth
    counts as one segment.
    """
    if not len(table.truth):
        return None
    true, segment, voxels = _segments_in_truth(table)
    together = (voxels * (voxels - 1)).sum()
    by_truth, by_segment = np.bincount(true, voxels), np.bincount(segment, voxels)
    in_truth = (by_truth * (by_truth - 1)).sum()
    in_segment = (by_segment * (by_segment - 1)).sum()
    if in_truth + in_segment == 0:
        return 0.0  # single voxels on both sides: no pair to get wrong
    # the harmonic mean of P and R
    return float(1 - 2 * together / (in_truth + in_segment))


def voi_split(table: Overlaps) -> float | None:
    """H(prediction | truth) = -sum n_ij/N log2(n_ij/a_i) in bits; 0 is perfect, None without truth.

    n_ij and a_i are those of `adapted_rand_error`, N the sum of all. Meila 2007,
    doi:10.1016/j.jmva.2006.11.013; without the truth's background, as CREMI has it.
    """
    return _lost_bits(table, by_truth=True)


def voi_merge(table: Overlaps) -> float | None:
    """H(truth | prediction) = -sum n_ij/N log2(n_ij/b_j) in bits, see `voi_split`."""
    return _lost_bits(table, by_truth=False)


def _lost_bits(table: Overlaps, by_truth: bool) -> float | None:
    if not len(table.truth):
        return None
    true, segment, voxels = _segments_in_truth(table)
    group = true if by_truth else segment
    share = voxels / voxels.sum()
    return float(-(share * np.log2(voxels / np.bincount(group, voxels)[group])).sum()) + 0.0


def _segments_in_truth(table: Overlaps) -> tuple[Rows, Rows, Floats]:
    """Rows (truth, segment) and voxels of every part of the truth; segment 0 is background."""
    uncovered = table.truth.voxels - np.bincount(
        table.true, table.voxels, minlength=len(table.truth)
    ).astype(np.int64)
    rows = np.flatnonzero(uncovered)
    true = np.concatenate([table.true, rows])
    segment = np.concatenate([table.predicted + 1, np.zeros_like(rows)])
    return true, segment, np.concatenate([table.voxels, uncovered[rows]]).astype(np.float64)


def given_scores(table: Overlaps, scores: Mapping[int, float]) -> Floats:
    """Ranking scores of the predictions from a table id -> score; those without one rank last."""
    return np.array([scores.get(int(i), -np.inf) for i in table.prediction.labels], np.float64)


@dataclass(frozen=True)
class Metric:
    """A score that is one number of an overlap table.

    Attributes:
        function: The number of a table; None where it is not defined.
        title: What it is called, in tables and in the report.
        meaning: One line for the report.
        unit: Empty for shares.
        better: Which way is better.
        block: Block of ``scores.json`` in which it stands under its name.
    """

    function: Callable[[Overlaps], float | None]
    title: str
    meaning: str
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    block: Literal["voxel", "metrics"] = "metrics"


METRICS: dict[str, Metric] = {
    "foreground_iou": Metric(
        foreground_iou,
        "foreground IoU",
        "shared mitochondria voxels over all; 1 is perfect",
        block="voxel",
    ),
    "foreground_dice": Metric(
        foreground_dice,
        "foreground Dice",
        "the same as a Dice coefficient; 1 is perfect",
        block="voxel",
    ),
    "adapted_rand_error": Metric(
        adapted_rand_error,
        "adapted Rand error",
        "voxel pairs wrongly joined or parted; 0 is perfect",
        better="lower",
        block="voxel",
    ),
    "voi_split": Metric(
        voi_split,
        "VOI split",
        "bits lost because instances are broken up; 0 is perfect",
        "bits",
        "lower",
        "voxel",
    ),
    "voi_merge": Metric(
        voi_merge,
        "VOI merge",
        "bits lost because instances are joined; 0 is perfect",
        "bits",
        "lower",
        "voxel",
    ),
}
"""By name in ``scores.json``. Scores, text, report, `tune` and `compare` go through this table;
those of block ``voxel`` have their place in its schema."""


def register_metric(name: str, metric: Metric) -> None:
    """Add a metric to the table, for this process; it is scored with all others from then on.

    Raises:
        InputError: The name is taken, or the metric is of the block ``voxel``.
    """
    if name in METRICS:
        raise InputError(f"metric {name!r}: there is one of that name, {METRICS[name].title}")
    if metric.block != "metrics":
        raise InputError(f"metric {name!r}: block {metric.block!r} found, expected 'metrics'")
    METRICS[name] = metric
