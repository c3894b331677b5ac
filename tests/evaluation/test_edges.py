"""Where one side, or both, hold no instance: numbers or null, in the schema, and no warning."""

import itertools
import json

import numpy as np
import pytest
from tests.evaluation.test_schema import SCHEMA, faults

from cristae.errors import InputError
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    ScoreFiles,
    evaluate_volume,
    format_scores,
    load_scores,
    pool_scores,
    read_matches,
)
from cristae.measurement.measure import measure_instances, read_measurements
from cristae.segmentation.config import SegmentConfig
from cristae.tuning.tune import TuneConfig, tune_decoder
from cristae.volumes.volume import array_volume

SHAPE = (3, 12, 14)
SIZE = (30.0, 8.0, 8.0)


def labels(count):
    array = np.zeros(SHAPE, np.uint16)
    for i in range(count):
        array[0:2, 2:5, 1 + 4 * i : 4 + 4 * i] = i + 1
    return array


def volume(array, name, size=SIZE):
    return array_volume(array, name=name, voxel_size_nm=size)


SIDES = {"nothing found": (0, 2), "no truth": (2, 0), "neither": (0, 0), "both": (2, 3)}
RANKINGS = {
    "size": None,
    "prediction": volume(np.full(SHAPE, 0.5, np.float32), "scores"),
    "table": {1: 0.25},
    "empty table": {},
}
DEFINED = {
    # true and false positives, false negatives; recall, precision, accuracy at IoU .5
    "nothing found": (0, 0, 2, 0.0, 0.0, 0.0),
    "no truth": (0, 2, 0, None, None, None),
    "neither": (0, 0, 0, None, None, None),
}
OPTIONS = list(
    itertools.product(
        ("cable_length", "volume", "none"), (0, 4), RANKINGS, (False, True), (SIZE, None)
    )
)


@pytest.mark.parametrize("sides", SIDES)
def test_every_option_on_every_side(tmp_path, serial, sides):
    for i, (categories, bootstrap, ranking, border, size) in enumerate(OPTIONS):
        pair = [
            volume(labels(n), name, size)
            for n, name in zip(SIDES[sides], ("found", "true"), strict=True)
        ]
        scores = RANKINGS[ranking]
        if ranking == "prediction":
            scores = scores.with_(voxel_size_nm=size)
        config = EvaluateConfig(
            categories=categories, bootstrap_samples=bootstrap, without_border_cut=border
        )
        out = ScoreFiles(tmp_path / f"{i}.json", tmp_path / f"tables{i}")
        result = evaluate_volume(*pair, out, scores=scores, config=config, resources=serial)
        tree = json.loads(out.json.read_text())
        assert faults(tree, SCHEMA) == []
        assert format_scores(result)
        assert load_scores(out.json, out.csv_dir) == result
        pooled = pool_scores([read_matches(out.csv_dir)] * 2, config).to_dict()
        assert faults(json.loads(json.dumps(pooled)), SCHEMA) == []
        if sides in DEFINED:
            found = tree["matching"]["0.5"]["all"]
            names = ("tp", "fp", "fn", "recall", "precision", "accuracy")
            assert tuple(found[name] for name in names) == DEFINED[sides], (sides, found)
        if sides in ("no truth", "neither"):
            assert set(tree["average_precision_coco"].values()) == {None}
        if sides == "nothing found":
            assert tree["average_precision_coco"]["50"] == 0.0


def test_no_instances_are_measured(tmp_path, serial):
    out = tmp_path / "t.csv"
    table = measure_instances(volume(labels(0), "none"), out, resources=serial)
    assert len(table) == 0
    assert list(read_measurements(out)) == list(table)
    again = measure_instances(volume(labels(0), "none"), out, resources=serial)
    assert (len(again), list(again)) == (0, list(table))


@pytest.mark.parametrize("truth", [None, 0, 2])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_search_where_nothing_is_found_or_true(serial, truth, level):
    channels = np.stack([np.full(SHAPE, level), np.zeros(SHAPE)]).astype(np.float32)
    prediction = array_volume(channels, voxel_size_nm=SIZE)
    config = TuneConfig(
        segment=SegmentConfig(decoder="bc_watershed", min_size=1, min_seed_size=1),
        grid={"seed_threshold": (0.4, 0.6)},
    )
    true = None if truth is None else volume(labels(truth), "true")
    if truth == 0:
        with pytest.raises(InputError, match="is not defined for any setting"):
            tune_decoder(prediction, true, config=config, resources=serial)
        return
    tuning = tune_decoder(prediction, true, config=config, resources=serial)
    assert [setting.instances for setting in tuning.settings] == [int(level)] * 2
    assert tuning.table()["instances"].tolist() == [int(level)] * 2
