"""Prediction in tiles, for networks whose answer does not depend on the tile."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import GIB
from cristae.engine.ledger import Ledger
from cristae.engine.progress import log, track
from cristae.grid import Box
from cristae.networks.device import pinned, side_by_side
from cristae.networks.runner import Runner
from cristae.networks.unet import Context
from cristae.prediction.passes import ImageInput, quantise, tile_probabilities, to_source_grid
from cristae.prediction.regions import Inside, inside_all, region_bytes
from cristae.prediction.request import FIXED_BYTES, STEP, Request, write_shards
from cristae.prediction.stream import Profile, stream
from cristae.prediction.tiles import Tiling, choose_tiling, make_tiling
from cristae.volumes.volume import Volume

LARGEST_ON_GPU = 1 << 27
"""Voxels of a tile at most, so that indices of its features fit the 32 bits that cuDNN has."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that a tile's work needs; the runners are one a device."""

    image: ImageInput
    runners: tuple[Runner, ...]
    tiling: Tiling
    request: Request
    prediction: Volume

    def read(self, tile: "Tile") -> "Seen | None":
        """The image in a tile's read box, and which voxels are wanted; None where none is."""
        inside = inside_all(self.request.regions, tile.core)
        if inside is not None and not inside.any():
            return None
        image = self.image.read(self.tiling.read_box(tile.core))
        return Seen(tile, pinned(image, self.request.devices), inside)

    def make(self, runner: Runner, seen: "Seen") -> NDArray[np.uint8]:
        """The core's prediction, 0 where it is not wanted: uint8 (channels, z, y, x)."""
        levels = self.levels(seen.tile, seen.image, runner)
        if seen.inside is not None:
            levels *= seen.inside
        return levels

    def levels(self, tile: "Tile", image: NDArray[np.float32], runner: Runner) -> NDArray[np.uint8]:
        """The core's prediction: uint8 (channels, z, y, x)."""
        corner, request = self.tiling.read_box(tile.core).start, self.request
        working = self.tiling.working_core(tile.core)
        inside = working.relative_to(corner)
        probabilities = tile_probabilities(runner, image, inside, request.variants, request.combine)
        cores = to_source_grid(probabilities, working, tile.core, self.tiling.factors)
        return quantise(cores, request.truncate)


@dataclass(frozen=True, eq=False)
class Seen:
    """What is read for a tile: the image (z, y, x), and which voxels of the core are wanted."""

    tile: "Tile"
    image: NDArray[np.float32]
    inside: Inside | None


@dataclass(frozen=True)
class Tile:
    """One tile; the last one of a group completes the shards that are still missing there."""

    core: Box
    group: Box
    first: bool
    missing: tuple[Box, ...]


Group = tuple[Tile, NDArray[np.uint8]]
"""The last tile of a group, and the group's levels (channels, z, y, x)."""


def run_tiles(job: Job, ledger: Ledger) -> tuple[Profile, int, str]:
    """Read, compute and write the tiles; how long that took, the voxels written, and a summary."""
    tiles = _tiles_to_do(job.tiling, ledger)
    missing = sum(shard.size for tile in tiles for shard in tile.missing)
    total = job.prediction.size
    buffers: list[NDArray[np.uint8]] = []
    skipped, step = 0, len(job.runners)
    rounds = [tiles[first : first + step] for first in range(0, len(tiles), step)]

    with track("predict", total, "voxels", total - missing) as advance:

        def read(tiles: list[Tile]) -> list[Seen | None]:
            return [job.read(tile) for tile in tiles]

        def compute(tiles: list[Tile], seen: list[Seen | None]) -> list[Group] | None:
            nonlocal skipped
            found = iter(side_by_side(job.make, job.runners, [each for each in seen if each]))
            groups = []
            for tile, each in zip(tiles, seen, strict=True):
                if tile.first:
                    shape = (len(job.prediction.channels or ()), *tile.group.shape)
                    buffers.append(np.zeros(shape, np.uint8))
                skipped += each is None
                if each is not None:
                    place = tile.core.relative_to(tile.group.start)
                    buffers[-1][(slice(None), *place.slices())] = next(found)
                if tile.missing:
                    groups.append((tile, buffers.pop()))
            return groups or None

        def write(groups: list[Group]) -> None:
            for tile, levels in groups:
                write_shards(job.prediction, tile.missing, (tile.group, levels), ledger, advance)

        profile = stream(rounds, read, compute, write)
    what = f"{len(tiles)} tiles"
    if job.request.regions:
        what += f" ({skipped} of them empty by the mask or the coarse pass, not computed)"
    return profile, missing, what


def plan_tiles(request: Request, context: Context, ledger: Ledger) -> Tiling:
    """Tiles as the user wants them, as an interrupted run had them, or as memory allows them."""
    shape, factors, limit = request.shape, request.grids.output_factors, request.memory_limit
    shard = request.shard

    def fits(tiling: Tiling) -> bool:
        if request.room is not None and (
            math.prod(tiling.read) > LARGEST_ON_GPU or device_bytes(tiling, request) > request.room
        ):
            return False
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
    request.check_room(device_bytes(tiling, request))
    if not before:
        ledger.mark("core", "first", list(tiling.core))
    log.info(
        "predict: %d tiles of %dx%dx%d, cores of %dx%dx%d; %.2f voxels computed a voxel written "
        "(halo %d, %d, %d; tiles as large as %.1f GiB%s allow)",
        tiling.count(),
        *tiling.read,
        *tiling.core,
        tiling.waste,
        *context.halo_vx,
        limit / GIB,
        "" if request.room is None else f", and {request.room / GIB:.1f} GiB of a GPU's memory,",
    )
    return tiling


def device_bytes(tiling: Tiling, request: Request) -> int:
    """Upper bound of what a tile takes of the memory of a device with its own."""
    working = tiling.working_core(Box.of(tiling.core)).shape
    core = math.prod(working) + 2 * math.prod(tiling.core)
    kept = 4 * (1 + (request.variants > 1)) * len(request.contract.channels) * core
    return 4 * math.prod(tiling.read) + kept + request.network_bytes(tiling.read, working)


def tiling_bytes(tiling: Tiling, request: Request) -> int:
    """Upper bound of the memory of a run, imports and what devices have of their own apart.

    Of each device two tiles are read (one of them waits or is computed), one is computed, two
    groups are held.
    """
    devices = len(request.devices)
    source, factors = request.grids.read, request.grids.read_factors
    channels = len(request.contract.channels)
    read, resampled = math.prod(tiling.read), any(factor != 1 for factor in factors)
    grey = math.prod(n * max(1.0, f) + 2 for n, f in zip(tiling.read, factors, strict=True))
    core, group = math.prod(tiling.core), math.prod(tiling.group)
    working = tiling.working_core(Box.of(tiling.core)).shape
    total: float = 2 * 4 * read + channels * (core + 2 * group)
    total += 2 * region_bytes(request.regions, tiling.core)
    if request.room is None:
        total += request.network_bytes(tiling.read, working)
        total += channels * 8 * core * resampled
        total += channels * 8 * math.prod(working) * (request.variants > 1)
    else:
        total += 4 * read  # pinned
    total += 4 * read * (request.variants > 1)
    total *= devices
    total += 2 * source.dtype.itemsize * grey + channels * math.prod(tiling.shard)
    total += 4 * grey * resampled
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
