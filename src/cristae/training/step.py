"""One step's arithmetic: the loss of a batch, what it finds, and the precision it is done in."""

import torch
from torch import Tensor, nn

from cristae.errors import ConfigError
from cristae.networks.model import NetworkConfig
from cristae.networks.pytc import PytcConfig
from cristae.training.batches import Batch
from cristae.training.config import TrainConfig
from cristae.training.losses import combined_loss
from cristae.training.targets import foreground_channels, make_targets, seam_weight


def sigmoid_logits(logits: Tensor, network: NetworkConfig) -> Tensor:
    """Logits (n, c, z, y, x) whose sigmoid is what a prediction holds.

    A network of PyTorch Connectomics may say (1 + tanh(l)) / 2 of a channel: the sigmoid of 2 l.
    """
    if not isinstance(network, PytcConfig) or set(network.outputs) == {"sigmoid"}:
        return logits
    factors = [2.0 if output == "tanh" else 1.0 for output in network.outputs]
    return logits * logits.new_tensor(factors).view(1, -1, 1, 1, 1)


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
    logits: Tensor, batch: Batch, config: TrainConfig
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


def overlap(logits: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """Voxels in both, and in either, of the foreground found and the true one; int64 (2,)."""
    picks = foreground_channels(config.network.channels)
    found = (logits[:, picks] > 0).any(dim=1)
    true = batch.labels > 0
    if batch.valid is not None:
        known = batch.valid[:, 0] > 0
        found, true = found & known, true & known
    return torch.stack([(found & true).sum(), (found | true).sum()]).cpu()


def reduced_precision(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The type that most of a step is computed in, where it is not float32.

    By default bfloat16 on a GPU that has it. On a CPU always float32: the backward passes of some
    convolutions are wrong there in bfloat16.

    Raises:
        ConfigError: Reduced precision asked for on a CPU.
    """
    wanted = config.precision
    if device.type == "cpu":
        if wanted not in ("auto", "float32"):
            raise ConfigError(f"precision {wanted}: expected float32 or auto where no GPU is found")
        return None
    if wanted == "auto":
        emulated = not torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "float32" if emulated else "bfloat16"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(wanted)
