"""Evaluation of predicted instances against the truth: the stage, its settings and its results.

One pass over the two label volumes makes the overlap table (`contingency`); every score comes
from it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import config_dataclass, to_plain
from cristae.engine.executors import Resources
from cristae.engine.ledger import Ledger, fingerprint_of, open_ledger
from cristae.engine.progress import log
from cristae.errors import ConfigError, InputError, raise_faults
from cristae.evaluation.cable import length_codes, truth_lengths
from cristae.evaluation.contingency import overlap_table
from cristae.evaluation.label_runs import relabelled
from cristae.evaluation.matching import (
    CATEGORIES,
    associate,
    association_counts,
    category_codes,
    matching_scores,
)
from cristae.evaluation.metrics import best_truth, given_scores, match, voxel_scores
from cristae.evaluation.overlaps import Floats, Overlaps, pool
from cristae.evaluation.placement import Align, Compared, place_volumes
from cristae.evaluation.scores import (
    Block,
    Ranking,
    ScoreFiles,
    Scores,
    load_scores,
    write_scores,
    write_tables,
)
from cristae.evaluation.tables import (
    MatchTables,
    Place,
    has_matches,
    match_tables,
    overlaps_of_tables,
    precision_recall_of,
    read_matches,
    read_scores,
)
from cristae.evaluation.text import format_scores
from cristae.evaluation.uncertainty import bootstrap_intervals
from cristae.grid import Triple
from cristae.volumes.volume import Array, Volume, array_volume

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


@config_dataclass
class EvaluateConfig:
    """How to score.

    Attributes:
        size_thresholds_vx: Most voxels of a small and of a medium instance, for AP by size.
        score_channel: Channel of the scores that ranks the instances; their mean by default.
        categories: What matching and associations are told apart by: ``cable_length`` as TIMISE
            has it (where the voxel size is known), ``volume`` by ``size_thresholds_vx``, ``none``.
        relabel: Take every 26-connected part of an id, on both sides, as an instance of its own.
        crop: Compare the common part of volumes that do not cover the same place.
        align: ``origin`` places volumes by their origins, ``corner`` lays voxel 0 on voxel 0.
        without_border_cut: Score a second time without instances that the border cuts.
        bootstrap_samples: Times the instances are drawn again for intervals; 0 for no intervals.
        bootstrap_seed: Of those draws.
    """

    size_thresholds_vx: tuple[int, int] = (5000, 15000)
    score_channel: int | None = None
    categories: Literal["cable_length", "volume", "none"] = "cable_length"
    relabel: bool = False
    crop: bool = False
    align: Align = "origin"
    without_border_cut: bool = False
    bootstrap_samples: int = 1000
    bootstrap_seed: int = 0


def check_evaluate_config(config: EvaluateConfig) -> None:
    """Raise one ConfigError that lists every fault of a configuration."""
    faults = []
    low, high = config.size_thresholds_vx
    if not 0 < low < high:
        faults.append(f"size_thresholds_vx {low}, {high}: expected 0 < small < medium")
    if config.score_channel is not None and config.score_channel < 0:
        faults.append(f"score_channel {config.score_channel}: expected 0 or more")
    for name in ("bootstrap_samples", "bootstrap_seed"):
        if getattr(config, name) < 0:
            faults.append(f"{name} {getattr(config, name)}: expected 0 or more")
    raise_faults("evaluate", faults, ConfigError)


def score_instances(
    instances: Volume | Array,
    truth: Volume | Array,
    *,
    scores: Volume | Array | Mapping[int, float] | None = None,
    mask: Volume | Array | None = None,
    categories: Mapping[int, str] | None = None,
    config: EvaluateConfig | None = None,
    block_shape: Triple | None = None,
    resources: Resources | None = None,
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
    resources = Resources() if resources is None else resources
    if categories is not None:
        config = replace(config, categories="none")
    volumes = _relabelled(volumes, config, resources)
    table, lengths = _table(volumes, config, block_shape, resources, None)
    ranking = given_scores(table, scores) if isinstance(scores, Mapping) else table.mean_scores
    codes = None if categories is None else category_codes(table, categories)
    return scores_of_table(table, _place_of(volumes), config, ranking, codes, lengths)


def scores_of_table(
    table: Overlaps,
    place: Place,
    config: EvaluateConfig,
    ranking: Floats | None = None,
    codes: NDArray[np.int64] | None = None,
    lengths: Mapping[str, Floats] | None = None,
) -> Scores:
    """All scores of an overlap table; nothing is read.

    Args:
        table: The overlap table.
        place: Of the predicted array, for the match tables.
        config: How to score.
        ranking: (predictions,) scores that rank them; voxel counts by default.
        codes: (truths,) index into `matching.CATEGORIES`; by default as ``config`` says.
        lengths: From `truth_lengths`, for categories by cable length and for the tables.
    """
    if codes is None and config.categories == "volume":
        voxels = table.truth.voxels
        codes = np.searchsorted(config.size_thresholds_vx, voxels, side="left").astype(np.int64)
    elif codes is None and lengths is not None:
        codes = length_codes(lengths)
    matches = match(table, ranking, config.size_thresholds_vx)
    named = None if codes is None else (codes, CATEGORIES)
    return Scores(
        **_all_blocks(table, ranking, codes, config),
        ranked_by="size" if ranking is None else "score",
        tables=match_tables(matches, associate(matches), place, named, lengths),
    )


def _all_blocks(
    table: Overlaps,
    ranking: Floats | None,
    codes: NDArray[np.int64] | None,
    config: EvaluateConfig,
) -> Block:
    blocks = _instance_blocks(table, ranking, codes, config)
    blocks["voxel"] = voxel_scores(table)
    if config.without_border_cut:
        keep_predictions, keep_truth = _uncut(table)
        blocks["without_border_cut"] = _instance_blocks(
            table.select(keep_predictions, keep_truth),
            None if ranking is None else ranking[keep_predictions],
            None if codes is None else codes[keep_truth],
            config,
        )
    return blocks


def _instance_blocks(
    table: Overlaps,
    ranking: Floats | None,
    codes: NDArray[np.int64] | None,
    config: EvaluateConfig,
) -> Block:
    matches = match(table, ranking, config.size_thresholds_vx)
    groups = associate(matches)
    blocks: Block = {
        "average_precision_coco": matches.average_precision(),
        "matching": matching_scores(matches, groups, codes),
        "associations": association_counts(groups, codes),
    }
    if config.bootstrap_samples:
        blocks["intervals"] = bootstrap_intervals(
            matches, config.bootstrap_samples, config.bootstrap_seed
        )
    return blocks


def _uncut(table: Overlaps) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Truth the border does not cut; predictions that go with it, or with none and are not cut."""
    best = best_truth(table).rows
    keep_truth = ~table.truth.cut
    with_truth = np.append(keep_truth, False)[best]
    return np.where(best < 0, ~table.prediction.cut, with_truth), keep_truth


