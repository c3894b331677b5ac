"""Prediction in tiles, for networks whose answer does not depend on the tile."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from cristae.engine.ledger import Ledger
from cristae.engine.memory import GIB
from cristae.engine.progress import log
from cristae.engine.tasks import OverlappedTask, Task, run_step
from cristae.grid import Box, Triple
from cristae.networks.device import pinned
from cristae.networks.ensemble import finish_fold, fold
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.runner import Runner
from cristae.networks.strided_sections import strided_context
from cristae.prediction.lanes import Numbered, lanes_of
from cristae.prediction.plan import FIXED_BYTES, STEP, Done, PredictionPlan, write_shards
from cristae.prediction.regions import (
    Hulls,
    Inside,
    inside_all,
    region_bytes,
    wanted_part,
)
from cristae.prediction.tile_inference import (
    ImageInput,
    quantise,
    tile_probabilities,
    to_source_grid,
)
from cristae.prediction.tiles import Tiling, choose_tiling, make_tiling
from cristae.volumes.volume import Volume

LARGEST_ON_GPU = 1 << 27
"""Voxels of a tile at most, so that indices of its features fit the 32 bits that cuDNN has."""

REPEATED_PASS_MEMORY_SHARE = 0.3
"""Share of a network's memory that a second pass over a tile cannot use again (measured)."""


Tilings = tuple[Tiling, ...]
"""One a scale, of the same cores."""


@dataclass(frozen=True, eq=False)
class TileJob:
    """All that a tile's work needs: an image and a tiling a scale, a runner a device."""

    images: tuple[ImageInput, ...]
    runners: tuple[Runner, ...]
    tilings: Tilings
    plan: PredictionPlan
    prediction: Volume

    def read(self, tile: "Tile") -> "TileInput | None":
        """The image in a tile's read boxes, and which voxels are wanted; None where none is."""
        inside, part = inside_all(self.plan.regions, tile.core), tile.core
        boxes = [tiling.read_box(part) for tiling in self.tilings]
        if inside is not None:
            found = wanted_part(inside, tile.core)
            if found is None:
                return None
            part, boxes = found, [tiling.part_box(found) for tiling in self.tilings]
            inside = inside[part.relative_to(tile.core.start).slices()]
        views = tuple(
            (box, pinned(image.read(box), self.plan.devices))
            for image, box in zip(self.images, boxes, strict=True)
        )
        return TileInput(part, views, inside)

    def lane(self, runner: Runner) -> "Lane":
        """What computes on a device."""
        asked = self.plan
        return Lane(runner, self.tilings, asked.recipe, asked.truncate)

    def task(self, tile: "Tile") -> Task:
        """A tile as the engine takes it; what is read at the first scale is declared."""
        image, names = self.images[0], tuple(map(str, tile.missing))
        reads = image.source_box(self.tilings[0].read_box(tile.core)).clip(image.source.box)
        return Task(tile, names, reads, tile.core.size)


@dataclass(frozen=True, eq=False)
class TileInput:
    """What is read for a tile.

    Attributes:
        part: The part of its core that is wanted, all of it where there is no region.
        views: What is read for that at each scale, in working voxels, and the image there.
        inside: Which voxels of the part are wanted.
    """

    part: Box
    views: tuple[tuple[Box, NDArray[np.float32]], ...]
    inside: Inside | None


@dataclass(frozen=True, eq=False)
class Made:
    """What was computed of a tile: its part, uint8 (channels, z, y, x), and voxels computed."""

    part: Box
    levels: NDArray[np.uint8]
    computed: int


@dataclass(frozen=True, eq=False)
class Lane:
    """A network, and how tiles go through it; picklable."""

    runner: Runner
    tilings: Tilings
    recipe: InferenceRecipe
    truncate: bool

    def __call__(self, seen: TileInput) -> Made:
        """The prediction of what is wanted of a tile, 0 elsewhere."""
        levels = self.levels(seen)
        if seen.inside is not None:
            levels *= seen.inside
        return Made(seen.part, levels, sum(box.size for box, _ in seen.views) * self.recipe.tta)

    def levels(self, seen: TileInput) -> NDArray[np.uint8]:
        """The prediction of the part: uint8 (channels, z, y, x)."""
        total = None
        for tiling, (box, image) in zip(self.tilings, seen.views, strict=True):
            working = tiling.working_core(seen.part)
            probabilities = tile_probabilities(
                self.runner,
                image,
                working.relative_to(box.start),
                self.recipe.tta,
                self.recipe.combine,
            )
            found = to_source_grid(probabilities, working, seen.part, tiling.factors)
            del probabilities
            total = fold(total, found, self.recipe.combine)
            del found
        return quantise(finish_fold(total, len(seen.views), self.recipe.combine), self.truncate)


