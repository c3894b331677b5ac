"""Family: a row of the table `cristae.networks.families.table.FAMILIES`, one kind of network.

A model file names its family; what follows from the kind of network alone stands in this row, so
that nothing else asks which kind it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cristae.grid import Triple
from cristae.networks.context import Context
from cristae.networks.device import DeviceNetwork
from cristae.networks.precision import Precision


class NetworkConfig(Protocol):
    """What a network is built from: a frozen dataclass of plain values in a model file."""

    @property
    def in_channels(self) -> int:
        """Channels of the image it takes."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its outputs, in order."""


@dataclass(frozen=True)
class Trained:
    """What training needs to know of a kind of network.

    Attributes:
        logits: Logits (n, c, z, y, x) whose sigmoid is what a prediction holds, from the network's.
        planar: Whether all its convolutions have two dimensions, so that torch trains it in
            bfloat16 and channels-last on a processor.
        levels: Features of each level, finest first, and positions there are for each voxel.
        kept: Bytes that a forward pass on a patch (z, y, x) keeps for the backward one; None where
            a trial on no memory says it (`cristae.training.memory`).
    """

    logits: Callable[[Tensor, Any], Tensor]
    planar: bool
    levels: Callable[[Any], list[tuple[int, float]]]
    kept: Callable[[Any, Triple], int] | None = None


@dataclass(frozen=True)
class Family:
    """What is known of a kind of network. ``config`` below is a value of `config_class`.

    Attributes:
        title: What messages call it.
        config_class: Made with `cristae.configuration.config_dataclass`; it has what
            `NetworkConfig` asks for.
        check: Raises one error with all faults of a config.
        build: The network of a config, its weights aside: (n, c, z, y, x) to logits of the same
            extent. It keeps the config as ``config``.
        context: Voxels around an output that can change it, and the lattice on which tiles start
            and end; None of a kind that takes statistics from its input, which runs in the windows
            of its recipe.
        prepare: A network with its weights made ready for inference: network, precision, device,
            and memory that networks share which never compute at the same time. What it gives is
            in [0, 1], activation and all, and as large as its tile.
        memory: Upper bound of the bytes that inference takes for a tile, itself apart: config,
            tile, core, precision, type of device.
        work: Multiplications that cores of extents (..., 3) in voxels take, (...); None where they
            are not counted.
        load: A `cristae.networks.model.Model` from another program's file; None for a file of
            another kind. Asked of files that are no models of cristae.
        trained: What training needs; None of a kind that is only run.
    """

    title: str
    config_class: type[Any]
    check: Callable[[Any], None]
    build: Callable[[Any], nn.Module]
    context: Callable[[Any], Context | None]
    prepare: Callable[[Any, Precision, torch.device, dict[str, Tensor] | None], DeviceNetwork]
    memory: Callable[[Any, Triple, Triple, Precision, str], int]
    work: Callable[[Any, NDArray[np.float64]], NDArray[np.float64]] | None = None
    load: Callable[[Path], Any] | None = None
    trained: Trained | None = None
