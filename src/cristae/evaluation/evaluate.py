"""Evaluation of predicted instances against the truth: the stage and its results.

One pass over the two label volumes makes the overlap table (`contingency`); every score comes
from it (`scoring`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cristae.configuration import to_plain
from cristae.engine.executors import Resources
from cristae.engine.identity import Identity, fingerprint_of
from cristae.engine.ledger import Ledger, check_output, open_ledger
from cristae.engine.progress import ProgressCallback, log, takes_progress
from cristae.engine.records import is_unfinished
from cristae.errors import InputError, OutputExistsError
from cristae.evaluation.cable import truth_lengths
from cristae.evaluation.matching import (
    CATEGORIES,
    category_codes,
)
from cristae.evaluation.metrics import METRICS, given_scores
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.overlaps import Floats, Overlaps, Placed
from cristae.evaluation.placement import Compared, place_volumes
from cristae.evaluation.scores import (
    ScoreFiles,
    Scores,
    load_scores,
    write_scores,
    write_tables,
)
from cristae.evaluation.scoring import (
    EvaluateConfig,
    check_evaluate_config,
    pool_scores,
    scores_of_table,
)
from cristae.evaluation.tables import (
    MatchTables,
    TablePlacement,
    check_tables,
    has_matches,
    matches_fingerprint,
    precision_recall_of,
    read_matches,
    read_scores,
)
from cristae.evaluation.text import format_scores
from cristae.grid import Triple
from cristae.labels.label_runs import relabelled
from cristae.volumes.expected import Expected, known_identity
from cristae.volumes.finite import checked_voxels
from cristae.volumes.formats import Source, open_labels, open_volume
from cristae.volumes.place import recorded_places
from cristae.volumes.values import settle_mask
from cristae.volumes.volume import Volume, array_volume, refuse_unfinished_volume

__all__ = [
    "EvaluateConfig",
    "MatchTables",
    "ScoreFiles",
    "Scores",
    "check_evaluate_config",
    "evaluate_volume",
    "format_scores",
    "load_scores",
    "pool_scores",
    "precision_recall_of",
    "read_matches",
    "read_scores",
    "score_instances",
    "scores_of_table",
    "write_scores",
    "write_tables",
]

SLOW_S = 5.0
"""From so many seconds on it is said that cable lengths took longer than the rest."""


@takes_progress
def score_instances(  # noqa: PLR0913 - one parameter an option
    instances: Source,
    truth: Source,
    *,
    scores: Source | Mapping[int, float] | None = None,
    mask: Source | None = None,
    categories: Mapping[int, str] | None = None,
    config: EvaluateConfig | None = None,
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Score predicted instances against the truth.

    Args:
        instances: Predicted labels (z, y, x), 0 background, any integers up to 2**64 - 1.
        truth: True labels of the same place.
        scores: What ranks the predictions for average precision: a prediction ([c,] z, y, x)
            whose mean within an instance counts, or a table id -> score. Voxel counts by default.
        mask: Voxels where it is 0 are left out.
        categories: Truth id -> ``small``, ``medium`` or ``large``, for matching and associations
            by category, in place of what ``config`` says; ids without one count as ``small``.
        config: How to score.
        block_shape: Voxels (z, y, x) read at a time, see `overlap_table`.
        resources: Workers and executor.
        progress: Called with a `Progress` as work is done.

    Returns:
        The scores, independent of blocks and workers.

    Raises:
        ConfigError: Settings out of range.
        InputError: Volumes that cannot be compared; all faults at once.

    Example:
        >>> import numpy as np
        >>> truth = np.zeros((4, 8, 8), np.uint8)
        >>> truth[1:3, 2:6, 2:6] = 1
        >>> score_instances(truth, truth).average_precision_coco["75"]
        1.0
    """
    config = EvaluateConfig() if config is None else config
    check_evaluate_config(config)
    _check_categories(categories)
    image = None if isinstance(scores, Mapping) else scores
    volumes = _compared(instances, truth, image, mask, config)
    for volume in volumes.volumes.values():
        refuse_unfinished_volume(volume)
    resources = Resources() if resources is None else resources
    if categories is not None:
        config = replace(config, categories="none")
    volumes = _relabelled(volumes, config, resources)
    table, lengths = _table(volumes, config, block_shape, resources, None)
    ranking = given_scores(table, scores) if isinstance(scores, Mapping) else table.mean_scores
    codes = None if categories is None else category_codes(table, categories)
    return scores_of_table(table, _place_of(volumes), config, ranking, codes, lengths)


