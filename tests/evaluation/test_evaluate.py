"""The stage: scores as a value and as files, done once, the same however it is computed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cristae.configuration import load_config
from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import ConfigError, InputError, OutputExistsError, SourceNotFoundError
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    ScoreFiles,
    evaluate_volume,
    format_scores,
    load_scores,
    pool_scores,
    precision_recall_of,
    read_matches,
    read_scores,
    score_instances,
    write_scores,
    write_tables,
)
from cristae.evaluation.scores import Scores
from cristae.labels import blocks
from cristae.measurement.table import write_table
from cristae.volumes.volume import array_volume

SIZE = (30.0, 8.0, 8.0)
QUICK = EvaluateConfig(bootstrap_samples=20)


def plain(scores):
    return json.loads(json.dumps(scores.to_dict()))


def test_layout_of_the_scores_file(labels, serial):
    prediction, truth = labels(1)
    config = EvaluateConfig(bootstrap_samples=20, without_border_cut=True)
    tree = plain(score_instances(prediction, truth, config=config, resources=serial))
    assert list(tree) == [
        "average_precision_coco",
        "matching",
        "associations",
        "voxel",
        "intervals",
        "without_border_cut",
        "schema_version",
    ]
    assert list(tree["average_precision_coco"]) == [
        "50:95",
        "50",
        "75",
        "75_small",
        "75_medium",
        "75_large",
    ]
    assert list(tree["matching"]) == ["0.3", "0.5", "0.75"]
    assert set(tree["matching"]["0.5"]["all"]) == {
        "tp",
        "fp",
        "fn",
        "precision",
        "recall",
        "accuracy",
        "f1",
        "panoptic_quality",
    }
    assert list(tree["voxel"]) == [
        "foreground_iou",
        "foreground_dice",
        "adapted_rand_error",
        "voi_split",
        "voi_merge",
    ]
    assert set(tree["intervals"]) == {"ap_75", "accuracy_75"}
    assert set(tree["without_border_cut"]) == set(tree) - {
        "voxel",
        "without_border_cut",
        "schema_version",
    }


def test_blocks_not_asked_for_are_left_out(labels, serial):
    config = EvaluateConfig(bootstrap_samples=0)
    tree = plain(score_instances(*labels(1), config=config, resources=serial))
    assert "intervals" not in tree
    assert "without_border_cut" not in tree


def test_categories_stand_beside_all(labels, serial):
    scores = score_instances(
        *labels(1), categories={1: "large", 2: "medium"}, config=QUICK, resources=serial
    )
    assert list(scores.matching["0.75"]) == ["all", "small", "medium", "large"]
    assert list(scores.associations) == ["all", "small", "medium", "large"]
    assert sorted(set(scores.tables.truth["category"])) == ["large", "medium", "small"]
    with pytest.raises(InputError, match="categories huge: expected small, medium, large"):
        score_instances(*labels(1), categories={1: "huge"})


def test_ranking_by_table_equals_ranking_by_prediction(labels, serial):
    prediction, truth = labels(3)
    heat = np.random.default_rng(0).integers(0, 256, truth.shape).astype(np.uint8)
    by_image = score_instances(prediction, truth, scores=heat, config=QUICK, resources=serial)
    means = {int(i): heat[prediction == i].mean() for i in np.unique(prediction) if i}
    by_table = score_instances(prediction, truth, scores=means, config=QUICK, resources=serial)
    assert by_table.ranked_by == by_image.ranked_by == "score"
    assert plain(by_table) == plain(by_image)
    assert by_image.tables.prediction["score"].tolist() == pytest.approx(
        [means[i] / 255 for i in by_image.tables.prediction["instance"].tolist()]
    )


def test_a_table_in_a_file_ranks_as_well(labels, serial, tmp_path):
    found, true = volumes_of(labels)
    ids = np.unique(found.read())[1:].astype(np.uint64)
    write_table(tmp_path / "ranks.csv", {"instance": ids, "score": 1.0 / ids})
    ranks = read_scores(tmp_path / "ranks.csv")
    out, options = tmp_path / "scores.json", {"config": QUICK, "resources": serial}
    scores = evaluate_volume(found, true, out, scores=ranks, **options)
    assert scores.ranked_by == "score"
    assert scores.tables.prediction["rank"].tolist() == list(range(1, len(ids) + 1))
    with pytest.raises(OutputExistsError, match="scores"):
        evaluate_volume(found, true, out, scores=ranks | {1: 0.0}, **options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("instance\n1\n", "no column score"),
        ("instance,score\n1,.5\n1,.6\n", "instance 1 in 2 rows"),
        ("instance,score\n1,nan\n", "score nan of instance 1"),
        ("instance,score\n1,high\n", "column score"),
    ],
)
def test_tables_that_cannot_rank(tmp_path, text, says):
    (tmp_path / "ranks.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_scores(tmp_path / "ranks.csv")


def test_instances_cut_by_the_border_can_be_left_out(serial):
    """Truth 1 and its prediction touch a face, as does prediction 9; truth 2 and 8 do not."""
    truth, found = np.zeros((2, 3, 5, 20), np.uint8)
    truth[1, 2, 0:3], found[1, 2, 0:3] = 1, 1
    truth[1, 2, 5:9], found[1, 2, 5:9] = 2, 2
    found[1, 2, 12:14] = 8
    found[1, 4, 12:14] = 9
    config = EvaluateConfig(bootstrap_samples=0, without_border_cut=True)
    scores = score_instances(found, truth, config=config, resources=serial)
    assert scores.tables.truth["cut_by_border"].tolist() == [True, False]
    counts = scores.without_border_cut["matching"]["0.75"]["all"]
    assert (counts["tp"], counts["fp"], counts["fn"]) == (1, 1, 0)
    counts = scores.matching["0.75"]["all"]
    assert (counts["tp"], counts["fp"], counts["fn"]) == (2, 2, 0)


def test_tables_say_what_became_of_every_instance(serial):
    truth, found = np.zeros((2, 1, 3, 12), np.uint8)
    truth[0, 1, 1:5], truth[0, 1, 8:10] = 4, 6
    found[0, 1, 1:4], found[0, 2, 5] = 2, 7
    volume = array_volume(found, voxel_size_nm=SIZE).with_(origin_nm=(0.0, 80.0, 0.0))
    same_place = array_volume(truth, voxel_size_nm=SIZE).with_(origin_nm=(0.0, 80.0, 0.0))
    tables = score_instances(volume, same_place, config=QUICK, resources=serial).tables
    truths = pd.DataFrame(dict(tables.truth)).set_index("truth")
    assert truths.loc[4, ["prediction", "iou", "association"]].tolist() == [2, 0.75, "one_to_one"]
    assert truths.loc[6, ["prediction", "iou", "association"]].tolist() == [0, 0.0, "missing"]
    assert truths.loc[6, ["first_z_vx", "first_y_vx", "first_x_vx"]].tolist() == [0, 1, 8]
    assert truths.loc[6, ["centroid_y_nm", "centroid_x_nm"]].tolist() == [88.0, 68.0]
    found_table = pd.DataFrame(dict(tables.prediction)).set_index("instance")
    assert found_table.loc[2, ["rank", "truth", "association"]].tolist() == [1, 4, "one_to_one"]
    assert found_table.loc[7, ["rank", "truth", "association"]].tolist() == [2, 0, "background"]
    assert tables.overlaps["voxels"].tolist() == [3]


def test_precision_and_recall_come_from_the_tables(labels, serial):
    scores = score_instances(*labels(2), config=QUICK, resources=serial)
    recall, precision = scores.precision_recall(0.5)
    assert len(recall) == len(scores.tables.prediction["instance"])
    assert (np.diff(recall) >= 0).all()
    assert (np.diff(precision) <= 0).all()
    levels = np.append(precision, 0)[np.searchsorted(recall, np.linspace(0, 1, 101))]
    assert levels.mean() == pytest.approx(scores.average_precision_coco["50"])


def test_scores_without_tables_have_no_curve():
    bare = Scores({"75": 1.0})
    with pytest.raises(InputError, match="match tables"):
        bare.precision_recall()
    with pytest.raises(InputError, match="match tables"):
        write_tables(bare, "anywhere")


def test_files_are_read_back_exactly(labels, serial, tmp_path):
    prediction, truth = labels(2)
    heat = np.random.default_rng(0).integers(0, 256, truth.shape).astype(np.uint8)
    scores = score_instances(prediction, truth, scores=heat, config=QUICK, resources=serial)
    write_scores(scores, tmp_path / "scores.json", tmp_path / "csv")
    again = load_scores(tmp_path / "scores.json", tmp_path / "csv")
    assert again.to_dict() == scores.to_dict()
    for name in ("truth", "prediction", "overlaps"):
        one, two = getattr(scores.tables, name), getattr(again.tables, name)
        assert list(one) == list(two)
        for column in one:
            np.testing.assert_array_equal(one[column], two[column])


def test_one_volume_pooled_is_that_volume(labels, serial, tmp_path):
    config = EvaluateConfig(bootstrap_samples=20, without_border_cut=True)
    scores = score_instances(*labels(2), config=config, resources=serial)
    write_tables(scores, tmp_path)
    assert plain(pool_scores([read_matches(tmp_path)], config)) == plain(scores)


def test_pooled_volumes_are_scored_as_one(labels, serial):
    """Two volumes side by side, with ids of their own and a gap, are one volume."""
    pairs = [labels(seed) for seed in (1, 2)]
    tables = [score_instances(*p, config=QUICK, resources=serial).tables for p in pairs]
    joined = []
    for one, two in zip(*pairs, strict=True):
        gap = np.zeros((one.shape[0], one.shape[1], 1), np.uint16)
        joined.append(np.concatenate([one, gap, np.where(two, two + 100, 0)], axis=2))
    whole = score_instances(*joined, config=QUICK, resources=serial)
    pooled = pool_scores(tables, QUICK)
    assert pooled.average_precision_coco == whole.average_precision_coco
    assert pooled.matching == whole.matching
    assert pooled.associations == whole.associations
    assert pooled.voxel == pytest.approx(whole.voxel)


def volumes_of(labels, seed=1):
    prediction, truth = labels(seed)
    return (
        array_volume(prediction, name="found").with_(identity=Identity.of(f"found {seed}")),
        array_volume(truth, name="true").with_(identity=Identity.of("true")),
    )


def test_a_finished_file_is_left_alone(labels, serial, tmp_path):
    found, true = volumes_of(labels)
    out, tables = tmp_path / "scores.json", tmp_path / "errors"
    options = {"config": QUICK, "resources": serial}
    scores = evaluate_volume(found, true, ScoreFiles(out, tables), **options)
    assert json.loads(out.read_text()) == plain(scores)
    files = sorted(tmp_path.rglob("*"))
    assert [f.name for f in files] == [
        "errors",
        "overlaps.csv",
        "predictions.csv",
        "truth.csv",
        "scores.json",
        "scores.json.cristae.json",
    ]
    times = [f.stat().st_mtime_ns for f in files]
    again = evaluate_volume(found, true, ScoreFiles(out, tables), **options)
    assert again.to_dict() == scores.to_dict()
    assert precision_recall_of(again.tables)[0].tolist() == scores.precision_recall()[0].tolist()
    assert [f.stat().st_mtime_ns for f in files] == times
    assert evaluate_volume(found, true, out, **options).tables is None


def test_missing_tables_are_made_again(labels, serial, tmp_path):
    found, true = volumes_of(labels)
    out, tables = tmp_path / "scores.json", tmp_path / "errors"
    evaluate_volume(found, true, out, config=QUICK, resources=serial)
    written = out.read_bytes()
    evaluate_volume(found, true, ScoreFiles(out, tables), config=QUICK, resources=serial)
    assert len(read_matches(tables).truth["truth"]) > 0
    assert out.read_bytes() == written


def test_tables_of_another_evaluation_are_not_taken_for_its_own(labels, serial, tmp_path):
    found, true = volumes_of(labels)
    other, _ = volumes_of(labels, 2)
    options = {"config": QUICK, "resources": serial}
    one, two = (ScoreFiles(tmp_path / f"{i}.json", tmp_path / "errors") for i in (1, 2))
    scores = evaluate_volume(found, true, one, **options)
    with pytest.raises(OutputExistsError, match="errors: holds tables of another evaluation"):
        evaluate_volume(other, true, two, **options)
    assert not list(tmp_path.glob("2.json*"))
    evaluate_volume(other, true, replace(two, overwrite=True), **options)
    with pytest.raises(OutputExistsError, match="errors: holds tables of another evaluation"):
        evaluate_volume(found, true, one, **options)
    again = evaluate_volume(found, true, replace(one, overwrite=True), **options)
    assert plain(again) == plain(scores)
    assert evaluate_volume(found, true, one, **options).tables is not None


def test_other_inputs_and_settings_are_refused(labels, serial, tmp_path):
    found, true = volumes_of(labels)
    other, _ = volumes_of(labels, 2)
    out = tmp_path / "scores.json"
    evaluate_volume(found, true, out, config=QUICK, resources=serial)
    with pytest.raises(OutputExistsError, match=r"found 1.*found 2"):
        evaluate_volume(other, true, out, config=QUICK, resources=serial)
    with pytest.raises(OutputExistsError, match="bootstrap_samples"):
        evaluate_volume(found, true, out, resources=serial)
    anew = ScoreFiles(out, overwrite=True)
    evaluate_volume(other, true, anew, config=QUICK, resources=serial)


def test_another_voxel_size_or_place_is_another_evaluation(labels, serial, tmp_path):
    """They shape categories and the places of the tables; of outputs of release 0.1 unknown."""
    out = ScoreFiles(tmp_path / "scores.json", tmp_path / "errors")
    prediction, truth = volumes_of(labels)
    config = EvaluateConfig(bootstrap_samples=0)
    sized = [v.with_(voxel_size_nm=(30.0, 8.0, 8.0)) for v in (prediction, truth)]
    evaluate_volume(*sized, out, config=config, resources=serial)
    other = [v.with_(voxel_size_nm=(60.0, 16.0, 16.0)) for v in sized]
    with pytest.raises(OutputExistsError, match=r"places\.prediction\.voxel_size_nm: \[30\.0"):
        evaluate_volume(*other, out, config=config, resources=serial)
    moved = [v.with_(origin_nm=(0.0, 8.0, 0.0)) for v in sized]
    with pytest.raises(OutputExistsError, match=r"places\.truth\.origin_nm"):
        evaluate_volume(*moved, out, config=config, resources=serial)
    path = tmp_path / "scores.json.cristae.json"
    record = json.loads(path.read_text())
    del record["settings"]["places"], record["id"]
    path.write_text(json.dumps(record))
    evaluate_volume(*other, out, config=config, resources=serial)


def test_volumes_that_differ_leave_nothing_behind(labels, serial, tmp_path):
    found, true = volumes_of(labels)
    part = true.crop(true.box.grow((0, 0, -1)))
    with pytest.raises(InputError, match="crop compares the common part"):
        evaluate_volume(found, part, tmp_path / "scores.json", resources=serial)
    assert list(tmp_path.iterdir()) == []


class Interrupted(BaseException):
    pass


class StopsAt:
    """Reads a volume and stops at a plane."""

    def __init__(self, reader, plane):
        self.reader, self.plane, self.read_planes = reader, plane, []

    def read(self, box):
        if box.start[0] == self.plane:
            raise Interrupted
        self.read_planes.append(box.start[0])
        return self.reader.read(box)


def test_an_interrupted_run_gives_the_same_bytes(labels, serial, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 192)
    found, true = (v.with_(chunk_shape=(1, 8, 24)) for v in volumes_of(labels))
    for name, plane in (("whole", None), ("broken", 2), ("broken", None)):
        reader = StopsAt(found.reader, plane)
        source, out = found.with_(reader=reader), tmp_path / f"{name}.json"
        if plane is None:
            evaluate_volume(source, true, out, config=QUICK, resources=serial)
        else:
            with pytest.raises(Interrupted):
                evaluate_volume(source, true, out, config=QUICK, resources=serial)
            assert not out.exists()
    assert reader.read_planes == [2, 3, 4]
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "broken.json").read_bytes()


def test_workers_change_no_number(labels, serial, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 60)
    found, true = volumes_of(labels, 4)
    one = score_instances(found, true, config=QUICK, resources=serial)
    small = found.with_(chunk_shape=(1, 2, 5))
    two = score_instances(small, true, config=QUICK, resources=Resources(workers=3))
    assert plain(one) == plain(two)


def test_text_states_the_weakness_of_the_rank_by_size(labels, serial):
    prediction, truth = labels(1)
    config = EvaluateConfig(bootstrap_samples=20, without_border_cut=True)
    text = format_scores(score_instances(prediction, truth, config=config, resources=serial))
    assert "small false positives" in text
    assert "Without instances cut by the border" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    heat = np.ones(truth.shape, np.float32)
    ranked = score_instances(prediction, truth, scores=heat, config=QUICK, resources=serial)
    assert "small false positives" not in format_scores(ranked)


def test_text_shows_what_is_not_defined_as_a_dash(serial):
    empty = np.zeros((2, 2, 2), np.uint8)
    text = format_scores(score_instances(empty, empty, config=QUICK, resources=serial))
    assert "-" in text.splitlines()[2].split()
    assert "nan" not in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("size_thresholds_vx=[15000, 5000]", "15000, 5000.*small < medium", id="sizes"),
        pytest.param("bootstrap_samples=-1", "bootstrap_samples -1", id="samples"),
        pytest.param("score_channel=-2", "score_channel -2", id="channel"),
        pytest.param("no_such=1", "no_such", id="key"),
    ],
)
def test_settings_out_of_range(override, message):
    one = np.ones((1, 1, 1), int)

    def score():
        return score_instances(one, one, config=load_config(EvaluateConfig, {}, [override]))

    with pytest.raises(ConfigError, match=message):
        score()


def test_files_that_are_no_scores(tmp_path):
    (tmp_path / "scores.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="schema version 99, expected 1"):
        load_scores(tmp_path / "scores.json")
    with pytest.raises(SourceNotFoundError, match=r"(?s)no truth\.csv.*no predictions\.csv"):
        read_matches(tmp_path)
    for name in ("truth.csv", "predictions.csv", "overlaps.csv"):
        (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column voxels"):
        read_matches(tmp_path)