@dataclass(frozen=True)
class Tile:
    """One tile; the last one of a group completes the shards that are still missing there."""

    core: Box
    group: Box
    first: bool
    missing: tuple[Box, ...]


Group = tuple[Tile, NDArray[np.uint8]]
"""The last tile of a group, and the group's levels (channels, z, y, x)."""


def run_tiles(job: TileJob, ledger: Ledger) -> Done:
    """Read, compute and write the tiles."""
    tiles, turn = _tiles_to_do(job.tilings[0], ledger), count()
    buffers: list[NDArray[np.uint8]] = []
    computed = skipped = 0

    def read(tile: Tile) -> Numbered:
        seen = job.read(tile)
        return (0, None) if seen is None else (next(turn), seen)

    def gather(tile: Tile, made: Made | None) -> Group | None:
        nonlocal computed, skipped
        if tile.first:
            shape = (len(job.prediction.channels or ()), *tile.group.shape)
            buffers.append(np.zeros(shape, np.uint8))
        skipped += made is None
        if made is not None:
            computed += made.computed
            place = made.part.relative_to(tile.group.start)
            buffers[-1][(slice(None), *place.slices())] = made.levels
        return (tile, buffers.pop()) if tile.missing else None

    def write(group: Group) -> Iterator[Box]:
        tile, levels = group
        return write_shards(job.prediction, tile.missing, (tile.group, levels))

    tasks = [job.task(tile) for tile in tiles]
    before = job.prediction.size - sum(task.size for task in tasks)
    parts = OverlappedTask(lanes_of(job.lane, job.runners, job.plan), read, gather, write)
    run_step(STEP, tasks, parts, record=ledger, resources=job.plan.lanes, before=before)
    what = f"{len(tiles)} tiles"
    if job.plan.regions:
        what += f" ({skipped} of them empty by the mask or the coarse pass, not computed)"
    written = sum(shard.size for tile in tiles for shard in tile.missing)
    return Done(parts.profile, written, computed, what)


def plan_tiles(plan: PredictionPlan, ledger: Ledger) -> Tilings:
    """Tiles as the user wants them, as an interrupted run had them, or as memory allows them."""
    if plan.contract.context is None:
        raise ValueError("a contract without windows has a context")
    context = strided_context(plan.contract.context, plan.recipe.z_stride)
    shape, shard, limit = plan.shape, plan.shard, plan.memory_limit
    scales = [view.output_factors for view in plan.grids.views]
    finest = min(scales, key=math.prod)

    def with_core(core: Triple) -> Tilings:
        return tuple(make_tiling(shape, shard, context, factors, core) for factors in scales)

    def work(tiling: Tiling) -> float:
        parts = _parts(tiling, plan)
        return tiling.waste if parts is None else float(plan.work(parts[1] - parts[0]).sum())

    def fits(tiling: Tiling) -> bool:
        tilings = with_core(tiling.core)
        if plan.room is not None and (
            max(math.prod(each.read) for each in tilings) > LARGEST_ON_GPU
            or device_bytes(tilings, plan) > plan.room
        ):
            return False
        return tiling_bytes(tilings, plan) <= limit

    before = ledger.done("core")
    if plan.block_shape is not None:
        tiling = make_tiling(shape, shard, context, finest, plan.block_shape)
    else:
        smallest = (1, 1, 1) if plan.occupied is None else plan.occupied.cell
        tiling = choose_tiling(shape, shard, context, finest, fits, work, smallest)
        if before:
            z, y, x = next(iter(before.values()))
            again = make_tiling(shape, shard, context, finest, (z, y, x))
            tiling = again if fits(again) else tiling
    tilings = with_core(tiling.core)
    plan.check_room(device_bytes(tilings, plan))
    if not before:
        ledger.mark("core", "first", list(tiling.core))
    _tell(tilings, plan)
    return tilings


def _parts(tiling: Tiling, plan: PredictionPlan) -> Hulls | None:
    """What is wanted of each core; None where all is, or where cores are smaller than cells."""
    if plan.occupied is None:
        return None
    smallest = zip(tiling.core, plan.occupied.cell, tiling.shape, strict=True)
    if any(core < min(cell, extent) for core, cell, extent in smallest):
        return None
    return plan.occupied.hulls(tiling.spans)


