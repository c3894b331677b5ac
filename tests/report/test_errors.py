"""Errors found in small pictures drawn by hand."""

import numpy as np
import pytest

from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.placement import Compared
from cristae.grid import Box
from cristae.report.error_gallery import ScoredVolumes, error_picture, locate
from cristae.report.errors import SegmentationError, choose, find_errors
from cristae.volumes.volume import array_volume


def errors_of(truth, prediction):
    volumes = [array_volume(np.array([rows], np.uint8)) for rows in (prediction, truth)]
    return find_errors(overlap_table(Compared(*volumes)))


def summary(errors):
    return [(e.kind, e.lost, e.truth, e.prediction) for e in errors]


def test_each_kind_once():
    #            missed       merge            split           false     poor
    truth = [[1, 1, 1, 0, 2, 2, 2, 3, 3, 0, 4, 4, 4, 4, 4, 0, 0, 0, 5, 5, 5, 5, 0, 0, 0]]
    found = [[0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 2, 2, 2, 3, 3, 0, 4, 0, 5, 0, 0, 0, 0, 0, 0]]
    assert summary(errors_of(truth, found)) == [
        ("missed", 3, (1,), ()),
        ("poor", 3, (5,), (5,)),
        ("merge", 2, (2, 3), (1,)),
        ("split", 2, (4,), (2, 3)),
        ("false_positive", 1, (), (4,)),
    ]


def test_a_perfect_prediction_has_none():
    rows = [[1, 1, 0, 2, 2, 0, 3]]
    assert errors_of(rows, [[7, 7, 0, 8, 8, 0, 9]]) == []


def test_touching_a_neighbour_is_no_merge():
    # One of ten voxels of truth 2 lies in prediction 1: under a fifth.
    truth = [[1] * 10 + [2] * 10]
    found = [[1] * 11 + [2] * 9]
    assert errors_of(truth, found) == []


def test_a_truth_hardly_touched_is_missed_and_its_loss_is_what_is_uncovered():
    truth = [[1] * 10 + [2] * 10]
    found = [[1] * 11 + [0] * 9]
    (error,) = errors_of(truth, found)
    assert summary([error]) == [("missed", 9, (2,), (1,))]
    assert error.iou == pytest.approx(1 / 20)
    assert error.box == Box((0, 0, 10), (1, 1, 20))


def test_nothing_predicted_and_nothing_true():
    truth = [[1, 1, 0, 2]]
    nothing = [[0, 0, 0, 0]]
    assert [e.kind for e in errors_of(truth, nothing)] == ["missed", "missed"]
    assert [e.kind for e in errors_of(nothing, truth)] == ["false_positive", "false_positive"]
    assert errors_of(nothing, nothing) == []


def test_the_worst_are_chosen_but_not_all_of_one_kind():
    def one(kind, lost):
        return SegmentationError(kind, lost, (lost,), (), 0.0, Box((0, 0, 0), (1, 1, 1)))

    errors = [one("missed", n) for n in (90, 80, 70, 60)] + [one("split", 50), one("merge", 40)]
    assert [e.lost for e in choose(errors, 4)] == [90, 80, 50, 40]
    assert [e.lost for e in choose(errors, 6)] == [90, 80, 70, 60, 50, 40]
    assert [e.lost for e in choose(errors[:4], 4)] == [90, 80, 70, 60]
    assert choose([], 4) == []


def test_a_merge_is_shown_where_both_parts_are_seen():
    truth = np.zeros((30, 20, 40), np.uint8)
    truth[2:20, 5:15, 2:18] = 1
    truth[16:28, 5:15, 20:38] = 2
    prediction = (truth > 0).astype(np.uint8)
    image = array_volume(truth)
    scene = ScoredVolumes(image, array_volume(prediction), array_volume(truth))
    (error,) = find_errors(overlap_table(Compared(scene.instances, scene.truth)))
    assert error.kind == "merge"
    z, y, x = locate(scene, error)
    assert truth[z, :, :10].any()
    assert truth[z, y, x] == 2
    assert error_picture(scene, error, (z, y, x), (0, 2)).startswith(b"\xff\xd8")


def test_a_poor_outline_is_shown_at_a_wrong_voxel():
    truth = np.zeros((9, 30, 30), np.uint8)
    truth[2:7, 5:25, 5:25] = 1
    prediction = np.zeros_like(truth)
    prediction[3:5, 5:25, 5:16] = 6
    scene = ScoredVolumes(array_volume(truth), array_volume(prediction), array_volume(truth))
    (error,) = find_errors(overlap_table(Compared(scene.instances, scene.truth)))
    assert error.kind == "poor"
    point = locate(scene, error)
    assert truth[point] == 1
    assert prediction[point] == 0
