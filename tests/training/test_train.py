"""The loop: it learns, it resumes to the same weights, and it refuses what cannot be trained."""

import csv
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.programs import start

from cristae.configuration import to_plain
from cristae.engine.files import write_atomic
from cristae.engine.ownership import work_folder
from cristae.engine.written import note_writes
from cristae.errors import BusyError, ConfigError, InputError, OutputExistsError
from cristae.networks.families.unet.network import UNetConfig
from cristae.networks.model import load_model, model_network
from cristae.pipeline import report_run
from cristae.samples.dataset import Sample, open_samples
from cristae.training import loop
from cristae.training.augment import PYTC
from cristae.training.config import TrainConfig, learning_rate, recorded_settings
from cristae.training.config_checks import check_train_config
from cristae.training.copy_paste import CopyPasteConfig
from cristae.training.defects import DefectsConfig
from cristae.training.geometry import GeometryConfig
from cristae.training.intensity import GreyConfig
from cristae.training.losses import LossConfig, TargetLoss
from cristae.training.sampling import fixed_patches, prepare_source, read_patch
from cristae.training.state import TrainingFiles, first_state
from cristae.training.targets import TargetsConfig, make_targets
from cristae.training.train import train_model
from cristae.training.validation import decoded_precision
from cristae.volumes.formats.ome_zarr import create_ome_zarr

from .conftest import toy_arrays

SHAPE = {"widths": (8, 8), "strides": ((1, 2, 2),), "z_kernel_levels": (1,)}
TINY = UNetConfig(**SHAPE)
NO_RIM = TargetsConfig(contour_around=False)
SGD = {
    "optimizer": "sgd",
    "schedule": "warmup_cosine",
    "learning_rate": 0.1,
    "weight_decay": 0.5,
    "clip_norm": None,
}
STILL = GreyConfig(tone=0, blur=0, noise=0, clouds=0, sections=0, missing=0, holes=0)
SIZE = (30.0, 8.0, 8.0)


def config(**changes):
    fields = {
        "steps": 6,
        "batch": 2,
        "patch": (4, 32, 32),
        "warmup_steps": 2,
        "network": TINY,
        "intensity": "uint8",
        "validate_every": 3,
        "validation_patches": 2,
        "calibration_batches": 2,
        "checkpoint_every": 1,
    }
    return TrainConfig(**(fields | changes))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    made = []
    for group, seed in (("train", 0), ("validation", 1)):
        paths = {}
        for kind, array in zip(("image", "labels"), toy_arrays(seed=seed), strict=True):
            path = folder / f"{group}_{kind}.zarr"
            volume = create_ome_zarr(
                path, shape=array.shape, dtype=array.dtype, kind=kind, voxel_size_nm=SIZE
            )
            volume.write(volume.box, array)
            paths[kind] = str(path)
        made.append(Sample(name=group, group=group, **paths))
    return made


def read_rows(out):
    with TrainingFiles(out).table.open(newline="") as file:
        return list(csv.DictReader(file))


class KilledError(Exception):
    """Stands for a process that dies."""


def train_killed_at(step, monkeypatch, *args, **kwargs):
    """Train, and die just before the checkpoint of a step."""
    whole = loop.save_state

    def dying(state, path):
        if state.step == step:
            raise KilledError
        whole(state, path)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_state", dying)
        with pytest.raises(KilledError):
            train_model(*args, **kwargs)


def test_a_stopped_run_is_reported(samples, tmp_path, monkeypatch):
    made = config(steps=40, validate_every=10, checkpoint_every=5)
    train_killed_at(25, monkeypatch, made, samples, tmp_path / "model.pt", threads=1)
    text = report_run(tmp_path).read_text()
    assert "no volume has\n    been segmented yet" in text
    assert text.count("<svg") == 3  # losses, scores, learning rate
    assert "step 20" in text
    assert text.count("data:image/png;base64,") == 5  # image; mask and contour, true and found


