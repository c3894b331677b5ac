"""Recipes of PyTorch Connectomics v1 become runs that train, and what is left out is listed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile
import yaml
from tests.recipes import BASE, BCE, RECIPES, override
from typer.testing import CliRunner

from cristae.cli import app
from cristae.configuration import from_plain, to_plain
from cristae.errors import ConfigError, InputError
from cristae.networks.families.pytc.recipe_files import read_pytc_config
from cristae.pipeline import RunConfig
from cristae.training.config import TrainConfig
from cristae.training.import_config import import_pytc_config
from cristae.training.train import train_model

from .conftest import toy_arrays


@pytest.fixture
def write(tmp_path):
    def written(tree):
        (tmp_path / "base.yaml").write_text(BASE)
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
        return [tmp_path / "base.yaml", tmp_path / "own.yaml"]

    return written


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_of_mitoem_are_the_shipped_ones(name, write):
    """Two ways to the same targets, losses, optimiser, schedule and augmentation."""
    imported = import_pytc_config(write(override(*RECIPES[name])))
    found = from_plain(RunConfig, imported.tree, "imported").train
    path = Path(__file__).parents[2] / "configs" / f"mitoem_r_{name}.yaml"
    shipped = from_plain(TrainConfig, yaml.safe_load(path.read_text())["train"], path.name)
    ours = {
        "patch",  # 17 sections there, 16 here
        "decoder",
        "validate_every",
        "validate_ap_every",
        "validate_ap_boxes",
        "tune",
        "checkpoint_every",
        "card",
    }
    a, b = (
        {k: v for k, v in to_plain(one).items() if k not in ours and k != "targets"}
        for one in (found, shipped)
    )
    assert a == b
    assert found.patch == (17, 224, 224)
    if "c" in name:
        assert found.targets == shipped.targets
    said = "\n".join(imported.not_carried)
    for part in (
        "MODEL.INPUT_SIZE: [17, 225, 225] became [17, 224, 224]",
        "MODEL.NORM_MODE: the network is cristae's own",
        "DATASET.DATA_CHUNK_NUM: patches come from anywhere",
        "INFERENCE.STRIDE: of prediction",
        "SYSTEM.NUM_CPUS: of the machine",
    ):
        assert part in said
    assert "BASE_LR" not in said


def test_volumes_of_the_data_set(write, tmp_path):
    """Two folders, for the joint recipe, in place of the tile indices it names."""
    for letter in "RH":
        for folder, first in (("im", "im0000.png"), ("mito-train-v2", "seg0000.tif")):
            (tmp_path / f"MitoEM-{letter}" / folder).mkdir(parents=True)
            (tmp_path / f"MitoEM-{letter}" / folder / first).touch()
    folders = [tmp_path / "MitoEM-R", tmp_path / "MitoEM-H"]
    imported = import_pytc_config(write(override(*RECIPES["bc"])), folders)
    volumes = from_plain(RunConfig, imported.tree, "imported").volumes
    assert [volume.name for volume in volumes] == ["MitoEM-R_z000-399", "MitoEM-H_z000-399"]
    assert volumes[1].labels == str(folders[1] / "mito-train-v2")
    assert "DATASET.LABEL_NAME: volumes are those of --data" in imported.not_carried
    with pytest.raises(InputError, match="not the layout of MitoEM"):
        import_pytc_config(write(override(*RECIPES["bc"])), [tmp_path])


def test_distances_in_three_dimensions(write):
    """The joint BCD recipe: ``5-3d-1-0-4.0``."""
    planes, targets, *rest = RECIPES["bcd"]
    tree = override(planes, [*targets[:2], "5-3d-1-0-4.0"], *rest)
    tree["MODEL"]["LABEL_EROSION"] = 1
    tree["SOLVER"] = {"LR_SCHEDULER_NAME": "MultiStepLR", "STEPS": "(80000, 90000)"}
    tree["AUGMENTOR"] = {"ENABLED": False}
    found = from_plain(RunConfig, import_pytc_config(write(tree)).tree, "imported").train
    assert found.targets.distance == "instance"
    assert found.targets.distance_across_sections
    assert found.targets.distance_background_around
    assert found.targets.distance_z_scale == 4.0
    assert found.targets.label_erosion == 1
    assert (found.schedule, found.milestones, found.warmup_steps) == (
        "warmup_multistep",
        (80000, 90000),
        0,
    )
    assert found.augmentation == "own"
    assert (found.geometry.turn, found.grey.tone, found.grey.noise) == (0, 0, 0)


def test_all_faults_at_once(write):
    tree = override(
        2,
        ["0", "4-x-1"],
        [["JaccardLoss"], [BCE]],
        [[1.0], [1.0]],
        [["0"], ["2-10-5"]],
        ["sigmoid", "sigmoid"],
    )
    tree["SOLVER"] = {"NAME": "Adam", "LR_SCHEDULER_NAME": "Cyclic"}
    tree["DATASET"] = {"VAL_IMAGE_NAME": "a.json@b.json"}
    with pytest.raises(ConfigError) as caught:
        import_pytc_config(write(tree))
    for part in ("'4-x-1'", "JaccardLoss", "'2-10-5'", "'Adam'", "'Cyclic'", "2 images, 0 labels"):
        assert part in str(caught.value)
    tree = override(*RECIPES["bc"])
    tree["MODEL"]["LOSS_OPTION"] = [[BCE]]
    with pytest.raises(ConfigError, match="for 1, 2, 2 targets: expected 2"):
        import_pytc_config(write(tree))


def test_command_writes_what_trains(write, tmp_path, monkeypatch):
    """Base and BC by the command line; its volumes are the tile indices the recipe names."""
    paths = write(override(*RECIPES["bc"]))
    out = tmp_path / "bc.yaml"
    command = ["import-config", *map(str, paths), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert "not carried over: MODEL.NORM_MODE" in done.output
    assert CliRunner().invoke(app, command).exit_code == 0  # the same again
    other = ["import-config", str(paths[0]), "--out", str(out)]
    assert CliRunner().invoke(app, other).exit_code != 0  # another one is there
    assert CliRunner().invoke(app, [*other, "--overwrite"]).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    shown = CliRunner().invoke(app, ["import-config", *map(str, paths)])
    assert out.read_text() in shown.output
    image, labels = toy_arrays((4, 96, 96))
    (tmp_path / "data").mkdir()
    for name, array in (("im_train", image), ("mito_train", labels)):
        files = [f"{name}_{z}.tif" for z in range(4)]
        for file, plane in zip(files, array, strict=True):
            tifffile.imwrite(tmp_path / "data" / file, plane)
        index = {
            "ndim": 1, "dtype": "uint16" if name == "mito_train" else "uint8", "image": files,
            "depth": 4, "height": 96, "width": 96, "tile_size": 96, "tile_ratio": 1,
            "tile_st": [0, 0], "n_columns": 1, "n_rows": 1,
        }  # fmt: skip
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(index))
    monkeypatch.chdir(tmp_path)
    config = from_plain(RunConfig, yaml.safe_load(out.read_text()), "bc.yaml")
    network = replace(config.train.network, widths=(4,) * 5)
    small = replace(config.train, network=network, steps=1, batch=1, patch=(4, 32, 32))
    small = replace(small, calibration_batches=1)
    model = train_model(small, config.volumes, tmp_path / "model.pt", threads=1)
    assert model.card["trained_on"] == "train_0"
    assert model.decoder == "bc_watershed"


def test_the_recipes_own_network(write):
    """Network, windows and patch as they stand; its layers are no longer listed as left out."""
    paths = write(override(*RECIPES["bcd"]))
    imported = import_pytc_config(paths, network="pytc")
    found = from_plain(RunConfig, imported.tree, "imported").train
    setup = read_pytc_config(paths)
    assert (found.network, found.windows) == (setup.network, setup.windows)
    assert found.network.outputs == ("sigmoid", "sigmoid", "tanh")
    assert found.patch == (17, 225, 225)
    own = import_pytc_config(paths)
    left = {line.split(":")[0] for line in own.not_carried} - {
        line.split(":")[0] for line in imported.not_carried
    }
    assert {"MODEL.ARCHITECTURE", "MODEL.NORM_MODE", "INFERENCE.STRIDE", "MODEL.INPUT_SIZE"} <= left
    assert "MODEL.OUTPUT_ACT" not in left