def _largest_part(tiling: Tiling, plan: PredictionPlan) -> Tiling:
    """The tiling with cores as large as what is wanted of any, for what memory they take."""
    parts = _parts(tiling, plan)
    if parts is None:
        return tiling
    z, y, x = (parts[1] - parts[0]).max(axis=0, initial=1).tolist()
    needed = tiling.part_box(Box.of((z, y, x))).grow((0, 0, 0), tiling.context.lattice).shape
    rz, ry, rx = (min(pair) for pair in zip(needed, tiling.read, strict=True))
    return replace(tiling, core=(z, y, x), read=(rz, ry, rx))


def _tell(tilings: Tilings, plan: PredictionPlan) -> None:
    """Say which tiles there are, what they cost, and why."""
    tiling, kept = max(tilings, key=lambda each: math.prod(each.read)), ""
    parts = _parts(tiling, plan)
    computed = sum(each.count() * math.prod(each.read) for each in tilings)
    if parts is not None:
        boxes = [
            Box((a[0], a[1], a[2]), (b[0], b[1], b[2]))
            for a, b in zip(parts[0].tolist(), parts[1].tolist(), strict=True)
        ]
        computed = sum(each.part_box(box).size for each in tilings for box in boxes)
        kept = f", {len(boxes)} of them with something to predict, of which only that is"
    elif plan.regions:
        kept = ", those with nothing to predict left out"
    waste = computed * math.prod(plan.grids.output_factors) / math.prod(tiling.shape)
    log.info(
        "predict: %d tiles of %dx%dx%d, cores of %dx%dx%d%s; %s%.2f voxels computed a voxel "
        "written (%s%s%shalo %d, %d, %d; tiles as large as %.1f GiB%s allow)",
        tiling.count(),
        *tiling.read,
        *tiling.core,
        kept,
        "at most " if plan.regions and parts is None else "",
        waste * plan.recipe.tta,
        f"{plan.recipe.tta} variants, " if plan.recipe.tta > 1 else "",
        f"sections {plan.recipe.z_stride} apart, in turns, " if plan.recipe.z_stride > 1 else "",
        f"{len(tilings)} scales, the largest tile named, " if len(tilings) > 1 else "",
        *tiling.context.halo_vx,
        plan.memory_limit / GIB,
        "" if plan.room is None else f", and {plan.room / GIB:.1f} GiB of a GPU's memory,",
    )


def device_bytes(tilings: Tilings, plan: PredictionPlan) -> int:
    """Upper bound of what a tile takes of the memory of a device with its own."""
    channels, most = len(plan.contract.channels), 0
    for tiling in tilings:
        part = _largest_part(tiling, plan)
        working = tiling.working_core(Box.of(part.core)).shape
        core = math.prod(working) + 2 * math.prod(part.core)
        kept = 4 * (1 + (plan.recipe.tta > 1)) * channels * core
        here = 4 * math.prod(part.read) + kept + plan.network_bytes(part.read, working)
        most = max(most, here + 4 * channels * math.prod(part.core) * (len(tilings) > 1))
    return most


def tiling_bytes(tilings: Tilings, plan: PredictionPlan) -> int:
    """Upper bound of the memory of a run, imports and what devices have of their own apart.

    Of each device two tiles are read at every scale (one of them waits or is computed), one is
    computed, at one scale after the other, two groups are held.
    """
    channels, several = len(plan.contract.channels), len(tilings) > 1
    again = max(plan.recipe.tta, len(plan.models), plan.recipe.z_stride, len(tilings)) > 1
    read, computed, resampled = 0, 0.0, 0.0
    for tiling, view in zip(tilings, plan.grids.views, strict=True):
        part, factors = _largest_part(tiling, plan), view.read_factors
        tile, changed = math.prod(part.read), any(factor != 1 for factor in factors)
        grey = math.prod(n * max(1.0, f) + 2 for n, f in zip(part.read, factors, strict=True))
        working = tiling.working_core(Box.of(part.core)).shape
        here = 4.0 * tile * (plan.recipe.tta > 1)
        if plan.room is None:
            here += (1 + REPEATED_PASS_MEMORY_SHARE * again) * plan.network_bytes(
                part.read, working
            )
            here += channels * 8 * math.prod(part.core) * changed
            here += channels * 8 * math.prod(working) * (plan.recipe.tta > 1)
            here += channels * 4 * math.prod(part.core) * several
        read += tile
        computed = max(computed, here)
        resampled = max(resampled, (2 * view.read.dtype.itemsize + 4 * changed) * grey)
    total = computed + (8 if plan.room is None else 12) * read  # 12: pinned, too
    total += channels * (math.prod(part.core) + 2 * math.prod(tiling.group))
    total += 2 * region_bytes(plan.regions, tiling.core)
    total *= len(plan.devices)
    total += resampled + channels * math.prod(tiling.shard)
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
