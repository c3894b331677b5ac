"""How far scores would move on other instances of the same kind: the bootstrap.

Truth instances and predictions that match nothing are drawn again, with replacement, as often as
there are of them; a prediction comes and goes with the truth it overlaps best, because the two
are no independent observations. Efron 1979, doi:10.1214/aos/1176344552. The interval says how
sure a score is given these volumes, not how it would be on another specimen.
"""

import numpy as np
from numpy.typing import NDArray

from cristae.evaluation.matching import assign
from cristae.evaluation.metrics import Matches, precision_at_levels
from cristae.evaluation.overlaps import Floats

LEVEL = 0.95
_IOU = 0.75


def bootstrap_intervals(matches: Matches, samples: int, seed: int) -> dict[str, list[float] | None]:
    """95 % intervals of AP-75 and of the accuracy at IoU .75.

    Args:
        matches: From `metrics.match`.
        samples: How often the instances are drawn.
        seed: Of the random numbers; equal seeds give equal intervals.

    Returns:
        ``ap_75`` and ``accuracy_75``: [low, high], or None where there is no truth.
    """
    truths = len(matches.table.truth)
    if truths == 0:
        return {"ap_75": None, "accuracy_75": None}
    owner = _owners(matches)
    units = truths + int((matches.best["all"].rows < 0).sum())
    random = np.random.default_rng(seed)
    precision, accuracy = np.empty(samples), np.empty(samples)
    hits, outcomes = _hits(matches), _outcomes(matches, owner, units)
    for i in range(samples):
        weight = np.bincount(random.integers(0, units, units), minlength=units)
        precision[i] = _weighted_ap(hits, weight[owner[matches.order]], weight[:truths].sum())
        accuracy[i] = (weight * outcomes[0]).sum() / (weight * outcomes[1]).sum()
    return {"ap_75": _interval(precision), "accuracy_75": _interval(accuracy)}


def _owners(matches: Matches) -> NDArray[np.intp]:
    """(predictions,) unit each belongs to: its best truth, or one of its own after the truths."""
    owner = matches.best["all"].rows.copy()
    alone = owner < 0
    owner[alone] = len(matches.table.truth) + np.arange(int(alone.sum()))
    return owner


def _hits(matches: Matches) -> NDArray[np.bool_]:
    return matches.curve(_IOU).hit


def _outcomes(
    matches: Matches, owner: NDArray[np.intp], units: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(units,) true positives, and true positives + false positives + false negatives."""
    found = assign(matches).iou >= _IOU
    true_positives = np.zeros(units, np.int64)
    true_positives[: len(found)] = found
    missed = np.zeros(units, np.int64)
    missed[: len(found)] = ~found
    return true_positives, np.bincount(owner, minlength=units) + missed


def _weighted_ap(hits: NDArray[np.bool_], weight: NDArray[np.int64], truths: int) -> float:
    """Average precision where instances count as often as they were drawn."""
    if truths == 0:
        return float("nan")
    found, seen = np.cumsum(hits * weight), np.cumsum(weight)
    precision = found / np.maximum(seen, 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision_at_levels(found / truths, falling).mean())


def _interval(values: Floats) -> list[float] | None:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return [low, high]
