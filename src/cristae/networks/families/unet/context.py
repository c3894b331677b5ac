"""What a logit of the U-Net depends on, computed from its layers."""

from typing import cast

import torch

from cristae.networks.context import Context
from cristae.networks.families.unet.network import (
    Block,
    UNet,
    UNetConfig,
    blocks,
    build_network,
    total_stride,
    ups,
)


def network_context(config: UNetConfig) -> Context:
    """How far a logit sees, and the lattice its tile must start on, from the network's layers.

    For each output voxel of one period of the lattice, the interval of input voxels that reach it
    is followed back through every layer: a convolution widens it by its margin, a stride multiplies
    it, an upsampling divides it, a sum of two paths takes the hull of both. The halo is the
    farthest voxel of all those intervals, on either side.
    """
    with torch.device("meta"):
        network = build_network(config)
    lattice = total_stride(config)
    halo = [0, 0, 0]
    for axis, period in enumerate(lattice):
        stem = config.stem if axis else 1
        for voxel in range(period):
            first, last = _reach(network, axis, voxel // stem)
            halo[axis] = max(halo[axis], voxel - first * stem, last * stem + stem - 1 - voxel)
    return Context((halo[0], halo[1], halo[2]), lattice)


def _reach(network: UNet, axis: int, position: int) -> tuple[int, int]:
    """First and last position before the first layer, at level 0, that reach one logit position."""
    intervals = needed_positions(network, axis, position, position)
    return intervals[0]


def needed_positions(network: UNet, axis: int, first: int, last: int) -> list[tuple[int, int]]:
    """Positions that logits ``first`` to ``last`` (inclusive, at level 0) need, followed backwards.

    Args:
        network: The network; only its layers' margins and strides are read.
        axis: 0, 1 or 2 for z, y, x.
        first: First logit position along the axis, in positions of level 0.
        last: Last one, inclusive.

    Returns:
        Inclusive intervals in each level's own positions: of the first layer's input (level 0), of
        the decoder blocks' inputs from level 0 to the deepest but one, of the encoder blocks'
        inputs from the deepest level to level 0.
    """
    interval = (first, last)
    decoder_inputs = []
    for block, up in zip(blocks(network.decoder), ups(network.ups), strict=True):
        interval = _grown_by(interval, block.margin[axis])
        decoder_inputs.append(interval)
        interval = (interval[0] // up.stride[axis], interval[1] // up.stride[axis])
    encoder_inputs = []
    for level in range(len(network.encoder) - 1, -1, -1):
        if level < len(decoder_inputs):
            stride = network.config.strides[level][axis]
            coarse = (interval[0] * stride, interval[1] * stride + stride - 1)
            skip = decoder_inputs[level]
            interval = (min(coarse[0], skip[0]), max(coarse[1], skip[1]))
        interval = _grown_by(interval, cast("Block", network.encoder[level]).margin[axis])
        encoder_inputs.append(interval)
    start = _grown_by(interval, network.first.margin[axis])
    return [start, *decoder_inputs, *encoder_inputs]


def _grown_by(interval: tuple[int, int], margin: int) -> tuple[int, int]:
    return interval[0] - margin, interval[1] + margin
