"""What a user may ask of a prediction, and everything that can be wrong with it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cristae.configuration import config_dataclass, to_plain
from cristae.engine.executors import Resources
from cristae.engine.memory import GIB, memory_limit
from cristae.engine.progress import log
from cristae.errors import ConfigError, InputError, MemoryLimitError, raise_faults
from cristae.grid import Triple
from cristae.networks.device import DeviceName, device_faults, find_devices
from cristae.networks.ensemble import ensemble_faults
from cristae.networks.model import Model
from cristae.networks.recipe import (
    WantedPrecision,
    choose_recipe,
    chosen_settings,
    running_faults,
)
from cristae.networks.runner import Contract, sample_shape
from cristae.networks.windows import Combine, Tta
from cristae.prediction.grids import Grid, Grids
from cristae.prediction.regions import Region
from cristae.prediction.resample import Factors
from cristae.renamed import recorded_names
from cristae.volumes.place import Align, lay, place_text, spread_over
from cristae.volumes.plausible import far_from_model, guess, size_text
from cristae.volumes.volume import Volume

_LATER = {"grid": "source", "skip_empty": False, "section_step": 1, "scales": [1.0]}
"""Settings that records name only where they are not these: older records lack them."""

_RUNNING = ("device",)
"""What records leave out: it changes the output by rounding only."""


@config_dataclass
class PredictConfig:
    """How a volume is predicted; all of it but the device belongs to the output's record.

    Attributes:
        invert: Turn the contrast around, for images with bright membranes.
        device: Where the network computes: ``cpu``, ``cuda`` (every GPU that torch sees, tiles in
            turn), ``mps`` (Apple's GPU), or ``auto``: CUDA where there is any, else the processor.
        precision: Of the network's arithmetic. ``auto``: bfloat16 where the device has it (float16
            on GPUs that do not) and a sample tile agrees with float32 (`choose_precision`), else
            float32. None: ``auto`` for a tile-invariant network, float32 for one with windows.
        tta: Test-time augmentation: 1, 4 (flips in y and x), 8 (also transposed in the plane)
            or 16 (also flipped in z), at as many times the cost. None: as the model says.
        z_stride: Stride along z: the network sees every k-th section, once for each offset, and the
            k outputs are averaged (`cristae.networks.strided_sections`). None: as the model says
            for the section thickness.
        scales: The network sees the image at so many times its working voxel size in the plane, at
            one after another, and the outputs are combined on the output's grid. None: as the
            model says.
        combine: What is taken of the outputs of flips, scales and models: mean, min or max. None:
            as the model's windows say, else the mean.
        truncate: Truncate 255 p, as PyTorch Connectomics does, instead of rounding it.
        grid: ``source``: probabilities are interpolated on the source's voxels. ``working``: they
            are written where the network computes them, on the working grid.
        skip_empty: Leave out cells in which a pass at a quarter of the resolution in the plane sees
            nothing (`skip`); there the output is 0.
    """

    invert: bool = False
    device: DeviceName = "auto"
    precision: WantedPrecision | None = None
    tta: Tta | None = None
    z_stride: int | None = None
    scales: tuple[float, ...] | None = None
    combine: Combine | None = None
    truncate: bool = False
    grid: Grid = "source"
    skip_empty: bool = False


def plain_settings(config: PredictConfig) -> dict[str, Any]:
    """The configuration as a record names it."""
    plain = recorded_names(to_plain(config))
    lasting = {k: v for k, v in plain.items() if k not in _RUNNING}
    return {k: v for k, v in lasting.items() if k not in _LATER or v != _LATER[k]}


def settle(
    config: PredictConfig, contract: Contract, section_nm: float
) -> tuple[PredictConfig, Contract]:
    """Both with one recipe, as the user says or else the model; only a sample decides the rest.

    Args:
        config: What is asked for.
        contract: Of the networks.
        section_nm: Thickness of a section on the network's grid, `section_thickness`.
    """
    recipe = choose_recipe(config, contract.recipe, section_nm)
    settled = replace(config, **chosen_settings(config, recipe))
    return settled, replace(contract, recipe=recipe)


def section_thickness(source: Volume, model: Model) -> float:
    """Thickness of a section in nm where a network works; infinite where it is not known."""
    size = source.voxel_size_nm
    return model.working_voxel_size_nm[0] or (math.inf if size is None else size[0])


def check_request(
    source: Volume,
    models: Sequence[Model],
    contract: Contract,
    config: PredictConfig,
    block_shape: Triple | None,
    mask: Volume | None,
    align: Align = "origin",
) -> None:
    """Raise one InputError for all that is wrong with the inputs."""
    faults = [*_source_faults(source, models[0], contract), *ensemble_faults(models)]
    faults += device_faults(config.device)
    if mask is not None:
        faults += _mask_faults(source, mask, align)
    if block_shape is not None and min(block_shape) < 1:
        faults.append(f"block shape {block_shape}: expected three extents of at least 1")
    if block_shape is not None and contract.windows is not None:
        faults.append(
            f"block shape {block_shape}: the model runs on its own windows, "
            f"{contract.windows.shape}, which are its blocks; expected none"
        )
    lattice = contract.context.lattice if contract.context else (1, 1, 1)
    faults += running_faults(contract.recipe, models[0].working_voxel_size_nm, lattice)
    if config.skip_empty and contract.windows is not None:
        faults.append("skip_empty: the model runs on its own windows, expected one that takes any")
    if config.skip_empty and source.voxel_size_nm is None:
        faults.append("skip_empty: voxel size unknown: give it with --voxel-size Z,Y,X")
    raise_faults(source.name, faults)


def check_executor(config: PredictConfig, resources: Resources) -> None:
    """Refuse worker processes on GPUs.

    Raises:
        ConfigError: They were asked for.
    """
    device = find_devices(config.device)[0].type
    if resources.executor == "processes" and device != "cpu":
        raise ConfigError(
            f"predict: --executor processes with device {device} found, expected device cpu; "
            "several GPUs are used in any case"
        )


def check_reach(source: Volume, grids: Grids, contract: Contract, resources: Resources) -> None:
    """Refuse a voxel size at which what a network sees at once does not fit into memory.

    Raises:
        MemoryLimitError: Memory needed and allowed, and what the voxel size may be.
    """
    seen = sample_shape(contract)
    for view in grids.views:
        factors = view.read_factors
        voxels = math.prod(n * max(1.0, f) + 2 for n, f in zip(seen, factors, strict=True))
        needed = voxels * (2 * view.read.dtype.itemsize + 4)
        limit = memory_limit(resources)
        if needed > limit:
            size = source.voxel_size_nm or (1.0, 1.0, 1.0)
            raise MemoryLimitError(
                f"{source.name}: at {size_text(size)} a voxel, what the network sees at once is "
                f"{voxels:.3g} voxels, which take {needed / GIB:.0f} GiB of memory, "
                f"{limit / GIB:.0f} GiB may be taken{guess(size)}"
            )


def check_places(out: Path, chunks: Path | None) -> None:
    """Raise one InputError for all that is wrong with where the output goes."""
    faults = []
    if out.suffix != ".zarr":
        faults.append(f"output {out}: expected a name that ends with .zarr")
    if chunks is not None and chunks.exists() and not chunks.is_dir():
        faults.append(f"chunks {chunks}: a file found, expected a folder or nothing")
    raise_faults("predict", faults)


def _source_faults(source: Volume, model: Model, contract: Contract) -> list[str]:
    faults = []
    if source.size == 0:
        faults.append(f"shape {source.shape}: expected at least one voxel")
    if source.channels is not None:
        faults.append(
            f"{len(source.channels)} channels found, expected an image without: --index c=0 takes "
            "one of them, --axes c=z says that they are sections"
        )
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
    far = far_from_model(source, working)
    faults += [] if far is None else [far]
    return faults


def _mask_faults(source: Volume, mask: Volume, align: Align) -> list[str]:
    if mask.channels is not None:
        return [f"mask {mask.name}: channels {mask.channels} found, expected none"]
    try:
        lay(source, mask, align)
    except InputError as error:
        return [f"mask {error}"]
    return []


def warn_of_mask(source: Volume, mask: Volume, align: Align = "origin") -> None:
    """Warn of a mask that covers a part of an image which does not say where it lies."""
    placed = "origin" in source.found or any(source.origin_nm) or not any(mask.origin_nm)
    covered = lay(source, mask, align).box
    if not placed and covered != source.box:
        log.warning(
            "mask %s: %s, covers only %s of %s: %s, which states no origin; the output is 0 "
            "elsewhere (`--align voxels` lays voxel 0 on voxel 0)",
            mask.name,
            place_text(mask),
            covered,
            source.name,
            place_text(source),
        )


def mask_scale(source: Volume, mask: Volume, align: Align = "origin") -> Factors | None:
    """Voxel size of the source over the mask's along each axis; None where they do not fit."""
    try:
        overlay = lay(source, mask, align)
    except InputError:
        return None
    z, y, x = (g / c for g, c in zip(overlay.finer, overlay.coarser, strict=True))
    return z, y, x


def laid_mask(source: Volume, mask: Volume, align: Align = "origin") -> Volume:
    """A mask that `check_request` let pass, on the voxels of the source; 0 where there is none."""
    overlay = lay(source, mask, align)
    laid = spread_over(source, mask, overlay)
    # shapes alone say how a mask over all of the source lies, so records name it by itself
    whole = overlay.same and overlay.shift == (0, 0, 0)
    return laid.with_(identity=mask.identity) if whole else laid


def mask_region(source: Volume, mask: Volume, scale: Factors, align: Align = "origin") -> Region:
    """A mask over the source as a region of an output.

    Args:
        source: The image.
        mask: A mask that `check_request` let pass.
        scale: Output voxel size over the source's.
        align: How the mask lies on the source, see `lay`.
    """
    return Region(laid_mask(source, mask, align), scale)
