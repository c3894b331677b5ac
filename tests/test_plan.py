"""A plan reads, measures and proposes; what it fills in trains."""

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cristae.cli import app
from cristae.configuration import from_plain
from cristae.engine.executors import Resources
from cristae.errors import ConfigError
from cristae.pipeline import RunConfig
from cristae.plan import plan_run
from cristae.training.config_checks import check_train_config
from cristae.volumes.formats.ome_zarr import create_ome_zarr

SHAPE = (12, 128, 128)


@pytest.fixture
def tree(tmp_path):
    """Boxes of 8 x 10 x 12 voxels, every 16 pixels; the network is narrow, its strides open."""
    random = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint16)
    for i, (y, x) in enumerate(np.ndindex(8, 8), start=1):
        labels[2:10, 16 * y + 2 : 16 * y + 12, 16 * x + 2 : 16 * x + 14] = i
    image = np.where(labels > 0, 70, 170) + random.normal(0, 8, SHAPE)
    for name, array, kind in (
        ("image", image.astype(np.uint8), "image"),
        ("labels", labels, "labels"),
    ):
        volume = create_ome_zarr(
            tmp_path / f"{name}.zarr", shape=SHAPE, dtype=array.dtype, kind=kind,
            voxel_size_nm=(30.0, 8.0, 8.0),
        )  # fmt: skip
        volume.write(volume.box, array)
    sources = {key: str(tmp_path / f"{key}.zarr") for key in ("image", "labels")}
    volumes = [{"name": n, "group": n, **sources} for n in ("train", "validation")]
    train = {"network": {"widths": [4, 6]}, "steps": 10, "batch": 1}
    return {"out": str(tmp_path / "run"), "volumes": volumes, "train": train}


def test_a_training_is_planned(tree):
    found = plan_run(tree, "toy", Resources(workers=1))
    config = from_plain(RunConfig, found.tree, "filled")
    check_train_config(config.train)
    assert config.train.patch == (12, 96, 96)
    assert config.train.thresholds["min_size"] == 240  # a quarter of 8 x 10 x 12
    assert tree["train"]["network"] == {"widths": [4, 6]}  # as it was given
    given = {choice.key for choice in found.choices if choice.given}
    assert given == {"batch"}
    stages = {cost.stage: cost for cost in found.costs}
    assert set(stages) == {"train", "predict validation", "segment validation"}
    assert all(cost.seconds > 0 and cost.memory_bytes > 1 << 20 for cost in stages.values())
    for part in ("64 instances, 64 of them whole", "batch: 1, given", "bound by", "10 steps"):
        assert part in found.text


def test_a_finished_model_is_planned_for_volumes_without_labels(tree):
    volume = {"name": "new", "group": "test", "image": tree["volumes"][0]["image"]}
    found = plan_run(
        {"out": "run", "volumes": [volume], "model": "general"}, "toy", Resources(workers=1)
    )
    assert found.choices == ()
    predict, segment = found.costs
    assert predict.seconds > 0
    assert segment.seconds is None
    assert "need a labelled volume" in segment.text


def test_command_writes_the_filled_configuration(tree, tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "planned.yaml"
    command = ["plan", str(tmp_path / "toy.yaml"), "--out", str(out), "--workers", "1"]
    done = CliRunner().invoke(app, [*command, "--set", "train.patch=[4,32,32]"])
    assert done.exit_code == 0
    assert "patch: [4, 32, 32], given in the configuration; proposed: [12, 96, 96]" in done.output
    filled = yaml.safe_load(out.read_text())
    assert filled["train"]["patch"] == [4, 32, 32]
    assert filled["train"]["network"]["strides"] == [[1, 2, 2]]
    assert CliRunner().invoke(app, command).exit_code != 0  # it exists


def test_what_cannot_be_planned(tree):
    with pytest.raises(ConfigError, match="expected exactly one"):
        plan_run({**tree, "model": "general"}, "toy")
    with pytest.raises(ConfigError, match="no labelled volume of group train"):
        plan_run({**tree, "volumes": tree["volumes"][1:]}, "toy")
