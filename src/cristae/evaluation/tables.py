"""Per-instance tables: one row a truth, one a prediction, one an overlapping pair.

They are what a report needs to find every error again, and together they hold the whole overlap
table: written as CSV files and read back they give the same scores (`overlaps_of_tables`), so the
volumes of a run can be pooled without looking at voxels again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.identity import fingerprint_of
from cristae.errors import OutputExistsError, SourceNotFoundError, raise_faults
from cristae.evaluation.matching import KINDS, MISSING, Associations, Codes
from cristae.evaluation.metrics import Curve, Matches, Rows, best_prediction
from cristae.evaluation.overlaps import Floats, Instances, Overlaps
from cristae.measurement.table import Table, check_columns, read_table, write_table
from cristae.volumes.volume import Nanometres

_AXES = ("z", "y", "x")
_SHOWN = 20
"""Rows of one fault that are named."""

_FILES = {"truth": "truth.csv", "prediction": "predictions.csv", "overlaps": "overlaps.csv"}
_OWN = {
    "truth": "truth,voxels,prediction,iou,association",
    "prediction": "instance,voxels,rank,truth,iou,association",
    "overlaps": "instance,truth,voxels,iou",
}
"""What the first line of each table begins with."""

_PLACED = (
    *("voxels", "iou", "association", "cut_by_border"),
    *(f"first_{axis}_vx" for axis in _AXES),
    *(f"centroid_{axis}_vx" for axis in _AXES),
    *(f"box_{axis}{end}_vx" for axis in _AXES for end in (0, 1)),
)
_NEEDED = {
    "truth": ("truth", "prediction", *_PLACED),
    "prediction": ("instance", "rank", "truth", *_PLACED),
    "overlaps": ("instance", "truth", "voxels", "iou"),
}


@dataclass(frozen=True)
class MatchTables:
    """What became of every instance; columns are arrays of one length.

    Attributes:
        truth: ``truth`` (id), ``voxels``, ``prediction`` (id of the one that overlaps it best, 0
            for none), ``iou``, ``association`` (see `matching.KINDS`), ``category`` where there
            are categories, ``cable_length_timise_nm`` and ``skeleton_length_nm`` where they were
            measured (`cable`), place.
        prediction: ``instance`` (id), ``voxels``, ``rank`` (1 first), ``score`` where there are
            scores, ``truth`` (id of its best truth, 0 for none), ``iou``, ``association``
            (``background`` where it overlaps no truth), place.
        overlaps: ``instance``, ``truth``, ``voxels`` and ``iou`` of every pair that overlaps.

    The place of an instance is ``first_z_vx`` ... (its first voxel), ``centroid_z_vx`` ...,
    ``box_z0_vx``, ``box_z1_vx`` ... (half-open), all in voxels of the predicted array,
    ``cut_by_border``, and ``centroid_z_nm`` ... where the voxel size is known.
    """

    truth: Table
    prediction: Table
    overlaps: Table


@dataclass(frozen=True)
class TablePlacement:
    """Where voxel 0 lies and how large voxels are; size None where unknown."""

    voxel_size_nm: Nanometres | None
    origin_nm: Nanometres


def match_tables(
    matches: Matches,
    associations: Associations,
    place: TablePlacement,
    categories: tuple[Codes, tuple[str, ...]] | None = None,
    lengths: Mapping[str, Floats] | None = None,
) -> MatchTables:
    """The tables of a comparison.

    Args:
        matches: From `metrics.match`.
        associations: From `matching.associate`.
        place: Of the predicted array.
        categories: (truths,) index of each truth's category, and the names.
        lengths: More columns (truths,) of the truth: its cable lengths.
    """
    table, best = matches.table, matches.best["all"]
    best_of_truth = best_prediction(table, matches.order)
    kinds = np.array(KINDS, dtype=object)
    truth: dict[str, NDArray[Any]] = {
        "truth": table.truth.labels,
        "voxels": table.truth.voxels,
        "prediction": _ids(table.prediction, best_of_truth.rows),
        "iou": best_of_truth.iou,
        "association": kinds[associations.truth],
    }
    if categories is not None:
        truth["category"] = np.array(categories[1], dtype=object)[categories[0]]
    truth.update(lengths or {})
    ranks = np.empty(len(matches.order), np.int64)
    ranks[matches.order] = np.arange(1, len(matches.order) + 1)
    kinds[MISSING] = "background"
    prediction: dict[str, NDArray[Any]] = {
        "instance": table.prediction.labels,
        "voxels": table.prediction.voxels,
        "rank": ranks,
        "truth": _ids(table.truth, best.rows),
        "iou": best.iou,
        "association": kinds[associations.prediction],
    }
    scores = table.mean_scores
    if scores is not None:
        prediction["score"] = scores
    return MatchTables(
        {**truth, **_place_columns(table.truth, place)},
        {**prediction, **_place_columns(table.prediction, place)},
        {
            "instance": table.prediction.labels[table.predicted],
            "truth": table.truth.labels[table.true],
            "voxels": table.voxels,
            "iou": table.iou,
        },
    )


def _ids(instances: Instances, rows: Rows) -> NDArray[np.uint64]:
    return np.append(instances.labels, np.uint64(0))[rows]


def _place_columns(instances: Instances, place: TablePlacement) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    centroids = instances.centroids
    for i, axis in enumerate(_AXES):
        columns[f"first_{axis}_vx"] = instances.first[:, i]
        columns[f"centroid_{axis}_vx"] = centroids[:, i]
        columns[f"box_{axis}0_vx"] = instances.start[:, i]
        columns[f"box_{axis}1_vx"] = instances.stop[:, i]
    columns["cut_by_border"] = instances.cut
    if place.voxel_size_nm is not None:
        for i, axis in enumerate(_AXES):
            nm = centroids[:, i] * place.voxel_size_nm[i] + place.origin_nm[i]
            columns[f"centroid_{axis}_nm"] = nm
    return columns


def precision_recall_of(tables: MatchTables, iou: float = 0.75) -> tuple[Floats, Floats]:
    """Recall and precision over all sizes, prediction by prediction in ranking order.

    Args:
        tables: From `match_tables` or `read_matches`.
        iou: A prediction is right where its IoU with its best truth is at least this.

    Returns:
        (recall, precision), each of shape (predictions,), precision made non-increasing as
        average precision takes it.
    """
    order = np.argsort(tables.prediction["rank"], kind="stable")
    hit = tables.prediction["iou"][order] >= iou
    curve = Curve(hit, ~hit, len(tables.truth["truth"]))
    return curve.recall, curve.precision


def write_matches(tables: MatchTables, folder: Path) -> None:
    """Write ``truth.csv``, ``predictions.csv`` and ``overlaps.csv``, each at once."""
    for name, file in _FILES.items():
        write_table(folder / file, getattr(tables, name))


def check_tables(folder: Path) -> None:
    """Refuse a folder where a file of another make has the name of one of the tables.

    Raises:
        OutputExistsError: Files that begin otherwise than the tables do; all are named.
    """
    faults = [
        f"{folder / file}: exists and was not made by cristae, its first line lacks {column!r}"
        for name, file in _FILES.items()
        if (column := _OWN[name]) not in _first_line(folder / file)
    ]
    raise_faults(str(folder), faults, OutputExistsError)


def _first_line(path: Path) -> str:
    """Names of the columns; that of all tables where there is no file."""
    if not path.exists():
        return ",".join(_OWN.values())
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.readline(1 << 12).decode(errors="replace")


def has_matches(folder: Path) -> bool:
    """Whether a folder holds one of the tables."""
    return any((folder / file).exists() for file in _FILES.values())


def matches_fingerprint(folder: Path) -> str | None:
    """Identity of the tables that a folder holds; None where one is missing."""
    files = [folder / file for file in _FILES.values()]
    if not all(file.is_file() for file in files):
        return None
    return fingerprint_of([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])


def read_matches(folder: Path) -> MatchTables:
    """Read the tables that `write_matches` wrote.

    Raises:
        SourceNotFoundError: A table is missing; all missing ones are named.
        InputError: A table without the columns it needs.
    """
    missing = [f"no {file}" for file in _FILES.values() if not (folder / file).is_file()]
    raise_faults(str(folder), missing, SourceNotFoundError)
    tables = {name: _read_match(name, folder / file) for name, file in _FILES.items()}
    for name, ids in (("prediction", "instance"), ("truth", "truth")):
        named = tables["overlaps"][ids]
        unknown = np.unique(named[~np.isin(named, tables[name][ids])])
        path = folder / _FILES["overlaps"]
        raise_faults(str(path), [f"{ids} {i}: not in {_FILES[name]}" for i in unknown[:_SHOWN]])
    return MatchTables(**tables)


def _read_match(name: str, path: Path) -> dict[str, NDArray[Any]]:
    """One of the tables, by id, in whatever order its rows are."""
    table = read_table(path)
    check_columns(path, table, _NEEDED[name])
    ids = ["instance", "truth"] if name == "overlaps" else [_NEEDED[name][0]]
    order = np.lexsort([table[key] for key in reversed(ids)])
    keys = np.stack([table[key][order] for key in ids], axis=1)
    again = np.unique(keys[1:][(keys[1:] == keys[:-1]).all(axis=1)], axis=0)
    twice = [f"{ids[0]} {' and truth '.join(map(str, key))}: in two rows" for key in again[:_SHOWN]]
    raise_faults(str(path), twice)
    return {column: values[order] for column, values in table.items()}


def read_scores(path: Path) -> dict[int, float]:
    """Ranking scores of instances from a table with the columns ``instance`` and ``score``.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Without these columns, an id twice, or a score that is no finite number.
    """
    table = read_table(path)
    check_columns(path, table, ("instance", "score"))
    ids, scores = table["instance"], table["score"]
    names, counts = np.unique(ids, return_counts=True)
    faults = [
        f"instance {name} in {n} rows, expected one"
        for name, n in zip(names, counts, strict=True)
        if n > 1
    ]
    faults += [
        f"score {value} of instance {name}, expected a number"
        for name, value in zip(ids[~np.isfinite(scores)], scores[~np.isfinite(scores)], strict=True)
    ]
    raise_faults(str(path), faults)
    return dict(zip(ids.tolist(), scores.tolist(), strict=True))


def overlaps_of_tables(tables: MatchTables) -> Overlaps:
    """The overlap table that the tables were made of; scores are kept as mean scores."""
    scores = tables.prediction.get("score")
    prediction = _instances_of(tables.prediction, "instance", scores)
    truth = _instances_of(tables.truth, "truth", None)
    return Overlaps(
        prediction,
        truth,
        np.searchsorted(prediction.labels, tables.overlaps["instance"]),
        np.searchsorted(truth.labels, tables.overlaps["truth"]),
        tables.overlaps["voxels"].astype(np.int64),
        None if scores is None else _SCORE_STEPS,
    )


_SCORE_STEPS = 1 << 30
"""Steps that a mean score is counted in where only the mean is known."""


def _instances_of(table: Table, ids: str, scores: NDArray[Any] | None) -> Instances:
    voxels = table["voxels"].astype(np.int64)
    columns = {
        name: np.stack([table[f"{form}".format(axis)] for axis in _AXES], axis=1)
        for name, form in (
            ("start", "box_{}0_vx"),
            ("stop", "box_{}1_vx"),
            ("first", "first_{}_vx"),
            ("centroid", "centroid_{}_vx"),
        )
    }
    sums = np.rint(columns["centroid"] * voxels[:, None]).astype(np.int64)
    means = np.zeros(len(voxels)) if scores is None else scores.astype(np.float64)
    return Instances(
        table[ids].astype(np.uint64),
        voxels,
        columns["start"].astype(np.int64),
        columns["stop"].astype(np.int64),
        columns["first"].astype(np.int64),
        sums,
        np.rint(means * _SCORE_STEPS).astype(np.int64) * voxels,
        table["cut_by_border"].astype(bool),
    )
