"""Equal to mAP_3Dvolume and TIMISE on the reference data, to the digits they print."""

import functools
import re
from collections import defaultdict

import h5py
import numpy as np
import pandas as pd
import pytest

from cristae.engine.executors import Resources
from cristae.evaluation.cable import TIMISE, length_codes, truth_lengths
from cristae.evaluation.matching import (
    CATEGORIES,
    KINDS,
    associate,
    association_counts,
    category_codes,
    matching_scores,
)
from cristae.evaluation.metrics import best_prediction, match
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.placement import Compared
from cristae.volumes.volume import array_volume

CASES = ("case0", "case1", "case2", "case3", "lucchi")
AP_KEYS = ("50:95", "50", "75", "75_small", "75_medium", "75_large")


def truth_of(folder, case):
    if case == "lucchi":
        return h5py.File(folder / "lucchi" / "lucchi_gt_test.h5")["main"][...]
    with np.load(folder / "metric" / f"{case}.npz") as data:
        return data["truth"]


@functools.cache
def table_of(folder, case):
    if case == "lucchi":
        prediction = h5py.File(folder / "lucchi" / "lucchi_pred_UNet_label_test.h5")["main"][...]
        scores = None
    else:
        with np.load(folder / "metric" / f"{case}.npz") as data:
            prediction = data["prediction"]
            scores = array_volume(data["heatmap"])
    return overlap_table(
        Compared(array_volume(prediction), array_volume(truth_of(folder, case)), scores)
    )


def reference(folder, case, ranked_by):
    stem = "lucchi/lucchi" if case == "lucchi" else f"metric/{case}_{ranked_by}_ranked"
    printed = (folder / f"{stem}_map.txt").read_text()
    ap = [float(value) for value in re.findall(r"= +(-?\d\.\d+)$", printed, re.MULTILINE)]
    match_p = np.loadtxt(folder / f"{stem}_match_p.txt", ndmin=2)
    match_fn = np.loadtxt(folder / f"{stem}_match_fn.txt", ndmin=2).reshape(-1, 5)
    return ap, match_p, match_fn


def matches_of(folder, case, ranked_by):
    table = table_of(folder, case)
    return match(table, table.mean_scores if ranked_by == "heatmap" else None)


def values_at(values, rows):
    """Values at rows, 0 where there is none (-1)."""
    return np.append(values, values.dtype.type(0))[rows]


def match_p(matches):
    """The reference's table: id and voxels of each prediction in ranking order, then for each
    size range id, voxels and IoU of its best truth, zeros where there is none."""
    prediction, truth = matches.table.prediction, matches.table.truth
    columns = [prediction.labels, prediction.voxels]
    for size_range in matches.ranges:
        best = matches.best[size_range.name]
        columns += [values_at(truth.labels, best.rows), values_at(truth.voxels, best.rows)]
        columns.append(best.iou)
    return np.stack([c.astype(np.float64) for c in columns], axis=1)[matches.order]


def match_fn(matches):
    """The reference's table: truth that is no prediction's best, by id, with id and voxels of the
    prediction that overlaps it best (zeros where none does) before it, and the IoU behind it."""
    prediction, truth = matches.table.prediction, matches.table.truth
    missed = np.setdiff1d(np.arange(len(truth)), matches.best["all"].rows)
    best = best_prediction(matches.table, matches.order)
    columns = (
        values_at(prediction.labels, best.rows[missed]),
        values_at(prediction.voxels, best.rows[missed]),
        truth.labels[missed],
        truth.voxels[missed],
        best.iou[missed],
    )
    return np.stack([c.astype(np.float64) for c in columns], axis=1)


RANKED = [
    (case, by)
    for case in CASES
    for by in ("size", "heatmap")
    if (case, by) != ("lucchi", "heatmap")
]


@pytest.fixture(scope="session")
def golden(shared):
    return shared / "golden"


@pytest.mark.parametrize(("case", "ranked_by"), RANKED)
def test_average_precision_to_the_printed_digits(golden, case, ranked_by):
    expected, _, _ = reference(golden, case, ranked_by)
    found = matches_of(golden, case, ranked_by).average_precision()
    assert tuple(found) == AP_KEYS
    printed = [-1.0 if value is None else float(f"{value:.3f}") for value in found.values()]
    assert printed == expected


