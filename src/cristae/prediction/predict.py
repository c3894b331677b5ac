"""Prediction of a volume of any size: in tiles that equal the one-piece prediction.

The image is thought of as endless, reflected at its borders. It is cut into tiles (`tiles`) that
start on the network's lattice and carry a halo as large as the network's context, so no voxel's
probability depends on the tile it is computed in. Reading, computing and writing overlap
(`stream`); the ledger's unit is the output's shard, so an interrupted run is taken up with any
other block shape, memory or number of workers.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import config_dataclass
from cristae.engine.blockwise import GIB, available_memory, peak_memory, promise_memory
from cristae.engine.executors import Resources
from cristae.engine.files import check_disk
from cristae.engine.ledger import Ledger, open_ledger
from cristae.engine.progress import Advance, log, rate_text, track
from cristae.errors import raise_faults
from cristae.grid import Box, Triple
from cristae.networks.cpu import bfloat16_is_fast, prepare_cpu
from cristae.networks.inference import (
    Precision,
    TileNetwork,
    choose_precision,
    inference_bytes,
    measure_deviation,
)
from cristae.networks.model import Model, model_network
from cristae.networks.unet import UNet, network_context
from cristae.prediction.passes import ImageInput, quantise, tile_probabilities, to_source_grid
from cristae.prediction.resample import Factors, working_factors
from cristae.prediction.stream import Profile, stream
from cristae.prediction.tiles import Tiling, choose_tiling, make_tiling
from cristae.volumes.intensity import IntensityStatistics, normalise, sample_intensity
from cristae.volumes.sources.ome_zarr import (
    Layout,
    create_ome_zarr,
    open_ome_zarr,
    update_attributes,
)
from cristae.volumes.volume import Volume

STEP = "predict"
SAMPLE: Triple = (4, 256, 256)
"""Extent of the tile in the volume's middle on which bfloat16 is held against float32."""

MEMORY_SHARE = 0.5
MEMORY_MOST = 6 * GIB
"""Without a limit of the user's, tiles take at most this share of what is free, and this much."""


FIXED_BYTES = 96 << 20
"""Of the promise: what does not grow with the tile (slabs, caches, threads)."""


@config_dataclass
class PredictConfig:
    """How a volume is predicted; all of it can change the output's bytes.

    Attributes:
        invert: Turn the contrast around, for images with bright membranes.
        precision: Of the network's arithmetic. ``auto``: bfloat16 where the processor has it and a
            sample tile agrees with float32 (`choose_precision`), else float32.
        flips: Test-time augmentation: ``xy`` takes the mean over the tile and its three mirror
            images in the plane, at four times the cost.
    """

    invert: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    flips: Literal["none", "xy"] = "none"


def predict_volume(
    source: Volume,
    model: Model,
    out: str | Path,
    *,
    config: PredictConfig | None = None,
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
) -> Volume:
    """Run a volume through a network.

    Where the model has a working voxel size and the source's differs by more than 5 %, the image is
    resampled on the fly and the probabilities are interpolated back on the source's grid.

    Args:
        source: Image (z, y, x) of any real dtype.
        model: The network and what it expects.
        out: The ``.zarr`` written.
        config: How to predict.
        block_shape: Core (z, y, x) of a tile in voxels of the source; by default the one with the
            least waste that memory allows. Changes nothing but the order of some float32 sums.
        resources: ``workers`` threads compute; memory decides how large tiles may be.
        overwrite: Replace an output of other inputs or settings.

    Returns:
        The prediction: uint8 (channels, z, y, x) on the source's grid, 255 times the probability,
        rounded; attributes ``decoder``, ``thresholds`` and ``quantisation`` are for `segment`.

    Raises:
        InputError: A source or model that cannot be used; all faults at once, before any work.
        OutputExistsError: ``out`` is of other inputs or settings.
        MemoryLimitError: Not even the smallest tile fits the memory.
        DiskSpaceError: No room for the output.
    """
    config, resources = config or PredictConfig(), resources or Resources()
    out = Path(out)
    factors = _check(source, model, block_shape)
    with open_ledger(
        out,
        stage="predict",
        inputs={"source": source.fingerprint, "model": model.fingerprint},
        settings=_settings(source, config),
        overwrite=overwrite,
    ) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
            update_attributes(out, **_passed_on(model))
        else:
            request = _Request(source, model, out, config, factors, block_shape, resources)
            _predict(request, ledger)
    return open_ome_zarr(out)


@dataclass(frozen=True, eq=False)
class _Request:
    """What was asked for, checked."""

    source: Volume
    model: Model
    out: Path
    config: PredictConfig
    factors: Factors
    block_shape: Triple | None
    resources: Resources


