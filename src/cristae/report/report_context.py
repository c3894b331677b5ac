"""The words and numbers of the report: plain values for the template, no pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cristae.evaluation.metrics import METRICS
from cristae.grid import Triple
from cristae.report.data import ReportData
from cristae.report.errors import SegmentationError
from cristae.report.sampling import PLANE_SIDE, Thinned, voxel_size_of
from cristae.volumes.volume import Volume

Row = tuple[str, str]

KINDS = {
    "missed": "Missed",
    "false_positive": "False positive",
    "merge": "Merge",
    "split": "Split",
    "poor": "Poor outline",
}

#: Attributes of prediction and instances that a reader wants to know.
_HANDED_ON: tuple[str, ...] = ("model", "decoder", "thresholds", "quantisation")

_AP_ROWS = (
    ("75", "AP-75", "the challenge's main number: a prediction is right at IoU 0.75 or more"),
    ("50", "AP-50", "the same at IoU 0.50: found, even where the outline is rough"),
    ("50:95", "AP 50:95", "mean over IoU 0.50, 0.55, … 0.95: rewards exact outlines"),
    ("75_small", "AP-75 small", "only the smallest of the truth (by default up to 5,000 voxels)"),
    ("75_medium", "AP-75 medium", "only truth between (by default 5,001 to 15,000)"),
    ("75_large", "AP-75 large", "only the largest (by default above 15,000)"),
)


def flatten(tree: Mapping[str, Any]) -> list[Row]:
    """A tree of plain values as rows (name, value); a branch is written on one row."""
    rows = ((str(key).replace("_", " "), _words(value)) for key, value in tree.items())
    return [(name, words) for name, words in rows if words]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = ((str(key).replace("_", " "), _words(each)) for key, each in value.items())
        return " · ".join(f"{name} {words}" for name, words in parts if words)
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(each) for each in value)
    return "" if value is None else str(value)


def facts(data: ReportData) -> list[Row]:
    """What was worked on, and how: source, shape, voxel size, model, decoder, thresholds."""
    volume = data.instances
    rows = [("image", data.image.name), ("instances", data.instances.name)]
    if data.truth is not None:
        rows.append(("truth", data.truth.name))
    rows.append(("shape (z, y, x)", " × ".join(f"{n:,}" for n in volume.shape) + " voxels"))
    if volume.voxel_size_nm is None:
        rows.append(("voxel size", "unknown"))
    else:
        rows.append(
            ("voxel size (z, y, x)", " × ".join(f"{n:g}" for n in volume.voxel_size_nm) + " nm")
        )
        extent = [n * e / 1000 for n, e in zip(volume.shape, volume.voxel_size_nm, strict=True)]
        rows.append(("extent (z, y, x)", " × ".join(f"{e:.2f}" for e in extent) + " µm"))
    known = dict(data.prediction.attributes) if data.prediction is not None else {}
    known |= dict(data.instances.attributes)
    wanted: dict[str, Any] = {k: known[k] for k in _HANDED_ON if k in known}
    return rows + flatten(wanted)


def tiles(data: ReportData) -> list[dict[str, str]]:
    """Key numbers, those that exist."""
    found: list[dict[str, str]] = []

    def add(name: str, value: Any, form: str, note: str = "", unit: str = "") -> None:
        if value is not None:
            found.append({"name": name, "value": format(value, form), "note": note, "unit": unit})

    table = data.measurements
    if table is not None:
        cut = int(table["cut_by_border"].sum())
        add("instances", len(table), ",", f"{cut:,} cut by the border")
    scores = data.scores or {}
    precision = scores.get("average_precision_coco", {})
    add("AP-75", precision.get("75"), ".3f", _interval(scores, "ap_75"))
    add("AP-50", precision.get("50"), ".3f")
    add("foreground IoU", scores.get("voxel", {}).get("foreground_iou"), ".3f")
    if table is not None and len(table):
        add("total volume", float(table["volume_um3"].sum()), ".3g", unit="µm³")
        add("median volume", float(table["volume_um3"].median()), ".2g", unit="µm³")
    return found


def _interval(scores: Mapping[str, Any], name: str) -> str:
    interval = (scores.get("intervals") or {}).get(name)
    return f"95 % within {interval[0]:.2f}–{interval[1]:.2f}" if interval else ""


def depth_share(volume: Volume) -> tuple[float, float]:
    """Width of the xy and of the yz plane, for columns in true proportion."""
    size, _ = voxel_size_of(volume)
    z, _, x = (min(n, PLANE_SIDE) * e for n, e in zip(volume.shape, size, strict=True))
    return x, z


def seen(volume: Volume, thinned: Thinned) -> str:
    """What the views in space show, in words."""
    size, unit = voxel_size_of(volume)
    scale, unit = (1000.0, "µm") if unit == "nm" else (1.0, unit)
    lengths = [n * e / scale for n, e in zip(thinned.box.shape, size, strict=True)]
    text = " × ".join(f"{length:.3g}" for length in lengths)
    what = "the whole volume" if thinned.box == volume.box else "the middle of the volume"
    every = " × ".join(str(step) for step in thinned.stride)
    thin = "" if thinned.stride == (1, 1, 1) else f"; one voxel in {every} is drawn"
    return f"The box is {what}: {text} {unit} (z × y × x){thin}."


def scores(tree: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The score tables: rows (name, value, meaning); None without scores."""
    if not tree:
        return None
    precision = tree.get("average_precision_coco", {})
    metrics = tree.get("voxel", {}) | tree.get("metrics", {})
    return {
        "precision": [
            (name, _number(precision[key]), meaning)
            for key, name, meaning in _AP_ROWS
            if key in precision
        ],
        "voxel": [_metric_row(name, value) for name, value in metrics.items()],
        "matching": [
            (iou, [_number(block["all"].get(key)) for key in _MATCHING])
            for iou, block in tree.get("matching", {}).items()
        ],
        "matching_names": list(_MATCHING.values()),
    }


