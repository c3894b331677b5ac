"""A metric added to the table is in every output that scores have."""

import json

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.errors import InputError, OutputExistsError
from cristae.evaluation.compare import compare_runs
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    evaluate_volume,
    format_scores,
    load_scores,
    pool_scores,
)
from cristae.evaluation.metrics import METRICS, Metric, register_metric
from cristae.report.report_context import scores as score_rows
from cristae.segmentation.config import SegmentConfig
from cristae.tuning.tune import TuneConfig, tune_decoder

SERIAL = Resources(1, "serial")
PLAIN = EvaluateConfig(categories="none", bootstrap_samples=0)


def size_error(table):
    """Difference of all voxels."""
    return abs(float(table.prediction.voxels.sum()) - float(table.truth.voxels.sum()))


@pytest.fixture
def added():
    register_metric("size_error", Metric(size_error, "size error", "0 is perfect", "vx", "lower"))
    yield
    del METRICS["size_error"]


@pytest.fixture
def pair():
    truth = np.zeros((4, 8, 16), np.uint8)
    truth[1:3, 1:7, 1:7], truth[1:3, 1:7, 9:15] = 1, 2
    found = truth.copy()
    found[1, 1, 1:4] = 0
    return found, truth


def test_it_is_in_every_output_of_an_evaluation(added, pair, tmp_path):
    out = tmp_path / "scores.json"
    scores = evaluate_volume(*pair, out, config=PLAIN, resources=SERIAL)
    assert json.loads(out.read_text())["metrics"] == {"size_error": 3.0}
    assert load_scores(out).metrics == scores.metrics
    assert pool_scores([scores.tables] * 2, PLAIN).metrics == {"size_error": 6.0}
    assert "size error (vx, lower is better)" in format_scores(scores)
    assert ("Size error", "3.000 vx", "0 is perfect") in score_rows(scores.to_dict())["voxel"]


def test_what_was_scored_without_it_is_not_done(pair, tmp_path, request):
    evaluate_volume(*pair, tmp_path / "scores.json", config=PLAIN, resources=SERIAL)
    request.getfixturevalue("added")
    with pytest.raises(OutputExistsError, match="size_error"):
        evaluate_volume(*pair, tmp_path / "scores.json", config=PLAIN, resources=SERIAL)


def test_tune_takes_the_lowest(added, pair):
    found, truth = pair
    levels = np.where(found > 0, 230, np.where(truth > 0, 150, 0)).astype(np.uint8)[None]
    segment = SegmentConfig(decoder="binary_connected", min_size=1)
    tried = {"foreground_threshold": (0.8, 0.5)}
    config = TuneConfig(segment=segment, grid=tried, score="size_error", evaluate=PLAIN)
    tuning = tune_decoder(levels, truth, config=config, resources=SERIAL)
    assert [setting.value for setting in tuning.settings] == [3.0, 0.0]
    assert tuning.best == 1
    assert list(tuning.table()["metrics/size_error"]) == [3.0, 0.0]


def test_compare_marks_the_lowest(added, pair, tmp_path):
    for name, labels in zip("ab", pair, strict=True):
        for folder in (tmp_path / name, tmp_path / name / "one"):
            folder.mkdir()
            evaluate_volume(labels, pair[1], folder / "scores.json", config=PLAIN)
        (tmp_path / name / "run.yaml").write_text("volumes: []\n")
        (tmp_path / name / "scores.json.cristae.json").unlink()  # pooled ones have another record
    compared = compare_runs([tmp_path / "a", tmp_path / "b"], ["size_error"])
    assert [row.values for row in compared.rows] == [(3.0,), (0.0,)]
    assert (compared.columns[0].lower, compared.best(0)) == (True, {1})


def test_names_are_taken_once(added):
    with pytest.raises(InputError, match="there is one of that name, VOI split"):
        register_metric("voi_split", METRICS["voi_split"])
    with pytest.raises(InputError, match="block 'voxel' found, expected 'metrics'"):
        register_metric("again", METRICS["voi_split"])
