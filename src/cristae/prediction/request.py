"""A prediction that was asked for, checked, and what both ways of doing it share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import GIB, available_memory
from cristae.engine.executors import Resources
from cristae.engine.ledger import Ledger
from cristae.engine.progress import Advance
from cristae.grid import Box, Triple
from cristae.networks.inference import Precision
from cristae.networks.model import Model
from cristae.networks.runner import Contract
from cristae.networks.windows import Combine, Variants
from cristae.prediction.grids import Grids
from cristae.prediction.regions import Region
from cristae.volumes.sources.ome_zarr import Layout
from cristae.volumes.volume import Volume

STEP = "predict"

MEMORY_SHARE = 0.5
MEMORY_MOST = 6 * GIB
"""Without a limit of the user's, a run takes at most this share of what is free, and this much."""

FIXED_BYTES = 96 << 20
"""Of the promise: what does not grow with the tile (slabs, caches, threads)."""


@dataclass(frozen=True, eq=False)
class Request:
    """What was asked for, every choice made.

    Attributes:
        source: The image.
        models: The networks and what they expect; what they agree on is the first one's.
        contract: How the networks are run.
        out: The ``.zarr`` written.
        grids: The grids of image, network and output.
        precision: Of the network's arithmetic.
        variants: Test-time augmentation.
        combine: What is taken of the variants.
        truncate: Whether 255 p is truncated rather than rounded.
        block_shape: Core of a tile, where the user says it.
        resources: Threads and memory.
        regions: Outside of any of them the output is 0.
    """

    source: Volume
    models: tuple[Model, ...]
    contract: Contract
    out: Path
    grids: Grids
    precision: Precision
    variants: Variants
    combine: Combine
    truncate: bool
    block_shape: Triple | None
    resources: Resources
    regions: tuple[Region, ...] = ()

    @property
    def model(self) -> Model:
        """The first model, whose decoder and thresholds pass on."""
        return self.models[0]

    @property
    def shape(self) -> Triple:
        """Extent (z, y, x) of the output."""
        return self.grids.shape

    @property
    def shard(self) -> Triple:
        """Extent of the output's write unit."""
        return Layout().fitted(self.shape).shard

    @property
    def memory_limit(self) -> float:
        """Bytes the run may plan with."""
        if self.resources.memory_gib is not None:
            return self.resources.memory_gib * GIB
        return min(MEMORY_SHARE * available_memory(), MEMORY_MOST)


def write_shards(
    prediction: Volume,
    missing: tuple[Box, ...],
    group: tuple[Box, NDArray[np.uint8]],
    ledger: Ledger,
    advance: Advance,
) -> None:
    """Write shards, each marked once it is on disk.

    Args:
        prediction: The output.
        missing: Shards to write.
        group: A box that holds them all, and its levels (channels, z, y, x).
        ledger: Where they are marked.
        advance: Told of the voxels written.
    """
    box, levels = group
    for shard in missing:
        inside = shard.relative_to(box.start)
        prediction.write(shard, levels[(slice(None), *inside.slices())])
        ledger.mark(STEP, str(shard))
        advance(shard.size)
