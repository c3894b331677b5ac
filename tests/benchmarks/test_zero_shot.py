"""Leaving a source out leaves all of it out, and its scores are of the labels that are named."""

import json

import numpy as np
import pytest
import tifffile

from cristae.errors import CristaeError
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, load_model
from cristae.samples.dataset import Sample
from cristae.volumes.volume import array_volume


@pytest.fixture(scope="module")
def zero_shot(load):
    return load("zero_shot")


@pytest.fixture(scope="module")
def stages(zero_shot, tmp_path_factory):
    return zero_shot.read_stages(zero_shot.STAGES, tmp_path_factory.mktemp("data"), ())


def model_of(card):
    network = UNetConfig(widths=(4, 4), strides=((1, 2, 2),), z_kernel_levels=())
    return Model(network, build_network(network).state_dict(), network.channels, card=card)


def test_every_volume_of_the_configurations_is_scored_by_one_fold(zero_shot, stages):
    samples = zero_shot.scored_samples(stages, small=False)
    by_source = {}
    for name, sample in samples.items():
        by_source.setdefault(zero_shot.source_of(sample), []).append(name)
    assert by_source == {
        "cdeep3m": ["cdeep3m_z010-029", "cdeep3m_z050-059"],
        "epfl": ["epfl_train"],
        "vnc": ["vnc_stack1"],
        "simulated": list(zero_shot.SCORED_SIMULATIONS),
    }
    trained = {s.simulate.seed for stage in stages for s in stage.samples if s.simulate}
    scored = {config.seed for config in zero_shot.SCORED_SIMULATIONS.values()}
    assert trained
    assert not trained & scored


@pytest.mark.parametrize("left_out", [["cdeep3m"], ["simulated"], ["cdeep3m", "epfl"]])
def test_a_fold_sees_nothing_of_its_source(zero_shot, stages, tmp_path, monkeypatch, left_out):
    calls = []

    def train_model(config, samples, out, **how):
        calls.append((config, samples, out, how["start_from"]))
        return model_of(config.card)

    monkeypatch.setattr(zero_shot, "train_model", train_model)
    zero_shot.train_fold(left_out, stages, tmp_path, 1)
    for stage, (config, samples, _, _) in zip(stages, calls, strict=True):
        kept = [s for s in stage.samples if zero_shot.source_of(s) not in left_out]
        assert samples == kept
        assert 0 < len(kept) < len(stage.samples)
        assert not [source for source in left_out if source in config.card["data"]]
        assert config.card["left_out"] == ", ".join(left_out)
    learned = {zero_shot.volume_of(s) for _, own, *_ in calls for s in own if s.group == "train"}
    assert set(calls[-1][0].card["data"].split(", ")) == learned  # in both stages
    assert [start for *_, start in calls] == [
        None,
        calls[0][2],
    ]  # the second goes on from the first
    assert [config.tune for config, *_ in calls] == [False, True]


def test_a_group_is_trained_without_all_its_sources_and_scored_as_unseen(
    zero_shot, stages, tmp_path, monkeypatch
):
    folds, scored = [], []

    def train_fold(left_out, own, folder, threads, tune):
        folds.append((left_out, folder, tune))
        return model_of({})

    def score_groups(names, model, out, setting):
        scored.append((names, dict(model.thresholds), out, setting[0]))
        return {}

    monkeypatch.setattr(zero_shot, "train_fold", train_fold)
    monkeypatch.setattr(zero_shot.unseen, "score_groups", score_groups)
    setting = zero_shot.Setting(tmp_path / "out", zero_shot.Resources(1), 0)
    table = zero_shot.group_table(stages, ["fly", "brain"], tmp_path, setting)
    assert table.startswith("| group | source |")
    fly, brain = (tmp_path / "out" / name for name in ("fly", "brain"))
    assert folds == [(("vnc", "fafb"), fly, False), (("cdeep3m", "epfl"), brain, False)]
    shipped = dict(load_model("general").thresholds)
    assert scored == [(["fly"], shipped, fly, tmp_path), (["brain"], shipped, brain, tmp_path)]


def test_steps_are_one_a_configuration(zero_shot, tmp_path):
    stages = zero_shot.read_stages(zero_shot.STAGES, tmp_path, (5, 7))
    assert [stage.train.steps for stage in stages] == [5, 7]
    with pytest.raises(CristaeError, match=r"\[5\]: expected 2 numbers"):
        zero_shot.read_stages(zero_shot.STAGES, tmp_path, (5,))


