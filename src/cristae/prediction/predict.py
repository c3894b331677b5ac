"""Prediction of a volume of any size.

The image is thought of as endless, reflected at its borders. For a tile-invariant network it is cut
into tiles (`tiled`) that start on the network's lattice and carry a halo as large as its context,
so no voxel's probability depends on the tile it is computed in. For other networks it is swept with
their windows on one grid, which are blended (`windowed`). Reading, computing and writing overlap
(`stream`); the ledger's unit is the output's shard, so an interrupted run is taken up with any
other block shape, memory or number of workers.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import config_dataclass, to_plain
from cristae.engine.blockwise import GIB, peak_memory, promise_memory
from cristae.engine.executors import Resources
from cristae.engine.files import check_disk
from cristae.engine.ledger import Ledger, open_ledger, record_fingerprint
from cristae.engine.progress import log, rate_text
from cristae.errors import raise_faults
from cristae.grid import Box, Triple
from cristae.networks.cpu import bfloat16_is_fast, prepare_cpu
from cristae.networks.inference import Precision
from cristae.networks.model import Model, Network, model_network
from cristae.networks.runner import (
    Contract,
    choose_precision,
    make_runner,
    measure_deviation,
    network_contract,
    sample_shape,
)
from cristae.networks.unet import Context
from cristae.networks.windows import Combine, Variants
from cristae.prediction.chunks import plan_chunks, write_chunks
from cristae.prediction.passes import ImageInput
from cristae.prediction.request import Request
from cristae.prediction.resample import Factors, working_factors
from cristae.prediction.stream import Profile
from cristae.prediction.tiled import Job, plan_tiles, run_tiles, tiling_bytes
from cristae.prediction.tiles import Tiling
from cristae.prediction.windowed import (
    Sweep,
    plan_windows,
    run_windows,
    scratch_bytes,
    sweep_bytes,
)
from cristae.volumes.intensity import IntensityStatistics, normalise, sample_intensity
from cristae.volumes.sources.ome_zarr import create_ome_zarr, open_ome_zarr, update_attributes
from cristae.volumes.volume import Volume


@config_dataclass
class PredictConfig:
    """How a volume is predicted; all of it can change the output's bytes.

    Attributes:
        invert: Turn the contrast around, for images with bright membranes.
        precision: Of the network's arithmetic. ``auto``: bfloat16 where the processor has it and a
            sample tile agrees with float32 (`choose_precision`), else float32. None: ``auto`` for a
            tile-invariant network, float32 for one with windows.
        variants: Test-time augmentation: 1, 4 (flips in y and x), 8 (also transposed in the plane)
            or 16 (also flipped in z), at as many times the cost. None: as the model's windows say,
            else 1.
        combine: What is taken of the variants: mean, min or max. None: as the model's windows say,
            else the mean.
        truncate: Truncate 255 p, as PyTorch Connectomics does, instead of rounding it.
    """

    invert: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    variants: Variants | None = None
    combine: Combine | None = None
    truncate: bool = False


def predict_volume(
    source: Volume,
    model: Model,
    out: str | Path,
    *,
    config: PredictConfig | None = None,
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
    chunks: str | Path | None = None,
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
            least waste that memory allows. Changes nothing but the order of some float32 sums. Not
            for a model with windows, which are its blocks.
        resources: ``workers`` threads compute; memory decides how large tiles may be.
        overwrite: Replace an output of other inputs or settings.
        chunks: Folder to write PyTorch Connectomics' chunk files to as well (`chunks`).

    Returns:
        The prediction: uint8 (channels, z, y, x) on the source's grid, 255 times the probability,
        rounded (or truncated); attributes ``decoder``, ``thresholds``, ``offsets`` (of affinities)
        and ``quantisation`` are for `segment`.

    Raises:
        InputError: A source or model that cannot be used; all faults at once, before any work.
        OutputExistsError: ``out`` (or a file in ``chunks``) is of other inputs or settings.
        MemoryLimitError: Not even the smallest tile fits the memory.
        DiskSpaceError: No room for the output.
    """
    resources, out = resources or Resources(), Path(out)
    contract = network_contract(model)
    config = _resolved(config or PredictConfig(), contract)
    factors = _check(source, model, contract, config, block_shape)
    identity = _identity(source, model, config)
    plan = None
    if chunks is not None:
        counts = contract.windows.chunks if contract.windows else None
        mark = record_fingerprint(identity)
        plan = plan_chunks(Path(chunks), source.shape, counts, mark, overwrite)
    with open_ledger(out, **identity, overwrite=overwrite) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
            update_attributes(out, **_passed_on(model))
        else:
            asked = _Asked(source, model, contract, out, config, factors, block_shape, resources)
            _predict(asked, ledger)
    prediction = open_ome_zarr(out)
    if plan is not None:
        write_chunks(prediction, plan)
    return prediction


