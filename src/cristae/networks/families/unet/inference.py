"""A network on one tile: the core's logits, computed no farther than the core needs.

::

    tile     |..halo..|=====core=====|..halo..|
    encoder   |------------------------------|      what reaches the core, less at deeper levels
    decoder        |--|=====core=====|--|           the same, less at finer levels

Layers run a few sections at a time, so that what passes between them stays small: fresh memory
costs as much as a convolution. Deeper levels keep their features, and once more where a block joins
sections. None of that changes what the core is.

Batch normalisation is folded and memory is channels-last. In bfloat16 and float16 the image enters
in two parts, what its rounding keeps and what it leaves, and the last convolution stays in float32.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cristae.grid import Box, Triple
from cristae.networks.cpu import bfloat16_is_fast
from cristae.networks.families.unet.context import needed_positions
from cristae.networks.families.unet.network import (
    Block,
    UNet,
    UNetConfig,
    fold_batch_norm,
    total_stride,
)
from cristae.networks.precision import CPU, DTYPES, Precision

SLAB_BYTES = 16 << 20
GPU_SLAB_BYTES = 256 << 20
"""Features of a level computed at a time, on the processor and elsewhere; one section at least."""

_AROUND = 32
"""Voxels more than the core's that level 0 keeps of its features, both sides together."""


