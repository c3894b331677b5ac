"""The precision a run computes in, and how far that is from float32."""

import logging
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cristae.engine.ledger import Ledger
from cristae.engine.progress import log
from cristae.grid import Box
from cristae.networks.device import reduced_precision
from cristae.networks.precision import Precision
from cristae.networks.runner import (
    Contract,
    Runner,
    choose_precision,
    compare_runners,
    sample_shape,
)
from cristae.prediction.tile_inference import ImageInput


def settle_precision(
    make: Callable[[Precision], Runner],
    image: ImageInput,
    contract: Contract,
    wanted: Precision | Literal["auto"] | None,
    ledger: Ledger,
    device: torch.device,
) -> Precision:
    """The precision to compute in: as asked for, as in an interrupted run, or the better one.

    Args:
        make: Makes a runner of a precision, on the device.
        image: What is predicted.
        contract: How the networks are run.
        wanted: As the user says.
        ledger: Remembers it.
        device: Where the runners compute.
    """
    before = ledger.done("precision")
    if before:
        known: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
        return next(name for name in known if name in before)
    deviation = None
    precision: Precision
    compared = reduced = reduced_precision(device)
    if wanted is None or wanted == "auto":
        precision, deviation = choose_precision(make, _sample(contract, image), device)
    else:
        compared = precision = wanted
        if precision != "float32" and log.isEnabledFor(logging.INFO):  # only told, so only then
            deviation = compare_runners(make, _sample(contract, image), precision)
        if precision == "bfloat16" and reduced is None and device.type == "cpu":
            log.warning("predict: this processor has no bfloat16 arithmetic; float32 is faster")
    if deviation is not None:
        log.info(
            "predict: %s; on a sample %s is off float32 by %.4f at most, %.5f in the mean",
            precision,
            compared,
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
