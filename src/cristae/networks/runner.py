"""What prediction knows of a network: a contract that says how to run it, and a runner that does.

A network of another program joins by a contract and a runner of its own; prediction looks at
nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cristae.grid import Box, Triple
from cristae.networks.context import Context
from cristae.networks.device import DeviceRunner, reduced_precision
from cristae.networks.families.table import family_of
from cristae.networks.family import NetworkConfig
from cristae.networks.model import Model, model_network
from cristae.networks.precision import CPU, Precision
from cristae.networks.recipe import InferenceRecipe, in_windows
from cristae.networks.windows import WindowRecipe

LARGEST_DEVIATION = 0.1
MEAN_DEVIATION = 0.002

SAMPLE: Triple = (4, 256, 256)
"""Extent of the tile that precisions are compared on, where the network takes any."""


@dataclass(frozen=True)
class Contract:
    """How a network wants to be run.

    Exactly one of ``context`` and ``windows`` is there. A network with a context is tile-invariant:
    its output is as large as its input, right wherever the context is covered, for any tile whose
    start and extent are multiples of the lattice. One with windows takes statistics from its whole
    input, so it is run on windows of one shape on one grid, which are blended.

    Attributes:
        channels: Names of its outputs, in order.
        in_channels: Channels of the image it takes.
        intensity: Rule of `cristae.volumes.intensity` for its input.
        context: Halo and lattice in voxels of its working grid, or None.
        recipe: How it is run unless told otherwise.
    """

    channels: tuple[str, ...]
    in_channels: int
    intensity: str
    context: Context | None
    recipe: InferenceRecipe

    @property
    def windows(self) -> WindowRecipe | None:
        """Its windows, or None."""
        return self.recipe.windows


class Runner(Protocol):
    """A network made ready for inference."""

    @property
    def precision(self) -> Precision:
        """Of its arithmetic."""

    def probabilities(self, image: NDArray[np.float32], core: Box) -> Tensor:
        """Outputs in [0, 1] of the core of a tile.

        Args:
            image: (z, y, x) tile, normalised, of an extent that the contract allows.
            core: Part of the tile that is wanted, in voxels of the tile.

        Returns:
            (channels, z, y, x) float32 of the core's shape, where the network computes.
        """


@dataclass(frozen=True)
class Deviation:
    """How far probabilities of reduced precision are from float32 ones on a sample tile.

    Attributes:
        largest: Largest absolute difference, 0 to 1.
        mean: Mean absolute difference.
    """

    largest: float
    mean: float

    @property
    def large(self) -> bool:
        """Whether it is too large to take unasked: above 0.1, or 0.002 in the mean."""
        return not (self.largest <= LARGEST_DEVIATION and self.mean <= MEAN_DEVIATION)


def network_contract(model: Model) -> Contract:
    """How a model's network wants to be run."""
    config = model.network_config
    return Contract(
        channels=model.channels,
        in_channels=config.in_channels,
        intensity=model.intensity,
        context=family_of(config).context(config),
        recipe=in_windows(model.recipe),
    )


def make_runner(
    network: nn.Module,
    precision: Precision,
    device: torch.device = CPU,
    kept: dict[str, Tensor] | None = None,
) -> Runner:
    """A trained network made ready for inference on a device; it is copied.

    Networks on the processor that never compute at the same time may share memory, ``kept``.
    """
    family = family_of(cast("NetworkConfig", network.config))
    prepared = family.prepare(network, precision, device, kept)
    return prepared if device.type == "cpu" else DeviceRunner(prepared, device)


def model_runner(model: Model, precision: Precision, device: torch.device = CPU) -> Runner:
    """A model's network made ready for inference on a device.

    Raises:
        InputError: Weights that do not fit the network; all misfits at once.
    """
    return make_runner(model_network(model), precision, device)


def runner_bytes(
    model: Model, tile: Triple, core: Triple, precision: Precision, device: str = "cpu"
) -> int:
    """Upper bound of the memory `Runner.probabilities` takes, the tile itself apart.

    Args:
        model: The model.
        tile: Extent (z, y, x) of the tile in voxels.
        core: Extent of its core.
        precision: Of the arithmetic.
        device: Type of the device it is taken on.
    """
    config = model.network_config
    return family_of(config).memory(config, tile, core, precision, device)


def sample_shape(contract: Contract) -> Triple:
    """Extent of a tile on which precisions are compared."""
    if contract.windows is not None:
        return contract.windows.shape
    lattice = contract.context.lattice if contract.context else (1, 1, 1)
    z, y, x = (math.ceil(n / step) * step for n, step in zip(SAMPLE, lattice, strict=True))
    return z, y, x


def compare_runners(
    make: Callable[[Precision], Runner], image: NDArray[np.float32], precision: Precision
) -> Deviation:
    """How far what is run in a reduced precision is from float32 on one tile.

    Args:
        make: Makes a runner of a precision.
        image: (z, y, x) normalised tile.
        precision: The reduced one.
    """
    core = Box.of((image.shape[0], image.shape[1], image.shape[2]))
    exact = make("float32").probabilities(image, core)
    rounded = make(precision).probabilities(image, core)
    difference = (exact - rounded).abs_()
    return Deviation(float(difference.max()), float(difference.mean()))


def choose_precision(
    make: Callable[[Precision], Runner], image: NDArray[np.float32], device: torch.device = CPU
) -> tuple[Precision, Deviation | None]:
    """The precision to compute in where the user leaves it open.

    The one that the device multiplies fast (`reduced_precision`) where its deviation from float32
    on a sample tile is not large; float32 otherwise.

    Args:
        make: Makes a runner of a precision.
        image: (z, y, x) normalised sample tile of `sample_shape`.
        device: Where the runners compute.

    Returns:
        The precision, and the deviation where it was measured.
    """
    reduced = reduced_precision(device)
    if reduced is None:
        return "float32", None
    deviation = compare_runners(make, image, reduced)
    return ("float32" if deviation.large else reduced), deviation