@takes_progress
def evaluate_volume(  # noqa: PLR0913 - one parameter an option
    instances: Source,
    truth: Source,
    out: str | Path | ScoreFiles,
    *,
    scores: Source | Mapping[int, float] | None = None,
    mask: Source | None = None,
    config: EvaluateConfig | None = None,
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Score instances and write ``scores.json`` and, where asked, the match tables.

    A finished output of the same inputs and settings is left alone; an interrupted one goes on
    with the blocks that are missing.

    Args:
        instances: Predicted labels (z, y, x).
        truth: True labels of the same place.
        out: What is written; a path alone is the scores file.
        scores: Prediction whose mean within an instance ranks it, or a table id -> score (an
            instance without one ranks last); voxel counts by default.
        mask: Voxels where it is 0 are left out.
        config: How to score.
        block_shape: Voxels (z, y, x) read at a time, see `overlap_table`.
        resources: Workers and executor.
        progress: Called with a `Progress` as work is done.

    Returns:
        The scores with their tables, or without where the file was done and no folder is given.

    Raises:
        ConfigError: Settings out of range.
        InputError: Volumes that cannot be compared; all faults at once.
        OutputExistsError: The file exists and was made of other inputs or settings, or the folder
            holds tables of another evaluation.
    """
    config = EvaluateConfig() if config is None else config
    check_evaluate_config(config)
    out = out if isinstance(out, ScoreFiles) else ScoreFiles(Path(out))
    resources = Resources() if resources is None else resources
    given = scores if isinstance(scores, Mapping) else None
    image = None if isinstance(scores, Mapping) else scores
    volumes = _compared(instances, truth, image, mask, config)
    place_volumes(volumes, config.crop, config.align)
    inputs: dict[str, str | Identity] = {
        role: volume.identity.now() for role, volume in volumes.volumes.items()
    }
    if given is not None:
        inputs["scores"] = fingerprint_of(sorted(given.items()))
    if volumes.scores is not None:
        scored = checked_voxels(
            volumes.scores, resources, probabilities=True, out=out.json, inputs=inputs
        )
        volumes = replace(volumes, scores=scored)
    settings = _settings(volumes, config)
    _check_tables(out)
    with open_ledger(
        out.json, stage="evaluate", inputs=inputs, settings=settings, overwrite=out.overwrite
    ) as ledger:
        if ledger.state == "done":
            if _tables_are_there(out.csv_dir, ledger.summary):
                log.info("%s: already done", out.json)
                return load_scores(out.json, out.csv_dir)
            ledger.reopen()
        volumes = _relabelled(volumes, config, resources)
        table, lengths = _table(volumes, config, block_shape, resources, ledger)
        ranking = table.mean_scores if given is None else given_scores(table, given)
        result = scores_of_table(table, _place_of(volumes), config, ranking, lengths=lengths)
        write_scores(result, out.json, out.csv_dir)
        tables = None if out.csv_dir is None else matches_fingerprint(out.csv_dir)
        ledger.finish(ranked_by=result.ranked_by, tables=tables)
    return result


def check_evaluate(
    instances: Volume,
    truth: Volume,
    out: ScoreFiles,
    *,
    mask: Volume | None = None,
    config: EvaluateConfig | None = None,
) -> Expected:
    """What `evaluate_volume` will make of its arguments, with its errors; nothing is written.

    Args:
        instances: Labels that are there, or that will be (`expected_volume`).
        truth: Likewise.
        out: See `evaluate_volume`.
        mask: See `evaluate_volume`.
        config: See `evaluate_volume`.
    """
    config = EvaluateConfig() if config is None else config
    check_evaluate_config(config)
    volumes = _compared(instances, truth, None, mask, config)
    place_volumes(volumes, config.crop, config.align)
    _check_tables(out)
    state = check_output(
        out.json,
        stage="evaluate",
        inputs={role: known_identity(volume) for role, volume in volumes.volumes.items()},
        settings=_settings(volumes, config),
        overwrite=out.overwrite,
    )
    return Expected(state)


def _settings(volumes: Compared, config: EvaluateConfig) -> dict[str, Any]:
    """What can change the scores besides the voxels, for the record."""
    settings = {**to_plain(config), "places": recorded_places(volumes.volumes)}
    added = [name for name, metric in METRICS.items() if metric.block == "metrics"]
    return {**settings, "metrics": added} if added else settings


def _check_tables(out: ScoreFiles) -> None:
    """Refuse a folder with tables of a person's, or of another evaluation."""
    if out.csv_dir is not None:
        known = out.json.exists() or is_unfinished(out.json)  # its record tells of the tables
        refuse_tables(out.csv_dir, out.overwrite or known)


def refuse_tables(folder: Path, overwrite: bool) -> None:
    """Refuse to write match tables where there are some already.

    Raises:
        OutputExistsError: They are not cristae's, or ``overwrite`` is false.
    """
    check_tables(folder)
    if not overwrite:
        _refuse_tables(folder)


def _tables_are_there(folder: Path | None, summary: Mapping[str, Any]) -> bool:
    """Whether no table has to be written; none is taken for another evaluation's."""
    found = None if folder is None else matches_fingerprint(folder)
    if found != summary.get("tables", found):
        _refuse_tables(folder)
    return folder is None or found is not None


def _refuse_tables(folder: Path | None) -> None:
    if folder is not None and has_matches(folder):
        raise OutputExistsError(
            f"{folder}: holds tables of another evaluation, or changed ones; "
            "--overwrite replaces them"
        )


def _check_categories(categories: Mapping[int, str] | None) -> None:
    unknown = sorted(set((categories or {}).values()) - set(CATEGORIES))
    if unknown:
        raise InputError(f"categories {', '.join(unknown)}: expected {', '.join(CATEGORIES)}")


def _compared(
    instances: Source,
    truth: Source,
    scores: Source | None,
    mask: Source | None,
    config: EvaluateConfig,
) -> Compared:
    return Compared(
        prediction=_volume(instances, "instances", open_labels),
        truth=_volume(truth, "truth", open_labels),
        scores=None if scores is None else _volume(scores, "scores"),
        score_channel=config.score_channel,
        mask=None if mask is None else _volume(mask, "mask"),
    )


def _volume(source: Source, name: str, opened: Callable[[Source], Volume] = open_volume) -> Volume:
    if isinstance(source, str | Path | Volume):
        return opened(source)
    # an array in memory has no chunks: blocks of whole planes are read without a copy
    return array_volume(source, name=name).with_(chunk_shape=(1, 1, 1))


def _relabelled(volumes: Compared, config: EvaluateConfig, resources: Resources) -> Compared:
    """Both sides with every connected part as an instance, where that is asked for."""
    if not config.relabel:
        return volumes
    place_volumes(volumes, config.crop, config.align)  # faults first
    return replace(
        volumes,
        prediction=relabelled(volumes.prediction, resources),
        truth=relabelled(volumes.truth, resources),
    )


def _table(
    volumes: Compared,
    config: EvaluateConfig,
    block_shape: Triple | None,
    resources: Resources,
    ledger: Ledger | None,
) -> tuple[Overlaps, Mapping[str, Floats] | None]:
    """The overlap table, and cable lengths where they are asked for and the voxel size is known."""
    begin = time.perf_counter()
    if volumes.scores is not None:
        volumes = replace(volumes, scores=settle_mask(volumes.scores, resources))
    table = overlap_table(
        volumes,
        crop=config.crop,
        align=config.align,
        block_shape=block_shape,
        resources=resources,
        ledger=ledger,
    )
    box, placed = place_volumes(volumes, config.crop, config.align)
    table = replace(table, placed=Placed(placed.prediction, placed.truth, box.start))
    size = volumes.prediction.voxel_size_nm or volumes.truth.voxel_size_nm
    if config.categories != "cable_length":
        return table, None
    if size is None:
        log.info("evaluate: no categories by cable length, the voxel size is unknown")
        return table, None
    counted = time.perf_counter()
    lengths = truth_lengths(placed, box, table.truth, size, resources, ledger, table.nbytes)
    traced = time.perf_counter()
    if traced - counted > max(counted - begin, SLOW_S):
        log.info(
            "evaluate: cable lengths took %.0f s, all else %.0f s; "
            "without them: --categories volume, or none",
            *(traced - counted, counted - begin),
        )
    return table, lengths


def _place_of(volumes: Compared) -> TablePlacement:
    return TablePlacement(volumes.prediction.voxel_size_nm, volumes.prediction.origin_nm)