@pytest.mark.parametrize(("case", "ranked_by"), RANKED)
def test_matches_of_the_predictions(golden, case, ranked_by):
    """Same rows in the same order; rows of equal ranking score are compared as a set."""
    _, expected, _ = reference(golden, case, ranked_by)
    matches = matches_of(golden, case, ranked_by)
    found = np.round(match_p(matches), 4)
    by = matches.table.prediction.voxels if ranked_by == "size" else matches.table.mean_scores
    scores = dict(zip(matches.table.prediction.labels.tolist(), by.tolist(), strict=True))
    assert len(found) == len(expected)
    groups = [defaultdict(set), defaultdict(set)]
    for rows, group in zip((expected, found), groups, strict=True):
        for place, row in enumerate(rows):
            score = scores[int(row[0])]
            assert score == scores[int(found[place, 0])]
            group[score].add(tuple(row))
    assert groups[0] == groups[1]


@pytest.mark.parametrize(("case", "ranked_by"), RANKED)
def test_missed_truth(golden, case, ranked_by):
    _, _, expected = reference(golden, case, ranked_by)
    found = np.round(match_fn(matches_of(golden, case, ranked_by)), 4)
    np.testing.assert_array_equal(found, expected)


def timise(folder, case, name):
    stem = "lucchi/timise" if case == "lucchi" else f"metric/{case}_timise"
    return pd.read_csv(folder / f"{stem}_{name}.csv")


def numbers(text):
    return tuple(sorted(int(i) for i in re.findall(r"\d+", str(text))))


def timise_categories(folder, case):
    stats = timise(folder, case, "gt_stats")
    return dict(zip(stats["label"].tolist(), stats["category"].tolist(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_associations(golden, case):
    expected = {
        (numbers(p), numbers(t), kind.replace("-", "_"))
        for p, t, kind in timise(golden, case, "associations").itertuples(index=False)
    }
    matches = matches_of(golden, case, "size")
    table, found = matches.table, associate(matches)
    groups = set()
    for row in np.unique(found.group_of_truth[found.group_of_truth >= 0]):
        predictions = table.prediction.labels[found.group_of_prediction == row].tolist()
        truths = table.truth.labels[found.group_of_truth == row].tolist()
        groups.add((numbers(predictions), numbers(truths), KINDS[found.truth[row]]))
    for i in table.prediction.labels[found.group_of_prediction < 0].tolist():
        groups.add(((i,), (), "background"))
    for i in table.truth.labels[found.group_of_truth < 0].tolist():
        groups.add(((), (i,), "missing"))
    assert groups == expected


@pytest.mark.parametrize("case", CASES)
def test_association_counts_by_category(golden, case):
    stats = timise(golden, case, "associations_stats").set_index("Unnamed: 0")
    matches = matches_of(golden, case, "size")
    codes = category_codes(matches.table, timise_categories(golden, case))
    found = association_counts(associate(matches), codes)
    for category, row in stats.iterrows():
        expected = {name.replace("-", "_"): int(numbers(n)[0]) for name, n in row.items()}
        assert found[category] == expected
    totals = stats.map(lambda n: numbers(n)[0]).sum()
    assert found["all"] == {name.replace("-", "_"): int(n) for name, n in totals.items()}


@pytest.mark.parametrize("case", ["case3", "lucchi"])
def test_matching_by_category(golden, case):
    """Counts exactly; ratios of IoUs to 1e-3, because TIMISE holds them as float16."""
    matches = matches_of(golden, case, "size")
    codes = category_codes(matches.table, timise_categories(golden, case))
    found = matching_scores(matches, associate(matches), codes)
    for row in timise(golden, case, "matching_metrics").to_dict("records"):
        category = "all" if row["category"] == "total" else row["category"]
        scores = found[str(row["thresh"])][category]
        for key in ("tp", "fp", "fn"):
            assert scores[key] == row[key]
        for key in ("precision", "recall", "accuracy", "f1"):
            assert scores[key] == pytest.approx(row[key], abs=1e-12)
        assert scores["panoptic_quality"] == pytest.approx(row["panoptic_quality"], abs=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_categories_by_cable_length(golden, case):
    """TIMISE's own on 95 % of the instances at least; some paths tremble otherwise than its."""
    truth = array_volume(truth_of(golden, case), voxel_size_nm=(30.0, 8.0, 8.0))
    placed = Compared(truth, truth)
    instances = table_of(golden, case).truth
    lengths = truth_lengths(placed, truth.box, instances, truth.voxel_size_nm, Resources(1))
    expected = timise(golden, case, "gt_stats").set_index("label")
    found = dict(zip(instances.labels.tolist(), length_codes(lengths).tolist(), strict=True))
    same = [CATEGORIES[found[i]] == row["category"] for i, row in expected.iterrows()]
    assert len(same) >= len(instances) - 1  # TIMISE leaves out what has no skeleton
    assert np.mean(same) >= 0.95
    ours = dict(zip(instances.labels.tolist(), lengths[TIMISE].tolist(), strict=True))
    ratios = [ours[i] / row["cable_length"] for i, row in expected.iterrows()]
    assert 0.95 <= np.median(ratios) <= 1.05