def _identity(source: Volume, model: Model, config: PredictConfig) -> dict[str, Any]:
    """What makes a prediction this one: stage, inputs and settings."""
    return {
        "stage": "predict",
        "inputs": {"source": source.fingerprint, "model": model.fingerprint},
        "settings": {
            **to_plain(config),
            "voxel_size_nm": source.voxel_size_nm,
            "origin_nm": source.origin_nm,
        },
    }


@dataclass(frozen=True, eq=False)
class _Asked:
    """What was asked for, checked; the precision is still open."""

    source: Volume
    model: Model
    contract: Contract
    out: Path
    config: PredictConfig
    factors: Factors
    block_shape: Triple | None
    resources: Resources

    def request(self, precision: Precision) -> Request:
        return Request(
            source=self.source,
            model=self.model,
            contract=self.contract,
            out=self.out,
            factors=self.factors,
            precision=precision,
            variants=self.config.variants or 1,
            combine=self.config.combine or "mean",
            truncate=self.config.truncate,
            block_shape=self.block_shape,
            resources=self.resources,
        )


def _predict(asked: _Asked, ledger: Ledger) -> None:
    prepare_cpu(asked.resources.workers, reuse=asked.contract.windows is not None)
    source, model, config, contract = asked.source, asked.model, asked.config, asked.contract
    network = model_network(model)
    statistics = _statistics(source, model, config)
    image = ImageInput(source, statistics, model.intensity, config.invert, asked.factors)
    request = asked.request(_precision(network, image, asked, ledger))
    plan: Tiling | Sweep
    if contract.windows is not None:
        plan = plan_windows(request, contract.windows, ledger)
        needed, scratch = sweep_bytes(plan, request), scratch_bytes(plan)
    else:
        plan = plan_tiles(request, _context(contract), ledger)
        needed, scratch = tiling_bytes(plan, request), 0
    promise_memory("predict", needed, asked.resources)
    check_disk(asked.out, source.size * len(contract.channels) + scratch)
    prediction = create_ome_zarr(
        asked.out,
        shape=source.shape,
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=source.voxel_size_nm,
        origin_nm=source.origin_nm,
        channels=contract.channels,
        attributes=_attributes(request, statistics, config.invert),
    )
    runner = make_runner(network, request.precision)
    del network
    if isinstance(plan, Sweep):
        profile, voxels, done = run_windows(plan, image, runner, request, prediction, ledger)
        waste = plan.waste
    else:
        profile, voxels, done = run_tiles(Job(image, runner, plan, request, prediction), ledger)
        waste = plan.waste
    _report(request, profile, voxels, waste, done)
    ledger.finish(
        voxels=source.size,
        seconds=round(profile.seconds, 2),
        voxels_computed_per_voxel=round(waste, 3),
        peak_memory_bytes=peak_memory(),
    )


def _check(
    source: Volume,
    model: Model,
    contract: Contract,
    config: PredictConfig,
    block_shape: Triple | None,
) -> Factors:
    """Raise one InputError for all that is wrong with the inputs; the factors of resampling."""
    faults = []
    if source.size == 0:
        faults.append(f"shape {source.shape}: expected at least one voxel")
    if source.channels is not None:
        faults.append(f"channels {source.channels} found, expected an image without channels")
    if contract.in_channels != 1:
        faults.append(f"the model takes {contract.in_channels} channels, expected 1")
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
    if block_shape is not None and contract.windows is not None:
        faults.append(
            f"block shape {block_shape}: the model runs on its own windows, "
            f"{contract.windows.shape}; expected none"
        )
    lattice = contract.context.lattice if contract.context else (1, 1, 1)
    if (config.variants or 1) > 4 and lattice[1] != lattice[2]:
        faults.append(
            f"variants {config.variants}: the network steps {lattice[1:]} in y and x, expected "
            f"equal steps where tiles are transposed"
        )
    raise_faults(source.name, faults)
    return working_factors(source.voxel_size_nm, working)