def test_learns_the_toy(samples, tmp_path):
    """From random weights to a foreground IoU over .9 in a few dozen steps."""
    made = config(
        steps=120,
        learning_rate=1e-2,
        ema_decay=0.9,
        grey=STILL,
        geometry=GeometryConfig(scale=(0.9, 1.1)),
        validate_every=120,
        checkpoint_every=120,
        card={"licence": "none"},
        thresholds={"min_size": 10.0},
    )
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    assert float(model.card["validation_iou"]) > 0.9
    assert model.card["licence"] == "none"
    assert model.card["trained_on"] == "train"
    assert model.thresholds == {"min_size": 10.0}
    assert model.working_voxel_size_nm == (None, 8.0, 8.0)
    with TrainingFiles(tmp_path / "model.pt").table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(10, 121, 10))
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    # the model file alone finds the squares of a patch
    image, labels = toy_arrays(seed=1)
    patch = torch.from_numpy((image[2:6, :64, :64] / 255 - 0.5) / 0.5).float()
    with torch.no_grad():
        logits = model_network(load_model(tmp_path / "model.pt"))(patch[None, None])
    found = (logits[0, 0] > 0).numpy()
    assert (found == (labels[2:6, :64, :64] > 0)).mean() > 0.97


@pytest.fixture(scope="module")
def uninterrupted(samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.pt"
    train_model(config(), samples, path, threads=1)
    return path


def test_sgd_resumes_to_the_same_weights(samples, tmp_path, monkeypatch):
    made = config(steps=3, validate_every=9, **SGD)
    whole = train_model(made, samples, tmp_path / "whole.pt", threads=1)
    train_killed_at(2, monkeypatch, made, samples, tmp_path / "cut.pt", threads=1)
    cut = train_model(made, samples, tmp_path / "cut.pt", threads=1)
    assert cut.fingerprint == whole.fingerprint
    plain = config(steps=3, validate_every=9, **(SGD | {"momentum": 0.0}))
    other = train_model(plain, samples, tmp_path / "plain.pt", threads=1)
    assert other.fingerprint != whole.fingerprint


def test_first_step_of_sgd_by_hand(samples, tmp_path):
    """Weights move by the rate times gradient plus decay; those of one axis do not decay."""
    made = config(steps=1, ema_decay=0.0, **SGD)
    files = TrainingFiles(tmp_path / "model.pt")
    train_model(made, samples, files.model, threads=1)
    tree = torch.load(files.checkpoint, weights_only=True)
    first = first_state(made, None, torch.device("cpu"))
    moments = tree["optimizer"]["state"]
    ordered = [p for dims in (True, False) for p in names(first.network, dims)]
    rate = learning_rate(0, made)
    assert rate == pytest.approx(0.1 * 0.001)
    for i, name in enumerate(ordered):
        before = first.network.state_dict()[name]
        expected = before - rate * moments[i]["momentum_buffer"]
        torch.testing.assert_close(tree["network"][name], expected, rtol=1e-6, atol=1e-7)
    assert tree["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    assert tree["optimizer"]["param_groups"][1]["weight_decay"] == 0.0


def names(network, many_axes):
    return [n for n, p in network.named_parameters() if (p.dim() > 1) == many_axes]


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_killed_and_resumed_equals_uninterrupted(
    samples, uninterrupted, tmp_path, monkeypatch, step
):
    cut = tmp_path / "cut.pt"
    train_killed_at(step, monkeypatch, config(), samples, cut, threads=1)
    train_model(config(), samples, cut, threads=1)
    for kind in ("model", "best"):
        first, second = (getattr(TrainingFiles(path), kind) for path in (uninterrupted, cut))
        assert first.read_bytes() == second.read_bytes()


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(samples, tmp_path, monkeypatch):
    """As a kill leaves it: the record of the new settings, the checkpoint of the old ones."""
    out, other = tmp_path / "a.pt", config(seed=5)
    train_killed_at(5, monkeypatch, config(), samples, out)
    old = TrainingFiles(out).checkpoint.read_bytes()
    train_killed_at(1, monkeypatch, other, samples, out, overwrite=True)
    assert not TrainingFiles(out).checkpoint.exists()
    TrainingFiles(out).checkpoint.write_bytes(old)
    with pytest.raises(OutputExistsError, match=r"a\.training\.pt: not made by cristae"):
        train_model(other, samples, out)
    note_writes([TrainingFiles(out).checkpoint], work_folder(out, is_folder=False))
    write_atomic(TrainingFiles(out).checkpoint, lambda file: file.write(old))
    found = train_model(other, samples, out)
    expected = train_model(other, samples, tmp_path / "b.pt")
    for name, tensor in expected.state_dict.items():
        assert torch.equal(found.state_dict[name], tensor), name
    assert [row["step"] for row in read_rows(out)] == [
        row["step"] for row in read_rows(tmp_path / "b.pt")
    ]


BESIDE = ("a.best.pt", "a.training.pt", "a.csv", "a.panels.npz", "a.tensorboard/events.of.mine")


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_beside_a_model_and_not_ours_stays(samples, tmp_path, name, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("of a person")
    with pytest.raises(OutputExistsError, match=re.escape(name.split("/")[0])):
        train_model(config(), samples, tmp_path / "a.pt", overwrite=overwrite)
    assert (tmp_path / name).read_text() == "of a person"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_files_of_others_on_a_board_stay(samples, tmp_path):
    train_model(config(steps=1), samples, tmp_path / "a.pt")
    board = tmp_path / "a.tensorboard"
    board.mkdir(exist_ok=True)
    (board / "mine.txt").write_text("of a person")
    (board / "events.out.tfevents.1").write_text("of a writer")
    train_model(config(steps=1, seed=3), samples, tmp_path / "a.pt", overwrite=True)
    assert (board / "mine.txt").read_text() == "of a person"
    assert not (board / "events.out.tfevents.1").exists()


HELD = """
import json, sys
from cristae.configuration import load_config
from cristae.pipeline import RunConfig
from cristae.training import loop
from cristae.training.train import train_model
def wait(*_):
    print("at work", flush=True)
    sys.stdin.read()
loop.save_state = wait
made = load_config(RunConfig, json.loads(sys.argv[1]))
train_model(made.train, made.volumes, sys.argv[2], threads=1)
"""


def test_two_trainings_of_one_model_are_refused(samples, tmp_path):
    out = tmp_path / "a.pt"
    tree = {
        "out": "nowhere",
        "train": to_plain(config()),
        "volumes": [to_plain(sample) for sample in samples],
    }
    first = start(HELD, json.dumps(tree), out, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "at work\n"
    with pytest.raises(BusyError, match=r"a\.pt: another process is writing it"):
        train_model(config(), samples, out)
    with pytest.raises(BusyError, match=r"a\.pt: another process is writing it"):
        train_model(config(seed=3), samples, out, overwrite=True)
    first.kill()
    first.communicate()
    train_model(config(steps=6), samples, out)


def test_stopped_by_time_and_continued(samples, tmp_path):
    """With no time at all one step is made each call; the last one ends the run."""
    whole = train_model(config(steps=3), samples, tmp_path / "whole.pt", threads=1)
    out = tmp_path / "model.pt"
    for expected in ("1", "2"):
        stopped = train_model(config(steps=3), samples, out, threads=1, stop_after_minutes=0)
        assert stopped.card["steps"] == expected
    done = train_model(config(steps=3), samples, out, threads=1, stop_after_minutes=0)
    assert done.fingerprint == whole.fingerprint


def test_finished_run_is_left_alone(samples, tmp_path):
    out = tmp_path / "model.pt"
    train_model(config(steps=2), samples, out, threads=1)
    before = out.stat().st_mtime_ns
    train_model(config(steps=2), samples, out, threads=1)
    assert out.stat().st_mtime_ns == before


def test_more_steps_continue_a_finished_run(samples, tmp_path):
    out = tmp_path / "model.pt"
    train_model(config(steps=2), samples, out, threads=1)
    first = torch.load(TrainingFiles(out).checkpoint, weights_only=True)
    model = train_model(config(steps=4), samples, out, threads=1)
    second = torch.load(TrainingFiles(out).checkpoint, weights_only=True)
    assert (first["step"], second["step"], model.card["steps"]) == (2, 4, "4")
    with pytest.raises(OutputExistsError, match="trained for 4 steps, 3 asked for"):
        train_model(config(steps=3), samples, out, threads=1)


def test_other_settings_are_refused(samples, tmp_path):
    out = tmp_path / "model.pt"
    train_model(config(steps=1), samples, out, threads=1)
    with pytest.raises(OutputExistsError, match="seed"):
        train_model(config(steps=1, seed=1), samples, out, threads=1)
    anew = train_model(config(steps=1, seed=1), samples, out, threads=1, overwrite=True)
    assert anew.card["steps"] == "1"


def test_reading_from_disk_or_memory_is_the_same(samples, tmp_path):
    held = train_model(config(steps=2), samples, tmp_path / "a.pt", threads=1)
    read = train_model(config(steps=2, cache_gib=0.0), samples, tmp_path / "b.pt", threads=1)
    assert held.fingerprint == read.fingerprint


def test_starts_from_a_model(samples, tmp_path):
    """With a learning rate of nearly nothing the weights stay those of the model."""
    first = train_model(config(steps=3), samples, tmp_path / "a.pt", threads=1)
    tuned = train_model(
        config(steps=1, learning_rate=1e-12),
        samples,
        tmp_path / "b.pt",
        start_from=tmp_path / "a.pt",
        threads=1,
    )
    name = "head.weight"
    torch.testing.assert_close(tuned.state_dict[name], first.state_dict[name], atol=1e-6, rtol=0)
    other = config(network=UNetConfig(widths=(8, 16), strides=((1, 2, 2),), z_kernel_levels=()))
    with pytest.raises(ConfigError, match="expected that of the configuration"):
        train_model(other, samples, tmp_path / "c.pt", start_from=tmp_path / "a.pt", threads=1)


def test_instances_are_decoded_and_scored(samples, tmp_path):
    """At every second validation and at the end, in table and card; weights are not touched."""
    plain = config(steps=6, validate_every=2)
    made = replace(plain, validate_ap_every=4, validate_ap_box=(8, 64, 64))
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    rows = read_rows(tmp_path / "model.pt")
    with_ap = {int(row["step"]) for row in rows if row["validation_ap75"]}
    assert with_ap == {4, 6}
    assert float(rows[-1]["validation_ap75"]) == pytest.approx(
        float(model.card["validation_ap75"]), rel=1e-5
    )
    other = train_model(plain, samples, tmp_path / "plain.pt", threads=1)
    assert other.fingerprint == model.fingerprint
    assert "validation_ap75" not in other.card


def test_precision_of_a_perfect_network(samples, tmp_path):
    """A network that sees the truth scores 1, one that joins everything less."""
    opened = open_samples(samples)
    sources = [prepare_source(one) for one in opened]
    made = config(
        decoder="bc_watershed",
        thresholds={"min_size": 10, "min_seed_size": 4},
        validate_ap_box=(8, 64, 64),
    )
    labels = [
        read_patch(sources[plan.source], plan, (8, 64, 64), "uint8")[1]
        for plan in fixed_patches(sources, 2, (8, 64, 64), made.working_voxel_size_nm)
    ]
    answers = iter([*labels, *labels])

    def perfect(image):
        assert image.shape == (1, 1, 8, 64, 64)
        return 20 * make_targets(next(answers)[None], ("mask", "contour"), NO_RIM) - 10

    device = torch.device("cpu")
    assert decoded_precision(perfect, sources, made, device) == 1.0

    def everything(image):
        return torch.full((1, 2, 8, 64, 64), 10.0) * torch.tensor([1, -1]).view(1, 2, 1, 1, 1)

    assert decoded_precision(everything, sources, made, device) < 0.1


def test_decoder_must_fit_the_channels(samples, tmp_path):
    made = config(validate_ap_every=3, validate_ap_box=(4, 32, 32), decoder="bcd_watershed")
    with pytest.raises(ConfigError, match="bcd_watershed needs mask, contour, distance"):
        train_model(made, samples, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"(?s)validate_ap_box \(8, 30, 32\).*multiple of"):
        check_train_config(replace(made, validate_ap_box=(8, 30, 32), validate_ap_every=4))


def test_board_where_tensorboard_is_installed(samples, tmp_path, monkeypatch):
    """Every number of the table goes to the board; a resumed run drops what came after."""
    boards = []

    class Writer:
        def __init__(self, folder, purge_step):
            self.folder, self.purge_step, self.open = folder, purge_step, True
            self.scalars, self.pictures = [], []
            boards.append(self)

        def add_scalar(self, tag, value, step):
            self.scalars.append((tag, step, value))

        def add_image(self, tag, picture, step, dataformats):
            assert (picture.ndim, picture.dtype, dataformats) == (2, np.uint8, "HW")
            self.pictures.append((tag, step, picture.shape))

        def close(self):
            self.open = False

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: True if name == "tensorboard" else found(name)
    )
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    out = tmp_path / "model.pt"
    train_model(config(steps=1), samples, out, threads=1)
    train_model(config(steps=2), samples, out, threads=1)
    assert [board.purge_step for board in boards] == [1, 2]
    assert {board.folder for board in boards} == {str(TrainingFiles(out).board)}
    assert not any(board.open for board in boards)
    tags = {tag for tag, step, _ in boards[1].scalars if step == 2}
    assert {"loss", "learning_rate", "validation_iou"} <= tags
    assert "by_sample" not in tags
    # a section of the validation sample: image, and mask and contour as they are and as found
    assert boards[1].pictures == [("panel/validation", 2, (32, 5 * 32))]


def test_settings_are_checked_all_at_once(samples, tmp_path):
    bad = config(
        steps=0,
        patch=(4, 30, 32),
        working_voxel_size_nm=(30.0, 8.0, 8.0),
        intensity="auto",
        loss=LossConfig(channels=(1.0,)),
    )
    with pytest.raises(ConfigError) as caught:
        train_model(bad, samples, tmp_path / "model.pt")
    for part in ("steps 0", "(4, 30, 32)", "null along z", "'auto'", "loss.channels"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_targets_and_losses_must_fit(samples, tmp_path):
    bad = config(
        network=UNetConfig(channels=("contour", "distance"), **SHAPE),
        targets=TargetsConfig(label_erosion=-1, distance_alpha_px=(0.0, 50.0)),
        loss=LossConfig(
            targets={
                "distance": TargetLoss(bce=1.0),
                "contour": TargetLoss(mse=1.0),
                "affinity": TargetLoss(),
            }
        ),
    )
    with pytest.raises(ConfigError) as caught:
        train_model(bad, samples, tmp_path / "model.pt")
    for part in ("where the foreground is", "distance {", "contour.mse", "none of", "above 0"):
        assert part in str(caught.value)
    for part in ("label_erosion -1", "(0.0, 50.0)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "channels",
    [
        ("mask", "contour", "distance"),
        ("affinity_z", "affinity_y", "affinity_x", "affinity_y3", "contour"),
        ("mask", *(f"distance_level_{i}" for i in range(11))),
    ],
)
def test_learns_every_target(samples, tmp_path, channels):
    """The loss of each target falls; the foreground is found from mask or affinities."""
    own = {"distance": TargetLoss(mse=5.0)} if "distance" in channels else {}
    made = config(
        steps=60,
        learning_rate=1e-2,
        ema_decay=0.8,
        grey=STILL,
        geometry=GeometryConfig.still(),
        validate_every=60,
        checkpoint_every=60,
        network=UNetConfig(channels=channels, **SHAPE),
        targets=TargetsConfig(label_erosion=1, distance_alpha_px=(4.0, 8.0)),
        loss=LossConfig(targets=own),
    )
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    assert float(model.card["validation_iou"]) > 0.6
    with TrainingFiles(tmp_path / "model.pt").table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.75 * float(rows[0]["loss"])
    if "distance" in channels:
        assert min(float(row["mse"]) for row in rows) < 0.5 * float(rows[0]["mse"])


def test_bad_samples_stop_it_before_the_first_step(samples, tmp_path):
    wrong = [*samples, Sample(name="x", image="nowhere.tif", labels="nowhere_else.tif")]
    with pytest.raises(InputError, match=r"(?s)nowhere\.tif.*nowhere_else\.tif"):
        train_model(config(), wrong, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="one of group train"):
        train_model(config(), samples[1:], tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_learning_rate():
    """Linear rise over 10 steps, then a cosine: half way at half the rate, at the end nothing."""
    made = config(steps=100, warmup_steps=10, learning_rate=2e-3)
    assert learning_rate(0, made) == pytest.approx(2e-4)
    assert learning_rate(50, made) == pytest.approx(1e-3)
    assert learning_rate(99, made) == pytest.approx(2e-3 * 0.5 * (1 + np.cos(np.pi * 0.99)))


def test_schedules_equal_reference(shared):
    golden = json.loads((shared / "golden" / "learning_rate.json").read_text())
    base = {"learning_rate": golden["base_lr"], "warmup_factor": golden["warmup_factor"]}
    base |= {"warmup_steps": golden["warmup_iters"], "steps": 40000}
    cosine = config(schedule="warmup_cosine", **base)
    for step, rate in golden["WarmupCosineLR(max_iters=40000)"].items():
        assert learning_rate(int(step), cosine) == pytest.approx(rate, rel=1e-7)
    steps = config(schedule="warmup_multistep", milestones=(20000, 35000), gamma=0.1, **base)
    for step, rate in golden["WarmupMultiStepLR(milestones=[20000,35000],gamma=0.1)"].items():
        assert learning_rate(int(step), steps) == pytest.approx(rate, rel=1e-7)


def test_schedules_are_checked(samples, tmp_path):
    for bad, part in (
        ({"milestones": (3,)}, "schedule cosine found"),
        ({"schedule": "warmup_multistep"}, "milestones ()"),
        ({"schedule": "warmup_multistep", "milestones": (5, 3)}, "rising"),
        ({"momentum": 1.5}, "momentum 1.5"),
        ({"warmup_steps": -1}, "warmup_steps -1"),
    ):
        with pytest.raises(ConfigError) as caught:
            train_model(config(**bad), samples, tmp_path / "model.pt")
        assert part in str(caught.value)


def test_reference_augmentation(samples, tmp_path):
    """Patches of the preset are those of its values, and no others may stand beside it."""
    made = config(augmentation="pytc", steps=2, validate_every=9)
    same = config(
        geometry=PYTC.geometry, grey=PYTC.grey, defects=PYTC.defects, steps=2, validate_every=9
    )
    model, twin, plain = (
        train_model(one, samples, tmp_path / f"{i}.pt", threads=1)
        for i, one in enumerate((made, same, config(steps=2, validate_every=9)))
    )
    assert model.fingerprint == twin.fingerprint != plain.fingerprint
    both = {"grey": GreyConfig(tone=0.1), "copy_paste": CopyPasteConfig(share=0.5)}
    with pytest.raises(ConfigError, match=r"(?s)grey: given beside.*copy_paste: given beside"):
        check_train_config(replace(made, **both))


def test_augmentation_is_checked():
    geometry = GeometryConfig(scale=(0.0, 1.0), rescale_range=(2.0, 1.0), lost_sections=-1)
    bad = config(geometry=geometry, defects=DefectsConfig(charging=2.0))
    with pytest.raises(ConfigError) as caught:
        check_train_config(bad)
    for part in ("scale (0.0, 1.0)", "(2.0, 1.0)", "lost_sections -1", "charging 2.0"):
        assert part in str(caught.value)


def test_record_is_silent_about_defaults():
    """A record made before a setting existed is that of a run which leaves it at its default."""
    record = recorded_settings(config())
    assert "optimizer" not in record
    assert "distance" not in record["targets"]
    assert "augmentation" not in record
    assert "lost" not in record["geometry"]
    assert "targets" not in record["loss"]
    assert "steps" not in record
    assert record["seed"] == 0
    other = recorded_settings(config(optimizer="sgd", targets=TargetsConfig(label_erosion=1)))
    assert other["optimizer"] == "sgd"
    assert other["targets"]["label_erosion"] == 1
