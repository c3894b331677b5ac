"""Matching and associations as TIMISE and the MitoEM challenge count them, from the overlap table.

Both start from pairs (prediction, the truth it overlaps best), one a prediction. A truth can only
be given to a prediction that brings it, so the best assignment of all, the one with most matches
and among those with the highest sum of IoU, is the best prediction of each truth: one maximum a
truth, no matrix. Franco-Barranco et al. 2023, doi:10.1109/TMI.2023.3320497; counts as there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.evaluation.metrics import NONE, Best, Matches, Rows, best_prediction
from cristae.evaluation.overlaps import Floats, Overlaps

MATCHING_IOUS = (0.3, 0.5, 0.75)
CATEGORIES = ("small", "medium", "large")

MISSING, ONE_TO_ONE, OVER, UNDER, MANY = range(5)
KINDS = (
    "missing",
    "one_to_one",
    "over_segmentation",
    "under_segmentation",
    "many_to_many",
)
"""Names of a truth's association; that of a prediction without truth is ``background``."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Associations:
    """Which instances belong together.

    A group is a truth that is some prediction's best, those predictions, and every truth that is
    the best of no truth but is overlapped best by one of them.

    Attributes:
        group_of_truth: (truths,) row of the truth that names the group, `NONE` where missing.
        group_of_prediction: (predictions,) the same, `NONE` for background.
        truth: (truths,) index into `KINDS`.
        prediction: (predictions,) index into `KINDS`; `MISSING` stands for background.
    """

    group_of_truth: Rows
    group_of_prediction: Rows
    truth: Codes
    prediction: Codes


def associate(matches: Matches) -> Associations:
    """Group the instances of both sides and name each group by its numbers of members.

    One prediction and one truth are ``one_to_one``, several predictions of one truth
    ``over_segmentation``, one prediction of several ``under_segmentation``, several of several
    ``many_to_many``; a truth that nothing overlaps is ``missing``.
    """
    best = matches.best["all"]
    truths = len(matches.table.truth)
    best_rows = best_prediction(matches.table, matches.order).rows
    claimed = np.zeros(truths + 1, bool)
    claimed[best.rows] = True  # NONE lands on the last, which stands for nothing
    group = np.where(claimed[:truths], np.arange(truths), np.append(best.rows, NONE)[best_rows])
    predictions = np.bincount(best.rows[best.rows >= 0], minlength=truths + 1)
    members = np.bincount(group[group >= 0], minlength=truths + 1)
    kind = np.select(
        [(predictions == 1) & (members == 1), members == 1, predictions == 1],
        [ONE_TO_ONE, OVER, UNDER],
        MANY,
    )
    kind[truths] = MISSING
    return Associations(group, best.rows, kind[group], kind[best.rows])


def category_codes(
    table: Overlaps, categories: Mapping[int, str], names: Sequence[str] = CATEGORIES
) -> Codes:
    """(truths,) index of each truth's category; the first for those without one, as in TIMISE."""
    codes = {name: code for code, name in enumerate(names)}
    return np.array([codes[categories.get(int(i), names[0])] for i in table.truth.labels], np.int64)


def association_counts(
    associations: Associations,
    categories: Codes | None = None,
    names: Sequence[str] = CATEGORIES,
) -> dict[str, dict[str, int]]:
    """How many truths have each association, and how many predictions are background.

    Args:
        associations: From `associate`.
        categories: (truths,) index of each truth's category, or None for ``all`` alone.
        names: The categories. Background counts in the first one.

    Returns:
        For ``all`` and each category the counts ``one_to_one``, ``missing``,
        ``over_segmentation``, ``under_segmentation``, ``many_to_many`` and ``background``.
    """
    background = int((associations.group_of_prediction == NONE).sum())
    counts = {"all": _kind_counts(associations.truth, background)}
    if categories is not None:
        for code, name in enumerate(names):
            inside = associations.truth[categories == code]
            counts[name] = _kind_counts(inside, background if code == 0 else 0)
    return counts


def _kind_counts(kinds: Codes, background: int) -> dict[str, int]:
    found = np.bincount(kinds, minlength=len(KINDS)).tolist()
    order = (ONE_TO_ONE, MISSING, OVER, UNDER, MANY)
    return {**{KINDS[k]: int(found[k]) for k in order}, "background": background}