def _resolved(config: PredictConfig, contract: Contract) -> PredictConfig:
    """The configuration with nothing left open but what a sample decides."""
    windows = contract.windows
    return replace(
        config,
        precision=config.precision or ("auto" if contract.reduced_precision else "float32"),
        variants=config.variants or (windows.variants if windows else 1),
        combine=config.combine or (windows.combine if windows else "mean"),
    )


def _context(contract: Contract) -> Context:
    if contract.context is None:
        raise ValueError("a contract without windows has a context")
    return contract.context


def _attributes(
    request: Request, statistics: IntensityStatistics, inverted: bool
) -> dict[str, Any]:
    """What the array says of itself."""
    windows = request.contract.windows
    return {
        **_passed_on(request.model),
        "quantisation": "truncated" if request.truncate else "rounded",
        "model": request.model.fingerprint,
        "precision": request.precision,
        "variants": request.variants,
        "combine": request.combine,
        "windows": None if windows is None else to_plain(windows),
        "input_intensity": {
            "rule": request.model.intensity,
            "inverted": inverted,
            "statistics": statistics.to_dict(),
        },
    }


def _passed_on(model: Model) -> dict[str, Any]:
    """What `segment` needs to know of the model."""
    known = {"decoder": model.decoder, "thresholds": dict(model.thresholds)}
    return known | ({"offsets": to_plain(model.offsets)} if model.offsets else {})


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


def _precision(network: Network, image: ImageInput, asked: _Asked, ledger: Ledger) -> Precision:
    """The precision to compute in: as asked for, as in an interrupted run, or the better one."""
    before = ledger.done("precision")
    if before:
        known: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
        return next(name for name in known if name in before)
    wanted, deviation = asked.config.precision, None
    precision: Precision
    if wanted is None or wanted == "auto":
        precision, deviation = choose_precision(network, _sample(asked.contract, image))
    else:
        precision = wanted
        if precision != "float32":
            sample = _sample(asked.contract, image)
            deviation = measure_deviation(network, sample, precision)
        if precision == "bfloat16" and not bfloat16_is_fast():
            log.warning("predict: this processor has no bfloat16 arithmetic; float32 is faster")
    if deviation is not None:
        log.info(
            "predict: %s; on a sample %s is off float32 by %.4f at most, %.5f in the mean",
            precision,
            precision if wanted not in (None, "auto") else "bfloat16",
            deviation.largest,
            deviation.mean,
        )
    ledger.mark("precision", precision)
    return precision


def _sample(contract: Contract, image: ImageInput) -> NDArray[np.float32]:
    """The tile in the volume's middle that precisions are compared on."""
    lattice = contract.context.lattice if contract.context else (1, 1, 1)
    shape = sample_shape(contract)
    middle = (
        int(n / factor) // 2 for n, factor in zip(image.source.shape, image.factors, strict=True)
    )
    z, y, x = (
        (m - extent // 2) // step * step
        for m, extent, step in zip(middle, shape, lattice, strict=True)
    )
    return image.read(Box((z, y, x), (z, y, x)).grow((0, 0, 0), shape))


def _report(request: Request, profile: Profile, voxels: int, waste: float, done: str) -> None:
    log.info(
        "predict: %s, %.1f Mvoxels in %.1f s, %s, %s in %s, %.2f voxels computed a voxel "
        "written; %s; peak memory %.2f GiB",
        request.out,
        voxels / 1e6,
        profile.seconds,
        rate_text(voxels, profile.seconds, "voxels"),
        done,
        request.precision,
        waste,
        profile,
        peak_memory() / GIB,
    )
