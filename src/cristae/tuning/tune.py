"""Tune: decoder thresholds searched on a validation pair, every setting scored.

Settings whose meaning `shared_runs` knows share one reading of the prediction; any other is decoded
on its own. Both give what `segment` gives.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from cristae.configuration import config_dataclass, to_plain
from cristae.engine.executors import Resources
from cristae.engine.memory import Promise
from cristae.engine.progress import ProgressCallback, takes_progress
from cristae.errors import ConfigError, InputError, raise_faults
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    check_evaluate_config,
    scores_of_table,
)
from cristae.evaluation.judge import (
    Judge,
    TriedSetting,
    Value,
    bytes_of,
    keys_of,
    lower_is_better,
    score_of,
    table_scores,
)
from cristae.evaluation.overlaps import overlaps_of_table
from cristae.evaluation.placement import Compared, place_volumes
from cristae.grid import Box
from cristae.labels.label_runs import LabelledRuns, volume_runs
from cristae.labels.overlap_table import overlaps_of_runs
from cristae.labels.runs import Raster, no_runs
from cristae.measurement.table import Table
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decode import decode_volume
from cristae.segmentation.decoders import resolve
from cristae.segmentation.job import Decoding
from cristae.tuning.shared_runs import can_share, decode_settings
from cristae.volumes.finite import checked_voxels
from cristae.volumes.formats import Source, open_labels, open_volume
from cristae.volumes.values import settle_prediction
from cristae.volumes.volume import Volume, array_volume

GRID: dict[str, tuple[Value, ...]] = {
    "seed_threshold": (0.85, 0.9, 0.95),
    "contour_threshold": (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
}
"""The grid of the PyTorch Connectomics benchmark on MitoEM-R, for decoders with a contour."""

MASK_GRID: tuple[Value, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
"""Foreground thresholds tried where the decoder knows no seeds and contours."""

AFFINITY_GRID: dict[str, tuple[Value, ...]] = {
    "affinity_threshold": (0.3, 0.5),
    "merge_threshold": (0.5, 0.7, 0.9),
}
"""The grid of decoders that merge regions by affinities; others cut these at `MASK_GRID`."""

KEPT = 3
"""Without truth, the instances of so many settings are kept beside the base's."""


_QUIET_EVALUATE = EvaluateConfig(bootstrap_samples=0, categories="none")


@config_dataclass
class TuneConfig:
    """What is tried, and by what it is judged.

    Attributes:
        segment: Decoder, and the parameters that stay as they are.
        grid: Values tried, by parameter; every combination is. By default the benchmark's seed
            and contour thresholds, or as many of them as the decoder has and the foreground's;
            of decoders of affinities, where these are cut and where regions merge.
        score: What is best: a name of `SCORES` or `METRICS`, or the keys of a number of
            ``scores.json``, ``matching/0.5/all/recall``. Errors are best when lowest.
        evaluate: How to score; without relabelling, cropping and categories by cable length.
    """

    segment: SegmentConfig = SegmentConfig()
    grid: dict[str, tuple[Value, ...]] | None = None
    score: str = "accuracy_75"
    evaluate: EvaluateConfig = _QUIET_EVALUATE


@dataclass(frozen=True)
class Tuning:
    """The outcome of a search.

    Attributes:
        grid: Values tried, by parameter.
        settings: All of them, the last parameter changing fastest.
        score: Keys of the score, ``a/b/c``.
        base: Index of the setting nearest to the decoder's and prediction's own values.
        best: Index of the best setting; the one nearest to the base where several are. None
            without truth.
        kept: Without truth, the instances of the base and of the settings that differ most from
            it, by index.
    """

    grid: Mapping[str, tuple[Value, ...]]
    settings: tuple[TriedSetting, ...]
    score: str
    base: int
    best: int | None
    kept: Mapping[int, LabelledRuns] = field(default_factory=dict, repr=False)

    def table(self) -> Table:
        """One row a setting: what was tried, what it found, and every score beside the value."""
        columns: dict[str, Any] = {
            name: [setting.values[name] for setting in self.settings] for name in self.grid
        }
        for name in ("instances", "voxels", "median_voxels"):
            columns[name] = [getattr(setting, name) for setting in self.settings]
        if self.best is not None:
            names = list(dict.fromkeys((self.score, *table_scores())))
            for name in names:
                columns[name] = [score_of(setting.scores, name) for setting in self.settings]
        else:
            columns["iou_with_base"] = [setting.iou_with_base for setting in self.settings]
        return {name: np.array(column, dtype=object) for name, column in columns.items()}