@dataclass(frozen=True)
class Assignment:
    """Each truth's prediction in the best assignment, whatever its IoU.

    Attributes:
        rows: (truths,) rows of the predictions, `NONE` where none brings the truth.
        iou: (truths,) their IoU, 0 where there is none.
    """

    rows: Rows
    iou: Floats


def assign(matches: Matches) -> Assignment:
    """The best one-to-one assignment among the pairs (prediction, its best truth).

    Predictions of equal IoU: the first in ranking order. At any threshold the pairs at or above
    it are the matches, and no assignment of these pairs has more of them or a higher sum of IoU.
    """
    best, order = matches.best["all"], matches.order
    rows = np.full(len(matches.table.truth), NONE, np.intp)
    iou = np.zeros(len(rows))
    brings = order[best.rows[order] >= 0]
    # worst first, so that the best is written last
    brings = brings[::-1][np.argsort(best.iou[brings[::-1]], kind="stable")]
    rows[best.rows[brings]] = brings
    iou[best.rows[brings]] = best.iou[brings]
    return Assignment(rows, iou)


def matching_scores(
    matches: Matches,
    associations: Associations,
    categories: Codes | None = None,
    names: Sequence[str] = CATEGORIES,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Counts and ratios of the best assignment at IoU .3, .5 and .75.

    ``accuracy`` is TP / (TP + FP + FN), ``panoptic_quality`` the sum of the matches' IoU over
    TP + FP/2 + FN/2 (Kirillov et al. 2019, eq. 1). The predictions of a category are those whose
    best truth is in it, and those whose group's largest category it is; as in TIMISE, one that
    lies over truths of two categories can therefore count in both. Predictions without truth
    count in the first category.

    Args:
        matches: From `metrics.match`.
        associations: From `associate`.
        categories: (truths,) index of each truth's category, or None for ``all`` alone.
        names: The categories, ascending.

    Returns:
        By IoU (``0.3``, ``0.5``, ``0.75``), then by category with ``all`` first: ``tp``, ``fp``,
        ``fn``, ``precision``, ``recall``, ``accuracy``, ``f1``, ``panoptic_quality``. Ratios are
        None where there is no truth, 0 where there is no match.
    """
    iou = assign(matches).iou
    groups = {"all": (np.ones(len(iou), bool), len(matches.table.prediction))}
    if categories is not None:
        of_prediction = _predictions_by_category(matches, associations, categories, len(names))
        for code, name in enumerate(names):
            groups[name] = (categories == code, int(of_prediction[:, code].sum()))
    return {
        str(threshold): {
            name: _ratios(iou[inside], predictions, threshold)
            for name, (inside, predictions) in groups.items()
        }
        for threshold in MATCHING_IOUS
    }


def _predictions_by_category(
    matches: Matches, associations: Associations, categories: Codes, count: int
) -> NDArray[np.bool_]:
    """(predictions, categories) where a prediction counts."""
    largest = np.zeros(len(categories) + 1, np.int64)
    grouped = associations.group_of_truth >= 0
    np.maximum.at(largest, associations.group_of_truth[grouped], categories[grouped])
    best: Best = matches.best["all"]
    rows = np.arange(len(best.rows))
    counts = np.zeros((len(rows), count), bool)
    counts[rows, np.append(categories, 0)[best.rows]] = True
    counts[rows, largest[associations.group_of_prediction]] = True
    return counts


def _ratios(iou: Floats, predictions: int, threshold: float) -> dict[str, float | None]:
    matched = iou >= threshold
    tp, total = int(matched.sum()), float(iou[matched].sum())
    fp, fn = predictions - tp, len(iou) - tp
    ratios: dict[str, float | None] = {"tp": tp, "fp": fp, "fn": fn}
    parts = {
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "accuracy": (tp, tp + fp + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "panoptic_quality": (total, tp + fp / 2 + fn / 2),
    }
    for name, (part, whole) in parts.items():
        ratios[name] = None if len(iou) == 0 else part / whole if tp else 0.0
    return ratios
