import dataclasses

import pytest

from cristae.configuration import config_dataclass, load_config, to_plain
from cristae.errors import ConfigError, SourceNotFoundError
from cristae.prediction.checks import PredictConfig
from cristae.training.config import TrainConfig


@config_dataclass
class Inner:
    widths: tuple[int, ...] = (8, 16)
    rate: float = 1e-3


@config_dataclass
class Outer:
    name: str
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()


def test_yaml_with_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: x\ninner: {rate: 1}\nparts: [{rate: 2}, {}]\n")
    config = load_config(Outer, path, ["inner.widths=[4]", "parts.1.rate=1e-2", "name=y"])
    assert config == Outer("y", Inner((4,), 1.0), (Inner(rate=2.0), Inner(rate=0.01)))
    assert load_config(Outer, to_plain(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "z"


@pytest.mark.parametrize(
    ("tree", "overrides", "says"),
    [
        ({"name": "x", "inner": {"rat": 1}}, [], "inner.rat: no such key"),
        ({"name": "x"}, ["inner.rat=1"], "inner.rat: no such key"),
        ({"name": 3}, [], "name: .*found 3"),
        ({}, [], "name"),
        ({"name": "x", "inner": {"widths": [1.5]}}, [], r"inner.widths.0: .*1.5"),
        ({"name": "x"}, ["inner"], "expected key=value"),
        ({"name": "x", "parts": [{}]}, ["parts.3.rate=1"], "expected an index from 0 to 0"),
        ({"name": "x"}, ["name.first=1"], "has no keys"),
    ],
)
def test_faults_name_the_key(tree, overrides, says):
    with pytest.raises(ConfigError, match=says):
        load_config(Outer, tree, overrides)


def test_all_faults_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, {"name": 1, "inner": {"x": 1}, "y": 2})
    assert all(key in str(caught.value) for key in ("name", "inner.x", "y"))


def test_a_file_that_is_not_there_or_not_yaml(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"nowhere\.yaml"):
        load_config(Outer, tmp_path / "nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(Outer, bad)


def test_settings_are_read_by_their_former_names(tmp_path):
    file = tmp_path / "predict.yaml"
    file.write_text("variants: 4\nsection_step: 2\n")
    assert load_config(PredictConfig, file) == PredictConfig(tta=4, z_stride=2)
    assert load_config(PredictConfig, file, ["tta=8"]).tta == 8
    assert load_config(PredictConfig, {"tta": 4}, ["variants=1"]).tta == 1
    with pytest.warns(DeprecationWarning, match="expected tta"):
        assert PredictConfig(variants=4) == PredictConfig(tta=4)
    train = load_config(TrainConfig, {"paste": {"share": 0.5}})
    assert train.copy_paste.share == 0.5
    with pytest.raises(ConfigError, match=r"variants: no such key"):
        load_config(PredictConfig, {"variants": 1, "tta": 4})
