"""Prediction of a volume of any size.

The image is thought of as endless, reflected at its borders. For a tile-invariant network it is cut
into tiles (`tiled`) that start on the network's lattice and carry a halo as large as its context,
so no voxel's probability depends on the tile it is computed in. For other networks it is swept with
their windows on one grid, which are blended (`windowed`). Reading, computing and writing overlap
(`engine.tasks`); the ledger's unit is the output's shard, so an interrupted run is taken up with
any other block shape, memory, executor or number of workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cristae.configuration import to_plain
from cristae.engine.executors import Resources
from cristae.engine.files import check_disk
from cristae.engine.ledger import Ledger, open_ledger
from cristae.engine.memory import GIB, peak_memory, promise_memory
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, log, rate_text, takes_progress
from cristae.engine.records import identity_tree, looked_at, record_fingerprint
from cristae.grid import Box, Triple
from cristae.networks.device import devices_prepared
from cristae.networks.ensemble import ModelLike, make_ensemble
from cristae.networks.model import Model, model_network
from cristae.networks.recipe import ONE_LOOK, recipe_attributes
from cristae.prediction.blending import Sweep
from cristae.prediction.checks import (
    PredictConfig,
    check_places,
    mask_region,
    warn_of_mask,
)
from cristae.prediction.chunks import plan_chunks, write_chunks
from cristae.prediction.grids import Grids
from cristae.prediction.plan import Done, PredictionPlan
from cristae.prediction.precision import settle_precision
from cristae.prediction.regions import Region
from cristae.prediction.request import (
    PredictionRequest,
    ask,
    checked_request,
    predict_record,
    usable_statistics,
)
from cristae.prediction.skip import coarse_size, signal_region
from cristae.prediction.tile_inference import ImageInput
from cristae.prediction.tiled import TileJob, Tilings, plan_tiles, run_tiles, tiling_bytes
from cristae.prediction.windowed import plan_windows, run_windows, scratch_bytes, sweep_bytes
from cristae.volumes.formats import Source, open_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr, update_attributes
from cristae.volumes.intensity import (
    INTENSITY_ATTRIBUTE,
    IntensityStatistics,
)
from cristae.volumes.padding import Padding, content_mask, find_padding
from cristae.volumes.place import Align
from cristae.volumes.plausible import warn_of_size
from cristae.volumes.restate import adopt_size
from cristae.volumes.volume import Volume

__all__ = ["PredictConfig", "predict_volume"]


@takes_progress
def predict_volume(  # noqa: PLR0913 - what is predicted, with what, where to, and how
    source: Source,
    model: ModelLike | Sequence[ModelLike],
    out: str | Path,
    *,
    config: PredictConfig | None = None,
    mask: Source | None = None,
    align: Align = "origin",
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
    chunks: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Volume:
    """Run a volume through a network, or through several whose outputs are combined.

    Where the model has a working voxel size and the source's differs by more than 5 %, the image is
    resampled on the fly, from the level of its pyramid that is nearest to the working size and not
    coarser where there is one, and the probabilities are interpolated back on the source's grid.

    Args:
        source: Image (z, y, x) of any real dtype: a volume, an array, or the path of one.
        model: The network and what it expects, its file, or the name of one of the package's. Of
            several, which must agree in channels, intensity rule, working voxel size and windows,
            the first one's decoder and thresholds pass on.
        out: The ``.zarr`` written.
        config: How to predict.
        mask: Where there is tissue, not 0. It lies on the source by voxel size and origin, shifted
            by whole voxels or finer or coarser by whole factors (`cristae.volumes.place`).
            Elsewhere, also where there is no mask, nothing is computed and the output is 0.
        align: ``voxels`` lays the mask's voxel 0 on the source's instead.
        block_shape: Core (z, y, x) of a tile in voxels of the output; by default the one with the
            least waste that memory allows. Changes nothing but the order of some float32 sums. Not
            for a model with windows, which are its blocks.
        resources: ``workers`` threads compute where the processor does; memory, the device's too,
            decides how large tiles may be.
        overwrite: Replace an output of other inputs or settings.
        chunks: Folder to write PyTorch Connectomics' chunk files to as well (`chunks`).
        progress: Called with a `Progress` as work is done.

    Returns:
        The prediction: uint8 (channels, z, y, x) on the source's or the working grid, 255 times the
        probability, rounded (or truncated); attributes ``decoder``, ``thresholds``, ``offsets`` (of
        affinities) and ``quantisation`` are for `segment`.

    Raises:
        InputError: A source, model or mask that cannot be used; all faults at once, before any
            work. NaN or infinity, with the place of the first.
        OutputExistsError: ``out`` (or a file in ``chunks``) is of other inputs or settings.
        MemoryLimitError: Not even the smallest tile fits the memory.
        DiskSpaceError: No room for the output.
    """
    resources, out = resources or Resources(), user_path(out)
    chunks = None if chunks is None else user_path(chunks)
    check_places(out, chunks)
    volume, tissue = open_volume(source), None if mask is None else open_volume(mask)
    request = ask(volume, model, out, config, tissue, block_shape, resources, align)
    models, contract, grids = request.models, request.contract, request.grids
    identity = predict_record(request)
    identity["inputs"] = looked_at(identity["inputs"])
    request = checked_request(request, identity["inputs"])
    chunk_plan = None
    if chunks is not None:
        counts = contract.windows.chunks if contract.windows else None
        mark = record_fingerprint(identity_tree(**identity))
        chunk_plan = plan_chunks(chunks, grids.shape, counts, mark, overwrite)
    besides = (
        {}
        if chunk_plan is None
        else {chunk_plan.folder: chunk_plan.bytes_missing(len(contract.channels))}
    )
    if not overwrite:
        adopt_size(out, **identity)
    with open_ledger(out, **identity, overwrite=overwrite) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
            update_attributes(out, **passed_on(models[0], grids))
            check_disk(out, 0, besides)
        else:
            if tissue is not None:
                warn_of_mask(volume, tissue, align)
            with devices_prepared(request.devices, request.resources.workers):
                _predict(request, ledger, besides)
    prediction = open_ome_zarr(out)
    if chunk_plan is not None:
        write_chunks(prediction, chunk_plan)
    return prediction


def _predict(request: PredictionRequest, ledger: Ledger, besides: Mapping[Path, int]) -> None:
    source, config, contract = request.source, request.config, request.contract
    warn_of_size(source)
    output_bytes = Box.of(request.grids.shape).size * len(contract.channels)
    check_disk(request.out, output_bytes, besides)  # before a voxel is read
    # networks run in windows see the image as their reference does, padding and all
    padding = None if contract.windows else find_padding(source, request.resources)
    statistics = usable_statistics(source, request.models[0], config, padding)
    regions = _regions(request, statistics, padding, ledger)
    devices = request.devices
    images = _images(request, statistics, padding)
    networks = [model_network(model) for model in request.models]
    make = partial(make_ensemble, networks, combine=contract.recipe.combine)
    on_first = partial(make, device=devices[0])
    precision = settle_precision(
        on_first, images[0], contract, config.precision, ledger, device=devices[0]
    )
    plan = request.plan(precision, regions)
    layout: Tilings | Sweep
    if contract.windows is not None:
        layout = plan_windows(plan, contract.windows, ledger)
        needed, scratch = sweep_bytes(layout, plan), scratch_bytes(layout)
    else:
        layout = plan_tiles(plan, ledger)
        needed, scratch = tiling_bytes(layout, plan), 0
    promise_memory("predict", needed, request.resources)
    check_disk(request.out, output_bytes + scratch, besides)
    prediction = _create_output(plan, _attributes(plan, statistics, config))
    copies = devices[:1] if plan.in_processes else devices
    runners = tuple(
        make(precision, device=device, z_stride=plan.recipe.z_stride) for device in copies
    )
    del networks, make, on_first
    if isinstance(layout, Sweep):
        done = run_windows(layout, images[0], runners, plan, prediction, ledger)
    else:
        done = run_tiles(TileJob(images, runners, layout, plan, prediction), ledger)
    waste = done.waste(request.grids.output_factors)
    _report(plan, done, waste)
    ledger.finish(
        voxels=prediction.size,
        seconds=round(done.profile.seconds, 2),
        voxels_computed_per_voxel=round(waste, 3),
        peak_memory_bytes=peak_memory(),
    )


def _images(
    request: PredictionRequest, statistics: IntensityStatistics, padding: Padding | None
) -> tuple[ImageInput, ...]:
    """What the networks read, a scale each."""
    rule, invert = request.models[0].intensity, request.config.invert
    return tuple(
        ImageInput(view.read, statistics, rule, invert, view.read_factors, view.padding(padding))
        for view in request.grids.views
    )


def _create_output(plan: PredictionPlan, attributes: dict[str, Any]) -> Volume:
    return create_ome_zarr(
        plan.out,
        shape=plan.grids.shape,
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=plan.grids.voxel_size_nm,
        origin_nm=plan.grids.origin_nm,
        channels=plan.contract.channels,
        attributes=attributes,
    )


def _regions(
    request: PredictionRequest,
    statistics: IntensityStatistics,
    padding: Padding | None,
    ledger: Ledger,
) -> tuple[Region, ...]:
    """Outside of which the output is 0: content, the mask, and what a coarse pass sees in it."""
    source, mask, scale = request.source, request.mask, request.grids.scale
    regions = [] if mask is None else [mask_region(source, mask, scale)]
    if padding is not None:
        regions.append(Region(content_mask(source, padding), scale))
    if request.config.skip_empty and source.voxel_size_nm is not None:
        size = coarse_size(request.models[0], source.voxel_size_nm)
        log.info("predict: a coarse pass first, at %s nm, to see which cells are empty", size)
        known = {**source.attributes, INTENSITY_ATTRIBUTE: statistics.to_dict()}
        coarse = predict_volume(
            source.with_(attributes=known),
            [replace(model, working_voxel_size_nm=size) for model in request.models],
            ledger.scratch / "coarse.zarr",
            config=replace(request.config, grid="working", skip_empty=False, **ONE_LOOK),
            mask=mask,
            resources=request.resources,
        )
        region, share = signal_region(coarse, source, size, scale)
        log.info("predict: the coarse pass keeps %.1f %% of the cells", 100 * share)
        regions.append(region)
    return tuple(regions)


def _attributes(
    plan: PredictionPlan, statistics: IntensityStatistics, config: PredictConfig
) -> dict[str, Any]:
    """What the array says of itself."""
    return {
        **passed_on(plan.model, plan.grids),
        "quantisation": "truncated" if plan.truncate else "rounded",
        "model": "+".join(model.fingerprint for model in plan.models),
        "grid": config.grid,
        "skip_empty": config.skip_empty,
        "read_level": plan.grids.read_level,
        "precision": plan.precision,
        "device": plan.devices[0].type,
        **recipe_attributes(plan.recipe),
        "input_intensity": {
            "rule": plan.model.intensity,
            "inverted": config.invert,
            "statistics": statistics.to_dict(),
        },
    }


def passed_on(model: Model, grids: Grids) -> dict[str, Any]:
    """What `segment` needs to know of the model: attributes of the prediction."""
    thresholds = model.thresholds_at(grids.voxel_size_nm, grids.shape[0])
    known = {"decoder": model.decoder, "thresholds": thresholds}
    return known | ({"offsets": to_plain(model.offsets)} if model.offsets else {})


def _report(plan: PredictionPlan, done: Done, waste: float) -> None:
    voxels, profile = done.written, done.profile
    log.info(
        "predict: %s, %.1f Mvoxels in %.1f s, %s, %s in %s on %s, %.2f voxels computed a voxel "
        "written; %s; peak memory %.2f GiB",
        plan.out,
        voxels / 1e6,
        profile.seconds,
        rate_text(voxels, profile.seconds, "voxels"),
        done.summary,
        plan.precision,
        plan.place,
        waste,
        profile,
        peak_memory() / GIB,
    )
