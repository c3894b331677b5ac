"""F1 counts every part of an id once, heeds masks, and averages sources, not instances."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cristae.errors import CristaeError
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model
from cristae.segmentation.config import SegmentConfig
from cristae.volumes.volume import array_volume


@pytest.fixture(scope="module")
def unseen(load):
    return load("unseen")


@pytest.fixture
def model():
    network = UNetConfig(widths=(4, 4), strides=((1, 2, 2),), z_kernel_levels=())
    return Model(network, build_network(network).state_dict(), network.channels)


@pytest.fixture
def data(tmp_path):
    """Three sections: id 1 in two parts in the first, one part through the others; id 2 masked."""
    labels = np.zeros((6, 40, 40), np.uint8)
    labels[0, 2:8, 2:8] = labels[0, 20:26, 2:8] = 1
    labels[1:, 2:8, 2:26] = 1
    labels[:, 30:36, 30:36] = 2
    mask = np.ones_like(labels)
    mask[:, 28:, 28:] = 0
    folder = tmp_path / "data" / "cells1"
    folder.mkdir(parents=True)
    for name, array in (("raw", 255 - 90 * labels), ("labels", labels), ("mask", mask)):
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack")
    return tmp_path / "data"


def score(unseen, model, data, tmp_path, monkeypatch, place, found):
    """Scores of a source whose instances are ``found``, an array of the whole volume."""
    monkeypatch.setattr(unseen, "SOURCES", {"cells1": (place,)})
    monkeypatch.setattr(unseen, "GROUPS", {"cells": ("cells1",)})
    monkeypatch.setattr(unseen, "predict_volume", lambda image, *_, **__: image)

    def segment_volume(image, *_, **__):
        box = image.box.shift(image.corner)
        part = array_volume(found[box.slices()], voxel_size_nm=image.voxel_size_nm, kind="labels")
        return part.with_(origin_nm=image.origin_nm)

    monkeypatch.setattr(unseen, "segment_volume", segment_volume)
    setting = (data, SegmentConfig(), unseen.Resources(1))
    return unseen.score_groups(["cells"], model, tmp_path / "out", setting)["cells"]


def test_parts_of_an_id_count_each_and_masked_places_do_not(
    unseen, model, data, tmp_path, monkeypatch
):
    place = unseen.Place("cells1", (30.0, 10.0, 10.0), (0,), (1,), mask="file")
    found = tifffile.imread(data / "cells1" / "labels.tif").astype(np.uint32)
    found[0, 20:26, 2:8] = 0  # one of the two parts
    found[1:, 12:16, 2:8] = 9  # and an object on background in the stack
    result = score(unseen, model, data, tmp_path, monkeypatch, place, found)
    scores = result["sources"]["cells1"]
    assert scores["single"] == {"true": 2, "found": 1, "matched": 1, "f1": pytest.approx(2 / 3)}
    assert scores["stack"] == {"true": 1, "found": 2, "matched": 1, "f1": pytest.approx(2 / 3)}
    assert {*scores["pieces"]} == {"cells1-single-0", "cells1-stack-1"}
    assert (tmp_path / "out" / "cells.json").exists()
    everywhere = replace(place, mask="everywhere")
    unmasked = score(unseen, model, data, tmp_path, monkeypatch, everywhere, found)
    assert unmasked["sources"]["cells1"]["single"]["true"] == 3


def test_a_hull_leaves_out_what_lies_around_the_labelled_cell(unseen):
    labels = np.zeros((2, 60, 60), np.uint8)
    labels[0, 20, 20:40] = labels[0, 40, 20:40] = 1
    labels[1, 5, 5] = 1
    mask = unseen.hull_mask(labels, 4.0)
    assert mask[0, 30, 30] == 1  # between the two
    assert mask[0, 44, 30] == 1
    assert mask[0, 45, 30] == 0
    assert mask[1].sum() == np.sum(np.hypot(*np.mgrid[-9:10, -9:10]) <= 4)


def test_a_group_is_the_mean_of_its_sources(unseen):
    def counts(true, found, matched):
        return unseen.pooled([{"true": true, "found": found, "matched": matched}])

    sources = {
        "large": {"single": counts(100, 100, 100), "stack": None},
        "small": {"single": counts(2, 2, 0), "stack": counts(4, 0, 0)},
    }
    assert unseen.mean_of(sources, "single") == 0.5
    assert unseen.mean_of(sources, "stack") == 0
    assert unseen.pooled([]) is None
    assert counts(0, 0, 0)["f1"] == 0
    result = {"sources": sources, "single": 0.5, "stack": 0.0}
    assert unseen.rows_of("cells", result) == [
        "| cells | large | 100 | 100 | 1.000 | - | - | - |",
        "| cells | small | 2 | 2 | .000 | 4 | 0 | .000 |",
        "| cells | **mean** |  |  | .500 |  |  | .000 |",
    ]


def test_every_place_lies_in_one_source_of_one_group(unseen):
    grouped = [source for sources in unseen.GROUPS.values() for source in sources]
    assert sorted(grouped) == sorted(unseen.SOURCES)
    for source, places in unseen.SOURCES.items():
        for place in places:
            assert place.folder.startswith(source)  # so that a fold leaves it out by name
    blank = {1, 7, 18}
    (vnc,) = unseen.SOURCES["vnc"]
    taken = {*vnc.singles} | {z + i for z in vnc.stacks for i in range(unseen.STACK)}
    assert not taken & blank


def test_the_small_run_scores_a_section_and_a_stack(unseen, capsys):
    unseen.main(["--small", "--workers", "1", "--set", "min_size=1"])
    line = capsys.readouterr().out.splitlines()[-1].split("|")
    assert line[1:3] == [" simulated ", " simulated "]
    assert int(line[3]) > 0
    assert int(line[6]) > 0


def test_a_setting_without_a_value_is_refused(unseen):
    with pytest.raises(CristaeError, match="--set seed: expected NAME=VALUE"):
        unseen.main(["--small", "--set", "seed"])
