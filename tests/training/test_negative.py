"""Negative volumes: they truly hold no instance, and are learned, replayed and measured on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cristae.errors import ConfigError, InputError
from cristae.networks.model import load_model, model_network
from cristae.plan import plan_run
from cristae.samples.dataset import Sample, open_sample, open_samples, plain_sample
from cristae.training import validation
from cristae.training.copy_paste import CopyPasteConfig
from cristae.training.replay import replayed_samples
from cristae.training.sampling import SamplingConfig, prepare_source
from cristae.training.train import train_model
from cristae.volumes.formats.ome_zarr import create_ome_zarr

from .test_train import SIZE, config, read_rows, samples  # noqa: F401  (a fixture)

SHAPE = (12, 96, 96)


def write(path, array, kind):
    volume = create_ome_zarr(
        path, shape=array.shape, dtype=array.dtype, kind=kind, voxel_size_nm=SIZE
    )
    volume.write(volume.box, array)
    return str(path)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Noise, labels of zeros, and labels of zeros with one voxel in the last block."""
    folder = tmp_path_factory.mktemp("negative")
    grey = np.random.default_rng(5).normal(170, 8, SHAPE).astype(np.uint8)
    one = np.zeros(SHAPE, np.uint8)
    one[-1, -1, -1] = 7
    return {
        "image": write(folder / "image.zarr", grey, "image"),
        "zeros": write(folder / "zeros.zarr", one * 0, "labels"),
        "one": write(folder / "one.zarr", one, "labels"),
    }


def negative(empty, **changes):
    return Sample(**{"name": "none", "image": empty["image"], "negative": True, **changes})


def test_labels_are_zeros_or_left_out(empty):
    for labels in (None, empty["zeros"]):
        opened = open_sample(negative(empty, labels=labels, roi="2:,:,4:", label_dilation_nm=9.0))
        assert opened.labels.shape == opened.image.shape == (10, 96, 92)
        assert not opened.labels.read().any()
    plain = open_sample(negative(empty))
    other = open_sample(negative(empty, labels=empty["zeros"]))
    assert len({plain.image.fingerprint, plain.labels.fingerprint, other.labels.fingerprint}) == 3


def test_an_empty_volume_that_is_not_said_to_be_negative_is_refused(empty):
    with pytest.raises(InputError, match=r"no label above 0.*`negative: true`"):
        open_sample(negative(empty, labels=empty["zeros"], negative=False))
    with pytest.raises(ConfigError, match=r"labels None: expected both.*`negative: true`"):
        open_sample(negative(empty, negative=False))


def test_a_negative_volume_with_an_instance_is_refused(empty):
    with pytest.raises(InputError, match=r"label 7 in .* expected none above 0"):
        open_sample(negative(empty, labels=empty["one"]))
    opened = open_sample(negative(empty, labels=empty["one"], ignore_label=7))
    assert opened.mask.read().sum() == opened.labels.size - 1


