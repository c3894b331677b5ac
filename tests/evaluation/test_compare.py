"""Runs side by side: numbers of the runs' own files, the best of each column marked."""

import json
import re

import pytest
import yaml

from cristae.errors import ConfigError, InputError, OutputExistsError
from cristae.evaluation.compare import compare_runs, write_comparisons
from cristae.evaluation.comparison import latex, markdown, page
from cristae.evaluation.scores import Scores, write_scores

CATEGORIES = ("all", "small", "medium", "large")


def scores(base, categories=("all",)):
    precision = {"50:95": base, "50": base, "75": base}
    precision |= {"75_small": base - 0.2, "75_medium": None, "75_large": base + 0.05}
    matching = {
        iou: {
            c: {"accuracy": base - i / 10, "fp": int(100 * base)} for i, c in enumerate(categories)
        }
        for iou in ("0.3", "0.5", "0.75")
    }
    return Scores(precision, matching)


def make_run(folder, model, found, decoder="bc_watershed"):
    """A run folder as far as it is read: configuration, scores, attributes of the instances."""
    for name, each in found.items():
        sample = folder / name
        (sample / "instances.zarr").mkdir(parents=True)
        attributes = {"attributes": {"cristae": {"decoder": decoder}}}
        (sample / "instances.zarr" / "zarr.json").write_text(json.dumps(attributes))
        write_scores(each, sample / "scores.json")
    (folder / "run.yaml").write_text(yaml.safe_dump({"model": model}))
    write_scores(next(iter(found.values())), folder / "scores.json")
    return folder


@pytest.fixture
def runs(tmp_path):
    one = {"rat": scores(0.5), "human": scores(0.7)}
    two = {"rat": scores(0.6), "human": scores(0.4)}
    return [
        make_run(tmp_path / "a_b", "models/general.pt", one),
        make_run(tmp_path / "c|d", None, two, "mitoem"),
    ]


def test_numbers_and_names_come_from_the_runs(runs):
    found = compare_runs(runs)
    assert [(c.score, c.size) for c in found.columns] == [
        ("AP-75", "small"),
        ("AP-75", "large"),
        ("AP-75", "all"),
        ("accuracy-75", "all"),
    ]
    assert [(r.run, r.model, r.decoder) for r in found.rows] == [
        ("a_b", "general", "bc_watershed"),
        ("c|d", "trained in c|d", "mitoem"),
    ]
    assert found.rows[0].values == pytest.approx((0.3, 0.55, 0.5, 0.5))
    assert [found.best(k) for k in range(4)] == [{1}] * 4


def test_columns_by_sample(runs):
    found = compare_runs(runs, ["ap_75"], by="sample")
    assert [c.volume for c in found.columns] == ["human"] * 3 + ["rat"] * 3
    assert found.rows[1].values == pytest.approx((0.2, 0.45, 0.4, 0.4, 0.65, 0.6))
    assert [found.best(k) for k in (2, 5)] == [{0}, {1}]


def test_any_number_can_be_compared_and_errors_are_best_when_low(runs):
    found = compare_runs(runs, ["matching/0.5/all/fp"])
    assert [row.values for row in found.rows] == [(50.0,), (60.0,)]
    assert found.best(0) == {0}


def test_categories_give_columns_by_size(tmp_path):
    runs = [make_run(tmp_path / n, "m", {"x": scores(0.6, CATEGORIES)}) for n in "ab"]
    found = compare_runs(runs, ["accuracy_75"])
    assert [c.size for c in found.columns] == ["small", "medium", "large", "all"]
    assert found.rows[0].values == pytest.approx((0.5, 0.4, 0.3, 0.6))
    assert found.best(0) == {0, 1}


def test_markdown(runs):
    text = markdown(compare_runs(runs, ["ap_75"]))
    assert re.sub(" +", " ", re.sub("-+", "-", text)).splitlines() == [
        "| run | model | post-processing | AP-75 small | AP-75 large | AP-75 all |",
        "|:-|:-|:-|-:|-:|-:|",
        "| a_b | general | bc_watershed | 0.300 | 0.550 | 0.500 |",
        "| c\\|d | trained in c\\|d | mitoem | **0.400** | **0.650** | **0.600** |",
    ]


def test_latex(runs):
    lines = latex(compare_runs(runs, ["ap_75"], by="sample")).splitlines()
    assert lines[0] == r"\begin{tabular}{lllrrrrrr}"
    spans = r"\multicolumn{3}{c}{human AP-75} & \multicolumn{3}{c}{rat AP-75}"
    assert lines[2] == rf"\multicolumn{{3}}{{c}}{{}} & {spans} \\"
    best = r"\textbf{0.500} & \textbf{0.750} & \textbf{0.700}"
    assert lines[5] == rf"a\_b & general & bc\_watershed & {best} & 0.300 & 0.550 & 0.500 \\"


def test_html(runs, tmp_path):
    text = page(
        compare_runs(
            [*runs, make_run(tmp_path / "<i>", "m", {"rat": scores(0.1), "human": scores(0.1)})]
        )
    )
    assert "&lt;i&gt;" in text
    assert "<i>" not in text
    assert text.count("<strong>") == 4
    assert 'colspan="3" halign="left">AP-75</th>' in text


def test_files_by_suffix(runs, tmp_path):
    found = compare_runs(runs)
    paths = [tmp_path / f"table{suffix}" for suffix in (".md", ".tex", ".html")]
    write_comparisons(found, paths)
    assert [p.read_text() for p in paths] == [make(found) for make in (markdown, latex, page)]
    write_comparisons(found, paths)
    other = compare_runs(runs[::-1])
    with pytest.raises(OutputExistsError, match=r"(?s)table\.md.*table\.tex.*table\.html"):
        write_comparisons(other, paths)
    write_comparisons(other, paths, overwrite=True)
    assert paths[0].read_text() == markdown(other)
    with pytest.raises(ConfigError, match=r"'\.txt', expected one of \.md, \.tex, \.html"):
        write_comparisons(found, [tmp_path / "table.txt"])


def test_runs_that_cannot_be_compared(runs, tmp_path):
    (tmp_path / "nothing").mkdir()
    half = make_run(tmp_path / "half", "m", {"rat": scores(0.1)})
    (half / "scores.json").unlink()
    other = make_run(tmp_path / "other", "m", {"mouse": scores(0.1)})
    with pytest.raises(InputError) as caught:
        compare_runs([*runs, tmp_path / "nothing", half, other])
    for part in ("nothing: not a run folder", "half: no scores.json", "different samples", "mouse"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="expected one of average_precision_coco"):
        compare_runs(runs, ["ap"])
