"""Networks of PyTorch Connectomics v1: they take statistics from their input and run in windows."""

import torch
from torch import Tensor

from cristae.grid import Triple
from cristae.networks.families.pytc.inference import WindowNetwork, window_bytes
from cristae.networks.families.pytc.network import (
    PytcConfig,
    PytcNetwork,
    build_pytc_network,
    check_pytc_config,
)
from cristae.networks.family import Family, Trained
from cristae.networks.precision import Precision


def prepare(
    network: PytcNetwork, precision: Precision, device: torch.device, kept: dict[str, Tensor] | None
) -> WindowNetwork:
    """Ready for inference, a window at a time."""
    return WindowNetwork(network, precision, device, kept)


def memory(
    config: PytcConfig, tile: Triple, core: Triple, precision: Precision, device: str
) -> int:
    """Upper bound of the bytes for a window; of which part is wanted does not matter."""
    return window_bytes(config, tile, precision, device)


def logits(found: Tensor, config: PytcConfig) -> Tensor:
    """Logits whose sigmoid is the output: a channel may say (1 + tanh(l)) / 2, that of 2 l."""
    if set(config.outputs) == {"sigmoid"}:
        return found
    factors = [2.0 if output == "tanh" else 1.0 for output in config.outputs]
    return found * found.new_tensor(factors).view(1, -1, 1, 1, 1)


def levels(config: PytcConfig) -> list[tuple[int, float]]:
    """Features of each level, and positions there are for each voxel."""
    found, positions = [(config.widths[0], 1.0)], 1.0
    for width, isotropic in zip(config.widths[1:], config.levels[1:], strict=True):
        positions /= 8 if isotropic else 4
        found.append((width, positions))
    return found


FAMILY = Family(
    title="PyTorch Connectomics",
    config_class=PytcConfig,
    check=check_pytc_config,
    build=build_pytc_network,
    context=lambda config: None,
    prepare=prepare,
    memory=memory,
    trained=Trained(logits=logits, planar=False, levels=levels),
)
