"""The files of a search for thresholds, and the model file that takes the best."""

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from tests.segmentation.helpers import noise

from cristae.configuration import load_config
from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import ConfigError, InputError, OutputExistsError
from cristae.evaluation.evaluate import EvaluateConfig
from cristae.grid import Box
from cristae.report.tuning import read_tuned, tune_volume
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.tuning.tune import TuneConfig
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


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["TUNED.yaml", "settings.csv", "tuning.html"])
@pytest.mark.parametrize("with_truth", [False, True])
def test_files_of_others_stay(pair, tmp_path, name, overwrite, with_truth):
    prediction, truth = pair
    (tmp_path / name).write_text("of a person")
    with pytest.raises(OutputExistsError, match=name):
        tune_volume(
            *(prediction, truth if with_truth else None, tmp_path),
            config=CONFIG,
            resources=SERIAL,
            overwrite=overwrite,
        )
    assert (tmp_path / name).read_text() == "of a person"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_faults_of_a_search_come_before_anything_is_written(pair, tmp_path):
    prediction, truth = pair
    short = truth.crop(Box((0, 0, 0), (8, 24, 30)))
    faults = [
        (replace(CONFIG, grid={"seed": (0.4,)}), truth, ConfigError, "no parameter 'seed'"),
        (replace(CONFIG, grid={"seed_threshold": ()}), truth, ConfigError, "has no values"),
        (replace(CONFIG, grid={"seed_threshold": (1.5,)}), truth, ConfigError, "seed_threshold"),
        (replace(CONFIG, score="matching/0.5/none"), truth, ConfigError, "'none' found"),
        (replace(CONFIG, evaluate=EvaluateConfig(crop=True)), truth, ConfigError, "crop"),
        (CONFIG, short, InputError, "expected the same place"),
    ]
    for config, true, error, says in faults:
        with pytest.raises(error, match=says):
            tune_volume(prediction, true, tmp_path / "tuned", config=config, resources=SERIAL)
        assert list(tmp_path.iterdir()) == []


def test_another_voxel_size_is_another_search(pair, tmp_path):
    tune_volume(*pair, tmp_path, config=CONFIG, resources=SERIAL)
    sized = [volume.with_(voxel_size_nm=(30.0, 8.0, 8.0)) for volume in pair]
    with pytest.raises(OutputExistsError, match=r"places\.prediction\.voxel_size_nm: None there"):
        tune_volume(*sized, tmp_path, config=CONFIG, resources=SERIAL)


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