@takes_progress
def tune_decoder(
    prediction: Source,
    truth: Source | None = None,
    *,
    config: TuneConfig | None = None,
    resources: Resources | None = None,
    progress: ProgressCallback | None = None,
) -> Tuning:
    """Try settings of a decoder on a prediction, and score each against the truth.

    Args:
        prediction: What `segment_volume` takes.
        truth: True labels of the same place. Without it nothing is best; what each setting
            changes against the base setting is told instead.
        config: What is tried.
        resources: Workers, executor and memory.
        progress: Called with a `Progress` as work is done.

    Returns:
        Every setting with its scores, and the best one. Instances are ranked by size.

    Raises:
        ConfigError: A parameter the decoder does not have, a value outside its range, no such
            score; all faults at once.
        InputError: A prediction and a truth that are not of one place.
        MemoryLimitError: The foreground does not fit.
    """
    config, resources = config or TuneConfig(), resources or Resources()
    prediction = open_volume(prediction)
    truth = None if truth is None else open_labels(truth)
    check_evaluate_config(config.evaluate)
    grid = config.grid or _default_grid(config.segment, prediction)
    decodings = _decodings(prediction, config, grid)
    base = _nearest(decodings, resolve(config.segment, prediction))
    promise = Promise(resources)
    placed = None if truth is None else _place_truth(prediction, truth, config)
    judge = Judge(prediction.shape, placed, config.evaluate, config.score, promise)
    prediction = settle_prediction(prediction, resources)
    prediction = checked_voxels(prediction, resources, probabilities=True)
    tried = [dict(zip(grid, each, strict=True)) for each in itertools.product(*grid.values())]
    settings: dict[int, TriedSetting] = {}
    kept: dict[int, LabelledRuns] = {}
    first = base if truth is None else None  # which the others are then compared with
    for i, found in _all_found(prediction, decodings, config.segment, first, promise):
        settings[i] = replace(judge(decodings[i], found), values=tried[i])
        if truth is None:
            kept[i] = found
            promise.held += bytes_of(found, settings[i])
            for j in sorted(set(kept) - set(_most_different(settings, kept, base))):
                promise.held -= bytes_of(kept.pop(j), settings[j])
                settings[j] = replace(settings[j], against_base=None)
    ordered = tuple(settings[i] for i in range(len(decodings)))
    best = None if truth is None else _best(ordered, decodings, judge.score, base)
    return Tuning(grid, ordered, judge.score, base, best, kept)


def check_tune(prediction: Volume, truth: Volume | None, config: TuneConfig) -> None:
    """Raise what `tune_decoder` would of its arguments, before any voxel is read."""
    check_evaluate_config(config.evaluate)
    _decodings(prediction, config, config.grid or _default_grid(config.segment, prediction))
    if truth is not None:
        _place_truth(prediction, truth, config)


def _place_truth(prediction: Volume, truth: Volume, config: TuneConfig) -> Volume:
    """The truth in the prediction's place, and whether the score asked for is one."""
    one = prediction.with_(channels=None, dtype=np.dtype(np.uint8))
    _, placed = place_volumes(Compared(one, truth), False, config.evaluate.align)
    raster = Raster(prediction.shape)
    empty = LabelledRuns(no_runs(), np.zeros(0, np.uint64)).rows(raster)
    table = overlaps_of_table(
        overlaps_of_runs(empty, empty, raster.shape), Box.of(raster.shape), raster.shape
    )
    nothing = scores_of_table(table, None, config.evaluate)
    score_of(nothing, keys_of(config.score))  # refuses a name that is none
    return placed.truth


def _most_different(
    settings: Mapping[int, TriedSetting], kept: Mapping[int, LabelledRuns], base: int
) -> list[int]:
    """The base, and of the others the few that overlap it least."""
    others = sorted((i for i in kept if i != base), key=lambda i: (settings[i].iou_with_base, i))
    return [base, *others[:KEPT]]


