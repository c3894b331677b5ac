"""Average precision by hand and against a slow twin; voxel scores against scikit-image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import adapted_rand_error, variation_of_information

from cristae.engine.executors import Resources
from cristae.evaluation.metrics import IOU_THRESHOLDS, given_scores, match, metric_scores
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.placement import Compared
from cristae.volumes.volume import array_volume

SERIAL = Resources(workers=1, executor="serial")


def table_of(prediction, truth):
    return overlap_table(Compared(array_volume(prediction), array_volume(truth)), resources=SERIAL)


def voxel_scores(prediction, truth):
    return metric_scores(table_of(prediction, truth), "voxel")


def random_pair(seed, ids=7):
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, ids, (3, 4, 9)), 4, axis=2).astype(np.uint8)
    other = np.repeat(rng.integers(0, ids, (3, 4, 9)), 4, axis=2).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.85, truth, other).astype(np.uint8)
    return prediction, truth


def row(*ids):
    return np.array(ids, np.uint8).reshape(1, 1, -1)


def test_perfect():
    labels = row(1, 1, 0, 2, 2, 2)
    assert match(table_of(labels, labels)).average_precision() == {
        "50:95": 1.0,
        "50": 1.0,
        "75": 1.0,
        "75_small": 1.0,
        "75_medium": None,
        "75_large": None,
    }


def test_by_hand():
    """Truths of 4, 3 and 2 voxels; predictions by size: 5 voxels (IoU 4/5), 3 in background, 1.

    At .75 the first is a hit and the others misses: precision 1, 1/2, 1/3 at recall 1/3. Levels
    0 to .33 (34 of 101) are reached with precision 1, so AP = 34/101. At .50 the last one covers
    one of two voxels, IoU .5, a hit: recall 2/3 with precision 2/3 for levels .34 to .66 (33), so
    AP = (34 + 33 x 2/3) / 101.
    """
    truth = row(1, 1, 1, 1, 0, 2, 2, 2, 0, 0, 0, 0, 3, 3)
    found = row(5, 5, 5, 5, 5, 0, 0, 0, 0, 7, 7, 7, 9, 0)
    ap = match(table_of(found, truth)).average_precision()
    assert ap["75"] == pytest.approx(34 / 101)
    assert ap["50"] == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_small_false_positives_hide_behind_the_rank_by_size():
    """The weakness that is stated where these numbers are printed."""
    truth = row(*[1] * 8, *[2] * 8, *[0] * 10)
    found = row(*[1] * 8, *[2] * 8, *range(3, 13))
    table = table_of(found, truth)
    assert match(table).average_precision()["75"] == 1.0
    worst_first = given_scores(table, {i: i for i in range(13)})
    assert match(table, worst_first).average_precision()["75"] == pytest.approx(2 / 12)


def test_predictions_without_a_score_rank_last():
    table = table_of(row(1, 2, 3), row(1, 2, 3))
    assert match(table, given_scores(table, {3: 0.5})).order.tolist() == [2, 0, 1]


def test_a_size_range_ignores_what_is_outside_it():
    """Truth 1 (6 voxels, found) is large, truth 2 (2 voxels) small; ranges end at 3 and 5.

    For small: the hit on the large truth is ignored, the 2-voxel miss counts before the hit.
    """
    truth = row(*[1] * 6, 2, 2, 0, 0)
    found = row(*[1] * 6, 2, 2, 3, 3)
    table = table_of(found, truth)
    matches = match(table, given_scores(table, {1: 3, 3: 2, 2: 1}), (3, 5))
    small = matches.curve(0.75, "small")
    assert small.hit.tolist() == [False, False, True]
    assert small.miss.tolist() == [False, True, False]
    assert matches.average_precision()["75_small"] == pytest.approx(0.5)
    assert matches.average_precision()["75_medium"] is None
    assert matches.average_precision()["75_large"] == 1.0


def slow_ap(prediction, truth, threshold):
    """Average precision of all sizes, prediction by prediction and level by level."""
    ids = [i for i in np.unique(prediction) if i]
    ids.sort(key=lambda i: (-(prediction == i).sum(), i))
    truths = [t for t in np.unique(truth) if t]
    points, hits = [], 0
    for n, i in enumerate(ids, 1):
        p = prediction == i
        ious = [(p & (truth == t)).sum() / (p | (truth == t)).sum() for t in truths]
        hits += max(ious) >= threshold
        points.append((hits / len(truths), hits / n))
    levels = [
        max([p for r, p in points if r >= level], default=0) for level in np.linspace(0, 1, 101)
    ]
    return sum(levels) / 101


@given(st.integers(0, 2**32 - 1))
def test_equals_a_slow_twin(seed):
    prediction, truth = random_pair(seed)
    if not (truth.any() and prediction.any()):
        return
    found = match(table_of(prediction, truth)).average_precision()
    slow = [slow_ap(prediction, truth, t) for t in IOU_THRESHOLDS]
    assert found["50"] == pytest.approx(slow[0])
    assert found["75"] == pytest.approx(slow[5])
    assert found["50:95"] == pytest.approx(np.mean(slow))


def test_no_predictions_find_nothing():
    ap = match(table_of(row(0, 0), row(1, 1))).average_precision()
    assert ap["75"] == 0.0


def test_no_truth_is_not_zero():
    ap = match(table_of(row(1, 1), row(0, 0))).average_precision()
    assert set(ap.values()) == {None}


def test_precision_and_recall_along_the_ranking():
    truth = row(1, 1, 1, 0, 0, 2, 2, 0, 3)
    found = row(1, 1, 1, 0, 0, 2, 2, 7, 0)
    curve = match(table_of(found, truth)).curve(0.75)
    assert curve.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert curve.precision.tolist() == pytest.approx([1.0, 1.0, 2 / 3])


@given(st.integers(0, 2**32 - 1))
def test_voxel_scores_equal_scikit_image(seed):
    prediction, truth = random_pair(seed)
    scores = voxel_scores(prediction, truth)
    a, b = prediction > 0, truth > 0
    assert scores["foreground_iou"] == (a & b).sum() / (a | b).sum()
    assert scores["foreground_dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    error, _, _ = adapted_rand_error(truth, prediction)
    split, merge = variation_of_information(truth, prediction, ignore_labels=(0,))
    assert scores["adapted_rand_error"] == pytest.approx(error)
    assert scores["voi_split"] == pytest.approx(split)
    assert scores["voi_merge"] == pytest.approx(merge)


def test_one_split_in_half_is_one_bit():
    scores = voxel_scores(row(1, 1, 2, 2), row(5, 5, 5, 5))
    assert (scores["voi_split"], scores["voi_merge"]) == (1.0, 0.0)
    scores = voxel_scores(row(5, 5, 5, 5), row(1, 1, 2, 2))
    assert (scores["voi_split"], scores["voi_merge"]) == (0.0, 1.0)


def test_voxel_scores_of_nothing():
    assert set(voxel_scores(row(0), row(0)).values()) == {None}
    only_found = voxel_scores(row(1), row(0))
    assert only_found["foreground_iou"] == 0.0
    assert only_found["adapted_rand_error"] is None


def test_single_voxels_are_no_error():
    assert voxel_scores(row(1, 2), row(1, 2))["adapted_rand_error"] == 0.0