@dataclass(frozen=True, eq=False)
class _Job:
    """All that a tile's work needs."""

    image: ImageInput
    network: TileNetwork
    tiling: Tiling
    flips: str
    prediction: Volume

    def read(self, tile: "_Tile") -> NDArray[np.float32]:
        return self.image.read(self.tiling.read_box(tile.core))

    def levels(self, tile: "_Tile", image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The core's prediction: uint8 (channels, z, y, x)."""
        corner = self.tiling.read_box(tile.core).start
        working = self.tiling.working_core(tile.core)
        inside = working.relative_to(corner)
        probabilities = tile_probabilities(self.network, image, inside, self.flips)
        return quantise(to_source_grid(probabilities, working, tile.core, self.tiling.factors))


@dataclass(frozen=True)
class _Tile:
    """One tile; the last one of a group completes the shards that are still missing there."""

    core: Box
    group: Box
    first: bool
    missing: tuple[Box, ...]


def _predict(run: _Request, ledger: Ledger) -> None:
    prepare_cpu(run.resources.workers)
    source, model, config = run.source, run.model, run.config
    network = model_network(model)
    statistics = _statistics(source, model, config)
    image = ImageInput(source, statistics, model.intensity, config.invert, run.factors)
    precision = _precision(network, image, config, ledger)
    tiling = _tiling(run, network, precision, ledger)
    promise_memory("predict", _bytes_needed(tiling, run, precision), run.resources)
    check_disk(run.out, source.size * len(model.channels))
    prediction = create_ome_zarr(
        run.out,
        shape=source.shape,
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=source.voxel_size_nm,
        origin_nm=source.origin_nm,
        channels=model.channels,
        attributes={
            **_passed_on(model),
            "quantisation": "rounded",
            "model": model.fingerprint,
            "precision": precision,
            "flips": config.flips,
            "input_intensity": {
                "rule": model.intensity,
                "inverted": config.invert,
                "statistics": statistics.to_dict(),
            },
        },
    )
    job = _Job(image, TileNetwork(network, precision), tiling, config.flips, prediction)
    tiles = _tiles_to_do(tiling, ledger)
    profile, voxels = _run_tiles(job, tiles, ledger)
    _report(run.out, job, profile, voxels, len(tiles))
    ledger.finish(
        voxels=source.size,
        seconds=round(profile.seconds, 2),
        voxels_computed_per_voxel=round(tiling.waste, 3),
        peak_memory_bytes=peak_memory(),
    )


def _run_tiles(job: _Job, tiles: list[_Tile], ledger: Ledger) -> tuple[Profile, int]:
    """Read, compute and write the tiles; how long that took, and the voxels written."""
    total = job.prediction.size
    missing = sum(shard.size for tile in tiles for shard in tile.missing)
    buffers: list[NDArray[np.uint8]] = []

    with track("predict", total, "voxels", total - missing) as advance:

        def compute(
            tile: _Tile, image: NDArray[np.float32]
        ) -> tuple[_Tile, NDArray[np.uint8]] | None:
            if tile.first:
                shape = (len(job.prediction.channels or ()), *tile.group.shape)
                buffers.append(np.zeros(shape, np.uint8))
            inside = tile.core.relative_to(tile.group.start)
            buffers[-1][(slice(None), *inside.slices())] = job.levels(tile, image)
            return (tile, buffers.pop()) if tile.missing else None

        def write(result: tuple[_Tile, NDArray[np.uint8]]) -> None:
            _write_shards(job.prediction, *result, ledger, advance)

        return stream(tiles, job.read, compute, write), missing


def _write_shards(
    prediction: Volume,
    tile: _Tile,
    group: NDArray[np.uint8],
    ledger: Ledger,
    advance: Advance,
) -> None:
    for shard in tile.missing:
        inside = shard.relative_to(tile.group.start)
        prediction.write(shard, group[(slice(None), *inside.slices())])
        ledger.mark(STEP, str(shard))
        advance(shard.size)


def _tiles_to_do(tiling: Tiling, ledger: Ledger) -> list[_Tile]:
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
            tiles.append(_Tile(core, group, number == 0, missing if last else ()))
    return tiles


def _check(source: Volume, model: Model, block_shape: Triple | None) -> Factors:
    """Raise one InputError for all that is wrong with the inputs; the factors of resampling."""
    faults = []
    if source.size == 0:
        faults.append(f"shape {source.shape}: expected at least one voxel")
    if source.channels is not None:
        faults.append(f"channels {source.channels} found, expected an image without channels")
    if model.network_config.in_channels != 1:
        faults.append(f"the model takes {model.network_config.in_channels} channels, expected 1")
    if source.kind in ("labels", "prediction"):
        faults.append(f"a volume of {source.kind} found, expected an image (--kind says otherwise)")
    if source.dtype.kind not in "uif":
        faults.append(f"{source.dtype} voxels found, expected numbers")
    if model.intensity == "uint8" and source.dtype != np.uint8:
        faults.append(f"{source.dtype} voxels found, the model expects uint8")
    working = model.working_voxel_size_nm
    if source.voxel_size_nm is None and any(size is not None for size in working):
        faults.append(
            f"voxel size unknown, the model works at {working} nm: give it with --voxel-size Z,Y,X"
        )
    if block_shape is not None and min(block_shape) < 1:
        faults.append(f"block shape {block_shape}: expected three extents of at least 1")
    raise_faults(source.name, faults)
    return working_factors(source.voxel_size_nm, working)


def _settings(source: Volume, config: PredictConfig) -> dict[str, Any]:
    return {
        "invert": config.invert,
        "precision": config.precision,
        "flips": config.flips,
        "voxel_size_nm": source.voxel_size_nm,
        "origin_nm": source.origin_nm,
    }


def _passed_on(model: Model) -> dict[str, Any]:
    """What `segment` needs to know of the model."""
    return {"decoder": model.decoder, "thresholds": dict(model.thresholds)}


def _statistics(source: Volume, model: Model, config: PredictConfig) -> IntensityStatistics:
    """Grey statistics of the volume; refuses one without contrast, warns of a wrong one."""
    statistics = sample_intensity(source)
    normalise(np.zeros(1, source.dtype), statistics, model.intensity, config.invert)
    if statistics.inverted_suspected and not config.invert:
        log.warning(
            "%s: membranes look brighter than their surroundings; if so, --invert turns the "
            "contrast as the model expects it",
            source.name,
        )
    return statistics


def _precision(
    network: UNet, image: ImageInput, config: PredictConfig, ledger: Ledger
) -> Precision:
    """The precision to compute in: as asked for, as in an interrupted run, or the better one."""
    before = ledger.done("precision")
    if before:
        return "bfloat16" if "bfloat16" in before else "float32"
    precision: Precision
    if config.precision == "float32":
        precision, deviation = "float32", None
    elif config.precision == "bfloat16":
        precision, deviation = "bfloat16", measure_deviation(network, _sample(network, image))
        if not bfloat16_is_fast():
            log.warning("predict: this processor has no bfloat16 arithmetic; float32 is faster")
    else:
        precision, deviation = choose_precision(network, _sample(network, image))
    if deviation is not None:
        log.info(
            "predict: %s; on a sample bfloat16 is off float32 by %.4f at most, %.5f in the mean",
            precision,
            deviation.largest,
            deviation.mean,
        )
    ledger.mark("precision", precision)
    return precision


def _sample(network: UNet, image: ImageInput) -> NDArray[np.float32]:
    """The tile in the volume's middle that precisions are compared on."""
    lattice = network_context(network.config).lattice
    z, y, x = (-(-extent // step) * step for extent, step in zip(SAMPLE, lattice, strict=True))
    middle = (
        int(n / factor) // 2 for n, factor in zip(image.source.shape, image.factors, strict=True)
    )
    cz, cy, cx = (
        (m - extent // 2) // step * step
        for m, extent, step in zip(middle, (z, y, x), lattice, strict=True)
    )
    return image.read(Box((cz, cy, cx), (cz + z, cy + y, cx + x)))


def _tiling(run: _Request, network: UNet, precision: Precision, ledger: Ledger) -> Tiling:
    """Tiles as the user wants them, as an interrupted run had them, or as memory allows them."""
    source, resources = run.source, run.resources
    context = network_context(network.config)
    shard = Layout().fitted(source.shape).shard
    limit = (
        min(MEMORY_SHARE * available_memory(), MEMORY_MOST)
        if resources.memory_gib is None
        else resources.memory_gib * GIB
    )

    def fits(tiling: Tiling) -> bool:
        return _bytes_needed(tiling, run, precision) <= limit

    before = ledger.done("core")
    if run.block_shape is not None:
        tiling = make_tiling(source.shape, shard, context, run.factors, run.block_shape)
    else:
        tiling = choose_tiling(source.shape, shard, context, run.factors, fits)
        if before:
            z, y, x = next(iter(before.values()))
            again = make_tiling(source.shape, shard, context, run.factors, (z, y, x))
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


def _bytes_needed(tiling: Tiling, run: _Request, precision: Precision) -> int:
    """Upper bound of the memory of a run, imports apart.

    Two tiles are read (one of them waits or is computed), one is computed, two groups are held.
    """
    source, model, flips = run.source, run.model, run.config.flips != "none"
    channels = len(model.channels)
    read, resampled = math.prod(tiling.read), any(factor != 1 for factor in tiling.factors)
    grey = math.prod(n * max(1.0, f) + 2 for n, f in zip(tiling.read, tiling.factors, strict=True))
    core, group = math.prod(tiling.core), math.prod(tiling.group)
    working = tiling.working_core(Box.of(tiling.core)).shape
    total = 2 * 4 * read + 2 * source.dtype.itemsize * grey
    total += inference_bytes(model.network_config, tiling.read, working, precision)
    total += channels * (core + 2 * group + math.prod(tiling.shard))
    if resampled:
        total += 4 * grey + channels * 8 * core
    if flips:
        total += 4 * read + channels * 8 * math.prod(working)
    return int(1.1 * total) + FIXED_BYTES


def _report(out: Path, job: _Job, profile: Profile, voxels: int, tiles: int) -> None:
    log.info(
        "predict: %s, %.1f Mvoxels in %.1f s, %s, %d tiles in %s, %.2f voxels computed a voxel "
        "written; %s; peak memory %.2f GiB",
        out,
        voxels / 1e6,
        profile.seconds,
        rate_text(voxels, profile.seconds, "voxels"),
        tiles,
        job.network.precision,
        job.tiling.waste,
        profile,
        peak_memory() / GIB,
    )