def _default_grid(segment: SegmentConfig, prediction: Volume) -> dict[str, tuple[Value, ...]]:
    parameters = resolve(segment, prediction).parameters
    if "merge_threshold" in parameters:
        return AFFINITY_GRID
    if "affinity_threshold" in parameters:
        return {"affinity_threshold": MASK_GRID}
    grid = {name: values for name, values in GRID.items() if name in parameters}
    if len(grid) == len(GRID):
        return grid
    grid = {name: values for name, values in grid.items() if name == "seed_threshold"}
    if "foreground_threshold" in parameters:
        grid["foreground_threshold"] = MASK_GRID
    if not grid:
        raise ConfigError(f"grid: none given, expected values of one of {', '.join(parameters)}")
    return grid


def _decodings(
    prediction: Volume, config: TuneConfig, grid: Mapping[str, tuple[Value, ...]]
) -> list[Decoding]:
    """The decoders of all settings; every fault of the configuration at once."""
    shared = [f.name for f in fields(SegmentConfig) if f.name not in ("decoder", "parameters")]
    known = dict.fromkeys([*shared, *resolve(config.segment, prediction).parameters])
    faults = [
        f"grid: no parameter {name!r}, known are {', '.join(known)}"
        for name in grid
        if name not in known
    ]
    evaluate = config.evaluate
    unfit = {
        "relabel": evaluate.relabel,
        "crop": evaluate.crop,
        "score_channel": evaluate.score_channel is not None,
        "categories": evaluate.categories == "cable_length",
    }
    faults += [
        f"evaluate.{name} {getattr(evaluate, name)}: not when thresholds are searched"
        for name, is_unfit in unfit.items()
        if is_unfit
    ]
    faults += [f"grid: {name} has no values" for name, values in grid.items() if not values]
    decodings = []
    if not faults:
        for values in itertools.product(*grid.values()):
            tried: dict[str, Any] = dict(zip(grid, values, strict=True))
            setting = replace(config.segment, **tried)
            try:
                decodings.append(resolve(setting, prediction))
            except ConfigError as error:
                faults.append(str(error))
    raise_faults("tune", list(dict.fromkeys(faults)), ConfigError)
    return decodings


def _all_found(
    prediction: Volume,
    decodings: Sequence[Decoding],
    segment: SegmentConfig,
    first: int | None,
    promise: Promise,
) -> Iterator[tuple[int, LabelledRuns]]:
    """(index, instances) of every setting, one of them first where that is asked for."""
    order, resources = sorted(range(len(decodings)), key=lambda i: i != first), promise.resources
    if all(can_share(decoding) for decoding in decodings):
        tried = [decodings[i] for i in order]
        for k, found in decode_settings(
            prediction, tried, resources, promise, first_alone=first is not None
        ):
            yield order[k], found
        return
    for i in order:
        yield i, _decoded(prediction, decodings[i], segment, promise)


def _decoded(
    prediction: Volume, decoding: Decoding, segment: SegmentConfig, promise: Promise
) -> LabelledRuns:
    fixed: dict[str, Any] = {"decoder": decoding.decoder, **decoding.parameters}
    labels = decode_volume(prediction, replace(segment, **fixed), promise)
    promise.held += labels.nbytes
    found = volume_runs(array_volume(labels, name=prediction.name), promise.resources, promise)
    promise.held -= labels.nbytes
    return found


def _best(
    settings: Sequence[TriedSetting], decodings: Sequence[Decoding], score: str, base: int
) -> int:
    sign = -1.0 if lower_is_better(score) else 1.0
    values = [-math.inf if s.value is None else sign * s.value for s in settings]
    if max(values) == -math.inf:
        raise InputError(f"score {score!r} is not defined for any setting: is there any truth?")
    top = [i for i, value in enumerate(values) if value == max(values)]
    return min(top, key=lambda i: (_distance(decodings[i], decodings[base]), i))


def _nearest(decodings: Sequence[Decoding], own: Decoding) -> int:
    return min(range(len(decodings)), key=lambda i: (_distance(decodings[i], own), i))


def _distance(one: Decoding, other: Decoding) -> float:
    total = 0.0
    for name, value in one.parameters.items():
        there = other.parameters.get(name)
        if isinstance(value, int | float) and isinstance(there, int | float):
            scale = max(abs(value), abs(there), 1.0)
            total += abs(value - there) / scale
    return total


def tuned_config(setting: TriedSetting) -> dict[str, Any]:
    """A setting as `SegmentConfig` reads it: the decoder and all its parameters."""
    return {"decoder": setting.decoder, **to_plain(setting.parameters)}
