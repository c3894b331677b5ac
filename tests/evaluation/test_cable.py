"""Cable lengths of the truth, and what is told apart by them."""

import json
import logging
import time

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.engine.ledger import open_ledger
from cristae.errors import MemoryLimitError
from cristae.evaluation import cable, evaluate
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    format_scores,
    pool_scores,
    read_matches,
    score_instances,
    write_tables,
)
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.placement import Compared
from cristae.volumes.volume import array_volume

SIZE = (30.0, 8.0, 8.0)
SERIAL = Resources(1, "serial")
NAMES = ["all", "small", "medium", "large"]


@pytest.fixture
def bars():
    """Bars of 20, 200 and 600 voxels along x, 152, 1592 and 4792 nm; the last one is missed."""
    truth = np.zeros((5, 30, 620), np.uint16)
    for label, (row, length) in enumerate(((3, 20), (12, 200), (22, 600)), start=4):
        truth[2, row, 5 : 5 + length] = label
    return np.where(truth == 6, 0, truth), truth


def volume(array, size=SIZE):
    return array_volume(array, voxel_size_nm=size)


def scored(found, true, **changes):
    config = EvaluateConfig(**{"bootstrap_samples": 0, **changes})
    return score_instances(found, true, config=config, resources=SERIAL)


def test_categories_by_cable_length(bars):
    found, true = (volume(a) for a in bars)
    scores = scored(found, true)
    truth = scores.tables.truth
    for name in ("cable_length_timise_nm", "skeleton_length_nm"):
        assert truth[name].tolist() == [19 * 8.0, 199 * 8.0, 599 * 8.0]
    assert truth["category"].tolist() == ["small", "medium", "large"]
    assert list(scores.matching["0.75"]) == NAMES
    tp, fn = ([scores.matching["0.75"][n][k] for n in NAMES] for k in ("tp", "fn"))
    assert (tp, fn) == ([2, 1, 1, 0], [1, 0, 0, 1])
    assert [scores.associations[n]["missing"] for n in NAMES] == [1, 0, 0, 1]


def test_limits_belong_to_the_longer_category():
    truth = np.zeros((3, 5, 130), np.uint8)
    truth[1, 1, 2:128] = 1  # 125 steps of 8 nm
    truth[1, 3, 2:127] = 2
    table = scored(volume(truth), volume(truth)).tables.truth
    assert table["cable_length_timise_nm"].tolist() == [1000.0, 992.0]
    assert table["category"].tolist() == ["medium", "small"]


def test_without_a_voxel_size_all_else_is_given_and_that_is_said(bars, caplog):
    with caplog.at_level(logging.INFO, logger="cristae"):
        scores = scored(*bars)
    assert "no categories by cable length, the voxel size is unknown" in caplog.text
    assert list(scores.matching["0.75"]) == ["all"]
    assert "category" not in scores.tables.truth
    assert "need a voxel size" in format_scores(scores)
    assert "need a voxel size" not in format_scores(scored(*(volume(a) for a in bars)))


def test_other_categories(bars):
    found, true = (volume(a) for a in bars)
    by_volume = scored(found, true, categories="volume", size_thresholds_vx=(20, 200))
    assert by_volume.tables.truth["category"].tolist() == ["small", "medium", "large"]
    assert "skeleton_length_nm" not in by_volume.tables.truth
    assert list(scored(found, true, categories="none").matching["0.5"]) == ["all"]
    given = score_instances(found, true, categories={6: "medium"}, resources=SERIAL)
    assert given.tables.truth["category"].tolist() == ["small", "small", "medium"]


def test_it_is_said_where_cable_lengths_take_longest(bars, monkeypatch, caplog):
    found, true = (volume(a) for a in bars)
    scored(found, true)  # compiles

    def slow(*arguments):
        time.sleep(0.5)
        return cable.truth_lengths(*arguments)

    with caplog.at_level(logging.INFO, logger="cristae"):
        scored(found, true)
        assert "cable lengths took" not in caplog.text
        monkeypatch.setattr(evaluate, "SLOW_S", 0.3)
        monkeypatch.setattr(evaluate, "truth_lengths", slow)
        scored(found, true)
    assert "cable lengths took" in caplog.text
    assert "--categories volume, or none" in caplog.text


def test_lengths_are_those_of_what_is_compared(bars):
    """Cropped, masked and relabelled truth is measured as it is scored."""
    _, true = bars
    mask = np.ones_like(true)
    mask[:, :, 100:] = 0
    config = EvaluateConfig(bootstrap_samples=0)
    masked = score_instances(volume(true), volume(true), mask=mask, config=config, resources=SERIAL)
    assert masked.tables.truth["skeleton_length_nm"].tolist() == [152.0, 94 * 8.0, 94 * 8.0]
    part = volume(true).crop(volume(true).box.grow((0, 0, -10)))
    cut = scored(volume(true), part, crop=True)
    assert cut.tables.truth["skeleton_length_nm"].tolist()[0] == 14 * 8.0
    gap = true.copy()
    gap[:, :, 300:310] = 0
    parts = scored(volume(gap), volume(gap), relabel=True)
    assert sorted(parts.tables.truth["skeleton_length_nm"].tolist()) == [
        *(152.0, 199 * 8.0, 294 * 8.0, 294 * 8.0),
    ]


def test_pooled_volumes_keep_their_categories(bars, tmp_path):
    scores = scored(*(volume(a) for a in bars))
    write_tables(scores, tmp_path)
    tables = read_matches(tmp_path)
    assert tables.truth["cable_length_timise_nm"].tolist() == [152.0, 1592.0, 4792.0]
    config = EvaluateConfig(bootstrap_samples=0)
    alone = pool_scores([tables], config).to_dict()
    assert json.dumps(alone) == json.dumps(scores.to_dict())
    twice = pool_scores([tables, tables], config)
    assert [twice.associations[n]["missing"] for n in NAMES] == [2, 0, 0, 2]


