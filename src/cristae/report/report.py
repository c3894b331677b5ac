"""The report: one HTML file that needs nothing else.

Volumes are looked at through bounded boxes only. All pictures are inside the file as ``data:``
addresses, charts as SVG.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from cristae import __version__
from cristae.engine.files import write_text
from cristae.errors import InputError, OutputExistsError, raise_faults
from cristae.evaluation.tables import MatchTables, overlaps_of_tables, precision_recall_of
from cristae.figures.charts import precision_recall_chart, size_histogram
from cristae.figures.colours import instance_colours, to_hex
from cristae.figures.raster import data_uri
from cristae.report import report_context
from cristae.report.data import ReportData
from cristae.report.error_gallery import ScoredVolumes, error_picture, locate
from cristae.report.errors import SegmentationError, choose, find_errors
from cristae.report.pictures import PicturedVolumes, grey_window, more_sections, three_planes, views
from cristae.report.sampling import focus, thin_out, voxel_size_of
from cristae.report.training import TrainingData, training_page
from cristae.volumes.place import lay

__all__ = ["ReportData", "write_report"]

#: Close-ups of errors in a report, shared by its samples; each sample has at least six.
MOST_ERRORS = 18
#: Sections through the depth in a report of one sample, and of each of several.
SECTIONS_OF_ONE, SECTIONS_OF_MANY = 4, 2
#: What names the maker of a page, near its beginning.
GENERATOR = b'<meta name="generator" content="cristae'
#: Rows of the table of instances.
HEAD_ROWS = 20
#: IoU thresholds of the precision-recall curves.
CURVES_AT = (0.5, 0.75)


def write_report(
    samples: Sequence[ReportData],
    out: Path,
    *,
    title: str,
    provenance: Mapping[str, Any],
    training: TrainingData | None = None,
) -> Path:
    """Write the report of one or several samples, of a training, or of both.

    Args:
        samples: What to show, with names that differ; at least one where there is no training.
        out: The HTML file; replaced when it exists, at once.
        title: Heading of the report.
        provenance: What was run, as a tree of plain values; every entry becomes a row.
        training: What a training run has written so far.

    Returns:
        ``out``.

    Raises:
        OutputExistsError: ``out`` is there and is no page of cristae.
        InputError: No samples, names that are not unique, or volumes of one sample that do not
            lie on each other; all faults at once.
    """
    _check(samples, training)
    if not is_own_page(out):
        raise OutputExistsError(f"{out}: exists and was not made by cristae report")
    prefixes = _prefixes([data.name for data in samples])
    pages = [
        _sample(data, prefix, len(samples)) for data, prefix in zip(samples, prefixes, strict=True)
    ]
    text = (
        templates()
        .get_template("report.html")
        .render(
            title=title,
            samples=pages,
            training=None if training is None else training_page(training),
            overview=report_context.overview(samples) if len(samples) > 1 else None,
            provenance=report_context.flatten(provenance),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
        )
    )
    write_text(out, text)
    return out


def is_own_page(path: Path) -> bool:
    """Whether a page names cristae as its maker, or is not there."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR in file.read(1 << 12)


def _check(samples: Sequence[ReportData], training: TrainingData | None) -> None:
    faults = [] if samples or training else ["no samples, expected at least one"]
    names = [data.name for data in samples]
    faults += [
        f"sample {n!r} appears twice" for n in sorted({n for n in names if names.count(n) > 1})
    ]
    for data in samples:
        for role, volume in (("image", data.image), ("truth", data.truth)):
            try:
                if volume is not None:
                    lay(data.instances, volume, crop=True)
            except InputError as error:
                faults.append(f"{data.name}: {role} {error}")
    raise_faults("report", faults)


