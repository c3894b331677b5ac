"""What a prediction will take, before it is made: precision, speed on one tile, memory, voxels."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.files import temporary_folder
from cristae.engine.ledger import open_ledger
from cristae.grid import Box
from cristae.networks.device import (
    DeviceName,
    devices_prepared,
    find_devices,
    reduced_precision,
)
from cristae.networks.ensemble import ensemble_contract, models_of
from cristae.networks.model import Model
from cristae.networks.precision import Precision
from cristae.networks.runner import model_runner, network_contract, sample_shape
from cristae.prediction.checks import PredictConfig, section_thickness, settle
from cristae.prediction.grids import plan_grids
from cristae.prediction.plan import PredictionPlan
from cristae.prediction.tiled import plan_tiles, tiling_bytes
from cristae.prediction.windowed import plan_windows, sweep_bytes
from cristae.volumes.volume import Volume


@dataclass(frozen=True)
class PredictionWork:
    """What a prediction takes.

    Attributes:
        memory_bytes: What it will promise, imports apart.
        computed: Voxels that go through the network, test-time augmentation counted.
        written: Voxels of the output, one channel.
    """

    memory_bytes: int
    computed: float
    written: int


def expected_precision(config: PredictConfig, model: Model) -> Precision:
    """The precision a prediction will most likely have; a sample decides where it is open."""
    wanted = config.precision or network_contract(model).recipe.precision
    if wanted != "auto":
        return wanted
    return reduced_precision(find_devices(config.device)[0]) or "float32"


def network_rate(
    model: Model, precision: Precision, resources: Resources, device: DeviceName = "auto"
) -> float:
    """Voxels a second through the network on all devices together, by a tile of noise on one."""
    contract, devices = network_contract(model), find_devices(device)
    runner = model_runner(model, precision, devices[0])
    z, y, x = sample_shape(contract)
    if contract.context is not None and devices[0].type != "cpu":
        z, y, x = 4 * z, 4 * y, 4 * x  # enough to keep a GPU busy
    shape = (z, y, x)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    core = Box.of(shape)
    with devices_prepared(devices, resources.workers):
        if contract.context is not None:
            runner.probabilities(image, core).cpu()  # the first call also prepares kernels
        begun = time.perf_counter()
        runner.probabilities(image, core).cpu()
    return len(devices) * core.size / max(1e-9, time.perf_counter() - begun)


def prediction_work(
    image: Volume,
    model: Model | Sequence[Model],
    config: PredictConfig,
    precision: Precision,
    resources: Resources,
) -> PredictionWork:
    """Memory and voxels of a prediction, by the plan it would have; nothing is written."""
    models = models_of(model)
    contract = ensemble_contract(models)
    config, contract = settle(config, contract, section_thickness(image, models[0]))
    with temporary_folder() as folder:
        plan = PredictionPlan(
            source=image,
            models=models,
            contract=contract,
            out=folder / "prediction.zarr",
            grids=plan_grids(
                image, models[0].working_voxel_size_nm, config.grid, contract.recipe.scales
            ),
            precision=precision,
            truncate=config.truncate,
            block_shape=None,
            resources=resources,
            devices=find_devices(config.device),
        )
        written = Box.of(plan.shape).size
        with open_ledger(plan.out, stage="plan", inputs={}, settings={}) as ledger:
            if contract.windows is not None:
                sweep = plan_windows(plan, contract.windows, ledger)
                return PredictionWork(sweep_bytes(sweep, plan), sweep.waste * written, written)
            tilings = plan_tiles(plan, ledger)
            computed = sum(tiling.count() * Box.of(tiling.read).size for tiling in tilings)
            needed = tiling_bytes(tilings, plan)
            return PredictionWork(needed, computed * contract.recipe.tta, written)
