"""A network on one tile: the core's logits, computed no farther than the core needs.

::

    tile     |..halo..|=====core=====|..halo..|
    encoder  |--------------------------------|     the whole tile, at every level
    decoder        |--|=====core=====|--|           what reaches the core, less at finer levels

Level 0, whose tensors are the largest, runs a few sections at a time, so that they stay small;
deeper levels run whole, as their blocks join sections. Neither changes what the core is.

Batch normalisation is folded and memory is channels-last. In bfloat16 and float16 the first and the
last convolution stay in float32.
"""

from collections.abc import Iterator
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cristae.grid import Box, Triple
from cristae.networks.unet import UNet, UNetConfig, fold_batch_norm, needed_positions

Precision = Literal["float32", "bfloat16", "float16"]

SLAB_POSITIONS = 1 << 18
GPU_SLAB_POSITIONS = 1 << 22
"""Positions of level 0 computed at a time, on the processor and elsewhere; one section at least."""

_AROUND = 32
"""Voxels more than the core's that level 0 keeps of its features, both sides together."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


CPU = torch.device("cpu")


class TileNetwork:
    """A network made ready for inference.

    Args:
        network: Trained network; it is copied.
        precision: Of all convolutions but the first and the last, which are float32.
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
        regions = decoder_regions(self._network, Box.of(_extent(tile[0, 0])), core)
        skip, features = self._encode_finest(tile, regions[0])
        skips = [skip]
        box = Box.of((0, 0, 0))
        for level in range(1, len(self.config.widths)):
            if level > 1:
                features = self._network.downs[level - 1](features, features.shape[0])
            features = self._network.encoder[level](features, features.shape[0])
            box = Box.of(_extent(features[:, 0]))
            if level < len(regions):
                skips.append(_crop(features, box, regions[level]))
        for level in range(len(regions) - 1, 0, -1):
            features = self._decode(features, box, skips.pop(), level, regions[level])
            box = regions[level]
        return self._decode_finest(features, box, skip, regions[0], core)

    def _encode_finest(self, tile: Tensor, region: Box) -> tuple[Tensor, Tensor]:
        """Level 0: its output in a region, and level 1's input."""
        config, network = self.config, self._network
        stride = config.strides[0]
        whole = Box.of(_divided(_extent(tile[0, 0]), (1, config.stem, config.stem)))
        skip = self._empty(region.shape, config.widths[0])
        coarse = self._empty(_divided(whole.shape, stride), config.widths[1])
        for slab in self._slabs(whole):
            first, last = slab.start[0], slab.stop[0]
            features = network.enter(tile[:, :, first:last]).to(self._dtype)
            features = network.encoder[0](features, last - first)
            down = network.downs[0](features, last - first)
            coarse[first // stride[0] : last // stride[0]] = down
            part = region.clip(slab)
            if not part.empty:
                _crop(skip, region, part).copy_(_crop(features, slab, part))
        return skip, coarse

    def _decode(self, features: Tensor, box: Box, skip: Tensor, level: int, region: Box) -> Tensor:
        """A decoder level's output in a region, from the coarser level's output in ``box``."""
        stride = self.config.strides[level]
        needed = Box(_divided(region.start, stride), _divided_up(region.stop, stride))
        raised = Box(_multiplied(needed.start, stride), _multiplied(needed.stop, stride))
        features = self._network.ups[level](_crop(features, box, needed))
        features = _crop(features, raised, region) + skip
        features = features.contiguous(memory_format=torch.channels_last)
        return cast("Tensor", self._network.decoder[level](features, features.shape[0]))

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
        step = z if joined else max(1, _slab_positions(self._device.type) // (y * x))
        for first in range(start, stop, step):
            yield Box((first, low[0], low[1]), (min(first + step, stop), high[0], high[1]))

    def _empty(self, extent: Triple, width: int) -> Tensor:
        (z, y, x), memory = extent, torch.channels_last
        return torch.empty(
            (z, width, y, x), dtype=self._dtype, device=self._device, memory_format=memory
        )


def decoder_regions(network: UNet, tile: Box, core: Box) -> list[Box]:
    """What each decoder level must compute for a core: boxes in that level's positions.

    Args:
        network: Only its layers' margins and strides are read.
        tile: The whole tile in voxels, from 0.
        core: The voxels wanted.

    Returns:
        A box for each level from 0 to the deepest but one, clipped to the tile.
    """
    config = network.config
    finest = len(config.strides)
    scale: Triple = (1, config.stem, config.stem)
    first, last = core.start, (core.stop[0] - 1, core.stop[1] - 1, core.stop[2] - 1)
    intervals = [
        needed_positions(network, axis, first[axis] // scale[axis], last[axis] // scale[axis])
        for axis in range(3)
    ]
    regions = []
    for level in range(finest):
        (z0, z1), (y0, y1), (x0, x1) = (along[1 + level] for along in intervals)
        extent = Box.of(_divided(tile.shape, scale))
        regions.append(Box((z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1)).clip(extent))
        scale = _multiplied(scale, config.strides[level])
    return regions


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
    positions = tile[0] * tile[1] * tile[2] / config.stem**2
    joined = 0 in config.z_kernel_levels or config.strides[0][0] > 1
    slab = positions if joined else max(_slab_positions(device), positions / tile[0])
    kept = core[0] * (core[1] + _AROUND) * (core[2] + _AROUND) / config.stem**2
    finest = config.widths[0] * (slab * (4 + 4 * width) + min(kept, positions) * width)
    held, largest = 0.0, 0.0
    for features, stride in zip(config.widths[1:], config.strides, strict=True):
        positions /= stride[0] * stride[1] * stride[2]
        largest = max(largest, held + 3 * positions * features * width)
        held += positions * features * width
    logits = core[0] * core[1] * core[2] * len(config.channels) * 4
    return int(finest + largest + logits)


def _crop(features: Tensor, box: Box, part: Box) -> Tensor:
    """A view of the part of (z, c, y, x) features that lie in ``box``."""
    z, y, x = part.relative_to(box.start).slices()
    return features[z, :, y, x]


def _slab_positions(device: str) -> int:
    return SLAB_POSITIONS if device == "cpu" else GPU_SLAB_POSITIONS


def _extent(tensor: Tensor) -> Triple:
    z, y, x = tensor.shape
    return z, y, x


def _divided(a: Triple, b: Triple) -> Triple:
    return a[0] // b[0], a[1] // b[1], a[2] // b[2]


def _divided_up(a: Triple, b: Triple) -> Triple:
    return -(-a[0] // b[0]), -(-a[1] // b[1]), -(-a[2] // b[2])


def _multiplied(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