def evaluate_volume(
    instances: Volume,
    truth: Volume,
    out: Path | ScoreFiles,
    *,
    scores: Volume | Mapping[int, float] | None = None,
    mask: Volume | None = None,
    config: EvaluateConfig | None = None,
    block_shape: Triple | None = None,
    resources: Resources | None = None,
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

    Returns:
        The scores with their tables, or without where the file was done and no folder is given.

    Raises:
        ConfigError: Settings out of range.
        InputError: Volumes that cannot be compared; all faults at once.
        OutputExistsError: The file exists and was made of other inputs or settings.
    """
    config = EvaluateConfig() if config is None else config
    check_evaluate_config(config)
    out = ScoreFiles(out) if isinstance(out, Path) else out
    resources = Resources() if resources is None else resources
    given = scores if isinstance(scores, Mapping) else None
    image = None if isinstance(scores, Mapping) else scores
    volumes = _compared(instances, truth, image, mask, config)
    place_volumes(volumes, config.crop, config.align)
    inputs = {role: volume.fingerprint for role, volume in volumes.volumes.items()}
    if given is not None:
        inputs["scores"] = fingerprint_of(sorted(given.items()))
    settings = to_plain(config)
    with open_ledger(
        out.json, stage="evaluate", inputs=inputs, settings=settings, overwrite=out.overwrite
    ) as ledger:
        if ledger.state == "done":
            if out.csv_dir is None or has_matches(out.csv_dir):
                log.info("%s: already done", out.json)
                return load_scores(out.json, out.csv_dir)
            ledger.reopen()
        volumes = _relabelled(volumes, config, resources)
        table, lengths = _table(volumes, config, block_shape, resources, ledger)
        ranking = table.mean_scores if given is None else given_scores(table, given)
        result = scores_of_table(table, _place_of(volumes), config, ranking, lengths=lengths)
        write_scores(result, out.json, out.csv_dir)
        ledger.finish(ranked_by=result.ranked_by)
    return result


def pool_scores(tables: Sequence[MatchTables], config: EvaluateConfig | None = None) -> Scores:
    """The scores of the instances of several volumes together, as if they were of one.

    Args:
        tables: Of each volume; all with scores or none.
        config: How to score.

    Returns:
        Scores without tables.
    """
    config = EvaluateConfig() if config is None else config
    check_evaluate_config(config)
    table = pool([overlaps_of_tables(each) for each in tables])
    ranking = table.mean_scores
    ranked_by: Ranking = "size" if ranking is None else "score"
    named = [each.truth.get("category") for each in tables]
    codes = None
    known = [names for names in named if names is not None]
    if len(known) == len(named):
        number = {name: code for code, name in enumerate(CATEGORIES)}
        codes = np.array([number[name] for names in known for name in names], np.int64)
    return Scores(**_all_blocks(table, ranking, codes, config), ranked_by=ranked_by)


def _check_categories(categories: Mapping[int, str] | None) -> None:
    unknown = sorted(set((categories or {}).values()) - set(CATEGORIES))
    if unknown:
        raise InputError(f"categories {', '.join(unknown)}: expected {', '.join(CATEGORIES)}")


def _compared(
    instances: Volume | Array,
    truth: Volume | Array,
    scores: Volume | Array | None,
    mask: Volume | Array | None,
    config: EvaluateConfig,
) -> Compared:
    return Compared(
        prediction=_volume(instances, "instances"),
        truth=_volume(truth, "truth"),
        scores=None if scores is None else _volume(scores, "scores"),
        score_channel=config.score_channel,
        mask=None if mask is None else _volume(mask, "mask"),
    )


def _volume(source: Volume | Array, name: str) -> Volume:
    if isinstance(source, Volume):
        return source
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
    table = overlap_table(
        volumes,
        crop=config.crop,
        align=config.align,
        block_shape=block_shape,
        resources=resources,
        ledger=ledger,
    )
    size = volumes.prediction.voxel_size_nm or volumes.truth.voxel_size_nm
    if config.categories != "cable_length":
        return table, None
    if size is None:
        log.info("evaluate: no categories by cable length, the voxel size is unknown")
        return table, None
    box, placed = place_volumes(volumes, config.crop, config.align)
    counted = time.perf_counter()
    lengths = truth_lengths(placed, box, table.truth, size, resources, ledger)
    traced = time.perf_counter()
    if traced - counted > max(counted - begin, SLOW_S):
        log.info(
            "evaluate: cable lengths took %.0f s, all else %.0f s; "
            "without them: --categories volume, or none",
            *(traced - counted, counted - begin),
        )
    return table, lengths


def _place_of(volumes: Compared) -> Place:
    return Place(volumes.prediction.voxel_size_nm, volumes.prediction.origin_nm)