def test_memory_follows_the_voxels_of_an_instance_and_not_its_box():
    far = np.zeros((60, 220, 220), np.uint8)
    far[0, 0, 0] = far[-1, -1, -1] = 1
    config = EvaluateConfig(bootstrap_samples=0)
    limited = Resources(1, "serial", memory_gib=0.05)
    found = score_instances(volume(far), volume(far), config=config, resources=limited)
    assert found.tables.truth["skeleton_length_nm"].tolist() == [0.0]
    solid = np.zeros((102, 102, 102), np.uint8)
    solid[1:-1, 1:-1, 1:-1] = 1
    with pytest.raises(MemoryLimitError, match="cable lengths: needs"):
        score_instances(volume(solid), volume(solid), config=config, resources=limited)


@pytest.fixture
def tubes():
    """Instances 1 to 4: tubes of radius 4 and 200 voxels along z, x and twice y."""
    labels = np.zeros((200, 210, 210), np.uint8)
    grid = np.indices((9, 9)) - 4
    disc = (grid**2).sum(0) <= 16
    labels[:, 1:10, 1:10][:, disc] = 1
    along = disc[:, None] & np.ones((9, 200, 9), bool)
    labels[100:109, 20:29, :200].swapaxes(1, 2)[along] = 2
    for label, x in ((3, 50), (4, 100)):
        labels[20:29, 5:205, x : x + 9][along] = label
    return labels


def lengths_of(labels, ledger=None):
    true = volume(labels)
    placed = Compared(true, true)
    table = overlap_table(placed, resources=SERIAL)
    return cable.truth_lengths(placed, true.box, table.truth, SIZE, SERIAL, ledger)


def test_lengths_do_not_depend_on_what_is_gathered_at_a_time(tubes, monkeypatch):
    whole = lengths_of(tubes)
    monkeypatch.setattr(cable, "GATHERED_VOXELS", 100)
    alone = lengths_of(tubes)
    monkeypatch.setattr(cable, "GATHERED_VOXELS", 1 << 24)
    runs = [int(np.count_nonzero(np.diff((tubes == i).astype(np.int8), prepend=0) == 1))
            for i in range(1, 5)]  # fmt: skip
    monkeypatch.setattr(cable, "GATHERED_RUNS", max(runs) + 1)  # parts are halved until they fit
    halved = lengths_of(tubes)
    for name, values in whole.items():
        assert values.tolist() == alone[name].tolist() == halved[name].tolist()
    assert whole[cable.GRID].tolist() == [1, 1, 1, 1]
    assert whole[cable.PHYSICAL] == pytest.approx([199 * 30, 199 * 8, 199 * 8, 199 * 8], rel=0.15)


@pytest.mark.parametrize(("limit", "most"), [("TRACED_VOXELS", 3000), ("GATHERED_RUNS", 1500)])
def test_large_instances_are_traced_on_a_coarser_grid_and_no_other_is_lost(
    tubes, monkeypatch, limit, most, caplog
):
    tubes[150, 150, 100:105] = 9
    fine = lengths_of(tubes)
    monkeypatch.setattr(cable, limit, most)
    with caplog.at_level(logging.INFO, logger="cristae"):
        scores = scored(volume(tubes), volume(tubes))
    truth = scores.tables.truth
    grids = truth[cable.GRID].tolist()
    assert grids[-1] == 1
    assert grids[:4] == [2] * 4 if limit == "TRACED_VOXELS" else max(grids) == 2
    assert truth[cable.TIMISE] == pytest.approx(fine[cable.TIMISE], rel=0.15)
    assert truth[cable.TIMISE][-1] == 32.0
    assert cable.length_codes(truth).tolist() == cable.length_codes(fine).tolist()
    coarse = sum(grid > 1 for grid in grids)
    assert f"{coarse} instances of more than" in caplog.text
    assert f"{coarse} instances were too large" in format_scores(scores)


def test_an_interrupted_measurement_goes_on(tubes, tmp_path, monkeypatch):
    def opened():
        return open_ledger(tmp_path / "scores.json", stage="evaluate", inputs={}, settings={})

    monkeypatch.setattr(cable, "GATHERED_VOXELS", 20_000)
    measure, done = cable._measure, []

    def interrupted(source, instance):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(instance.row)
        return measure(source, instance)

    whole = lengths_of(tubes)
    monkeypatch.setattr(cable, "_measure", interrupted)
    with opened() as ledger, pytest.raises(KeyboardInterrupt):
        lengths_of(tubes, ledger)
    first = list(done)
    done.clear()
    monkeypatch.setattr(cable, "_measure", lambda *a: (done.append(a[1].row), measure(*a))[1])
    with opened() as ledger:
        again = lengths_of(tubes, ledger)
    assert len(done) < 4
    assert set(done) | set(first) == {0, 1, 2, 3}
    for name, values in whole.items():
        assert values.tolist() == again[name].tolist()


def test_an_instance_along_a_face_is_as_long_as_it_is():
    """TIMISE's paths begin in the middle of the section that the face cuts; it has no other."""
    truth = np.zeros((1, 3, 60), np.uint8)
    truth[0, 1, 5:55] = 1
    table = scored(volume(truth), volume(truth)).tables.truth
    assert table["skeleton_length_nm"].tolist() == [49 * 8.0]
    assert table["cable_length_timise_nm"].tolist() == [0.0]
