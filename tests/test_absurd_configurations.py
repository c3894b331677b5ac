"""Configurations that nobody means are answered at once, with one error."""

import time

import pytest

from cristae.configuration import load_config, load_tree
from cristae.errors import ConfigError, SourceNotFoundError
from cristae.segmentation.config import SegmentConfig

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)

ABSURD = {
    "deep lists": "a: " + "[" * 3000 + "]" * 3000,
    "deep keys": "a: " + "{b: " * 3000 + "1" + "}" * 3000,
    "deep blocks": "\n".join(" " * i + "a:" for i in range(600)),
    "left open": "[" * 100_000,
    "aliases": BOMB,
    "merged aliases": "a: &a {x: 1}\nb: &b {<<: [" + ", ".join(["*a"] * 60_000) + "]}\n"
    "c: {<<: [" + ", ".join(["*b"] * 10) + "]}",
    "an alias to itself": "a: &a [*a]",
    "large": "a: " + "x" * (2 << 20),
    "many": "a: [" + "1," * 300_000 + "]",
    "a date that is none": "a: 2024-13-45",
    "a number of 5000 digits": "a: " + "9" * 5000,
    "no text": "\x00\x01",
    "an object": "a: !!python/object/apply:os.system [true]",
}


@pytest.mark.parametrize("name", list(ABSURD))
def test_an_absurd_file_is_one_error_within_two_seconds(tmp_path, name):
    (tmp_path / "c.yaml").write_text(ABSURD[name])
    begun = time.perf_counter()
    with pytest.raises(ConfigError, match=r"c\.yaml") as error:
        load_tree(tmp_path / "c.yaml")
    assert time.perf_counter() - begun < 2
    assert len(str(error.value)) < 2000


def test_bytes_that_are_no_text_are_one_error(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_tree(tmp_path / "c.yaml")


@pytest.mark.parametrize("value", ["[" * 3000, "&a [*a]", "9" * 5000, "2024-13-45"])
def test_an_absurd_setting_is_one_error(value):
    with pytest.raises(ConfigError, match="--set a=") as error:
        load_tree({}, [f"a={value}"])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_that_are_none_are_named(value):
    with pytest.raises(ConfigError, match=r"min_size: .* found, expected a finite number"):
        load_config(SegmentConfig, {}, [f"min_size={value}"])


def test_aliases_within_measure_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert load_tree(tmp_path / "c.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_a_path_with_a_nul_is_not_found():
    with pytest.raises(SourceNotFoundError):
        load_tree("a\0b.yaml")
