"""The report: everything inside one file, anchors that stay, bounded reads, nothing made up."""

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from cristae.errors import InputError
from cristae.evaluation.evaluate import score_instances
from cristae.grid import Box
from cristae.measurement.measure import measure_instances
from cristae.report import sampling
from cristae.report.report import ReportData, write_report
from cristae.volumes.volume import ArrayReader, array_volume

SIZE = (30.0, 8.0, 8.0)


def blocks(shape, boxes):
    labels = np.zeros(shape, np.uint32)
    for label, (z, y, x) in boxes:
        labels[z, y, x] = label
    return labels


@pytest.fixture(scope="module")
def arrays():
    """Five true instances; one missed, two merged, one split, one found; one false positive."""
    shape = (12, 64, 96)
    z = slice(3, 9)
    truth = blocks(
        shape,
        [
            (1, (z, slice(2, 14), slice(4, 24))),
            (2, (z, slice(20, 30), slice(4, 24))),
            (3, (z, slice(32, 42), slice(4, 24))),
            (4, (z, slice(44, 60), slice(4, 44))),
            (5, (z, slice(10, 22), slice(50, 70))),
        ],
    )
    predicted = blocks(
        shape,
        [
            (2, (z, slice(20, 42), slice(4, 24))),
            (4, (z, slice(44, 60), slice(4, 28))),
            (7, (z, slice(44, 60), slice(28, 44))),
            (5, (z, slice(10, 22), slice(50, 70))),
            (8, (z, slice(30, 40), slice(70, 90))),
        ],
    )
    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return grey, predicted, truth


def sample(arrays, name="one", *, truth=True, measured=True, voxel_size=SIZE):
    grey, predicted, true = arrays
    image = array_volume(grey, name="raw.tif", voxel_size_nm=voxel_size)
    instances = array_volume(predicted, name="instances.zarr", voxel_size_nm=voxel_size)
    labels = array_volume(true, name="labels.tif", voxel_size_nm=voxel_size)
    scores = score_instances(instances, labels) if truth else None
    return ReportData(
        name=name,
        image=image,
        instances=instances.with_(attributes={"decoder": "bc_watershed", "thresholds": {"a": 0.5}}),
        truth=labels if truth else None,
        scores=scores.to_dict() if scores else None,
        matches=scores.tables if scores else None,
        measurements=measure_instances(instances) if measured else None,
        table=f"{name}/instances.csv",
    )


@pytest.fixture(scope="module")
def page(arrays, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    provenance = {"command": "cristae run a.yaml", "model": {"name": "general"}, "seconds": 3}
    assert write_report([sample(arrays)], out, title="A run", provenance=provenance) == out
    return out.read_text()


def anchors(page):
    return re.findall(r'\bid="([^"]+)"', page)


def test_nothing_is_fetched_from_anywhere(page):
    sources = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', page)
    assert all(s.startswith(("data:image/", "#")) for s in sources)
    assert not re.search(r"https?://", page)
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]{1})", page)) <= {"#"}


def test_anchors_are_there_and_unique_and_links_lead_to_them(page):
    ids = anchors(page)
    assert len(ids) == len(set(ids))
    assert {f"error-{i}" for i in range(1, 5)} <= set(ids)
    assert {"instance-2", "instance-8", "sections", "space", "scores", "sizes"} <= set(ids)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_errors_are_those_made_worst_first(page):
    cards = re.findall(r'<article class="card (\w+)" id="error-(\d+)">', page)
    # Voxels lost: split 6*16*16 = 1536, missed 6*12*20 = 1440, merge and false positive 1200.
    assert cards == [("split", "1"), ("missed", "2"), ("false_positive", "3"), ("merge", "4")]
    lost = re.findall(r"<dt>lost</dt><dd>([\d,]+) voxels", page)
    assert lost == ["1,536", "1,440", "1,200", "1,200"]
    stable = re.findall(r'<h4 id="([^"]+)"><a href="#([^"]+)">Error', page)
    assert [target for _, target in stable] == [name for name, _ in stable]
    by_hand = ["split-truth-4", "missed-truth-1", "false-positive-prediction-8"]
    assert [name for name, _ in stable] == [*by_hand, "merge-prediction-2"]


