"""A prediction that was asked for, checked, and what both ways of doing it share."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cristae.engine.executors import Resources
from cristae.engine.memory import GIB, available_memory
from cristae.engine.tasks import Profile
from cristae.errors import MemoryLimitError
from cristae.grid import Box, Triple
from cristae.networks.device import device_room
from cristae.networks.ensemble import ensemble_bytes, ensemble_work
from cristae.networks.model import Model
from cristae.networks.precision import Precision
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.runner import Contract
from cristae.prediction.grids import Grids
from cristae.prediction.regions import Occupancy, Region
from cristae.prediction.resample import Factors
from cristae.volumes.formats.ome_zarr import Layout
from cristae.volumes.volume import Volume

STEP = "predict"

MEMORY_SHARE = 0.5
MEMORY_MOST = 6 * GIB
"""Default memory budget: this share of free memory, capped at MEMORY_MOST."""

FIXED_BYTES = 128 << 20
"""Of the promise: what does not grow with the tile (slabs, caches, threads, the compiler)."""


@dataclass(frozen=True, eq=False)
class PredictionPlan:
    """What was asked for, every choice made.

    Attributes:
        source: The image.
        models: The networks and what they expect; what they agree on is the first one's.
        contract: How the networks are run.
        out: The ``.zarr`` written.
        grids: The grids of image, network and output.
        precision: Of the network's arithmetic.
        truncate: Whether 255 p is truncated rather than rounded.
        block_shape: Core of a tile, where the user says it.
        resources: Threads and memory.
        devices: Where the networks compute, a replica on each; of one kind. Of processes the
            processor, as many times as there are.
        regions: Outside of any of them the output is 0.
    """

    source: Volume
    models: tuple[Model, ...]
    contract: Contract
    out: Path
    grids: Grids
    precision: Precision
    truncate: bool
    block_shape: Triple | None
    resources: Resources
    devices: tuple[torch.device, ...]
    regions: tuple[Region, ...] = ()

    @property
    def model(self) -> Model:
        """The first model, whose decoder and thresholds pass on."""
        return self.models[0]

    @property
    def recipe(self) -> InferenceRecipe:
        """How the networks are run, as asked for."""
        return self.contract.recipe

    @property
    def shape(self) -> Triple:
        """Extent (z, y, x) of the output."""
        return self.grids.shape

    @property
    def shard(self) -> Triple:
        """Extent of the output's write unit."""
        return Layout().fitted(self.shape).shard

    @property
    def in_processes(self) -> bool:
        """Whether each lane is a process of its own."""
        return self.resources.executor == "processes" and len(self.devices) > 1

    @property
    def lanes(self) -> Resources:
        """How many tiles or windows are computed at a time, and where."""
        return replace(self.resources, workers=len(self.devices))

    @property
    def place(self) -> str:
        """Where the networks compute, in words."""
        if self.in_processes:
            return f"{self.devices[0]} in {len(self.devices)} processes"
        return ", ".join(map(str, self.devices))

    @property
    def memory_limit(self) -> float:
        """Bytes the run may plan with."""
        if self.resources.memory_gib is not None:
            return self.resources.memory_gib * GIB
        return min(MEMORY_SHARE * available_memory(), MEMORY_MOST)

    @cached_property
    def room(self) -> int | None:
        """Bytes of its own memory that each device may take; None where it has none of its own."""
        return device_room(self.devices)

    @cached_property
    def occupied(self) -> Occupancy | None:
        """Which cells hold a voxel inside the regions; None where there are no regions."""
        return Occupancy(self.regions, self.shape) if self.regions else None

    def network_bytes(self, tile: Triple, core: Triple) -> int:
        """Upper bound of the memory that one replica takes for a tile, the tile itself apart."""
        of_tile = (tile, core, self.precision, self.devices[0].type, self.recipe.z_stride)
        return ensemble_bytes(self.models, *of_tile)

    def work(self, extents: NDArray[np.int64]) -> NDArray[np.float64]:
        """Multiplications that cores of extents (..., 3) in voxels of the output take."""
        views = self.grids.views
        return sum(
            (ensemble_work(self.models, extents / view.output_factors) for view in views),
            start=np.zeros(extents.shape[:-1]),
        )

    def check_room(self, needed: int) -> None:
        """Refuse what does not fit into a device's memory.

        Raises:
            MemoryLimitError: Both numbers are named.
        """
        if self.room is not None and needed > self.room:
            raise MemoryLimitError(
                f"predict: needs {needed / GIB:.2f} GiB of a GPU's memory, {self.room / GIB:.2f} "
                f"GiB of {self.devices[0].type} may be taken; --device cpu takes the processor's"
            )


@dataclass(frozen=True)
class Done:
    """What a run did.

    Attributes:
        profile: How long its parts were at work.
        written: Voxels of the output, one channel.
        computed: Voxels that went through the network, test-time augmentation counted.
        summary: Of what, in words.
    """

    profile: Profile
    written: int
    computed: int
    summary: str

    def waste(self, factors: Factors) -> float:
        """Voxels computed a voxel written, both counted on the working grid.

        Args:
            factors: Working voxel size over the output's.
        """
        return self.computed * math.prod(factors) / max(1, self.written)


def write_shards(
    prediction: Volume, missing: Sequence[Box], group: tuple[Box, NDArray[np.uint8]]
) -> Iterator[Box]:
    """Write shards; gives each once it is on disk.

    Args:
        prediction: The output.
        missing: Shards to write.
        group: A box that holds them all, and its levels (channels, z, y, x).
    """
    box, levels = group
    for shard in missing:
        inside = shard.relative_to(box.start)
        prediction.write(shard, levels[(slice(None), *inside.slices())])
        yield shard
