"""One step's arithmetic: the loss of a batch, what it finds, and the precision it is done in."""

import copy
import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from cristae.errors import ConfigError
from cristae.networks.cpu import bfloat16_is_fast
from cristae.networks.families.table import trained_of
from cristae.networks.family import NetworkConfig
from cristae.training.batches import PatchBatch
from cristae.training.config import TrainConfig
from cristae.training.losses import combined_loss
from cristae.training.targets import foreground_channels, make_targets, seam_weight

LARGEST_ERROR = 0.5
"""Of a layer's gradient in reduced precision, relative. In bfloat16 .04 of a trained network and .3
of a fresh one were seen; a wrong one is off by about 1."""

NEGLIGIBLE = 0.01
"""Gradients this much smaller than the largest one are not compared."""


def sigmoid_logits(logits: Tensor, network: NetworkConfig) -> Tensor:
    """Logits (n, c, z, y, x) whose sigmoid is what a prediction holds."""
    return trained_of(network).logits(logits, network)


def run_network(
    network: nn.Module, image: Tensor, config: TrainConfig, reduced: torch.dtype | None
) -> Tensor:
    """The logits of a batch in float32, most of the network computed in less where told to.

    Args:
        network: That of the run.
        image: (n, 1, z, y, x) on the network's device.
        config: Settings of the run.
        reduced: From `reduced_precision`.
    """
    with torch.autocast(image.device.type, reduced, enabled=reduced is not None):
        logits = network(image)
    return sigmoid_logits(logits.float(), config.network)


def batch_loss(
    logits: Tensor, batch: PatchBatch, config: TrainConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its parts.

    Args:
        logits: From `sigmoid_logits`.
        batch: What they were computed of.
        config: Settings of the run.
    """
    channels = config.network.channels
    target = batch.target
    if target is None:
        target = make_targets(batch.labels, channels, config.targets)
    weight = None
    if config.loss.seam:
        weight = seam_weight(batch.labels, config.loss.seam).expand_as(target)
    return combined_loss(
        logits, target, config.loss, channels=channels, valid=batch.valid, weight=weight
    )


def overlap(logits: Tensor, batch: PatchBatch, config: TrainConfig) -> Tensor:
    """Voxels in both, and in either, of the foreground found and the true one; int64 (2,)."""
    found, true = _foreground(logits, batch, config), batch.labels > 0
    if batch.valid is not None:
        true = true & (batch.valid[:, 0] > 0)
    return torch.stack([(found & true).sum(), (found | true).sum()]).cpu()


def count_objects(logits: Tensor, batch: PatchBatch, config: TrainConfig) -> int:
    """26-connected components of the foreground found, patch by patch."""
    found = _foreground(logits, batch, config).cpu().numpy()
    return sum(int(ndimage.label(patch, np.ones((3, 3, 3)))[1]) for patch in found)


def _foreground(logits: Tensor, batch: PatchBatch, config: TrainConfig) -> Tensor:
    """Where foreground is found and the truth is known; bool (n, z, y, x)."""
    picks = foreground_channels(config.network.channels)
    found = (logits[:, picks] > 0).any(dim=1)
    return found if batch.valid is None else found & (batch.valid[:, 0] > 0)


def reduced_precision(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The type that most of a step is computed in, where it is not float32.

    By default bfloat16 on a GPU that has it, and float32 on a CPU. There bfloat16 can be asked for
    where the processor multiplies it and the network has no 3D convolution: the backward passes of
    some of those are wrong, or overwrite memory (torch 2.13).

    Raises:
        ConfigError: Reduced precision on a CPU that cannot be had or trusted.
    """
    wanted = config.precision
    if device.type == "cpu":
        return _reduced_on_cpu(config)
    if wanted == "auto":
        emulated = not torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "float32" if emulated else "bfloat16"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(wanted)


def trains_in_bfloat16(network: NetworkConfig) -> bool:
    """Whether a network can be trained in bfloat16 on this processor."""
    return trained_of(network).planar and bfloat16_is_fast()


def _reduced_on_cpu(config: TrainConfig) -> torch.dtype | None:
    if config.precision in ("auto", "float32"):
        return None
    if config.precision != "bfloat16":
        why = "expected float32, bfloat16 or auto"
    elif trains_in_bfloat16(config.network):
        return torch.bfloat16
    elif trained_of(config.network).planar:
        why = "expected float32 or auto: this processor does not multiply bfloat16"
    else:
        why = "expected float32 or auto: the network has 3D convolutions"
    raise ConfigError(f"precision {config.precision}: {why}, and no GPU is found")


def check_gradients(
    network: nn.Module, batch: PatchBatch, config: TrainConfig, reduced: torch.dtype
) -> None:
    """Refuse reduced precision where a gradient is not near that of float32.

    Args:
        network: That of the run; not changed.
        batch: What gradients are taken of.
        config: Settings of the run.
        reduced: From `reduced_precision`.

    Raises:
        ConfigError: The layer whose gradient differs most, and by how much.
    """
    exact, found = (_gradients(network, batch, config, each) for each in (None, reduced))
    largest = max(float(each.norm()) for each in exact.values())
    off = {
        name: float((found[name] - each).norm() / each.norm())
        for name, each in exact.items()
        if float(each.norm()) > NEGLIGIBLE * largest
    }
    worst = max(off, key=lambda name: math.inf if math.isnan(off[name]) else off[name])
    if not off[worst] <= LARGEST_ERROR:
        raise ConfigError(
            f"precision {config.precision}: the gradient of {worst} differs from that in float32 "
            f"by {100 * off[worst]:.3g} %, at most {100 * LARGEST_ERROR:.0f} % expected; "
            "float32 trains here"
        )


def _gradients(
    network: nn.Module, batch: PatchBatch, config: TrainConfig, reduced: torch.dtype | None
) -> dict[str, Tensor]:
    one = copy.deepcopy(network)
    one.zero_grad(set_to_none=True)
    for module in one.modules():  # fresh residual branches are multiplied by zero
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    loss, _ = batch_loss(run_network(one, batch.image, config, reduced), batch, config)
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad for n, p in one.named_parameters() if p.grad is not None}
