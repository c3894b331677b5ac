"""Matching against scipy's assignment, and associations by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cristae.engine.executors import Resources
from cristae.evaluation.matching import (
    CATEGORIES,
    KINDS,
    associate,
    association_counts,
    category_codes,
    matching_scores,
)
from cristae.evaluation.metrics import match
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.overlaps import Instances, Overlaps
from cristae.evaluation.placement import Compared
from cristae.evaluation.uncertainty import bootstrap_intervals
from cristae.volumes.volume import array_volume

SERIAL = Resources(workers=1, executor="serial")


def row(*ids):
    return np.array(ids, np.uint8).reshape(1, 1, -1)


def matches_of(prediction, truth):
    volumes = Compared(array_volume(prediction), array_volume(truth))
    return match(overlap_table(volumes, resources=SERIAL))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.75]))
def test_no_assignment_is_better(seed, threshold):
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, 6, 20), 5).reshape(1, 1, -1).astype(np.uint8)
    noise = np.repeat(rng.integers(0, 9, 25), 4).reshape(1, 1, -1).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, noise).astype(np.uint8)
    matches = matches_of(prediction, truth)
    best = matches.best["all"]
    scores = np.zeros((len(matches.table.truth), len(best.rows)))
    brings = best.rows >= 0
    scores[best.rows[brings], np.flatnonzero(brings)] = best.iou[brings]
    gain = (scores >= threshold) + scores / (2 * min(scores.shape) + 1)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    iou = scores[rows, columns][scores[rows, columns] >= threshold]
    found = matching_scores(matches, associate(matches))[str(threshold)]["all"]
    assert found["tp"] == len(iou)
    assert (found["fp"], found["fn"]) == (len(best.rows) - len(iou), len(scores) - len(iou))
    pairs = sum(scores.shape) / 2
    assert found["panoptic_quality"] == pytest.approx(iou.sum() / pairs)


TRUTH = row(1, 1, 2, 2, 0, 3, 3, 3, 3, 0, 4, 4, 4, 5, 5, 0, 6, 6, 0, 0)
FOUND = row(1, 1, 0, 0, 0, 2, 2, 3, 3, 0, 4, 4, 4, 4, 4, 0, 0, 0, 8, 0)


def test_associations_by_hand():
    """Truth 1 found, 2 and 6 missing, 3 in two parts, 4 and 5 as one; prediction 8 is nothing."""
    matches = matches_of(FOUND, TRUTH)
    found = associate(matches)
    kinds = [KINDS[k] for k in found.truth]
    assert kinds == [
        "one_to_one",
        "missing",
        "over_segmentation",
        "under_segmentation",
        "under_segmentation",
        "missing",
    ]
    codes = category_codes(matches.table, {1: "small", 3: "large", 4: "medium", 5: "large"})
    counts = association_counts(found, codes)
    assert counts["all"] == {
        "one_to_one": 1,
        "missing": 2,
        "over_segmentation": 1,
        "under_segmentation": 2,
        "many_to_many": 0,
        "background": 1,
    }
    assert counts["small"]["background"] == 1
    assert counts["large"]["background"] == 0
    for kind, total in counts["all"].items():
        assert sum(counts[c][kind] for c in CATEGORIES) == total


def test_many_to_many():
    """Predictions 1 and 2 both lie best in truth 1; truth 2 is overlapped best by prediction 2."""
    truth = row(1, 1, 1, 1, 1, 1, 1, 2, 2)
    found = row(1, 1, 1, 2, 2, 2, 2, 2, 0)
    kinds = associate(matches_of(found, truth))
    assert [KINDS[k] for k in kinds.truth] == ["many_to_many", "many_to_many"]
    assert [KINDS[k] for k in kinds.prediction] == ["many_to_many", "many_to_many"]


def test_categories_split_truth_and_predictions():
    matches = matches_of(FOUND, TRUTH)
    codes = category_codes(matches.table, {3: "large", 4: "medium", 5: "medium"})
    scores = matching_scores(matches, associate(matches), codes)["0.5"]
    # prediction 1 finds truth 1; 8 finds nothing; truths 2 and 6 are missing
    assert (scores["small"]["tp"], scores["small"]["fp"], scores["small"]["fn"]) == (1, 1, 2)
    # prediction 4 finds truth 4 with IoU 3/5; truth 5 goes without
    assert (scores["medium"]["tp"], scores["medium"]["fp"], scores["medium"]["fn"]) == (1, 0, 1)
    # both halves of truth 3 have IoU 1/2, one is its match
    assert (scores["large"]["tp"], scores["large"]["fp"], scores["large"]["fn"]) == (1, 1, 0)
    assert scores["medium"]["panoptic_quality"] == pytest.approx(0.6 / 1.5)


def test_without_truth_ratios_are_not_defined():
    matches = matches_of(row(1, 0), row(0, 0))
    scores = matching_scores(matches, associate(matches))["0.5"]["all"]
    assert (scores["tp"], scores["fp"], scores["fn"]) == (0, 1, 0)
    assert scores["accuracy"] is None


def test_without_matches_ratios_are_zero():
    matches = matches_of(row(0, 0), row(1, 1))
    scores = matching_scores(matches, associate(matches))["0.5"]["all"]
    assert (scores["fn"], scores["accuracy"], scores["f1"]) == (1, 0.0, 0.0)


def test_intervals_are_deterministic_and_hold_the_score():
    matches = matches_of(FOUND, TRUTH)
    one, two = (bootstrap_intervals(matches, 400, 0) for _ in range(2))
    assert one == two
    assert one != bootstrap_intervals(matches, 400, 1)
    accuracy = matching_scores(matches, associate(matches))["0.75"]["all"]["accuracy"]
    low, high = one["accuracy_75"]
    assert 0 <= low <= accuracy <= high <= 1
    low, high = one["ap_75"]
    assert low <= matches.average_precision()["75"] <= high


def test_a_perfect_score_has_no_spread():
    matches = matches_of(TRUTH, TRUTH)
    assert bootstrap_intervals(matches, 50, 0) == {"ap_75": [1.0, 1.0], "accuracy_75": [1.0, 1.0]}


def test_intervals_narrow_with_more_instances():
    few, many = row(*[1, 1, 0, 2, 2]), np.zeros((1, 1, 500), np.uint16)
    many[0, 0] = np.arange(500) // 2 + 1
    half = np.where(many % 2 == 1, many, 0).astype(np.uint16)
    widths = []
    for prediction, truth in ((np.where(few == 1, few, 0), few), (half, many)):
        low, high = bootstrap_intervals(matches_of(prediction, truth), 300, 0)["accuracy_75"]
        widths.append(high - low)
    assert widths[1] < 0.15 < widths[0]


def test_no_truth_has_no_interval():
    intervals = bootstrap_intervals(matches_of(row(1), row(0)), 10, 0)
    assert intervals == {"ap_75": None, "accuracy_75": None}


def synthetic_table(truths, predictions, seed=0):
    """A table as large as a challenge volume's, without any voxels."""
    rng = np.random.default_rng(seed)

    def instances(n):
        voxels = rng.integers(500, 50_000, n)
        triple = np.ones((n, 3), np.int64)
        return Instances(
            np.arange(1, n + 1, dtype=np.uint64),
            voxels,
            triple,
            triple + 1,
            triple,
            triple * voxels[:, None],
            np.zeros(n, np.int64),
            np.zeros(n, bool),
        )

    found, true = instances(predictions), instances(truths)
    pairs = np.unique(
        np.stack([rng.integers(0, predictions, 60_000), rng.integers(0, truths, 60_000)], axis=1),
        axis=0,
    )
    most = np.minimum(found.voxels[pairs[:, 0]], true.voxels[pairs[:, 1]])
    shared = np.maximum(1, (most * rng.random(len(pairs)) / 4).astype(np.int64))
    return Overlaps(found, true, pairs[:, 0], pairs[:, 1], shared)


def test_a_large_table_is_scored_exactly_once_per_truth():
    matches = match(synthetic_table(2_000, 2_500))
    scores = matching_scores(matches, associate(matches))["0.3"]["all"]
    assert scores["tp"] + scores["fn"] == 2_000
    assert scores["tp"] + scores["fp"] == 2_500
