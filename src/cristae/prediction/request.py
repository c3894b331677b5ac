"""A prediction that is asked for: its inputs checked, its grey values known, its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.engine.progress import log
from cristae.engine.records import Input
from cristae.errors import InputError
from cristae.grid import Triple
from cristae.networks.device import find_devices
from cristae.networks.ensemble import ModelLike, ensemble_contract, models_of
from cristae.networks.model import GREY, Model
from cristae.networks.precision import Precision
from cristae.networks.runner import Contract
from cristae.prediction.checks import (
    PredictConfig,
    check_executor,
    check_reach,
    check_request,
    laid_mask,
    plain_settings,
    section_thickness,
    settle,
)
from cristae.prediction.grids import Grids, plan_grids
from cristae.prediction.plan import PredictionPlan
from cristae.prediction.regions import Region
from cristae.volumes.finite import checked_voxels
from cristae.volumes.intensity import (
    IntensityStatistics,
    grey_moments,
    is_far,
    normalise,
    sample_intensity,
)
from cristae.volumes.padding import Padding
from cristae.volumes.place import Align
from cristae.volumes.volume import Volume

VERSION = 2
"""Of the predicting code, as far as it changes levels; 1 saw padding as if it were tissue."""


@dataclass(frozen=True, eq=False)
class PredictionRequest:
    """What was asked for, checked; the precision is still open. Fields are `predict_volume`'s."""

    source: Volume
    models: tuple[Model, ...]
    contract: Contract
    out: Path
    config: PredictConfig
    mask: Volume | None
    grids: Grids
    block_shape: Triple | None
    resources: Resources

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the networks compute; the processor once for each process."""
        copies = self.resources.workers if self.resources.executor == "processes" else 1
        return find_devices(self.config.device) * max(1, copies)

    def plan(self, precision: Precision, regions: tuple[Region, ...]) -> PredictionPlan:
        """With the two choices that take a look at the image."""
        return PredictionPlan(
            source=self.source,
            models=self.models,
            contract=self.contract,
            out=self.out,
            grids=self.grids,
            precision=precision,
            truncate=self.config.truncate,
            block_shape=self.block_shape,
            resources=self.resources,
            devices=self.devices,
            regions=regions,
        )


def checked_request(request: PredictionRequest, inputs: Mapping[str, Input]) -> PredictionRequest:
    """The same with an image and a mask without NaN."""
    look = partial(checked_voxels, resources=request.resources, out=request.out, inputs=inputs)
    mask = None if request.mask is None else look(request.mask)
    return replace(request, source=look(request.source), mask=mask)


def ask(
    source: Volume,
    model: ModelLike | Sequence[ModelLike],
    out: Path,
    config: PredictConfig | None,
    mask: Volume | None,
    block_shape: Triple | None,
    resources: Resources,
    align: Align = "origin",
) -> PredictionRequest:
    """What is asked for, every fault of it found; arguments and errors are `predict_volume`'s."""
    models = models_of(model)
    section_nm = section_thickness(source, models[0])
    config, contract = settle(config or PredictConfig(), ensemble_contract(models), section_nm)
    check_request(source, models, contract, config, block_shape, mask, align)
    mask = None if mask is None else laid_mask(source, mask, align)
    size, scales = models[0].working_voxel_size_nm, contract.recipe.scales
    grids = plan_grids(source, size, config.grid, scales)
    check_reach(source, grids, contract, resources)
    check_executor(config, resources)
    return PredictionRequest(
        source, models, contract, out, config, mask, grids, block_shape, resources
    )


def predict_record(request: PredictionRequest) -> dict[str, Any]:
    """What makes a prediction this one: stage, inputs and settings."""
    source, grids = request.source, request.grids
    inputs: dict[str, str | Identity] = {
        "source": source.identity,
        "model": "+".join(model.fingerprint for model in request.models),
    }
    settings = {"version": VERSION, **plain_settings(request.config)}
    settings |= {"voxel_size_nm": source.voxel_size_nm, "origin_nm": source.origin_nm}
    if request.mask is not None:
        inputs["mask"] = request.mask.identity
    if any(view.level != (1, 1, 1) for view in grids.views):
        settings["read_level"] = grids.read_level
    return {"stage": "predict", "inputs": inputs, "settings": settings}


def check_contrast(
    source: Volume, model: Model, padding: Padding | None = None
) -> IntensityStatistics:
    """Grey statistics of a volume, its padding apart.

    Raises:
        InputError: A volume without contrast, which the model's intensity rule cannot take.
    """
    statistics = sample_intensity(source, padding)
    try:
        normalise(np.zeros(1, source.dtype), statistics, model.intensity)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from error
    return statistics


def usable_statistics(
    source: Volume, model: Model, config: PredictConfig, padding: Padding | None
) -> IntensityStatistics:
    """Grey statistics of the volume; refuses one without contrast, warns of a wrong one."""
    statistics = check_contrast(source, model, padding)
    if statistics.inverted_suspected and not config.invert:
        log.warning(
            "%s: membranes look brighter than their surroundings; if so, --invert turns the "
            "contrast as the model expects it",
            source.name,
        )
    moments = grey_moments(statistics, model.intensity, config.invert)
    known = model.card.get(GREY, [])
    if is_far(moments, known):
        log.warning(
            "%s: grey values far from the model's training data: mean %.2f, standard deviation "
            "%.2f; the nearest of %d volumes had %.2f and %.2f: look at a preview first",
            source.name,
            *moments,
            len(known),
            *min(known, key=lambda each: abs(each[0] - moments[0]) + abs(each[1] - moments[1])),
        )
    return statistics
