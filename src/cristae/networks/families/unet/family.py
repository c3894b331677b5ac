"""cristae's own U-Net: any tile, no statistics of it, two-dimensional convolutions throughout."""

import torch
from torch import Tensor

from cristae.grid import Triple
from cristae.networks.families.unet.context import network_context
from cristae.networks.families.unet.inference import TileNetwork, core_work, inference_bytes
from cristae.networks.families.unet.network import (
    UNet,
    UNetConfig,
    build_network,
    check_unet_config,
)
from cristae.networks.family import Family, Trained
from cristae.networks.precision import Precision

FLOAT = 4
"""Bytes of a number."""


def prepare(
    network: UNet, precision: Precision, device: torch.device, kept: dict[str, Tensor] | None
) -> TileNetwork:
    """Ready for inference; of the encoder only what a core needs is computed."""
    return TileNetwork(network, precision, device)


def levels(config: UNetConfig) -> list[tuple[int, float]]:
    """Features of each level, and positions there are for each voxel."""
    found, positions = [], 1 / config.stem**2
    for width, (z, y, x) in zip(config.widths, ((1, 1, 1), *config.strides), strict=True):
        positions /= z * y * x
        found.append((width, positions))
    return found


def kept_bytes(config: UNetConfig, patch: Triple) -> int:
    """What a forward pass keeps for the backward one.

    A convolution with its normalisation keeps two tensors. Each level has two blocks of two or
    three of them (the deepest one block), and those that lead to and from the next level.
    """
    z, y, x = patch[0], patch[1] // config.stem, patch[2] // config.stem
    kept = 0
    strides = ((1, 1, 1), *config.strides)
    last = len(config.widths) - 1
    for level, (width, stride) in enumerate(zip(config.widths, strides, strict=True)):
        z, y, x = z // stride[0], y // stride[1], x // stride[2]
        convolutions = (3 if level in config.z_kernel_levels else 2) * (1 if level == last else 2)
        tensors = 2 * convolutions + 2 + (0 if level == 0 else 2) + (0 if level == last else 1)
        kept += tensors * width * z * y * x * FLOAT
    return kept


FAMILY = Family(
    title="cristae's own",
    config_class=UNetConfig,
    check=check_unet_config,
    build=build_network,
    context=network_context,
    prepare=prepare,
    memory=inference_bytes,
    work=core_work,
    trained=Trained(
        logits=lambda logits, config: logits, planar=True, levels=levels, kept=kept_bytes
    ),
)
