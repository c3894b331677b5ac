"""Settings are listed with what they take, found when misspelt, and read from a file."""

from importlib import import_module

import pytest
import yaml
from typer.testing import CliRunner

from cristae import cli
from cristae.cli.settings import STAGES, stage_config
from cristae.errors import ConfigError
from cristae.pipeline import RunConfig
from cristae.prediction.checks import PredictConfig
from cristae.segmentation.config import SegmentConfig
from cristae.settings import nearest, settings_of


def cristae(*arguments):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_has_a_text_a_type_and_a_default(stage):
    module, name, before = STAGES[stage]
    found = list(settings_of(getattr(import_module(module), name), before))
    assert len(found) >= 4
    assert [setting.key for setting in found if not setting.text] == []
    assert [setting.key for setting in found if not (setting.type and setting.default)] == []


@pytest.mark.parametrize("stage", ["segment", "simulate"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_settings(stage, flag):
    module, name, before = STAGES[stage]
    text = cristae(stage, flag)
    for setting in settings_of(getattr(import_module(module), name), before):
        assert f"  {setting.key}  ({setting.type}; {setting.default})" in text


def test_all_settings():
    text = cristae("settings")
    for key in ("volumes.N.image", "train.steps", "predict.device", "segment.seed_threshold"):
        assert f"\n  {key}  (" in text
    assert "train.learning_rate  (number; 0.002)" in cristae("settings", "train")
    wrong = CliRunner().invoke(cli.app, ["settings", "segmentation"])
    assert isinstance(wrong.exception, ConfigError)


@pytest.mark.parametrize(
    ("cls", "key", "meant"),
    [
        (SegmentConfig, "seed_treshold", "seed_threshold"),
        (RunConfig, "train.learningrate", "train.learning_rate"),
        (RunConfig, "volumes.0.imge", "volumes.N.image"),
        (RunConfig, "learning_rate", "train.learning_rate"),
        (RunConfig, "trian.steps", "train.steps"),
        (SegmentConfig, "xyz", None),
    ],
)
def test_the_nearest_of_a_wrong_key(cls, key, meant):
    assert nearest(key, cls) == meant


def test_a_misspelt_setting_names_the_right_one():
    with pytest.raises(ConfigError, match=r"seed_treshold: no such key .* is seed_threshold"):
        stage_config(SegmentConfig, "segment", None, {}, ["seed_treshold=0.8"])


def test_settings_from_a_file(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"tta": 4, "device": "cpu", "truncate": True}))
    config = stage_config(PredictConfig, "predict", file, {"device": "auto"}, ["variants=8"])
    assert config == PredictConfig(tta=8, device="auto", truncate=True)


def test_settings_from_a_file_of_a_run(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        yaml.safe_dump({"volumes": [], "out": "x", "segment": {"min_size": 7}, "predict": None})
    )
    assert stage_config(SegmentConfig, "segment", file, {}, None) == SegmentConfig(min_size=7)
    assert stage_config(PredictConfig, "predict", file, {}, None) == PredictConfig()
    file.write_text("min_sise: 7")
    with pytest.raises(ConfigError, match=r"run\.yaml: min_sise: no such key"):
        stage_config(SegmentConfig, "segment", file, {}, None)


def test_a_command_reads_its_file(tmp_path):
    file = tmp_path / "simulate.yaml"
    file.write_text("shape: [6, 64, 64]\nseed: 3\n")
    cristae("simulate", tmp_path / "made", "--config", file, "--set", "seed=4", "-q")
    text = cristae("info", tmp_path / "made" / "volume.zarr", "-q")
    assert "6 x 64 x 64 voxels" in text