def test_numbers_are_those_of_the_scores(page, arrays):
    data = sample(arrays)
    for key in ("75", "50"):
        assert f"<dd>{data.scores['average_precision_coco'][key]:.3f}" in page
    assert f"{data.measurements['volume_um3'].sum():.3g}" in page
    assert "12 × 64 × 96 voxels" in page
    assert "30 × 8 × 8 nm" in page
    assert "bc_watershed" in page
    assert "cristae run a.yaml" in page
    assert "name general" in page
    assert "one/instances.csv" in page


def test_every_picture_says_what_it_shows(page):
    pictures = re.findall(r"<img[^>]*>", page)
    assert len(pictures) > 10
    assert all(" alt=" in picture for picture in pictures)
    bare = [p for p in pictures if 'alt=""' in p]
    assert all("layer" in p for p in bare)
    assert page.count('role="img" aria-label=') == 2


def test_planes_are_in_true_proportion(page):
    # 96 x 8 = 768 nm along x, 12 x 30 = 360 nm along z.
    assert "grid-template-columns: 768.0fr 360.0fr" in page
    found = re.findall(r'width="(\d+)" height="(\d+)" alt="Plane (\w+)', page)
    shape = {name: (int(w), int(h)) for w, h, name in found[:3]}
    assert shape["xy"][0] / shape["xz"][1] == pytest.approx(768 / 360, rel=0.01)
    assert shape["xy"][1] == shape["yz"][1]
    assert shape["xy"][0] == shape["xz"][0]


def test_the_same_report_has_the_same_bytes_but_for_the_date(arrays, tmp_path, page):
    write_report(
        [sample(arrays)],
        tmp_path / "again.html",
        title="A run",
        provenance={"command": "cristae run a.yaml", "model": {"name": "general"}, "seconds": 3},
    )
    made = re.compile(r"Made \S+ \S+ UTC")
    again = (tmp_path / "again.html").read_text()
    assert made.sub("", again) == made.sub("", page)


def test_names_are_escaped(arrays, tmp_path):
    data = sample(arrays, name='<script>alert("x")</script>')
    out = write_report([data], tmp_path / "r.html", title="<b>&", provenance={"<i>": "<u>"})
    text = out.read_text()
    assert "<script" not in text
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "<u>" not in text


def test_several_samples_have_an_overview_and_anchors_of_their_own(arrays, tmp_path):
    samples = [sample(arrays, "Rat 1"), sample(arrays, "human", truth=False)]
    text = write_report(samples, tmp_path / "r.html", title="two", provenance={}).read_text()
    ids = anchors(text)
    assert len(ids) == len(set(ids))
    assert {"overview", "rat-1-error-1", "rat-1-sample", "human-sample"} <= set(ids)
    assert not [i for i in ids if i.startswith("human-error")]
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_names_that_give_the_same_anchor_are_told_apart(arrays, tmp_path):
    samples = [sample(arrays, "a b", truth=False), sample(arrays, "a-b", truth=False)]
    samples.append(sample(arrays, "µ", truth=False))
    samples.append(sample(arrays, "a-b-1", truth=False))
    text = write_report(samples, tmp_path / "r.html", title="t", provenance={}).read_text()
    assert len(anchors(text)) == len(set(anchors(text)))


def test_what_is_not_there_is_left_out_and_said(arrays, tmp_path):
    data = sample(arrays, truth=False, measured=False, voxel_size=None)
    text = write_report([data], tmp_path / "r.html", title="t", provenance={}).read_text()
    assert "No truth was given" in text
    assert "not measured" in text
    assert "The voxel size is unknown" in text
    assert not {"scores", "sizes", "errors", "error-1"} & set(anchors(text))
    assert "AP-75" not in text
    assert (
        "nm" not in re.sub(r'data:image/[^"]+', "", text).split("<main", 1)[1].split("</style>")[0]
    )


