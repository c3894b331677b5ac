"""A look before hours are spent: a few places predicted and segmented, on one page.

Places are spread over the whole volume, along a sequence that fills a box evenly however many are
taken; a place of nothing but padding is left out. All are normalised with the statistics of the
whole volume, as its prediction would be. Around each, a margin is predicted that is not shown: at
its edge the network sees mirrored surroundings. Size and work of the whole run follow from the
places, by voxels and bytes on disk. The page depends on nothing but the volume, the model and the
settings; how long it will take here is said beside it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cristae import __version__
from cristae.engine.executors import Resources
from cristae.engine.files import folder_bytes, temporary_folder, write_text
from cristae.engine.identity import Identity
from cristae.engine.ledger import open_ledger
from cristae.engine.memory import GIB
from cristae.engine.paths import user_path
from cristae.engine.progress import duration_text, log, quiet
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.networks.ensemble import ensemble_work, models_of
from cristae.networks.model import Model
from cristae.networks.precision import Precision
from cristae.networks.runner import network_contract
from cristae.prediction.checks import plain_settings, section_thickness, settle
from cristae.prediction.estimate import expected_precision, prediction_work
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.prediction.request import ask
from cristae.prediction.resample import working_factors
from cristae.report.preview_page import PreviewBox, page_of
from cristae.segmentation.segment import segment_volume
from cristae.volumes.intensity import (
    INTENSITY_ATTRIBUTE,
    sample_intensity,
)
from cristae.volumes.volume import Array, Volume, refuse_unfinished_volume

WORK = 1.5e12
"""Multiplications that predicting all places may take: about half a minute on two cores."""

PAGE_MEMORY_GIB = 6.0
"""What tiles are planned with for the figures of the page, whatever this machine has free."""

EXTENTS: tuple[Triple, ...] = ((16, 512, 512), (16, 384, 384), (8, 384, 384), (8, 256, 256))
"""Working voxels (z, y, x) of a place, the margin apart; the first that is little enough work."""

MARGIN: Triple = (2, 32, 32)
"""Working voxels on each side of a place that are predicted and not shown."""

_PADDING = 0.5
_SPREAD = 1.2207440846057596
"""Root of x^4 = x + 1: its powers make the evenest known sequence of points in a box."""


def preview_volume(
    source: Volume,
    model: Model | Sequence[Model],
    out: str | Path,
    *,
    places: int = 6,
    config: PredictConfig | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
) -> Path:
    """Predict and segment a few places of a volume, and show them on one page.

    Args:
        source: Image (z, y, x).
        model: The model, or several whose outputs are combined.
        out: The HTML file.
        places: How many.
        config: How to predict; its grid and the coarse pass are left aside.
        resources: Workers and memory.
        overwrite: Replace a page of other inputs or settings.

    Returns:
        ``out``. The same volume, model and settings give the same bytes; a page that is there of
        these is left alone.

    Raises:
        OutputExistsError: ``out`` is of other inputs or settings, or no page of cristae.
        InputError: A source or model that cannot be used, or no place with contrast.
    """
    out, resources = user_path(out), resources or Resources()
    config = config or PredictConfig()
    models = models_of(model)
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: expected the path of a file in a folder that exists")
    refuse_unfinished_volume(source)
    ask(source, models, out, config, None, None, resources)  # its faults
    inputs: dict[str, str | Identity] = {
        "source": source.identity,
        "model": "+".join(model.fingerprint for model in models),
    }
    settings = {
        "places": places,
        "version": __version__,
        "voxel_size_nm": source.voxel_size_nm,
        "thresholds": {"decoder": models[0].decoder, **models[0].thresholds},
        **plain_settings(config),
    }
    with open_ledger(
        out, stage="preview", inputs=inputs, settings=settings, overwrite=overwrite
    ) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
            return out
        write_text(out, _made(source, models, config, places, resources))
        ledger.finish()
    return out


def _made(
    source: Volume,
    models: Sequence[Model],
    config: PredictConfig,
    places: int,
    resources: Resources,
) -> str:
    """The page; what the whole will take on this machine is said."""
    begun = time.perf_counter()
    statistics = sample_intensity(source)
    known = {**source.attributes, INTENSITY_ATTRIBUTE: statistics.to_dict()}
    source = source.with_(attributes=known)
    planned = replace(resources, memory_gib=PAGE_MEMORY_GIB)
    with quiet():
        precision = expected_precision(config, models[0])
        found = _look_around(source, models, config, places, resources)
        work = prediction_work(source, models, config, precision, planned)
        here = prediction_work(source, models, config, precision, resources)
    predicting = sum(p.seconds[0] for p in found) / sum(p.computed for p in found) * here.computed
    # the first place also waits for compiled kernels: the median leaves it out
    segmenting = median(p.seconds[1] / p.seen.size for p in found) * source.size
    log.info(
        "preview: %d places in %s; the whole takes about %s to predict and %s to segment here, "
        "and up to %.2f GiB of memory to predict",
        len(found),
        duration_text(time.perf_counter() - begun),
        duration_text(predicting),
        duration_text(segmenting),
        here.memory_bytes / GIB,
    )
    return page_of(source, models, statistics, found, work)


def choose_places(source: Volume, extent: Triple, count: int) -> list[Box]:
    """Boxes spread over a volume, in the order they are taken.

    Args:
        source: Image (z, y, x).
        extent: Of a box in voxels (z, y, x); cut to the volume.
        count: Most boxes.

    Returns:
        Different boxes that are not mostly one grey value; fewer than ``count`` where the volume
        is small.

    Raises:
        InputError: No such box in the first ``8 x count`` tried.
    """
    z, y, x = (min(a, n) for a, n in zip(extent, source.shape, strict=True))
    steps = [_SPREAD**-power for power in (1, 2, 3)]
    boxes: list[Box] = []
    for number in range(8 * count):
        start = [
            round((0.5 + number * step) % 1 * (n - length))
            for step, n, length in zip(steps, source.shape, (z, y, x), strict=True)
        ]
        box = Box((start[0], start[1], start[2]), (start[0] + z, start[1] + y, start[2] + x))
        if box not in boxes and not _is_padding(source, box):
            boxes.append(box)
        if len(boxes) == count:
            break
    if not boxes:
        raise InputError(f"{source.name}: no place with contrast in {8 * count} tried")
    return boxes


def _is_padding(source: Volume, box: Box) -> bool:
    """Whether the section in a box's middle is mostly one grey value."""
    section = _middle(source, box)
    _, counts = np.unique(section, return_counts=True)
    return bool(counts.max() > _PADDING * section.size)


