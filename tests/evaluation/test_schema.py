"""The documented schema of scores.json against what is really written."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import EvaluateConfig, pool_scores, score_instances, write_scores
from cristae.evaluation.scores import SCHEMA_VERSION
from cristae.volumes.volume import array_volume

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMA = json.loads((DOCS / f"scores-{SCHEMA_VERSION}.schema.json").read_text())
TYPES = {"object": dict, "array": list, "number": int | float, "integer": int, "null": type(None)}
KNOWN = {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"}
KNOWN |= {"minimum", "maximum", "const", "$ref", "$defs", "$schema", "title", "description"}


def faults(value, schema, where="scores"):
    """What of a tree does not fit a schema, for the words of JSON Schema that ours uses."""
    assert set(schema) <= KNOWN, f"{where}: words this check does not know"
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where}: {value}"]
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, bool) or not any(isinstance(value, TYPES[name]) for name in names):
        return [f"{where}: {value!r} is no {names}"]
    found, low, high = [], schema.get("minimum", -np.inf), schema.get("maximum", np.inf)
    if isinstance(value, dict):
        found += [f"{where}: no {key}" for key in schema["required"] if key not in value]
        for key, child in value.items():
            if key in schema["properties"]:
                found += faults(child, schema["properties"][key], f"{where}/{key}")
            elif isinstance(schema["additionalProperties"], dict):
                found += faults(child, schema["additionalProperties"], f"{where}/{key}")
            else:
                found.append(f"{where}: {key} is not known")
    elif isinstance(value, list):
        if not schema["minItems"] <= len(value) <= schema["maxItems"]:
            found.append(f"{where}: {len(value)} items")
        for child in value:
            found += faults(child, schema["items"], where)
    elif value is not None and not low <= value <= high:
        found.append(f"{where}: {value} out of range")
    return found


def written(scores, tmp_path):
    write_scores(scores, tmp_path / "scores.json")
    return json.loads((tmp_path / "scores.json").read_text())


@pytest.fixture
def full(labels, tmp_path):
    """Scores with every block and every category."""
    volumes = [array_volume(a, voxel_size_nm=(30.0, 8.0, 8.0)) for a in labels(1)]
    config = EvaluateConfig(bootstrap_samples=20, without_border_cut=True)
    scores = score_instances(*volumes, config=config, resources=Resources(1, "serial"))
    return written(scores, tmp_path), scores


def test_everything_written_is_in_the_schema(full):
    tree, _ = full
    assert faults(tree, SCHEMA) == []
    assert set(tree) == set(SCHEMA["properties"]) - {"metrics"}
    assert faults(tree | {"metrics": {"gap": 1.5, "other": None}}, SCHEMA) == []
    assert faults(tree | {"metrics": {"gap": "far"}}, SCHEMA)
    assert set(tree["matching"]["0.5"]) == {"all", "small", "medium", "large"}


@pytest.mark.parametrize("kind", ["arrays", "empty", "pooled"])
def test_what_leaves_blocks_or_numbers_out_is_in_the_schema(full, labels, tmp_path, kind):
    config = EvaluateConfig(bootstrap_samples=5 if kind == "empty" else 0)
    serial = Resources(1, "serial")
    if kind == "pooled":
        scores = pool_scores([full[1].tables] * 2, config)
    else:
        pair = labels(1) if kind == "arrays" else [np.zeros((2, 3, 4), np.uint8)] * 2
        scores = score_instances(*pair, config=config, resources=serial)
    tree = written(scores, tmp_path)
    assert faults(tree, SCHEMA) == []
    assert ("intervals" in tree) == (kind == "empty")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("schema_version",), 2, id="version"),
        pytest.param(("average_precision_coco", "75"), 1.5, id="range"),
        pytest.param(("average_precision_coco", "75"), "high", id="type"),
        pytest.param(("matching", "0.5", "all", "tp"), 1.5, id="count"),
        pytest.param(("matching", "0.5", "huge"), {}, id="category"),
        pytest.param(("intervals", "ap_75"), [0.5], id="interval"),
        pytest.param(("voxel", "voi_split"), -1.0, id="bits"),
        pytest.param(("without_border_cut", "voxel"), {}, id="block"),
    ],
)
def test_other_trees_are_refused(full, path, value):
    tree = copy.deepcopy(full[0])
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert len(faults(tree, SCHEMA)) >= 1
    del node[path[-1]]
    if path[-1] not in ("huge", "voxel"):
        assert faults(tree, SCHEMA) == [f"{'/'.join(('scores', *path[:-1]))}: no {path[-1]}"]


def test_the_page_names_every_key():
    page = (DOCS / "scores.md").read_text()
    keys = set(SCHEMA["properties"])
    for block in SCHEMA["$defs"].values():
        keys |= set(block.get("properties", {}))
    assert [key for key in sorted(keys) if f"`{key}`" not in page and f"## {key}" not in page] == []
