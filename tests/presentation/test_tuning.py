"""The files of a search for thresholds, and the model file that takes the best."""

import re

import numpy as np
import pytest
import yaml
from tests.segmentation.helpers import noise

from cristae.configuration import load_config
from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import ConfigError, OutputExistsError
from cristae.evaluation.tune import TuneConfig
from cristae.presentation.tuning import read_tuned, tune_volume
from cristae.segmentation.decoders import SegmentConfig, resolve
from cristae.volumes.volume import array_volume

SERIAL = Resources(1, "serial")
CONFIG = TuneConfig(
    segment=SegmentConfig(
        decoder="bc_watershed", min_size=8, min_seed_size=2, foreground_threshold=0.3
    ),
    grid={"seed_threshold": (0.4, 0.6), "contour_threshold": (0.4, 0.6, 0.8)},
    score="adapted_rand_error",
)


@pytest.fixture(scope="module")
def pair():
    prediction = noise((8, 24, 32), 3)[:2]
    truth = (np.indices(prediction.shape[1:])[2] // 8 + 1) * (prediction[0] > 90)
    return (
        array_volume(prediction, name="p.zarr").with_(identity=Identity.of("p")),
        array_volume(truth.astype(np.uint16), name="t.zarr").with_(identity=Identity.of("t")),
    )


def test_files_of_a_search(pair, tmp_path):
    prediction, truth = pair
    tuned = tune_volume(prediction, truth, tmp_path, config=CONFIG, resources=SERIAL)
    assert tuned == tmp_path / "TUNED.yaml"
    names = ["TUNED.yaml", "TUNED.yaml.cristae.json", "settings.csv", "tuning.html"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    rows = (tmp_path / "settings.csv").read_text().splitlines()
    assert len(rows) == 7
    column = rows[0].split(",").index("voxel/adapted_rand_error")
    values = [float(row.split(",")[column]) for row in rows[1:]]
    best = rows[1:][values.index(min(values))].split(",")
    decoder, parameters = read_tuned(tuned)
    assert decoder == "bc_watershed"
    assert parameters["seed_threshold"] == float(best[0])
    assert parameters["contour_threshold"] == float(best[1])
    assert yaml.safe_load(tuned.read_text())["min_size"] == 8
    page = (tmp_path / "tuning.html").read_text()
    assert len(re.findall(r'<td class="number heat[ "]', page)) == 6
    assert page.count("heat best") == 1
    assert "http" not in page


def test_segment_reads_what_was_tuned(pair, tmp_path):
    prediction, truth = pair
    tuned = tune_volume(prediction, truth, tmp_path, config=CONFIG, resources=SERIAL)
    decoding = resolve(load_config(SegmentConfig, tuned), prediction)
    assert (decoding.decoder, dict(decoding.parameters)) == read_tuned(tuned)


def test_done_before_is_left_alone_and_other_settings_are_refused(pair, tmp_path):
    prediction, truth = pair
    tuned = tune_volume(prediction, truth, tmp_path, config=CONFIG, resources=SERIAL)
    before = tuned.stat().st_mtime_ns
    unread = prediction.with_(reader=None)
    assert tune_volume(unread, truth, tmp_path, config=CONFIG) == tuned
    assert tuned.stat().st_mtime_ns == before
    with pytest.raises(OutputExistsError, match="score"):
        tune_volume(unread, truth, tmp_path, config=TuneConfig(CONFIG.segment, CONFIG.grid))


def test_without_truth_the_page_shows_where_settings_differ(pair, tmp_path):
    prediction, _ = pair
    page = tune_volume(prediction, None, tmp_path, config=CONFIG, resources=SERIAL)
    assert page == tmp_path / "tuning.html"
    assert not (tmp_path / "TUNED.yaml").exists()
    text = page.read_text()
    pictures = re.findall(r'<img src="data:image/jpeg;base64,[^"]{200,}" alt="([^"]+)"', text)
    assert 3 <= len(pictures) <= 12
    assert all(re.search(r"threshold 0\.\d.*voxels, at voxel \d+, \d+, \d+", t) for t in pictures)
    assert "iou_with_base" in (tmp_path / "settings.csv").read_text()


def test_a_file_that_names_no_decoder(tmp_path):
    (tmp_path / "TUNED.yaml").write_text("min_size: 3\n")
    with pytest.raises(ConfigError, match="names no decoder"):
        read_tuned(tmp_path / "TUNED.yaml")
