"""A network of PyTorch Connectomics v1 on one window, prepared for the CPU.

::

    sections    | 0 | 1 | 2 | ...            a slab of them at a time, while it is in the cache:
    slab        [layers before][branch]      what enters the residual block is kept, and its branch
    kept        [features     ][branch]      then, when all sections' means are known,
    features  = activation(features + factors x branch), in place

Features lie channels-last in buffers that every window uses again: fresh memory costs a third of
the time. Kernels that lie in the plane run as `Conv2d` over sections, batch normalisation is folded
into the convolutions before it. Group and instance norms take statistics from all sections, so with
them a slab is the whole window. In bfloat16 and float16 the first and the last convolution stay in
float32.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cristae.grid import Box, Triple
from cristae.networks.families.pytc.network import (
    Excitation,
    PytcConfig,
    PytcNetwork,
    Residual,
    build_pytc_network,
    pytc_probabilities,
)
from cristae.networks.precision import CPU, DTYPES, Precision

SLAB_BYTES = 12 << 20
"""Of one slab's features; a section at least."""

Slabs = Callable[[slice], Tensor]
"""Makes the features (z, c, y, x), channels-last, of some sections."""


class WindowNetwork:
    """A network made ready for inference; one window at a time.

    Args:
        network: Trained network; it is copied.
        precision: Of all convolutions but the first and the last, which are float32.
        device: Where it computes.
        kept: Memory for features, shared by networks that never compute at the same time.
    """

    def __init__(
        self,
        network: PytcNetwork,
        precision: Precision,
        device: torch.device = CPU,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        self.config = network.config
        self.precision = precision
        self._device = device
        self._dtype = DTYPES[precision]
        prepared = copy.deepcopy(network).eval()
        _prepare(prepared)
        if isinstance(prepared.conv_out[0], WindowConv):
            prepared.conv_out[0] = RowsConv(prepared.conv_out[0])
        for name, part in prepared.named_children():
            if name not in ("conv_in", "conv_out"):
                part.to(self._dtype)
        self._network = prepared.to(device)
        self._kept = {} if kept is None else kept

    @torch.no_grad()
    def probabilities(self, image: NDArray[np.float32] | Tensor, core: Box) -> Tensor:
        """Outputs in [0, 1] of a part of a window.

        Args:
            image: (z, y, x) window, normalised.
            core: The part wanted, in voxels of the window.

        Returns:
            (channels, z, y, x) float32 of the core's shape.
        """
        network, config = self._network, self.config
        features, skips = torch.as_tensor(image, device=self._device)[:, None], []
        for level in range(len(config.widths)):
            features = self._encode(level, features)
            skips.append(features)
        if config.architecture == "unet_plus_3d":
            features = _planes(network.non_local(_volume(features)))
        bottleneck = features
        for level in range(len(config.widths) - 2, -1, -1):
            features = self._decode(level, features, skips[level], bottleneck)
        logits = torch.empty((1, len(config.channels), *image.shape), device=self._device)
        step = len(features) if config.is_isotropic else self._in_cache(features)
        for at in _slabs(len(features), step):
            logits[:, :, at] = network.conv_out(_volume(features[at].float()))
        part = (0, slice(None), *core.slices())
        return pytc_probabilities(config, logits)[part]

    def _encode(self, level: int, below: Tensor) -> Tensor:
        """A level's features from the finer level's; level 0's from the image (z, 1, y, x)."""
        pool, entry, block = cast("nn.Sequential", self._network.down_layers[level])

        def enter(at: slice) -> Tensor:
            features = _volume(below[at])
            if level == 0:
                features = self._network.conv_in(features).to(self._dtype)
            return _planes(entry(pool(features)))

        if not self.config.levels[level]:
            return self._residual(level, enter, len(below), self._step(below), block)
        entered = enter(slice(None))  # 3x3x3: all sections at once
        step = self._step(entered)
        return self._residual(level, lambda at: entered[at], len(entered), step, block)

    def _decode(self, level: int, coarse: Tensor, skip: Tensor, bottleneck: Tensor) -> Tensor:
        """A level's features, in the memory of its skip."""
        up, block = cast("nn.ModuleList", self._network.up_layers[level])
        aligned, size = not self.config.pooling, skip.shape[2:]
        planar = not self.config.levels[level + 1]
        raised = coarse if planar else _resize_z(_planes(up(_volume(coarse))), len(skip), aligned)
        extra = None
        if self.config.architecture == "unet_plus_3d":
            extra = _planes(self._network.feat_layers[level](_volume(bottleneck)))
            extra = _resize_z(extra, len(skip), aligned)

        def add(at: slice) -> Tensor:
            total = skip[at]
            part = _planes(up(_volume(raised[at]))) if planar else raised[at]
            for coarser in (part,) if extra is None else (part, extra[at]):
                total += functional.interpolate(
                    coarser, size=size, mode="bilinear", align_corners=aligned
                )
            return total

        return self._residual(level, add, len(skip), self._step(skip), block)

    def _residual(
        self, level: int, make: Slabs, sections: int, step: int, block: nn.Module
    ) -> Tensor:
        """A level's residual block, on features that are made a slab at a time."""
        block = cast("SplitResidual", block)
        features = branches = torch.empty(0, device=self._device)
        sums = torch.zeros(self.config.widths[level], device=self._device)
        for at in _slabs(sections, step):
            part = make(at)
            branch = _planes(block.layers(_volume(part)))
            if at.start == 0:
                shape = (sections, *part.shape[1:])
                features, branches = (
                    self._keep(f"level {level}", shape),
                    self._keep("branch", shape),
                )
            if features[at].data_ptr() != part.data_ptr():
                features[at] = part
            branches[at] = branch
            sums += branch.sum((0, 2, 3), dtype=torch.float32)
        factors = block.factors(sums / (features.numel() / len(sums)))
        for at in _slabs(sections, step):
            part = torch.addcmul(features[at], branches[at], factors, out=features[at])
            acted = _planes(block.act(_volume(part)))
            if acted.data_ptr() != part.data_ptr():
                features[at] = acted
        return features

    def _step(self, like: Tensor) -> int:
        """Sections of a slab, from features of about its size."""
        return len(like) if self.config.norm in ("in", "gn") else self._in_cache(like)

    def _in_cache(self, like: Tensor) -> int:
        if self._device.type != "cpu":
            return len(like)
        width = max(like.shape[1], self.config.widths[0])
        section = width * like.shape[2] * like.shape[3] * self._dtype.itemsize
        return max(1, SLAB_BYTES // section)

    def _keep(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Memory for features (z, c, y, x), channels-last; the same at every window."""
        z, c, y, x = shape
        size = math.prod(shape)
        if name not in self._kept or self._kept[name].numel() < size:
            self._kept[name] = torch.empty(size, dtype=self._dtype, device=self._device)
        return self._kept[name][:size].view(z, y, x, c).permute(0, 3, 1, 2)


class WindowConv(nn.Module):
    """A convolution in the plane: `Conv2d` over all sections of one window.

    Args:
        conv: A convolution whose kernel, stride and padding are 1, 1 and 0 along z.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.stride = (conv.stride[1], conv.stride[2])
        self.pad = (int(conv.padding[1]), int(conv.padding[2]))
        self.mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        self.weight = nn.Parameter(_channels_last(conv.weight[:, :, 0]))
        self.bias = conv.bias

    def padded(self, features: Tensor) -> Tensor:
        """Features (1, c, z, y, x) as sections, with what lies beyond their edges."""
        (y, x), planes = self.pad, _planes(features)
        return functional.pad(planes, (x, x, y, y), mode=self.mode) if y or x else planes

    def forward(self, features: Tensor) -> Tensor:
        """Features (1, c, z, y, x) to (1, c', z, y', x')."""
        planes = self.padded(features)
        return _volume(functional.conv2d(planes, self.weight, self.bias, self.stride))


class RowsConv(nn.Module):
    """A convolution in the plane with few outputs: each row of its kernel makes outputs of its own.

    A kernel of 1 x 5 with five times the outputs, whose sums are taken afterwards, is three times
    as fast as one of 5 x 5 with two.

    Args:
        conv: A convolution of stride 1.
    """

    def __init__(self, conv: WindowConv) -> None:
        super().__init__()
        outputs, inputs, self._rows, length = conv.weight.shape
        rows = conv.weight.detach().transpose(1, 2).reshape(outputs * self._rows, inputs, 1, length)
        self.weight = nn.Parameter(_channels_last(rows))
        self.bias = conv.bias
        self._padded = conv.padded

    def forward(self, features: Tensor) -> Tensor:
        """Features (1, c, z, y, x) to (1, c', z, y, x)."""
        parts = functional.conv2d(self._padded(features), self.weight)
        parts = parts.view(len(parts), -1, self._rows, *parts.shape[2:])  # (z, c', rows, y, x)
        height = parts.shape[3] - self._rows + 1
        total = parts[:, :, 0, :height].contiguous()
        for row in range(1, self._rows):
            total += parts[:, :, row, row : row + height]
        if self.bias is not None:
            total += self.bias[:, None, None]
        return _volume(total)


class SplitResidual(nn.Module):
    """A residual block in two parts: its branch, and what it is multiplied with before the sum.

    Args:
        block: The block, prepared.
    """

    def __init__(self, block: Residual) -> None:
        super().__init__()
        layers = block.conv
        excited = isinstance(layers, nn.Sequential) and isinstance(layers[1], Excitation)
        self.layers = layers[0] if excited else layers
        self.fc = cast("nn.Sequential", layers[1].fc) if excited else None
        self.act = block.act

    def factors(self, means: Tensor) -> Tensor:
        """What each channel of the branch is multiplied with: (c, 1, 1), from its mean (c)."""
        dtype = next(self.parameters()).dtype
        factors = torch.ones_like(means) if self.fc is None else self.fc(means[None].to(dtype))[0]
        return factors.to(dtype)[:, None, None]


def window_bytes(
    config: PytcConfig, window: Triple, precision: Precision, device: str = "cpu"
) -> int:
    """Upper bound of the memory `WindowNetwork.probabilities` takes, the window itself apart."""
    width = 4 if precision == "float32" else 2
    whole = config.norm in ("in", "gn") or device != "cpu"
    finest = math.prod(window) * config.widths[0] * width
    slab = finest if whole else max(SLAB_BYTES, finest / window[0])
    kept, share = 2.0 * finest, 1.0
    for features, isotropic in zip(config.widths[1:], config.levels[1:], strict=True):
        share /= 8 if isotropic else 4
        kept += 1.2 * share * math.prod(window) * features * width
    coarse = 0.5 * finest if config.levels[1] else 0.0
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in build_pytc_network(config).parameters())
    ends = math.prod(window) * (1 + len(config.channels))
    # weights: the network's, the prepared ones, and those as the library lays them out
    slabs = (6.5 if whole else 3.5) * slab
    return int(kept + slabs + coarse + 4 * ends + 12 * weights)


def _prepare(network: nn.Module) -> None:
    """Replace layers by faster ones of the same answer, from the outside in."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Sequential) and _folds(child):
            conv, norm = cast("nn.Conv3d", child[0]), cast("nn.BatchNorm3d", child[1])
            child[0] = _folded(conv, norm)
            child[1] = nn.Identity()
        if isinstance(child, nn.Conv3d):
            network._modules[name] = _laid_out(child)
        else:
            _prepare(child)
        if isinstance(child, Residual):
            network._modules[name] = SplitResidual(child)


def _folds(layers: nn.Sequential) -> bool:
    return (
        len(layers) > 1
        and isinstance(layers[0], nn.Conv3d)
        and isinstance(layers[1], nn.BatchNorm3d)
    )


def _folded(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> nn.Conv3d:
    """A convolution that does what follows it as well, folded in float64."""
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    before = 0.0 if conv.bias is None else conv.bias.double()
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None, None]).float())
    folded.bias = nn.Parameter((norm.bias.double() + (before - mean.double()) * scale).float())
    return folded


def _laid_out(conv: nn.Conv3d) -> nn.Module:
    if (conv.kernel_size[0], conv.stride[0], conv.padding[0]) == (1, 1, 0):
        return WindowConv(conv)
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last_3d)
    conv.weight = nn.Parameter(weight)
    return conv


def _channels_last(weight: Tensor) -> Tensor:
    """A kernel in an order that makes outputs channels-last, for a single input channel, too."""
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    if weight.shape[1] == 1:  # both orders at once: torch would take the other one
        _, _, height, length = weight.shape
        return weight.as_strided(weight.shape, (height * length, 1, length, 1))
    return weight


def _slabs(sections: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, sections)) for first in range(0, sections, step))


def _resize_z(features: Tensor, sections: int, aligned: bool) -> Tensor:
    """Features (z, c, y, x) with as many sections as asked for."""
    if len(features) == sections:
        return features
    size = (sections, *features.shape[2:])
    volume = _volume(features)
    resized = functional.interpolate(volume, size=size, mode="trilinear", align_corners=aligned)
    return _planes(resized)


def _planes(features: Tensor) -> Tensor:
    """One window's features (1, c, z, y, x) as sections (z, c, y, x), channels-last."""
    return features[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _volume(planes: Tensor) -> Tensor:
    """Sections (z, c, y, x) as one window's features (1, c, z, y, x), the same memory."""
    return planes.transpose(0, 1)[None]