def _middle(volume: Volume, box: Box) -> Array:
    z = (box.start[0] + box.stop[0]) // 2
    return volume.read(Box((z, *box.start[1:]), (z + 1, *box.stop[1:])))[..., 0, :, :]


def _factors(source: Volume, model: Model) -> tuple[float, float, float]:
    return working_factors(source.voxel_size_nm, model.working_voxel_size_nm)


def _in_source(extent: Triple, source: Volume, model: Model) -> Triple:
    """Working voxels as voxels of the source."""
    factors = _factors(source, model)
    z, y, x = (math.ceil(n * f) for n, f in zip(extent, factors, strict=True))
    return z, y, x


def _look_around(
    source: Volume,
    models: Sequence[Model],
    config: PredictConfig,
    count: int,
    resources: Resources,
) -> list[PreviewBox]:
    """Predict and segment the places, of an extent that there is time for."""
    boxes = choose_places(source, _affordable(source, models, config, count), count)
    found: list[PreviewBox] = []
    for box in boxes:
        place, precision = _look(source, box, models, config, resources)
        found.append(place)
        config = replace(config, precision=precision)  # settled once for all
    return found


def _affordable(
    source: Volume, models: Sequence[Model], config: PredictConfig, count: int
) -> Triple:
    """Extent of a place, in voxels of the source: the largest whose work is little enough."""
    model = models[0]
    precision = expected_precision(config, model)
    planned = Resources(1, "serial", PAGE_MEMORY_GIB)
    extents = [_in_source(extent, source, model) for extent in EXTENTS]
    for extent in extents[:-1]:
        box = _seen(source, Box.of(extent).clip(source.box), model, config)
        work = prediction_work(source.crop(box), models, config, precision, planned)
        if count * work.computed * _cost(models) <= WORK:
            return extent
    return extents[-1]


def _cost(models: Sequence[Model]) -> float:
    """Multiplications a voxel; where they are not counted, one for each weight."""
    extent = np.array([[16.0, 256.0, 256.0]])
    counted = float(ensemble_work(models, extent)[0] / extent.prod())
    weights = sum(tensor.numel() for model in models for tensor in model.state_dict.values())
    return counted or float(weights)


def _seen(source: Volume, box: Box, model: Model, config: PredictConfig) -> Box:
    """A box with its margin, inside the source."""
    section_nm = section_thickness(source, model)
    _, contract = settle(config, network_contract(model), section_nm)
    z, y, x = (math.ceil(n * f) for n, f in zip(MARGIN, contract.recipe.reach, strict=True))
    margin = (z, y, x)
    return box.grow(_in_source(margin, source, model)).clip(source.box)


def _look(
    source: Volume, box: Box, models: Sequence[Model], config: PredictConfig, resources: Resources
) -> tuple[PreviewBox, Precision]:
    """Predict and segment one place; the precision it was predicted in, too."""
    seen = _seen(source, box, models[0], config)
    with temporary_folder() as folder:
        plain = replace(config, grid="source", skip_empty=False)
        options: dict[str, Any] = {"resources": resources}
        prediction = predict_volume(
            source.crop(seen), models, folder / "p.zarr", config=plain, **options
        )
        options["pyramid"] = False
        labels, second = _timed(segment_volume, prediction, folder / "i.zarr", **options)
        # what segmenting takes however small the volume is, which the whole pays once
        _, always = _timed(
            segment_volume, prediction.crop(Box.of((1, 1, 1))), folder / "t.zarr", **options
        )
        inside = box.relative_to(seen.start)
        whole = labels.read(inside)
        summary = prediction.attributes["record"]["summary"]
        precision: Precision = prediction.attributes["precision"]
        work = prediction_work(source.crop(seen), models, plain, precision, resources)
        place = PreviewBox(
            box=box,
            seen=seen,
            image=_middle(source, box),
            levels=_middle(prediction, inside),
            labels=_middle(labels, inside),
            instances=int(np.count_nonzero(np.unique(whole))),
            foreground=float(np.count_nonzero(whole) / whole.size),
            computed=work.computed,
            seconds=(summary["seconds"], max(0.0, second - always)),
            bytes_on_disk=(_array_bytes(folder / "p.zarr"), _array_bytes(folder / "i.zarr")),
        )
        return place, precision


def _array_bytes(folder: Path) -> int:
    """Bytes of the voxels and tables, without records, which name times."""
    record = folder / "zarr.json"
    return folder_bytes(folder) - record.stat().st_size


def _timed(function: Any, *arguments: Any, **options: Any) -> tuple[Volume, float]:
    begun = time.perf_counter()
    return function(*arguments, **options), time.perf_counter() - begun
