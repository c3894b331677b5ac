"""A search for thresholds: every setting scored as the stages alone would score it."""

import numpy as np
import pytest
from scipy import ndimage
from tests.segmentation.helpers import decode

from cristae.configuration import load_config
from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import ConfigError, InputError
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.segmentation.config import SegmentConfig
from cristae.tuning.tune import TuneConfig, tune_decoder, tuned_config
from cristae.volumes.volume import array_volume

SERIAL = Resources(1, "serial")
SHAPE = (10, 48, 64)
FIXED = {"min_size": 20, "min_seed_size": 4, "foreground_threshold": 0.3}
GRID = {"seed_threshold": (0.5, 0.75), "contour_threshold": (0.3, 0.9)}


@pytest.fixture(scope="module")
def pair():
    """Two balls that touch and one alone, as a prediction (mask, contour) and as the truth."""
    z, y, x = np.indices(SHAPE)
    truth = np.zeros(SHAPE, np.uint16)
    for label, (cy, cx) in enumerate([(16, 16), (16, 31), (36, 48)], start=1):
        truth[(2 * (z - 5)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 81] = label
    mask = ndimage.gaussian_filter((truth > 0).astype(float), (0.5, 1.5, 1.5))
    seam = ndimage.grey_dilation(truth, (3, 3, 3)) != ndimage.grey_erosion(
        np.where(truth == 0, 99, truth), (3, 3, 3)
    )
    contour = 0.6 * ndimage.gaussian_filter((seam & (truth > 0)).astype(float), (0, 1, 1))
    prediction = (255 * np.stack([mask, contour])).astype(np.uint8)
    return array_volume(prediction, name="p").with_(identity=Identity.of("p")), array_volume(
        truth, name="t"
    )


def config(**changes):
    segment = SegmentConfig(decoder="bc_watershed", **FIXED)
    return TuneConfig(**{"segment": segment, "grid": GRID, "score": "ap_75", **changes})


@pytest.fixture(scope="module")
def tuning(pair):
    return tune_decoder(*pair, config=config(), resources=SERIAL)


def test_every_setting_is_scored_as_the_stages_score_it(pair, tuning):
    prediction, truth = pair
    assert len(tuning.settings) == 4
    for setting in tuning.settings:
        labels = decode(prediction.read(), decoder="bc_watershed", **{**FIXED, **setting.values})
        alone = EvaluateConfig(bootstrap_samples=0)
        expected = score_instances(labels, truth.read(), config=alone, resources=SERIAL)
        assert setting.scores.to_dict() == expected.to_dict()
        assert setting.instances == labels.max()
        assert setting.voxels == np.count_nonzero(labels)
        assert setting.value == expected.average_precision_coco["75"]


def test_the_best_setting_tells_the_touching_balls_apart(tuning):
    best = tuning.settings[tuning.best]
    values = [setting.value for setting in tuning.settings]
    assert best.value == max(values) > min(values)
    assert best.instances == 3
    assert tuned_config(best) == {
        "decoder": "bc_watershed",
        **FIXED,
        **best.values,
        "small": "background",
    }


def test_of_equal_settings_the_nearest_to_the_decoders_own_is_best(pair):
    equal = config(grid={"min_size": (19, 20, 21)})
    tuning = tune_decoder(*pair, config=equal, resources=SERIAL)
    assert len({setting.value for setting in tuning.settings}) == 1
    assert tuning.best == tuning.base == 1


def test_errors_are_best_when_lowest(pair):
    found = tune_decoder(*pair, config=config(score="voxel/voi_merge"), resources=SERIAL)
    values = [setting.value for setting in found.settings]
    assert found.settings[found.best].value == min(values) < max(values)


def test_a_decoder_that_cannot_be_swept_is_segmented_setting_by_setting(pair):
    prediction, truth = pair
    segment = SegmentConfig(decoder="bc_connected", contour_threshold=0.9, min_size=20)
    grid = {"foreground_threshold": (0.3, 0.6)}
    found = tune_decoder(
        prediction, truth, config=config(segment=segment, grid=grid), resources=SERIAL
    )
    for setting in found.settings:
        labels = decode(prediction.read(), **tuned_config(setting))
        alone = EvaluateConfig(bootstrap_samples=0)
        expected = score_instances(labels, truth.read(), config=alone, resources=SERIAL)
        assert setting.scores.to_dict() == expected.to_dict()


def test_without_truth_settings_are_compared_with_the_base(pair):
    prediction, _ = pair
    found = tune_decoder(prediction, config=config(), resources=SERIAL)
    assert found.best is None
    base = found.settings[found.base]
    assert base.against_base is None
    labels = {
        i: decode(prediction.read(), decoder="bc_watershed", **{**FIXED, **setting.values})
        for i, setting in enumerate(found.settings)
    }
    table = found.table()
    for i, setting in enumerate(found.settings):
        assert setting.instances == labels[i].max()
        both = np.count_nonzero((labels[i] > 0) & (labels[found.base] > 0))
        either = np.count_nonzero((labels[i] > 0) | (labels[found.base] > 0))
        assert table["iou_with_base"][i] == pytest.approx(both / either)
    assert set(found.kept) <= set(labels)
    assert found.base in found.kept


def test_default_grids_follow_the_decoder(pair):
    prediction, _ = pair
    for decoder, names in {
        "mitoem": ["seed_threshold", "contour_threshold"],
        "binary_watershed": ["seed_threshold", "foreground_threshold"],
        "binary_connected": ["foreground_threshold"],
    }.items():
        start = TuneConfig(segment=SegmentConfig(decoder=decoder))
        found = tune_decoder(prediction, config=start, resources=SERIAL)
        assert list(found.grid) == names
    assert len(found.settings) == 9
    affinities = array_volume(np.full((3, 1, 2, 2), 200, np.uint8), name="p").with_(
        identity=Identity.of("p")
    )
    for decoder, count in {"affinity_connected": 9, "affinity_agglomeration": 6}.items():
        start = TuneConfig(segment=SegmentConfig(decoder=decoder))
        found = tune_decoder(affinities, config=start, resources=SERIAL)
        assert "affinity_threshold" in found.grid
        assert len(found.settings) == count


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("grid={seed: [0.5]}", "no parameter 'seed', known are", id="parameter"),
        pytest.param("grid={seed_threshold: []}", "seed_threshold has no values", id="empty"),
        pytest.param("grid={seed_threshold: [0.5, 1.5]}", "1.5 found", id="range"),
        pytest.param(
            "grid={distance_seed_threshold: [0.5]}", "has no such parameter", id="decoder"
        ),
        pytest.param("score=ap75", "'ap75' found, expected one of average_pre", id="score"),
        pytest.param("score=voxel", "numbers below it: foreground_iou", id="block"),
        pytest.param("evaluate.bootstrap_samples=-1", "bootstrap_samples -1", id="evaluate"),
    ],
)
def test_faults_are_found_before_any_work(pair, override, message):
    prediction, truth = pair
    unread = prediction.with_(reader=None)
    with pytest.raises(ConfigError, match=message):
        tune_decoder(unread, truth, config=load_config(TuneConfig, {}, [override]))


def test_a_truth_of_another_place_is_refused(pair):
    prediction, truth = pair
    part = truth.crop(truth.box.grow((0, 0, -1)))
    with pytest.raises(InputError, match="expected the same place"):
        tune_decoder(prediction.with_(reader=None), part, config=config())