def _metric_row(name: str, value: float | None) -> tuple[str, str, str]:
    """Title, number and meaning."""
    metric = METRICS.get(name)  # scores may be of another process
    if metric is None:
        return name.replace("_", " "), _number(value), ""
    unit = f" {metric.unit}" if metric.block == "metrics" and metric.unit else ""
    return metric.title[0].upper() + metric.title[1:], _number(value) + unit, metric.meaning


_MATCHING = {
    "tp": "TP",
    "fp": "FP",
    "fn": "FN",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "panoptic_quality": "PQ",
}


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def overview(samples: Sequence[ReportData]) -> list[dict[str, Any]]:
    """One row a sample: its name and key numbers."""
    numbers = [{tile["name"]: tile["value"] for tile in tiles(data)} for data in samples]
    columns = list(dict.fromkeys(name for each in numbers for name in each))
    return [
        {"name": data.name, "cells": [(name, each.get(name, "–")) for name in columns]}
        for data, each in zip(samples, numbers, strict=True)
    ]


def error_counts(errors: Sequence[SegmentationError]) -> list[tuple[str, str, int]]:
    """Kind, its name in as many, and how many errors are of it; kinds without any left out."""
    counts = {kind: sum(error.kind == kind for error in errors) for kind in KINDS}
    return [
        (kind, KINDS[kind].lower() + ("" if kind == "missed" or count == 1 else "s"), count)
        for kind, count in counts.items()
        if count
    ]


def error_card(
    error: SegmentationError, number: int, point: Triple, volume: Volume, picture: str
) -> dict[str, Any]:
    """What the atlas says of an error."""
    rows = [("lost", f"{error.lost:,} voxels{_cubic(error.lost, volume)}")]
    rows.append(("truth", _list(error.truth)))
    rows.append(("prediction", _list(error.prediction)))
    rows.append(("best IoU", f"{error.iou:.2f}"))
    rows.append(("voxel z, y, x", ", ".join(str(p) for p in point)))
    if volume.voxel_size_nm is not None:
        place = (
            p * e + o for p, e, o in zip(point, volume.voxel_size_nm, volume.origin_nm, strict=True)
        )
        rows.append(("place z, y, x", ", ".join(f"{p:.0f}" for p in place) + " nm"))
    return {
        "number": number,
        "anchor": _anchor(error),
        "kind": error.kind,
        "name": KINDS[error.kind],
        "saying": _saying(error),
        "rows": rows,
        "picture": picture,
    }


def _anchor(error: SegmentationError) -> str:
    """Names an error by its instance, so that a link outlives other errors and their order."""
    by_prediction = error.kind in ("merge", "false_positive")
    side, ids = ("prediction", error.prediction) if by_prediction else ("truth", error.truth)
    return f"{error.kind.replace('_', '-')}-{side}-{ids[0]}"


def _cubic(voxels: int, volume: Volume) -> str:
    if volume.voxel_size_nm is None:
        return ""
    z, y, x = volume.voxel_size_nm
    return f" · {voxels * z * y * x / 1e9:.2g} µm³"


def _list(ids: Sequence[int], most: int = 6) -> str:
    if not ids:
        return "none"
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(str(i) for i in ids[:most]) + more


def _saying(error: SegmentationError) -> str:
    if error.kind == "missed":
        return f"Truth {_list(error.truth)} was not found."
    if error.kind == "false_positive":
        return f"The truth has no mitochondrion where instance {_list(error.prediction)} is."
    if error.kind == "merge":
        return f"One instance joins {len(error.truth)} mitochondria of the truth."
    if error.kind == "split":
        return f"One mitochondrion of the truth is broken into {len(error.prediction)} instances."
    return "Found, but the outlines agree badly."


def missing(data: ReportData, thinned: Thinned, errors: int, shown: int) -> list[str]:
    """What this sample's part of the report does not show, and why."""
    return list(_missing(data, thinned, errors, shown))


def _missing(data: ReportData, thinned: Thinned, errors: int, shown: int) -> Iterator[str]:
    if data.truth is None:
        yield "No truth was given: there are no scores, no curve and no error atlas."
    elif data.scores is None:
        yield "The truth was not compared: there are no scores."
    elif data.matches is None:
        yield "The match tables are not there: there is no error atlas."
    if data.measurements is None:
        yield "The instances were not measured: there are no volumes, no histogram and no table."
    if data.instances.voxel_size_nm is None:
        yield "The voxel size is unknown: lengths are in voxels, pictures assume cubes."
    if max(data.instances.shape) > PLANE_SIDE:
        yield f"Sections show at most {PLANE_SIDE:,} voxels along a side, around the point chosen."
    if thinned.box != data.instances.box:
        yield "The views in space show the middle of the volume alone, as it is large."
    elif thinned.stride != (1, 1, 1):
        yield "The views in space are drawn from every few voxels; fine detail is lost in them."
    if errors > shown:
        yield f"The error atlas pictures {shown} of {errors:,} errors, the worst ones."
    if data.scores is not None and "intervals" not in data.scores:
        yield "No intervals of uncertainty were computed for the scores."
    yield "Skeleton lengths and surface areas are not part of this report."