def test_all_of_a_group_negative_is_refused(samples, empty, tmp_path):  # noqa: F811
    one = negative(empty, group="train")
    with pytest.raises(ConfigError, match=r"all of group train are negative \(none\)"):
        train_model(config(), [one, samples[1]], tmp_path / "m.pt")
    one = negative(empty, group="validation")
    with pytest.raises(ConfigError, match=r"all of group validation are negative"):
        train_model(config(), [samples[0], one], tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_learned_from_measured_on_and_replayed(samples, empty, tmp_path):  # noqa: F811
    """With every way of choosing a place, and pasted copies."""
    made = config(
        steps=3,
        validate_ap_every=3,
        validate_ap_box=(4, 32, 32),
        copy_paste=CopyPasteConfig(share=1.0),
        sampling=SamplingConfig(uniform=0, foreground=1, instance=1, contact=1),
        thresholds={"min_size": 1, "min_seed_size": 1},
    )
    given = [
        *samples,
        negative(empty, weight=50.0),
        negative(empty, name="clean", group="validation", labels=empty["zeros"]),
    ]
    out = tmp_path / "model.pt"
    model = train_model(made, given, out, threads=1)
    assert [tree["negative"] for tree in model.card["volumes"]] == [False, True]
    last = read_rows(out)[-1]
    assert int(last["false_objects"]) >= 0
    assert f"clean={last['false_objects']} false" in last["by_sample"]
    assert float(last["validation_iou"]) == pytest.approx(
        float(last["by_sample"].split()[0].removeprefix("validation=")), abs=1e-4
    )
    own = replayed_samples(model, "model.pt", samples, 0.5)
    assert [sample.negative for sample in own] == [False, True]
    again = config(steps=1, replay=0.5)
    tuned = train_model(again, samples, tmp_path / "t.pt", start_from=out, threads=1)
    assert tuned.card["trained_on"] == "train, replay_train, none"


def test_patches_are_background_wherever_they_are_sought(empty):
    source = prepare_source(open_sample(negative(empty)))
    assert not source.index.voxels.size
    plans = validation.fixed_patches([source], 4, (4, 32, 32), (None, None, None))
    assert len({tuple(plan.warp.centre) for plan in plans}) == 4


def test_false_objects_are_counted_as_components(samples, empty, tmp_path):  # noqa: F811
    """Three bright spots in each patch, two of them beside one another at a corner."""
    opened = open_samples([samples[1], negative(empty, group="validation")])
    made = config(validation_patches=2)
    network = model_network(train_model(config(steps=1), samples, tmp_path / "m.pt", threads=1))

    def spots(image):
        logits = torch.full((1, 2, *image.shape[2:]), -5.0)
        for place in ((0, 1, 1), (1, 2, 2), (3, 20, 20)):
            logits[(0, 0, *place)] = 5.0
        return logits

    network.forward = spots
    sources = [prepare_source(one) for one in opened]
    figures = validation.validate(network, sources, made, torch.device("cpu"))
    assert figures["false_objects"] == 4
    assert "none=4 false" in figures["by_sample"]
    alone = validation.validate(network, sources[:1], made, torch.device("cpu"))
    assert "false_objects" not in alone
    assert alone["validation_iou"] == figures["validation_iou"]


def test_false_instances_lower_the_precision_of_decoded_boxes(samples, empty, tmp_path):  # noqa: F811
    """A network that answers by grey value finds the squares, and nothing in noise; then all."""
    opened = open_samples([samples[1], negative(empty, group="validation")])
    made = config(validate_ap_box=(8, 64, 64), thresholds={"min_size": 1, "min_seed_size": 1})
    network = model_network(train_model(config(steps=1), samples, tmp_path / "m.pt", threads=1))
    sources = [prepare_source(one) for one in opened]
    precision = {}
    for name, all_found in (("few", False), ("more", True)):
        levels = _levels_of(all_found)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(validation, "make_levels", lambda *_, levels=levels: levels)
            precision[name] = [
                validation.decoded_precision(network, some, made, torch.device("cpu"))
                for some in (sources[:1], sources, sources[1:])
            ]
    assert precision["few"][0] == precision["few"][1] > 0.5
    assert precision["more"][1] < precision["more"][0]
    assert precision["few"][2] is precision["more"][2] is None


def _levels_of(all_found):
    """Mask and contour: dark voxels are found, and a whole noisy box where all is."""

    def levels(image):
        mask = image.numpy() < -0.2
        if all_found and not mask.mean() > 0.05:
            mask[:] = True
        return np.stack([255 * mask, 0 * mask]).astype(np.uint8)

    return levels


def test_records_of_samples_that_are_not_negative_are_as_before(samples):  # noqa: F811
    assert "negative" not in plain_sample(samples[0])
    assert plain_sample(replace(samples[0], negative=True))["negative"] is True


def test_a_negative_volume_is_planned_with(samples, empty, tmp_path):  # noqa: F811
    volumes = [
        {"name": s.name, "group": s.group, "image": s.image, "labels": s.labels} for s in samples
    ]
    none = {"name": "none", "image": empty["image"], "negative": True}
    train = {"network": {"widths": [4, 6]}, "steps": 10, "batch": 1}
    tree = {"out": str(tmp_path / "run"), "volumes": [none, *volumes], "train": train}
    found = plan_run(tree, "toy")
    assert "none: 12 x 96 x 96" in found.text
    assert "0 instances, 0 of them whole" in found.text
    with pytest.raises(ConfigError, match="with instances, expected one at least"):
        plan_run(tree | {"volumes": [none, volumes[1]]}, "toy")


def test_a_model_without_weights_is_not_needed_to_read_its_card(samples, empty, tmp_path):  # noqa: F811
    """A card of release 0.1 names no ``negative``."""
    train_model(config(steps=1), samples, tmp_path / "m.pt", threads=1)
    model = load_model(tmp_path / "m.pt")
    old = [{k: v for k, v in tree.items() if k != "negative"} for tree in model.card["volumes"]]
    own = replayed_samples(replace(model, card={"volumes": old}), "m.pt", samples, 0.5)
    assert not own[0].negative