def templates() -> jinja2.Environment:
    """The page templates of this folder."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _prefixes(names: Sequence[str]) -> list[str]:
    """What anchors of each sample begin with: nothing for a single one, else the name and ``-``.

    Only letters, digits and hyphens; where two would be the same, all get their position as well.
    """
    if len(names) == 1:
        return [""]
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names]
    clear = "" not in slugs and len(set(slugs)) == len(slugs)
    return [f"{slug}-" if clear else f"{slug}-{i + 1}-" for i, slug in enumerate(slugs)]


def _sample(data: ReportData, prefix: str, among: int) -> dict[str, Any]:
    """Everything the template shows of one sample among several."""
    _, unit = voxel_size_of(data.instances)
    thinned = thin_out(data.instances)
    point = focus(thinned)
    stack = PicturedVolumes(data.image, data.instances, data.truth)
    window = grey_window(stack, point)
    errors = None if data.matches is None else find_errors(overlaps_of_tables(data.matches))
    shown = _atlas(data, errors or [], max(6, MOST_ERRORS // among), window)
    page = {
        "name": data.name,
        "prefix": prefix,
        "has_truth": data.truth is not None,
        "by_size": data.matches is None or _ranked_by_size(data.matches),
        "facts": report_context.facts(data),
        "tiles": report_context.tiles(data),
        "point": point,
        "planes": three_planes(stack, point, window),
        "depth_share": report_context.depth_share(data.instances),
        "sections": more_sections(
            stack, point, window, SECTIONS_OF_ONE if among == 1 else SECTIONS_OF_MANY
        ),
        "views": views(thinned, unit),
        "seen": report_context.seen(data.instances, thinned),
        "curve": _curve(data, prefix),
        "scores": report_context.scores(data.scores),
        "histogram": _histogram(data, prefix),
        "errors": shown,
        "error_counts": None if errors is None else report_context.error_counts(errors),
        "error_total": len(errors or []),
        "table": _head(data),
        "table_path": data.table,
    }
    page["missing"] = report_context.missing(data, thinned, len(errors or []), len(shown))
    return page


def _curve(data: ReportData, prefix: str) -> str | None:
    curves = data.precision_recall
    if curves is None and data.matches is not None:
        curves = {iou: precision_recall_of(data.matches, iou) for iou in CURVES_AT}
    return precision_recall_chart(curves, name=f"{prefix}curve") if curves else None


def _ranked_by_size(tables: MatchTables) -> bool:
    """Whether no prediction is ranked before a larger one."""
    order = np.argsort(tables.prediction["rank"], kind="stable")
    return bool((np.diff(tables.prediction["voxels"][order].astype(np.int64)) <= 0).all())


def _histogram(data: ReportData, prefix: str) -> str | None:
    table = data.measurements
    if table is None or table.empty:
        return None
    cut = table["cut_by_border"].to_numpy(dtype=bool)
    sizes = table["volume_um3"].to_numpy(dtype=float)
    return size_histogram(sizes, cut, unit="µm³", name=f"{prefix}sizes")


def _atlas(
    data: ReportData, errors: Sequence[SegmentationError], limit: int, window: tuple[float, float]
) -> list[dict[str, Any]]:
    """The worst errors with their pictures, numbered from 1 in the order of all errors."""
    if data.truth is None:
        return []
    scene = ScoredVolumes(data.image, data.instances, data.truth)
    number = {id(error): i + 1 for i, error in enumerate(errors)}
    shown = []
    for error in choose(errors, limit):
        point = locate(scene, error)
        picture = data_uri(error_picture(scene, error, point, window))
        shown.append(
            report_context.error_card(error, number[id(error)], point, data.instances, picture)
        )
    return shown


def _head(data: ReportData) -> list[dict[str, Any]]:
    """The largest instances, with their colours."""
    table = data.measurements
    if table is None or table.empty:
        return []
    head = table.sort_values(["volume_voxels", "instance"], ascending=[False, True])
    rows = [{str(k): v for k, v in row.items()} for row in head.head(HEAD_ROWS).to_dict("records")]
    colours = instance_colours([int(row["instance"]) for row in rows])
    for row, (red, green, blue) in zip(rows, colours.tolist(), strict=True):
        row["colour"] = to_hex((red, green, blue))
    return rows