def test_the_caveat_follows_the_ranking(arrays, tmp_path, page):
    assert "Predictions are ranked by size" in page
    data = sample(arrays)
    scores = score_instances(data.instances, data.truth, scores={8: 0.9, 5: 0.5})
    ranked = ReportData(
        "r", data.image, data.instances, scores=scores.to_dict(), matches=scores.tables
    )
    text = write_report([ranked], tmp_path / "r.html", title="t", provenance={}).read_text()
    assert "Predictions are ranked by a score" in text
    assert "ranked by size, as" not in text


def test_a_perfect_prediction_has_no_errors(arrays, tmp_path):
    grey, _, truth = arrays
    text = write_report(
        [sample((grey, truth, truth))], tmp_path / "r.html", title="t", provenance={}
    ).read_text()
    assert "Every instance agrees with the truth" in text


def test_no_instances_at_all(arrays, tmp_path):
    grey, _, truth = arrays
    data = sample((grey, np.zeros_like(truth), truth))
    text = write_report([data], tmp_path / "r.html", title="t", provenance={}).read_text()
    assert text.count('<article class="card missed"') == 5


def test_all_faults_of_the_samples_at_once(arrays, tmp_path):
    good = sample(arrays, "a", truth=False)
    odd = sample(arrays, "a", truth=False)
    image = odd.image.with_(voxel_size_nm=(40.0, 8.0, 8.0))
    with pytest.raises(InputError, match=r"(?s)'a' appears twice.*40 x 8 x 8 nm.*30 x 8 x 8 nm"):
        write_report(
            [good, ReportData("a", image, odd.instances)],
            tmp_path / "r.html",
            title="t",
            provenance={},
        )
    with pytest.raises(InputError, match="no samples"):
        write_report([], tmp_path / "r.html", title="t", provenance={})
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True, eq=False)
class CountingReader:
    """Reads an array and notes the size of every box."""

    array: np.ndarray
    sizes: list = field(default_factory=list)

    def read(self, box: Box) -> np.ndarray:
        self.sizes.append(box.size)
        return ArrayReader(self.array).read(box)


def counted(volume):
    reader = CountingReader(volume.reader.array)
    return volume.with_(reader=reader), reader.sizes


def test_volumes_are_never_read_whole(arrays, tmp_path, monkeypatch):
    repeated = [np.tile(a, (5, 3, 3)) for a in arrays]
    whole = repeated[0].size
    data = sample(repeated)
    limit = whole // 20
    monkeypatch.setattr(sampling, "AT_ONCE", limit)
    monkeypatch.setattr(sampling, "KEPT", limit)
    image, image_sizes = counted(data.image)
    instances, sizes = counted(data.instances)
    truth, truth_sizes = counted(data.truth)
    data = ReportData(
        data.name,
        image,
        instances,
        truth=truth,
        scores=data.scores,
        matches=data.matches,
        measurements=data.measurements,
    )
    write_report([data], tmp_path / "r.html", title="t", provenance={})
    plane = 192 * 288
    for counts in (image_sizes, sizes, truth_sizes):
        assert counts
        assert max(counts) <= max(limit, plane)


def test_the_head_of_the_table_is_the_largest(arrays, tmp_path):
    data = sample(arrays)
    text = write_report([data], tmp_path / "r.html", title="t", provenance={}).read_text()
    rows = [int(i) for i in re.findall(r'<tr id="instance-(\d+)"', text)]
    table: pd.DataFrame = data.measurements
    expected = table.sort_values(["volume_voxels", "instance"], ascending=[False, True])
    assert rows == expected["instance"].tolist()