class TileNetwork:
    """A network made ready for inference.

    Args:
        network: Trained network; it is copied.
        precision: Of all convolutions but the last, which is float32.
        device: Where it computes.
    """

    def __init__(self, network: UNet, precision: Precision, device: torch.device = CPU) -> None:
        self.config = network.config
        self.precision = precision
        self._device = device
        self._network = fold_batch_norm(network)
        self._dtype = DTYPES[precision]
        for part in ("encoder", "downs", "ups", "decoder"):
            getattr(self._network, part).to(self._dtype)
        if self._dtype != torch.float32:
            self._network.first.conv = _SplitConv(self._network.first.conv, self._dtype)
        self._network.to(device)

    def probabilities(self, image: NDArray[np.float32] | Tensor, core: Box) -> Tensor:
        """Probabilities of the core of a tile: the sigmoid of `logits`."""
        return self.logits(image, core).sigmoid_()

    @torch.no_grad()
    def logits(self, image: NDArray[np.float32] | Tensor, core: Box) -> Tensor:
        """Logits of the core of a tile.

        Args:
            image: (z, y, x) tile, normalised; every extent a multiple of the network's lattice.
            core: Part of the tile that is wanted, in voxels of the tile.

        Returns:
            (channels, z, y, x) float32 of the core's shape. They are those of an endless volume
            where the halo around the core covers the network's context; beyond a side where it
            does not, features count as zero.

        Raises:
            InputError: An extent off the lattice.
        """
        tile = torch.as_tensor(image, device=self._device)[None, None]
        self._network.check_input(tile)
        whole, strides = Box.of(_extent(tile[0, 0])), self.config.strides
        entered, regions = level_regions(self._network, whole, core)
        skip, features = self._encode_finest(tile, entered, regions[0])
        skips, box = [skip], entered[1]
        for level in range(1, len(self.config.widths)):
            if level > 1:
                finer = _crop(features, box, _scaled(entered[level], strides[level - 1]))
                features, box = self._descend(finer, level), entered[level]
            features = self._block(self._network.encoder[level], features)
            if level < len(regions):
                skips.append(_crop(features, box, regions[level]))
        for level in range(len(regions) - 1, 0, -1):
            features = self._decode(features, box, skips.pop(), level, regions[level])
            box = regions[level]
        return self._decode_finest(features, box, skip, regions[0], core)

    def _encode_finest(
        self, tile: Tensor, entered: list[Box], region: Box
    ) -> tuple[Tensor, Tensor]:
        """Level 0: its output in a region, and level 1's input."""
        config, network = self.config, self._network
        stride, raised = config.strides[0], _scaled(entered[1], config.strides[0])
        skip = self._empty(region.shape, config.widths[0])
        coarse = self._empty(entered[1].shape, config.widths[1])
        for slab in self._slabs(entered[0]):
            z, y, x = _scaled(slab, (1, config.stem, config.stem)).slices()
            features = network.enter(tile[:, :, z, y, x])
            features = self._block(network.encoder[0], features)
            part = raised.clip(slab)
            if not part.empty:
                inner = _crop(features, slab, part).contiguous(memory_format=torch.channels_last)
                first, last = (
                    z // stride[0] - entered[1].start[0] for z in (part.start[0], part.stop[0])
                )
                coarse[first:last] = network.downs[0](inner, inner.shape[0])
            part = region.clip(slab)
            if not part.empty:
                _crop(skip, region, part).copy_(_crop(features, slab, part))
        return skip, coarse

    def _descend(self, finer: Tensor, level: int) -> Tensor:
        """A level's features from the finer level's."""
        sections, stride = len(finer), self.config.strides[level - 1]
        z, y, x = _divided((sections, *finer.shape[2:]), stride)
        features = self._empty((z, y, x), self.config.widths[level])
        for at in self._parts(features):
            part = finer[at.start * stride[0] : at.stop * stride[0]]
            part = part.contiguous(memory_format=torch.channels_last)
            features[at] = self._network.downs[level - 1](part, len(part))
        return features

    def _block(self, block: nn.Module, features: Tensor) -> Tensor:
        """A block's output, in the memory of its input."""
        block, sections = cast("Block", block), len(features)
        inner = features
        if block.middle is not None:
            inner = self._empty((sections + 2, *features.shape[2:]), features.shape[1])
            inner[0] = inner[-1] = 0  # beyond the ends
            for at in self._parts(features):
                first = block.first(features[at], sections)
                inner[at.start + 1 : at.stop + 1] = functional.relu_(first)
        for at in self._parts(features):
            if block.middle is not None:
                part = block.middle.inside(inner[at.start : at.stop + 2])
            else:
                part = block.first(features[at], sections)
            features[at].add_(block.last(functional.relu_(part), sections)).relu_()
        return features

    def _decode(self, features: Tensor, box: Box, skip: Tensor, level: int, region: Box) -> Tensor:
        """A decoder level's output in a region, from the coarser level's output in ``box``."""
        stride = self.config.strides[level]
        needed = Box(_divided(region.start, stride), _divided_up(region.stop, stride))
        raised = Box(_multiplied(needed.start, stride), _multiplied(needed.stop, stride))
        coarse, up = _crop(features, box, needed), self._network.ups[level]
        features = self._empty(region.shape, self.config.widths[level])
        if stride[0] > 1:
            torch.add(_crop(up(coarse), raised, region), skip, out=features)
        else:
            _, y, x = region.relative_to(raised.start).slices()
            for at in self._parts(features):
                torch.add(up(coarse[at])[:, :, y, x], skip[at], out=features[at])
        return self._block(self._network.decoder[level], features)

    def _decode_finest(
        self, features: Tensor, box: Box, skip: Tensor, region: Box, core: Box
    ) -> Tensor:
        """Level 0 of the decoder and the head: the core's logits."""
        stem = (1, self.config.stem, self.config.stem)
        logits = torch.empty((len(self.config.channels), *core.shape), device=self._device)
        for slab in self._slabs(region):
            fine = self._decode(features, box, _crop(skip, region, slab), 0, slab)
            planes = self._network.leave(fine, fine.shape[0])[0]  # (channels, z, y, x)
            voxels = Box(_multiplied(slab.start, stem), _multiplied(slab.stop, stem))
            part = core.clip(voxels)
            target = (slice(None), *part.relative_to(core.start).slices())
            logits[target] = planes[(slice(None), *part.relative_to(voxels.start).slices())]
        return logits

    def _slabs(self, region: Box) -> Iterator[Box]:
        """A region of level 0 in slabs of sections; whole where its layers join sections."""
        (z, y, x), (start, *low), (stop, *high) = region.shape, region.start, region.stop
        joined = 0 in self.config.z_kernel_levels or self.config.strides[0][0] > 1
        step = z if joined else self._step(self.config.widths[0] * y * x)
        for first in range(start, stop, step):
            yield Box((first, low[0], low[1]), (min(first + step, stop), high[0], high[1]))

    def _parts(self, features: Tensor) -> Iterator[slice]:
        """Slabs of features (z, c, y, x)."""
        sections, step = len(features), self._step(math.prod(features.shape[1:]))
        return (slice(z, min(z + step, sections)) for z in range(0, sections, step))

    def _step(self, section: int) -> int:
        """Sections of so many numbers that make a slab."""
        return max(1, _slab_bytes(self._device.type) // (section * self._dtype.itemsize))

    def _empty(self, extent: Triple, width: int) -> Tensor:
        (z, y, x), memory = extent, torch.channels_last
        return torch.empty(
            (z, width, y, x), dtype=self._dtype, device=self._device, memory_format=memory
        )


class _SplitConv(nn.Conv2d):
    """A convolution of few float32 channels in less precision that hardly rounds them.

    Each comes as two, rounded and what that left; a convolution in float32 takes twice as long.

    Args:
        conv: What it does, in float32.
        dtype: Of the arithmetic.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        outputs, inputs = conv.weight.shape[:2]
        super().__init__(2 * inputs, outputs, 3, padding=1, dtype=dtype)
        weight = torch.cat([conv.weight.detach()] * 2, 1).to(dtype)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(cast("Tensor", conv.bias).detach().to(dtype))

    def forward(self, features: Tensor) -> Tensor:
        rounded = features.to(self.weight.dtype)
        left = (features - rounded).to(self.weight.dtype)
        return super().forward(torch.cat([rounded, left], 1))


def level_regions(network: UNet, tile: Box, core: Box) -> tuple[list[Box], list[Box]]:
    """What each level must take in for a core: boxes in that level's positions.

    Args:
        network: Only its layers' margins and strides are read.
        tile: The whole tile in voxels, from 0.
        core: The voxels wanted.

    Returns:
        A box for each level of the encoder, finest first, and for each of the decoder, all but the
        deepest, clipped to the tile; of the encoder's level 0 what the first layer takes in. Times
        its stride a box of the encoder lies in the finer level's.
    """
    config, scale = network.config, (1, network.config.stem, network.config.stem)
    intervals, entered, raised = _needed(network, core), [], []
    for level in range(len(config.widths)):
        extent = Box.of(_divided(tile.shape, scale))
        into = 0 if level == 0 else -1 - level
        entered.append(_hull(axis[into] for axis in intervals).clip(extent))
        if level < len(config.strides):
            raised.append(_hull(axis[1 + level] for axis in intervals).clip(extent))
            scale = _multiplied(scale, config.strides[level])
    return entered, raised


def _needed(network: UNet, core: Box) -> list[list[tuple[int, int]]]:
    """`needed_positions` of a core of voxels along z, y and x."""
    scale = (1, network.config.stem, network.config.stem)
    return [
        needed_positions(
            network, axis, core.start[axis] // scale[axis], (core.stop[axis] - 1) // scale[axis]
        )
        for axis in range(3)
    ]


def _hull(along: Iterable[tuple[int, int]]) -> Box:
    """The box of inclusive intervals along z, y and x."""
    (z0, z1), (y0, y1), (x0, x1) = along
    return Box((z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1))


def inference_bytes(
    config: UNetConfig, tile: Triple, core: Triple, precision: Precision, device: str = "cpu"
) -> int:
    """Upper bound of the memory `TileNetwork.logits` takes for a tile, the tile itself apart.

    Args:
        config: The network.
        tile: Extent (z, y, x) of the tile in voxels.
        core: Extent of its core.
        precision: As given to `TileNetwork`.
        device: Type of its device.
    """
    width = 4 if precision == "float32" else 2
    entered, raised = _computed_positions(config, tile, core)
    joined = 0 in config.z_kernel_levels or config.strides[0][0] > 1
    finest = entered[0] * config.widths[0] * width
    slab = finest if joined else min(max(_slab_bytes(device), finest / tile[0]), finest)
    kept = core[0] * (core[1] + _AROUND) * (core[2] + _AROUND) / config.stem**2
    skip = min(kept * config.widths[0] * width, finest)
    held, largest = [0.0], 0.0
    for level, features in enumerate(config.widths[1:], 1):
        size = entered[level] * features * width
        largest = max(largest, held[-1] + size * (1 + (level in config.z_kernel_levels)))
        held.append(held[-1] + size)
    coarse = held[-1] - held[-2]
    for level in range(len(config.strides) - 1, 0, -1):
        size = raised[level] * config.widths[level] * width
        largest = max(largest, held[level] + coarse + 2 * size)
        coarse = size
    logits = core[0] * core[1] * core[2] * len(config.channels) * 4
    emulated = device == "cpu" and precision == "bfloat16" and not bfloat16_is_fast()
    copies = 14 if emulated else 6  # emulated, layers are computed in float32
    return int(copies * slab + skip + max(largest, coarse) + logits)


def core_work(config: UNetConfig, extents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiplications that the blocks' convolutions take for a core, borders of a volume apart.

    Args:
        config: The network.
        extents: (..., 3) extents (z, y, x) of cores in voxels.

    Returns:
        (...) for each of them.
    """
    lattice = total_stride(config)
    core = Box(_multiplied(lattice, (1000,) * 3), _multiplied(lattice, (1001,) * 3))
    levels = level_regions(_layers(config), Box.of(_multiplied(lattice, (2000,) * 3)), core)
    total = np.zeros(extents.shape[:-1])
    for regions in levels:
        scale = (1, config.stem, config.stem)
        for level, region in enumerate(regions):
            around = np.subtract(region.shape, _divided(lattice, scale))
            layers = 2 * 9 + 3 * (level in config.z_kernel_levels)
            total += layers * config.widths[level] ** 2 * (extents / scale + around).prod(-1)
            if level < len(config.strides):
                scale = _multiplied(scale, config.strides[level])
    return total


def _computed_positions(
    config: UNetConfig, tile: Triple, core: Triple
) -> tuple[list[int], list[int]]:
    """Upper bounds of what `level_regions` hold, for a core anywhere."""
    z, y, x = ((n - c) // 2 for n, c in zip(tile, core, strict=True))
    middle = Box((z, y, x), (z, y, x)).grow((0, 0, 0), core)
    bounds = []
    for regions in level_regions(_layers(config), Box.of(tile), middle):
        extent, positions = _divided(tile, (1, config.stem, config.stem)), []
        for region, stride in zip(regions, (*config.strides, (1, 1, 1)), strict=False):
            extents = (min(n + 2, m) for n, m in zip(region.shape, extent, strict=True))
            positions.append(math.prod(extents))
            extent = _divided(extent, stride)
        bounds.append(positions)
    return bounds[0], bounds[1]


@lru_cache(8)
def _layers(config: UNetConfig) -> UNet:
    """A network's layers without weights."""
    with torch.device("meta"):
        return UNet(config)


def _crop(features: Tensor, box: Box, part: Box) -> Tensor:
    """A view of the part of (z, c, y, x) features that lie in ``box``."""
    z, y, x = part.relative_to(box.start).slices()
    return features[z, :, y, x]


def _slab_bytes(device: str) -> int:
    return SLAB_BYTES if device == "cpu" else GPU_SLAB_BYTES


def _scaled(box: Box, factors: Triple) -> Box:
    return Box(_multiplied(box.start, factors), _multiplied(box.stop, factors))


def _extent(tensor: Tensor) -> Triple:
    z, y, x = tensor.shape
    return z, y, x


def _divided(a: Triple, b: Triple) -> Triple:
    return a[0] // b[0], a[1] // b[1], a[2] // b[2]


def _divided_up(a: Triple, b: Triple) -> Triple:
    return -(-a[0] // b[0]), -(-a[1] // b[1]), -(-a[2] // b[2])


def _multiplied(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
