"""Every command that lays two volumes on each other does so by place, or as `--align` says."""

import numpy as np
import pytest
import tifffile
import torch
from torch import nn
from typer.testing import CliRunner

from cristae import cli
from cristae.configuration import load_config
from cristae.errors import ConfigError, CristaeError, InputError
from cristae.evaluation.compare import compare_runs
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.evaluation.scores import Scores, load_scores, write_scores
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, load_model, save_model
from cristae.pipeline import RunConfig, run
from cristae.prediction.predict import predict_volume
from cristae.runfolder import RunFolder
from cristae.samples.dataset import Sample, open_sample
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.training.config import TrainConfig
from cristae.training.config_checks import check_train_config
from cristae.training.sampling import SamplingConfig
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import array_volume

NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
SIZE, COARSE = (30.0, 8.0, 8.0), (60.0, 16.0, 16.0)
SHAPE = (8, 32, 48)


def cristae(*arguments):
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "-q"])
    if isinstance(result.exception, CristaeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def store(tmp_path):
    """Writes an array as Zarr with a place; returns its path."""

    def write(name, array, size=SIZE, origin=(0, 0, 0), kind="labels"):
        volume = array_volume(array, voxel_size_nm=size, kind=kind)
        placed = volume.with_(origin_nm=tuple(float(o) for o in origin))
        convert_volume(placed, tmp_path / name, kind=kind, pyramid=False)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network that answers anything, 0 nowhere."""
    torch.manual_seed(0)
    network = build_network(NETWORK)
    nn.init.normal_(network.head.weight, std=0.2)
    made = Model(
        NETWORK,
        network.state_dict(),
        NETWORK.channels,
        decoder="bc_watershed",
        thresholds={"seed_threshold": 0.5, "contour_threshold": 0.9, "foreground_threshold": 0.5},
    )
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(made, path)
    return path


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(1, 255, SHAPE, np.uint8)


def instances(shape=SHAPE):
    """Two instances; every voxel of a coarser grid of (2, 2, 2) is of one id."""
    labels = np.zeros(shape, np.uint16)
    labels[2:6, 4:12, 6:20] = 1
    labels[2:8, 16:24, 30:40] = 2
    return labels


def inside(path):
    return open_volume(path).read().max(axis=0) > 0


MASK = np.zeros((4, 16, 24), np.uint8)
MASK[1:3, 2:9, 5:11] = 1
FINE_MASK = MASK.repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(bool)


@pytest.mark.parametrize("origin", [(15, 4, 4), (0, 0, 0)], ids=["mean", "unshifted"])
def test_predict_lays_a_coarser_mask_by_place(store, grey, model, tmp_path, origin):
    """The roi counts voxels of the source, whatever the mask's are."""
    image = store("image.zarr", grey, kind="image")
    mask = store("mask.zarr", MASK, COARSE, origin, kind=None)
    cristae("predict", image, model, tmp_path / "p.zarr", "--mask", mask)
    assert np.array_equal(inside(tmp_path / "p.zarr"), FINE_MASK)
    roi = "3:8,5:32,11:40"
    cristae("predict", image, model, tmp_path / "r.zarr", "--mask", mask, "--roi", roi)
    assert np.array_equal(inside(tmp_path / "r.zarr"), FINE_MASK[3:8, 5:32, 11:40])


def test_predict_lays_a_mask_of_a_part_where_it_is(store, grey, model, tmp_path):
    image = store("image.zarr", grey, kind="image")
    fine = FINE_MASK.astype(np.uint8)
    part = store("part.zarr", fine[2:8, 4:30, 6:40], origin=(60, 32, 48), kind=None)
    cristae("predict", image, model, tmp_path / "p.zarr", "--mask", part)
    assert np.array_equal(inside(tmp_path / "p.zarr"), FINE_MASK)
    away = store("away.zarr", fine, origin=(0, 4000, 0), kind=None)
    with pytest.raises(InputError, match=r"mask .*away.zarr: shape .* origin 0, 4000, 0 nm.*meet"):
        cristae("predict", image, model, tmp_path / "a.zarr", "--mask", away)
    assert not (tmp_path / "a.zarr").exists()
    options = ("--mask", away, "--align", "voxels")
    cristae("predict", image, model, tmp_path / "a.zarr", *options)
    assert np.array_equal(inside(tmp_path / "a.zarr"), FINE_MASK)
    again = open_volume(tmp_path / "a.zarr").fingerprint
    cristae("predict", image, model, tmp_path / "a.zarr", *options)
    assert open_volume(tmp_path / "a.zarr").fingerprint == again
    options = ("--roi", "1:7,3:30,2:40", *options)
    cristae("predict", image, model, tmp_path / "r.zarr", *options)
    assert np.array_equal(inside(tmp_path / "r.zarr"), FINE_MASK[1:7, 3:30, 2:40])


def test_a_mask_elsewhere_is_another_prediction(grey, model, tmp_path):
    """The same voxels at another place leave out other voxels, so it is no "already done"."""
    source = array_volume(grey, voxel_size_nm=SIZE)
    mask = array_volume(FINE_MASK.astype(np.uint8), voxel_size_nm=SIZE)
    network = load_model(str(model))
    predict_volume(source, network, tmp_path / "p.zarr", mask=mask)
    moved = mask.with_(origin_nm=(30.0, 0.0, -16.0))
    with pytest.raises(CristaeError, match="mask"):
        predict_volume(source, network, tmp_path / "p.zarr", mask=moved)
    predict_volume(source, network, tmp_path / "p.zarr", mask=moved, overwrite=True)
    expected = np.zeros_like(FINE_MASK)
    expected[1:, :, :-2] = FINE_MASK[:-1, :, 2:]
    assert np.array_equal(inside(tmp_path / "p.zarr"), expected)


def test_predict_takes_a_mask_without_a_voxel_size_by_number(store, grey, model, tmp_path):
    image = store("image.zarr", grey, origin=(90, 20, 30), kind="image")
    tifffile.imwrite(tmp_path / "mask.tif", FINE_MASK.astype(np.uint8), photometric="minisblack")
    roi = "3:8,5:32,11:40"
    options = ("--mask", tmp_path / "mask.tif", "--roi", roi)
    cristae("predict", image, model, tmp_path / "r.zarr", *options)
    assert np.array_equal(inside(tmp_path / "r.zarr"), FINE_MASK[3:8, 5:32, 11:40])
    tifffile.imwrite(tmp_path / "mask.tif", MASK, photometric="minisblack")
    with pytest.raises(InputError, match=r"voxel size unknown: expected \(8, 32, 48\)"):
        cristae("predict", image, model, tmp_path / "x.zarr", *options)


def scores_of(*arguments, out):
    options = ("--json", out, "--categories", "none", "--set", "bootstrap_samples=0")
    cristae("evaluate", *arguments, *options)
    counts = load_scores(out).matching["0.75"]["all"]
    return counts["tp"], counts["fp"], counts["fn"]


@pytest.mark.parametrize("origin", [(15, 4, 4), (0, 0, 0)], ids=["mean", "unshifted"])
def test_evaluate_compares_across_a_whole_factor(store, tmp_path, origin):
    fine = store("fine.zarr", instances())
    coarse = store("coarse.zarr", instances()[::2, ::2, ::2], COARSE, origin)
    assert scores_of(fine, coarse, out=tmp_path / "a.json") == (2, 0, 0)
    assert scores_of(coarse, fine, out=tmp_path / "b.json") == (2, 0, 0)
    # the roi counts voxels of the first volume, and holds one instance
    options = ("--roi", "1:8,3:32,1:25")
    assert scores_of(fine, coarse, *options, out=tmp_path / "c.json") == (1, 0, 0)
    options = ("--roi", "1:4,1:16,0:12")
    assert scores_of(coarse, fine, *options, out=tmp_path / "d.json") == (1, 0, 0)
    result = score_instances(open_volume(fine), open_volume(coarse))
    assert result.voxel["foreground_iou"] == 1.0


def test_evaluate_trusts_the_voxel_grid_where_told(store, tmp_path):
    found = store("found.zarr", instances(), origin=(0, 2, 2))
    true = store("true.zarr", instances())
    with pytest.raises(InputError, match=r"-0.25, -0.25\) voxels from .* `--align voxels`"):
        cristae("evaluate", found, true)
    align = ("--align", "voxels")
    assert scores_of(found, true, *align, out=tmp_path / "a.json") == (2, 0, 0)
    roi = ("--roi", ":,0:14,:")
    assert scores_of(found, true, *align, *roi, out=tmp_path / "b.json") == (1, 0, 0)
    other = store("other.zarr", instances(), size=(40.0, 9.0, 9.0))
    assert scores_of(found, other, *align, out=tmp_path / "c.json") == (2, 0, 0)
    config = load_config(EvaluateConfig, {"align": "corner"})
    assert score_instances(open_volume(found), open_volume(true), config=config).voxel


def test_evaluate_lays_masks_and_scores_by_place(store, tmp_path):
    labels = store("labels.zarr", instances())
    known = np.zeros((4, 16, 24), np.uint8)
    known[:, :7] = 1  # rows 0 to 13: one instance
    mask = store("known.zarr", known, COARSE, (15, 4, 4), kind=None)
    ranking = np.full((4, 16, 24), 200, np.uint8)
    heat = store("heat.zarr", ranking, COARSE, (15, 4, 4), kind="image")
    options = ("--mask", mask, "--scores", heat)
    assert scores_of(labels, labels, *options, out=tmp_path / "a.json") == (1, 0, 0)
    short = store("short.zarr", known[1:], COARSE, (75, 4, 4), kind=None)
    with pytest.raises(InputError, match=r"mask at 2:8,0:32,0:48 does not cover"):
        cristae("evaluate", labels, labels, "--mask", short)
    roi = ("--roi", "2:8,:,:")
    options = ("--mask", short, *roi)
    assert scores_of(labels, labels, *options, out=tmp_path / "b.json") == (1, 0, 0)


def sample(image, labels, **more):
    return Sample(name="a", image=str(image), labels=str(labels), **more)


def test_training_takes_labels_of_a_part_and_of_another_scale(store, grey, caplog):
    image, labels = store("image.zarr", grey, kind="image"), instances()
    part = store("part.zarr", labels[1:7, 2:30, 4:44], origin=(30, 16, 32))
    with caplog.at_level("WARNING", "cristae"):
        opened = open_sample(sample(image, part))
    assert "(6, 28, 40)" in caplog.text
    assert np.array_equal(opened.image.read(), grey[1:7, 2:30, 4:44])
    assert np.array_equal(opened.labels.read(), labels[1:7, 2:30, 4:44])
    coarse = store("coarse.zarr", labels[::2, ::2, ::2], COARSE, (15, 4, 4))
    opened = open_sample(sample(image, coarse, roi="1:8,3:32,5:48", mask=str(part)))
    assert np.array_equal(opened.image.read(), grey[1:7, 3:30, 5:44])
    assert np.array_equal(opened.labels.read(), labels[1:7, 3:30, 5:44])
    assert np.array_equal(opened.mask.read() != 0, labels[1:7, 3:30, 5:44] != 0)
    assert opened.labels.voxel_size_nm == SIZE


@pytest.mark.parametrize(
    ("size", "origin", "found"),
    [
        pytest.param((30.0, 16.0, 16.0), (3000, 0, 0), "do not meet", id="fault"),
        pytest.param(SIZE, (0, 4, 0), r"-?0.5, 0.0\) voxels", id="half"),
        pytest.param((30.0, 12.0, 12.0), (0, 0, 0), "whole number of times", id="size"),
    ],
)
def test_training_refuses_labels_that_lie_elsewhere(store, grey, size, origin, found):
    image = store("image.zarr", grey, kind="image")
    labels = store("labels.zarr", instances(), size, origin)
    with pytest.raises(InputError, match=found) as caught:
        open_sample(sample(image, labels))
    assert str(caught.value).startswith(f"volume 'a': labels {labels}: shape (8, 32, 48), voxel")
    assert f"does not fit {image}: shape (8, 32, 48), voxel size 30 x 8 x 8" in str(caught.value)
    opened = open_sample(sample(image, labels, align="voxels"))
    assert np.array_equal(opened.labels.read(), instances())
    assert opened.labels.voxel_size_nm == opened.image.voxel_size_nm == SIZE


def test_align_is_a_key_of_the_volumes_list(store, grey):
    tree = {"name": "a", "image": "i.tif", "labels": "l.tif", "align": "voxels"}
    config = load_config(RunConfig, {"volumes": [tree], "out": "r", "model": "general"})
    assert config.volumes[0].align == "voxels"
    with pytest.raises(ConfigError, match="align"):
        load_config(RunConfig, {"volumes": [tree | {"align": "x"}], "out": "r", "model": "general"})


QUICK = ("--set", "evaluate.bootstrap_samples=0", "--set", "evaluate.categories=none")


@pytest.mark.long
def test_run_lays_the_truth_by_place(store, grey, model, tmp_path):
    """A truth at twice the voxel size and half a voxel away: refused, or laid by its voxels."""
    image = store("image.zarr", grey, kind="image")
    truth = store("truth.zarr", instances()[::2, ::2, ::2], COARSE, (15, 6, 6))
    command = ("run", image, tmp_path / "run", "--model", model, "--truth", truth, *QUICK)
    with pytest.raises(InputError, match=r"labels .*truth.zarr: .* whole voxels"):
        cristae(*command)
    assert not (tmp_path / "run").exists()
    cristae(*command, "--align", "voxels")
    folder = RunFolder(tmp_path / "run").sample("volume")
    stored = open_volume(folder.truth)
    assert (stored.voxel_size_nm, stored.origin_nm) == (SIZE, (0.0, 0.0, 0.0))
    assert np.array_equal(stored.read(), instances())
    assert folder.scores.is_file()
    with pytest.raises(ConfigError, match="--align"):
        cristae("run", tmp_path / "run" / "run.yaml", "--align", "voxels")


@pytest.mark.long
def test_run_asks_before_it_scores_a_part(store, grey, model, tmp_path):
    image = store("image.zarr", grey, kind="image")
    part = store("part.zarr", instances()[1:7], origin=(30, 0, 0))
    sample = {"name": "a", "image": str(image), "labels": str(part), "group": "test"}
    evaluate = {"bootstrap_samples": 0, "categories": "none"}
    tree = {"volumes": [sample], "out": str(tmp_path / "run"), "model": str(model)}
    with pytest.raises(InputError, match=r"labels .*part.zarr: .*evaluate.crop: true"):
        run(load_config(RunConfig, {**tree, "evaluate": evaluate}))
    assert not (tmp_path / "run").exists()
    run(load_config(RunConfig, {**tree, "evaluate": {**evaluate, "crop": True}}))
    assert RunFolder(tmp_path / "run").sample("a").scores.is_file()


def test_compare_asks_whether_truths_cover_one_place(store, tmp_path):
    """Runs as far as they are read; one saw a part, one the same place in larger voxels."""
    labels, runs = instances(), {}
    truths = {"one": (labels, SIZE, 0), "part": (labels[1:], SIZE, 30)}
    truths["coarse"] = (labels[::2, ::2, ::2], COARSE, 0)
    for name, (truth, size, z) in truths.items():
        folder = RunFolder(tmp_path / name)
        sample = folder.sample("a")
        (tmp_path / name / "a" / "instances.zarr").mkdir(parents=True)
        store(sample.truth.relative_to(tmp_path), truth, size, (z, 0, 0))
        found = Scores({"75": 0.5}, {"0.75": {"all": {"accuracy": 0.5}}})
        for path in (folder.scores, sample.scores):
            write_scores(found, path)
        folder.config.write_text("model: general\n")
        runs[name] = tmp_path / name
    assert len(compare_runs([runs["one"], runs["coarse"]]).rows) == 2
    with pytest.raises(InputError, match=r"a: .*part.*shape \(7, 32, 48\).* shape \(8, 32, 48\)"):
        compare_runs([runs["one"], runs["part"]])


def test_tune_lays_truth_and_image_by_place(store, grey, tmp_path):
    levels = np.stack([(instances() > 0) * 230, np.zeros(SHAPE)]).astype(np.uint8)
    prediction = array_volume(
        levels, voxel_size_nm=SIZE, channels=("mask", "contour"), kind="prediction"
    )
    convert_volume(prediction, tmp_path / "p.zarr", pyramid=False)
    half = store("half.zarr", instances(), origin=(0, 4, 4))
    image = store("image.zarr", grey, origin=(0, 4, 4), kind="image")
    command = ("tune", tmp_path / "p.zarr", half, "--set", "grid.seed_threshold=[0.5,0.8]")
    command += ("--decoder", "bc_watershed", "--out", tmp_path / "tuned", "--image", image)
    with pytest.raises(InputError, match="whole voxels"):
        cristae(*command)
    assert "seed_threshold" in cristae(*command, "--align", "voxels")
    without_truth = (*command[:2], *command[3:], "--out", tmp_path / "seen")
    with pytest.raises(InputError, match="whole voxels"):
        cristae(*without_truth)
    cristae(*without_truth, "--align", "voxels")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"seed": -1}, r"seed -1: expected 0 to 2\*\*63 - 1", id="seed"),
        pytest.param({"seed": 2**63}, "seed 9223372036854775808", id="large seed"),
        pytest.param({"sampling": SamplingConfig(0, 0, 0, 0)}, "sampling .* above 0", id="zeros"),
        pytest.param({"sampling": SamplingConfig(-1, 0, 2, 0)}, "at least 0", id="negative"),
        pytest.param(
            {"sampling": SamplingConfig(float("inf"), 0, 0, 0)}, "sampling", id="infinite"
        ),
        pytest.param({"sampling": SamplingConfig(float("nan"), 1, 0, 0)}, "sampling", id="nan"),
    ],
)
def test_training_refuses_seeds_and_weights_that_draw_nothing(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_train_config(TrainConfig(**changes))


def test_simulation_refuses_a_negative_seed():
    with pytest.raises(ConfigError, match=r"seed: found -3, expected 0 to 2\*\*63 - 1"):
        simulate_volume(SimulationConfig(shape=(8, 64, 64), seed=-3))
