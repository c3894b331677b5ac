"""Several models as one: their outputs for a tile are combined before anything else is done.

All members see the same tile, so they must agree on what a tile is: channels, intensity rule,
working voxel size, and either all take any tile or all have the same windows.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cristae.grid import Box, Triple
from cristae.networks.context import Context
from cristae.networks.families.table import family_of
from cristae.networks.model import Model, load_model
from cristae.networks.precision import CPU, Precision
from cristae.networks.runner import (
    Contract,
    Runner,
    make_runner,
    network_contract,
    runner_bytes,
)
from cristae.networks.strided_sections import StridedSectionRunner, strided_bytes, strided_shape
from cristae.networks.windows import Combine

ModelLike = Model | str | Path
"""A model, its file, or the name of one of the package's."""


def models_of(model: ModelLike | Sequence[ModelLike]) -> tuple[Model, ...]:
    """One model or several, loaded where they are named."""
    given = (model,) if isinstance(model, Model | str | Path) else model
    return tuple(each if isinstance(each, Model) else load_model(each) for each in given)


class EnsembleRunner:
    """Runners of several networks as one.

    Args:
        runners: At least one, of equal channels.
        combine: What is taken of their outputs.
    """

    def __init__(self, runners: Sequence[Runner], combine: Combine) -> None:
        self._runners = tuple(runners)
        self._combine = combine

    @property
    def precision(self) -> Precision:
        """Of the members' arithmetic."""
        return self._runners[0].precision

    def probabilities(self, image: NDArray[np.float32], core: Box) -> Tensor:
        """Combined outputs of the core of a tile; see `Runner.probabilities`."""
        total: Tensor | None = None
        for runner in self._runners:
            total = fold(total, runner.probabilities(image, core), self._combine)
        return finish_fold(total, len(self._runners), self._combine)


def fold(total: Tensor | None, found: Tensor, combine: Combine) -> Tensor:
    """What has been found so far, and one more; ``total`` is overwritten."""
    if total is None:
        return found
    if combine == "mean":
        return total.add_(found)
    pick = torch.minimum if combine == "min" else torch.maximum
    return pick(total, found, out=total)


def finish_fold(total: Tensor | None, count: int, combine: Combine) -> Tensor:
    """The combination of ``count`` tensors that went through `fold`."""
    if total is None:
        raise ValueError("nothing to combine")
    return total.div_(count) if combine == "mean" and count > 1 else total


def ensemble_contract(models: Sequence[Model]) -> Contract:
    """How models want to be run together: the largest halo, a lattice that serves all."""
    contracts = [network_contract(model) for model in models]
    first, contexts = contracts[0], [c.context for c in contracts if c.context is not None]
    if len(contexts) < 2:
        return first
    hz, hy, hx = (max(along) for along in zip(*(c.halo_vx for c in contexts), strict=True))
    sz, sy, sx = (math.lcm(*along) for along in zip(*(c.lattice for c in contexts), strict=True))
    return replace(first, context=Context((hz, hy, hx), (sz, sy, sx)))


def ensemble_faults(models: Sequence[Model]) -> list[str]:
    """Where members differ from the first in what they must agree on, a line each."""
    first, faults = models[0], []
    for number, model in enumerate(models[1:], start=2):
        pairs = [
            (name, getattr(model, name), getattr(first, name))
            for name in ("channels", "intensity", "working_voxel_size_nm", "offsets")
        ]
        pairs.append(("windows", model.recipe.windows, first.recipe.windows))
        for name, found, expected in pairs:
            if found != expected:
                faults.append(f"model {number}: {name} {found}, the first has {expected}")
        if model.network_config.in_channels != first.network_config.in_channels:
            faults.append(
                f"model {number}: takes {model.network_config.in_channels} channels, the first "
                f"{first.network_config.in_channels}"
            )
    return faults


def make_ensemble(
    networks: Sequence[nn.Module],
    precision: Precision,
    combine: Combine,
    device: torch.device = CPU,
    z_stride: int = 1,
) -> Runner:
    """Trained networks made ready for inference on a device as one.

    A single one that sees next sections stays as it is.
    """
    kept: dict[str, Tensor] | None = {} if device.type == "cpu" else None
    runners = [make_runner(network, precision, device, kept) for network in networks]
    runner = runners[0] if len(runners) == 1 else EnsembleRunner(runners, combine)
    return runner if z_stride == 1 else StridedSectionRunner(runner, z_stride)


def ensemble_bytes(
    models: Sequence[Model],
    tile: Triple,
    core: Triple,
    precision: Precision,
    device: str = "cpu",
    z_stride: int = 1,
) -> int:
    """Upper bound of the memory the models take for a tile; one computes at a time.

    Args:
        models: The members.
        tile: Extent (z, y, x) of the tile in voxels.
        core: Extent of its core.
        precision: Of the arithmetic.
        device: Type of the device it is taken on.
        z_stride: They see every k-th section of it.
    """
    around = strided_bytes(len(models[0].channels), core, z_stride)
    tile, core = strided_shape(tile, z_stride), strided_shape(core, z_stride)
    most = max(runner_bytes(model, tile, core, precision, device) for model in models)
    if len(models) == 1:
        return most + around
    kept = 4 * len(models[0].channels) * math.prod(core)
    weights = sum(t.numel() * 8 for model in models[1:] for t in model.state_dict.values())
    return most + 2 * kept + weights + around


def ensemble_work(models: Sequence[Model], extents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiplications that all models together take for cores; see `core_work`."""
    total = np.zeros(extents.shape[:-1])
    for model in models:
        work = family_of(model.network_config).work
        if work is not None:
            total += work(model.network_config, extents)
    return total
