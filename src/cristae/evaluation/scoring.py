"""From the overlap table to every score: settings and arithmetic; nothing is read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import config_dataclass
from cristae.errors import ConfigError, raise_faults
from cristae.evaluation.cable import length_codes
from cristae.evaluation.matching import (
    CATEGORIES,
    associate,
    association_counts,
    matching_scores,
)
from cristae.evaluation.metrics import best_truth, match, metric_scores
from cristae.evaluation.overlaps import Floats, Overlaps, pool
from cristae.evaluation.scores import Block, Ranking, Scores
from cristae.evaluation.tables import MatchTables, TablePlacement, match_tables, overlaps_of_tables
from cristae.evaluation.uncertainty import bootstrap_intervals
from cristae.volumes.place import Align


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
        align: ``origin`` places volumes by voxel size and origin, ``voxels`` lays voxel 0 on
            voxel 0 (``corner``: its older name).
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


def scores_of_table(
    table: Overlaps,
    place: TablePlacement | None,
    config: EvaluateConfig,
    ranking: Floats | None = None,
    codes: NDArray[np.int64] | None = None,
    lengths: Mapping[str, Floats] | None = None,
) -> Scores:
    """All scores of an overlap table; nothing is read.

    Args:
        table: The overlap table.
        place: Of the predicted array, for the match tables; None for scores without tables.
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
    ranked_by: Ranking = "size" if ranking is None else "score"
    scores = Scores(**_all_blocks(table, ranking, codes, config), ranked_by=ranked_by)
    if place is None:
        return scores
    matches = match(table, ranking, config.size_thresholds_vx)
    named = None if codes is None else (codes, CATEGORIES)
    tables = match_tables(matches, associate(matches), place, named, lengths)
    return replace(scores, tables=tables)


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


def _all_blocks(
    table: Overlaps,
    ranking: Floats | None,
    codes: NDArray[np.int64] | None,
    config: EvaluateConfig,
) -> Block:
    blocks = _instance_blocks(table, ranking, codes, config)
    blocks["voxel"] = metric_scores(table, "voxel")
    if added := metric_scores(table, "metrics"):
        blocks["metrics"] = added
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
