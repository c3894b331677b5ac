"""Prediction in tiles, for networks whose answer does not depend on the tile."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import GIB
from cristae.engine.ledger import Ledger
from cristae.engine.progress import log, track
from cristae.grid import Box
from cristae.networks.ensemble import ensemble_bytes
from cristae.networks.runner import Runner
from cristae.networks.unet import Context
from cristae.prediction.passes import ImageInput, quantise, tile_probabilities, to_source_grid
from cristae.prediction.regions import Inside, inside_all, region_bytes
from cristae.prediction.request import FIXED_BYTES, STEP, Request, write_shards
from cristae.prediction.stream import Profile, stream
from cristae.prediction.tiles import Tiling, choose_tiling, make_tiling
from cristae.volumes.volume import Volume


@dataclass(frozen=True, eq=False)
class Job:
    """All that a tile's work needs."""

    image: ImageInput
    runner: Runner
    tiling: Tiling
    request: Request
    prediction: Volume

    def read(self, tile: "Tile") -> "Seen | None":
        """The image in a tile's read box, and which voxels are wanted; None where none is."""
        inside = inside_all(self.request.regions, tile.core)
        if inside is not None and not inside.any():
            return None
        return Seen(self.image.read(self.tiling.read_box(tile.core)), inside)

    def levels(self, tile: "Tile", image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The core's prediction: uint8 (channels, z, y, x)."""
        corner, request = self.tiling.read_box(tile.core).start, self.request
        working = self.tiling.working_core(tile.core)
        inside = working.relative_to(corner)
        probabilities = tile_probabilities(
            self.runner, image, inside, request.variants, request.combine
        )
        cores = to_source_grid(probabilities, working, tile.core, self.tiling.factors)
        return quantise(cores, request.truncate)


@dataclass(frozen=True, eq=False)
class Seen:
    """What is read for a tile: the image (z, y, x), and which voxels of the core are wanted."""

    image: NDArray[np.float32]
    inside: Inside | None


@dataclass(frozen=True)
class Tile:
    """One tile; the last one of a group completes the shards that are still missing there."""

    core: Box
    group: Box
    first: bool
    missing: tuple[Box, ...]


def run_tiles(job: Job, ledger: Ledger) -> tuple[Profile, int, str]:
    """Read, compute and write the tiles; how long that took, the voxels written, and a summary."""
    tiles = _tiles_to_do(job.tiling, ledger)
    missing = sum(shard.size for tile in tiles for shard in tile.missing)
    total = job.prediction.size
    buffers: list[NDArray[np.uint8]] = []
    skipped = 0

    with track("predict", total, "voxels", total - missing) as advance:

        def compute(tile: Tile, seen: Seen | None) -> tuple[Tile, NDArray[np.uint8]] | None:
            nonlocal skipped
            if tile.first:
                shape = (len(job.prediction.channels or ()), *tile.group.shape)
                buffers.append(np.zeros(shape, np.uint8))
            skipped += seen is None
            if seen is not None:
                levels = job.levels(tile, seen.image)
                if seen.inside is not None:
                    levels *= seen.inside
                place = tile.core.relative_to(tile.group.start)
                buffers[-1][(slice(None), *place.slices())] = levels
            return (tile, buffers.pop()) if tile.missing else None

        def write(result: tuple[Tile, NDArray[np.uint8]]) -> None:
            tile, levels = result
            write_shards(job.prediction, tile.missing, (tile.group, levels), ledger, advance)

        profile = stream(tiles, job.read, compute, write)
    what = f"{len(tiles)} tiles"
    if job.request.regions:
        what += f" ({skipped} of them empty by the mask or the coarse pass, not computed)"
    return profile, missing, what


def plan_tiles(request: Request, context: Context, ledger: Ledger) -> Tiling:
    """Tiles as the user wants them, as an interrupted run had them, or as memory allows them."""
    shape, factors, limit = request.shape, request.grids.output_factors, request.memory_limit
    shard = request.shard

    def fits(tiling: Tiling) -> bool:
        return tiling_bytes(tiling, request) <= limit

    before = ledger.done("core")
    if request.block_shape is not None:
        tiling = make_tiling(shape, shard, context, factors, request.block_shape)
    else:
        tiling = choose_tiling(shape, shard, context, factors, fits)
        if before:
            z, y, x = next(iter(before.values()))
            again = make_tiling(shape, shard, context, factors, (z, y, x))
            tiling = again if fits(again) else tiling
    if not before:
        ledger.mark("core", "first", list(tiling.core))
    log.info(
        "predict: %d tiles of %dx%dx%d, cores of %dx%dx%d; %.2f voxels computed a voxel written "
        "(halo %d, %d, %d; tiles as large as %.1f GiB allow)",
        tiling.count(),
        *tiling.read,
        *tiling.core,
        tiling.waste,
        *context.halo_vx,
        limit / GIB,
    )
    return tiling


def tiling_bytes(tiling: Tiling, request: Request) -> int:
    """Upper bound of the memory of a run, imports apart.

    Two tiles are read (one of them waits or is computed), one is computed, two groups are held.
    """
    source, factors = request.grids.read, request.grids.read_factors
    channels = len(request.contract.channels)
    read, resampled = math.prod(tiling.read), any(factor != 1 for factor in factors)
    grey = math.prod(n * max(1.0, f) + 2 for n, f in zip(tiling.read, factors, strict=True))
    core, group = math.prod(tiling.core), math.prod(tiling.group)
    working = tiling.working_core(Box.of(tiling.core)).shape
    total = 2 * 4 * read + 2 * source.dtype.itemsize * grey
    total += ensemble_bytes(request.models, tiling.read, working, request.precision)
    total += 2 * region_bytes(request.regions, tiling.core)
    total += channels * (core + 2 * group + math.prod(tiling.shard))
    if resampled:
        total += 4 * grey + channels * 8 * core
    if request.variants > 1:
        total += 4 * read + channels * 8 * math.prod(working)
    return int(1.1 * total) + FIXED_BYTES


def _tiles_to_do(tiling: Tiling, ledger: Ledger) -> list[Tile]:
    """The tiles that shards not yet marked need, group by group."""
    done = ledger.done(STEP)
    tiles = []
    for group in tiling.groups():
        missing = tuple(shard for shard in tiling.shards(group) if str(shard) not in done)
        cores = [
            core
            for core in tiling.cores(group)
            if any(not core.clip(shard).empty for shard in missing)
        ]
        for number, core in enumerate(cores):
            last = number == len(cores) - 1
            tiles.append(Tile(core, group, number == 0, missing if last else ()))
    return tiles
