"""What a prediction will take, before it is made: precision, speed on one tile, memory, voxels."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.ledger import open_ledger
from cristae.grid import Box
from cristae.networks.cpu import bfloat16_is_fast, prepare_cpu
from cristae.networks.inference import Precision
from cristae.networks.model import Model
from cristae.networks.runner import model_runner, network_contract, sample_shape
from cristae.prediction.checks import PredictConfig, resolve_config
from cristae.prediction.grids import plan_grids
from cristae.prediction.request import Request
from cristae.prediction.tiled import plan_tiles, tiling_bytes
from cristae.prediction.windowed import plan_windows, sweep_bytes
from cristae.volumes.volume import Volume


@dataclass(frozen=True)
class Work:
    """What a prediction takes.

    Attributes:
        memory_bytes: What it will promise, imports apart.
        computed: Voxels that go through the network, variants counted.
        written: Voxels of the output, one channel.
    """

    memory_bytes: int
    computed: float
    written: int


def expected_precision(config: PredictConfig, model: Model) -> Precision:
    """The precision a prediction will most likely have; a sample decides where it is open."""
    wanted = config.precision
    if wanted is not None and wanted != "auto":
        return wanted
    reduced = network_contract(model).reduced_precision or wanted == "auto"
    return "bfloat16" if reduced and bfloat16_is_fast() else "float32"


def network_rate(model: Model, precision: Precision, resources: Resources) -> float:
    """Voxels a second through the network, on a tile of noise."""
    contract = network_contract(model)
    prepare_cpu(resources.workers, reuse=contract.windows is not None)
    runner = model_runner(model, precision)
    shape = sample_shape(contract)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    core = Box.of(shape)
    if contract.context is not None:
        runner.probabilities(image, core)  # the first call also prepares kernels
    begun = time.perf_counter()
    runner.probabilities(image, core)
    return core.size / max(1e-9, time.perf_counter() - begun)


def prediction_work(
    image: Volume, model: Model, config: PredictConfig, precision: Precision, resources: Resources
) -> Work:
    """Memory and voxels of a prediction, by the plan it would have; nothing is written."""
    contract = network_contract(model)
    config = resolve_config(config, contract)
    with tempfile.TemporaryDirectory() as folder:
        request = Request(
            source=image,
            models=(model,),
            contract=contract,
            out=Path(folder) / "prediction.zarr",
            grids=plan_grids(image, model.working_voxel_size_nm, config.grid),
            precision=precision,
            variants=config.variants or 1,
            combine=config.combine or "mean",
            truncate=config.truncate,
            block_shape=None,
            resources=resources,
        )
        written = Box.of(request.shape).size
        with open_ledger(request.out, stage="plan", inputs={}, settings={}) as ledger:
            if contract.windows is not None:
                sweep = plan_windows(request, contract.windows, ledger)
                return Work(sweep_bytes(sweep, request), sweep.waste * written, written)
            if contract.context is None:
                raise ValueError("a contract without windows has a context")
            tiling = plan_tiles(request, contract.context, ledger)
            computed = tiling.count() * Box.of(tiling.read).size * request.variants
            return Work(tiling_bytes(tiling, request), computed, written)
