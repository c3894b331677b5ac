"""Scores as text for a terminal."""

from typing import Any

from cristae.evaluation.cable import GRID
from cristae.evaluation.metrics import METRICS
from cristae.evaluation.scores import Numbers, Scores

_SIZE_NOTE = (
    "Ranked by size, as mAP_3Dvolume does by default: small false positives come last and hardly\n"
    "lower these numbers. The counts below include them; --scores ranks by confidence instead."
)
_ASSOCIATIONS = (
    "one_to_one",
    "over_segmentation",
    "under_segmentation",
    "many_to_many",
    "missing",
    "background",
)


def format_scores(scores: Scores) -> str:
    """Readable tables of the scores.

    Args:
        scores: What to show; blocks that were not computed are left out.

    Returns:
        Lines of at most 100 characters, without a line break at the end.
    """
    parts = [_precision_text(scores)]
    if scores.matching is not None:
        interval = (scores.intervals or {}).get("accuracy_75")
        parts.append(_matching_text(scores.matching, interval) + _grid_text(scores))
    if scores.associations is not None:
        parts.append(_associations_text(scores.associations))
    if scores.voxel is not None:
        head = "Voxels (errors: 0 is perfect; VOI in bits)"
        parts.append(_metrics_text(head, scores.voxel))
    if scores.metrics is not None:
        parts.append(_metrics_text("Added metrics", scores.metrics))
    if scores.without_border_cut is not None:
        rest = Scores(**scores.without_border_cut, ranked_by=scores.ranked_by)
        parts.append("Without instances cut by the border\n\n" + format_scores(rest))
    return "\n\n".join(parts)


def _precision_text(scores: Scores) -> str:
    ap = scores.average_precision_coco
    head = ["IoU .50:.95", "IoU .50", "IoU .75", ".75 small", ".75 medium", ".75 large"]
    rows = [head, [_number(value) for value in ap.values()]]
    lines = ["Average precision (mAP_3Dvolume's definition)", _grid(rows)]
    interval = (scores.intervals or {}).get("ap_75")
    if interval:
        lines.append(f"95 % interval of AP-75: {interval[0]:.3f} to {interval[1]:.3f}")
    if scores.ranked_by == "size":
        lines.append(_SIZE_NOTE)
    return "\n".join(lines)


def _matching_text(matching: dict[str, dict[str, Any]], interval: list[float] | None) -> str:
    names = ("tp", "fp", "fn", "precision", "recall", "accuracy", "f1", "panoptic_quality")
    rows = [["IoU", "instances", *(name.replace("_", " ") for name in names)]]
    for iou, groups in matching.items():
        for category, values in groups.items():
            rows.append([iou, category, *(_number(values[name]) for name in names)])
    text = "Matching (TIMISE's definition)\n" + _grid(rows)
    if all(list(groups) == ["all"] for groups in matching.values()):
        text += (
            "\nNo categories; those by cable length, the default, need a voxel size "
            "(--voxel-size Z,Y,X)."
        )
    if interval:
        low, high = interval
        text += f"\n95 % interval of the accuracy at IoU .75: {low:.3f} to {high:.3f}"
    return text


def _grid_text(scores: Scores) -> str:
    """Says of how many instances the cable length is that of a coarser grid."""
    grids = scores.tables.truth.get(GRID) if scores.tables else None
    coarse = 0 if grids is None else int((grids > 1).sum())
    if not coarse:
        return ""
    return f"\n{coarse} instances were too large to trace voxel by voxel: see {GRID} in truth.csv."


def _associations_text(associations: dict[str, dict[str, int]]) -> str:
    rows = [["instances", *(name.replace("_", " ") for name in _ASSOCIATIONS)]]
    for category, counts in associations.items():
        rows.append([category, *(str(counts[name]) for name in _ASSOCIATIONS)])
    return "Associations of the truth; background: predictions without truth\n" + _grid(rows)


def _metrics_text(head: str, numbers: Numbers) -> str:
    return f"{head}\n" + _grid(
        [[_title(name) for name in numbers], [*map(_number, numbers.values())]]
    )


def _title(name: str) -> str:
    metric = METRICS.get(name)  # scores may be of another process
    if metric is None or metric.block == "voxel":  # whose units stand above
        return name if metric is None else metric.title
    return (
        f"{metric.title} ({', '.join(filter(None, (metric.unit, f'{metric.better} is better')))})"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _grid(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(lines)
