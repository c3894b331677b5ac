"""No command removes its own input, and none reads an output that its stage has not finished."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from cristae import cli
from cristae.engine.files import write_atomic
from cristae.engine.ledger import open_ledger
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import InputError, OutputExistsError
from cristae.evaluation.evaluate import ScoreFiles, evaluate_volume, score_instances
from cristae.evaluation.scores import load_scores
from cristae.evaluation.scoring import EvaluateConfig
from cristae.evaluation.tables import read_scores
from cristae.measurement.measure import measure_instances, read_measurements
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, load_model, save_model
from cristae.report.tuning import read_tuned
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr

SIZE = (30.0, 8.0, 8.0)
PLAIN = EvaluateConfig(categories="none")


@pytest.fixture
def labels(tmp_path):
    array = np.zeros((8, 32, 32), "u2")
    array[2:6, 5:20, 5:20] = 1
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="minisblack")
    return tmp_path / "x.tif"


@pytest.fixture
def image(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (8, 32, 32), dtype="u1")
    convert_volume(open_volume(array, voxel_size_nm=SIZE), tmp_path / "x.zarr")
    return tmp_path / "x.zarr"


def state(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def spellings(path):
    """The same path in other words, and a link to it."""
    link = path.with_name(f"link{path.suffix}")
    link.symlink_to(path)
    return [path, path.parent / ".." / path.parent.name / path.name, link]


STAGES = {
    "measure": lambda source, out: measure_instances(source, out, overwrite=True),
    "evaluate": lambda source, out: evaluate_volume(
        source, source, ScoreFiles(out, None, True), config=PLAIN
    ),
}


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_file_that_is_read_is_never_the_output(labels, stage):
    source = open_volume(labels, voxel_size_nm=SIZE)
    hard = labels.with_name("hard.tif")
    hard.hardlink_to(labels)
    for out in [*spellings(labels), hard]:
        before = state(labels.parent)
        with pytest.raises(InputError, match="is an input itself"):
            STAGES[stage](source, out)
        assert state(labels.parent) == before


def test_an_image_that_is_read_is_never_the_output(image, tmp_path):
    source = open_volume(image)
    config = SegmentConfig(decoder="binary_connected")
    before = state(image)
    for out in [*spellings(image), image / "inside.zarr"]:
        with pytest.raises(InputError, match=r"is an input itself|lies inside an input"):
            segment_volume(source, out, config=config, overwrite=True)
        with pytest.raises(InputError):
            convert_volume(source, out, overwrite=True)
    assert state(image) == before
    outer = tmp_path / "outer.zarr"
    outer.mkdir()
    shutil.move(image, outer / "x.zarr")
    with pytest.raises(InputError, match="holds an input"):
        segment_volume(open_volume(outer / "x.zarr"), outer, config=config, overwrite=True)
    assert {path.name for path in state(outer)} == {path.name for path in before}


def half_written(path, stage="predict", kind="prediction"):
    """An image of which the first of eight pieces is written."""
    with open_ledger(path, stage=stage, inputs={}, settings={}) as ledger:
        volume = create_ome_zarr(
            path, shape=(128, 1024, 1024), dtype="u1", kind=kind, voxel_size_nm=SIZE
        )
        ledger.mark("predict", "0:64,0:512,0:512")
        ledger.mark("core", "first", [1, 2, 3])
    return volume


@pytest.mark.parametrize("inside", ["", "0"])
@pytest.mark.parametrize("name", ["p.zarr", "moved"])
def test_an_unfinished_image_is_refused_with_what_is_missing(tmp_path, name, inside):
    half_written(tmp_path / "p.zarr")
    if name != "p.zarr":
        (tmp_path / "p.zarr").rename(tmp_path / name)
    expected = r"unfinished: predict has written 1 of 8 pieces of it, the rest is missing"
    volume = open_volume(tmp_path / name / inside)
    labels = volume.with_(channels=None, kind="labels", dtype=np.dtype("u1"))
    for stage in (
        lambda: convert_volume(volume, tmp_path / "v.zarr"),
        lambda: segment_volume(
            volume, tmp_path / "i.zarr", config=SegmentConfig(decoder="binary_connected")
        ),
        lambda: measure_instances(labels),
        lambda: measure_instances(labels, tmp_path / "i.csv"),
        lambda: score_instances(labels, labels, config=PLAIN),
        lambda: evaluate_volume(labels, labels, tmp_path / "s.json", config=PLAIN),
    ):
        with pytest.raises(InputError, match=expected):
            stage()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_image_that_is_not_begun_is_refused(tmp_path):
    open_ledger(tmp_path / "p.zarr", stage="segment", inputs={}, settings={}).close()
    with pytest.raises(InputError, match="segment has not begun to write it"):
        refuse_unfinished(tmp_path / "p.zarr")


def test_an_image_without_its_last_step_is_refused(tmp_path):
    with open_ledger(tmp_path / "p.zarr", stage="convert", inputs={}, settings={}) as ledger:
        create_ome_zarr(tmp_path / "p.zarr", shape=(2, 3, 4), dtype="u1", kind="image",
                        voxel_size_nm=None)  # fmt: skip
        ledger.mark("copy", "0:2,0:3,0:4")
    with pytest.raises(InputError, match="has written all 1 pieces of it, and has still to compl"):
        refuse_unfinished(tmp_path / "p.zarr")


def begun(path, content, stage):
    """A single file of a stage that has not come to its end."""
    with open_ledger(path, stage=stage, inputs={}, settings={}):
        write_atomic(path, lambda file: file.write(content))
    return path


def test_an_unfinished_model_is_no_input(tmp_path, image):
    network = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
    model = Model(network, build_network(network).state_dict(), network.channels)
    save_model(model, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    unfinished = begun(tmp_path / "m.pt", whole, "train")
    before = state(tmp_path)
    for command in (
        ["predict", image, unfinished, tmp_path / "p.zarr"],
        ["average", tmp_path / "whole.pt", unfinished, "--out", tmp_path / "n.pt"],
        ["preview", image, unfinished, tmp_path / "p.html"],
    ):
        result = CliRunner().invoke(cli.app, [*map(str, command)])
        assert isinstance(result.exception, InputError), command
        told = "m.pt: unfinished: train has still to complete it; expected a finished output"
        assert told in str(result.exception)
    assert state(tmp_path) == before
    unfinished.with_name("copy.pt").write_bytes(whole)
    load_model(unfinished.with_name("copy.pt"))


def test_a_model_that_is_trained_further_is_whole_until_it_is_written_again(tmp_path):
    path, more = tmp_path / "m.pt", {"stage": "train", "inputs": {}, "settings": {}}
    with open_ledger(path, **more) as ledger:
        write_atomic(path, lambda file: file.write(b"of 10 steps"))
        ledger.finish()
    with open_ledger(path, **more) as ledger:
        ledger.reopen()
        refuse_unfinished(path)
        write_atomic(path, lambda file: file.write(b"of 15 steps"))
        with pytest.raises(InputError, match=r"m\.pt: unfinished"):
            refuse_unfinished(path)
        ledger.finish()
    refuse_unfinished(path)


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("t.csv", b"instance,score\n1,0.5\n", read_scores),
        ("t.csv", b"instance,voxels\n1,5\n", read_measurements),
        ("s.json", b'{"schema_version": 1}', load_scores),
        ("TUNED.yaml", b"decoder: binary_connected\n", read_tuned),
    ],
)
def test_an_unfinished_file_is_no_input(tmp_path, name, content, read):
    path = begun(tmp_path / name, content, "some stage")
    with pytest.raises(InputError, match=f"{name}: unfinished: some stage has still to complete"):
        read(path)


def padded(shape, row):
    return {"shape": shape, "sections": [0, 8], "rectangles": [row]}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"voxel_size_nm": [1, 2]}, r"voxel_size_nm: found \[1, 2\]"),
        ({"voxel_size_nm": [1, 2, float("nan")]}, "voxel_size_nm"),
        ({"voxel_size_nm": "8"}, "voxel_size_nm: found '8'"),
        ({"origin_nm": None}, "origin_nm: found None"),
        ({"origin_nm": [0, 0, float("inf")]}, "origin_nm"),
        ({"kind": 3}, "kind: found 3"),
        ({"channels": 7}, "channels: found 7"),
        ({"intensity": 7}, "intensity: intensity statistics: found 7"),
        ({"intensity": {"low": 1}}, r"intensity: intensity statistics: found keys \['low'\]"),
        ({"padding": [1]}, r"padding: padding: found \[1\]"),
        ({"padding": padded([8, 32, 32], [0, 0, 9, 0, 99])}, "expected what fits"),
        ({"padding": padded([8, 32, 32], [1, 0, 9, 0, 9])}, "expected what fits"),
        ({"padding": padded([8, 32, 40], [0, 0, 9, 0, 40])}, "found of a volume of .8, 32, 40."),
    ],
)
def test_own_attributes_of_other_kinds_are_one_error(image, changes, fault):
    tree = json.loads((image / "zarr.json").read_text())
    tree["attributes"]["cristae"] |= changes
    (image / "zarr.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=fault):
        open_volume(image)


@pytest.mark.parametrize("ours", [[], 3, "text", [["kind", "image"]]])
def test_own_attributes_that_are_no_keys_and_values_are_one_error(image, ours):
    tree = json.loads((image / "zarr.json").read_text())
    tree["attributes"]["cristae"] = ours
    (image / "zarr.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"zarr\.json, attribute cristae: found .*, expected na"):
        open_volume(image)


@pytest.mark.parametrize("place", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize("damage", ["", "{", "[" * 3000, '{"a": ' * 900 + "1" + "}" * 900, "\0"])
def test_damaged_metadata_is_one_error_that_names_the_file(image, place, damage):
    (image / place).write_text(damage)
    with pytest.raises(InputError, match=place):
        open_volume(image)


def test_a_foreign_output_is_never_replaced(labels, tmp_path):
    source = open_volume(labels, voxel_size_nm=SIZE)
    (tmp_path / "thesis.csv").write_text("years of work")
    with pytest.raises(OutputExistsError, match="not made by cristae"):
        measure_instances(source, tmp_path / "thesis.csv", overwrite=True)
    assert (tmp_path / "thesis.csv").read_text() == "years of work"