def test_a_card_says_what_was_learned_from(zero_shot):
    listed = {"volumes": [{"name": "a", "image": "data/vnc_stack1/raw.tif", "labels": "x"}]}
    assert zero_shot.trained_volumes(model_of(listed)) == {"vnc_stack1"}
    assert zero_shot.trained_volumes(model_of({"data": "mice"})) is None
    # the shipped weights name their configurations; what these only validate on was not learned
    known = {"cdeep3m_z010-029", "cdeep3m_z050-059", "epfl_train", "vnc_stack1", "simulated"}
    assert zero_shot.trained_volumes(load_model("general")) == known


def test_both_conventions_are_scored(zero_shot, tmp_path, monkeypatch):
    """A 4x4 column found 6x6 wide: IoU 16/36 as annotated, 1 where it is widened by a pixel.

    Widening by 14.2 nm reaches the diagonal neighbour at 10 nm pixels, and no section at 40 nm.
    """
    truth = np.zeros((3, 24, 24), np.uint8)
    truth[:, 8:12, 8:12] = 1
    found = np.zeros_like(truth)
    found[:, 7:13, 7:13] = 5
    for name, array in (("raw", 255 - 99 * truth), ("labels", truth)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="minisblack")
    volume = zero_shot.open_sample(
        sample := Sample(
            "a",
            str(tmp_path / "raw.tif"),
            str(tmp_path / "labels.tif"),
            voxel_size_nm=(40.0, 10.0, 10.0),
            label_dilation_nm=14.2,
        )
    ).labels
    labels = array_volume(found, voxel_size_nm=volume.voxel_size_nm, kind="labels")
    monkeypatch.setattr(zero_shot, "predict_volume", lambda *_, **__: None)
    monkeypatch.setattr(zero_shot, "segment_volume", lambda *_, **__: labels)
    setting = zero_shot.Setting(tmp_path / "out", zero_shot.Resources(1), 2)
    result = zero_shot.score_group("a", [sample], model_of({}), setting, {})
    annotated, widened = (result["scores"][n] for n in ("as annotated", "widened"))
    assert annotated["voxel"]["foreground_iou"] == pytest.approx(16 / 36)
    assert annotated["average_precision_coco"]["50"] == 0
    assert widened["voxel"]["foreground_iou"] == 1
    assert widened["average_precision_coco"]["75"] == 1
    lines = zero_shot.rows_of("a", result)
    assert "| as annotated | 1 | 1 | .444 | .000 | .000 (0.00-0.00) |" in lines[0]
    assert "| widened by 14.2 nm | 1 | 1 | 1.000 | 1.000 | 1.000 (1.00-1.00) |" in lines[1]
    assert not (tmp_path / "out" / "pictures").exists()  # nothing is wrong beside the wide truth


@pytest.mark.long
def test_without_the_data_simulated_em_is_scored_and_a_second_call_only_reads(
    zero_shot, tmp_path, capsys
):
    arguments = ["--small", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    arguments += ["--workers", "1", "--config", str(zero_shot.STAGES[0])]
    zero_shot.main(arguments)
    printed = capsys.readouterr().out
    assert "none: not there; only simulated EM is scored" in printed
    result = json.loads((tmp_path / "out" / "simulated.json").read_text())
    assert result["left_out"] is None
    assert result["trained_on"] == "sim_30x8_a"
    assert result["scores"]["to the outer edge"]["instances"] > 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| simulated (trained on it) | to the outer edge |" in table
    assert table in printed
    pictures = list((tmp_path / "out" / "pictures" / "simulated").iterdir())
    assert pictures
    assert all(picture.read_bytes()[:2] == b"\xff\xd8" for picture in pictures)  # JPEG
    model = tmp_path / "out" / "simulated" / "general.pt"
    made = model.stat().st_mtime_ns
    zero_shot.main(arguments)
    assert table in capsys.readouterr().out
    assert model.stat().st_mtime_ns == made


def test_unknown_names_are_refused_before_any_work(zero_shot, tmp_path):
    out = tmp_path / "out"
    arguments = ["--data", str(tmp_path / "none"), "--out", str(out), "--folds", "epfl"]
    with pytest.raises(CristaeError, match="--folds epfl: expected one of simulated"):
        zero_shot.main([*arguments, "--small"])
    with pytest.raises(SystemExit):
        zero_shot.main([*arguments, "--model", "general", "--steps", "3"])
    with pytest.raises(SystemExit):
        zero_shot.main([*arguments, "--groups", "fly"])
    with pytest.raises(SystemExit):
        zero_shot.main([*arguments[:4], "--groups", "fly"])  # the data is not there
    assert not out.exists()
