"""The anisotropy-aware residual U-Net: sections are seen in their plane, deeper levels join them.

::

    image (n, 1, z, y, x)                        logits (n, channels, z, y, x)
      | pixels become channels (stem)              ^ 1x1 convolution, channels become pixels
    level 0 ---------------------------- + --- level 0    3x3 in the plane only
      | stride (1, 2, 2)                 ^ nearest, fixed factor
    level 1 -------------- + ----------- level 1          3x3 in the plane, 3 along z
      | ...                ^ ...
    deepest level ---------+

Inside, a tensor is ``(n * z, channels, y, x)`` in channels-last memory: in-plane convolutions run
as `Conv2d` over all sections, and the ones along z as a `Conv2d` with a ``(3, 1)`` kernel over the
same memory seen as ``(n, channels, z, y * x)``. So no Conv3d is needed: a full 3x3x3 kernel costs
2.25 times the pair of them, and some Conv3d shapes are unsafe to train in bfloat16 on a CPU.

The network is *tile-invariant*: no layer takes statistics from its input at inference (batch
normalisation only), downsampling is by kernels as large as their stride, upsampling is by a fixed
factor. A logit depends on the voxels within `Context.halo_vx` alone, provided that the input starts
on a global multiple of `Context.lattice`; `network_context` computes both from the layers. Whoever
adds a layer gives it a `margin` or a `stride`, nothing else has to be told.
"""

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.errors import raise_faults
from cristae.grid import Triple

NO_MARGIN: Triple = (0, 0, 0)


@config_dataclass
class UNetConfig:
    """What a network is built from; a model file carries it.

    Attributes:
        in_channels: Channels of the image.
        channels: Names of the logits, in order.
        stem: Factor by which pixels in y and x become channels before the first level (1 = none).
        widths: Feature channels of each level, finest first.
        strides: Stride (z, y, x) from each level to the next; one fewer than ``widths``.
        z_kernel_levels: Levels (0 = finest) whose blocks also join three sections along z.
    """

    in_channels: int = 1
    channels: tuple[str, ...] = ("mask", "contour")
    stem: int = 2
    widths: tuple[int, ...] = (32, 64, 96, 128)
    strides: tuple[Triple, ...] = ((1, 2, 2), (1, 2, 2), (1, 2, 2))
    z_kernel_levels: tuple[int, ...] = (1, 2, 3)


def build_network(config: UNetConfig) -> "UNet":
    """A network with fresh weights, in float32 and channels-last memory.

    Raises:
        InputError: Faults of the configuration, all at once.
    """
    check_unet_config(config)
    return UNet(config)


def check_unet_config(config: UNetConfig) -> None:
    """Raise one InputError that lists every fault of a network configuration."""
    faults = []
    deepest = len(config.widths) - 1
    if config.in_channels < 1:
        faults.append(f"in_channels {config.in_channels}: expected at least 1")
    if not config.channels or len(set(config.channels)) != len(config.channels):
        faults.append(f"channels {config.channels}: expected one or more different names")
    if config.stem < 1:
        faults.append(f"stem {config.stem}: expected at least 1")
    if len(config.widths) < 2 or min(config.widths) < 1:
        faults.append(f"widths {config.widths}: expected two or more positive numbers")
    if len(config.strides) != deepest:
        faults.append(f"{len(config.strides)} strides: expected {deepest}, one fewer than widths")
    if any(min(stride) < 1 for stride in config.strides):
        faults.append(f"strides {config.strides}: expected numbers of at least 1")
    if any(not 0 <= level <= deepest for level in config.z_kernel_levels):
        faults.append(f"z_kernel_levels {config.z_kernel_levels}: expected levels 0 to {deepest}")
    raise_faults("network configuration", faults)


class PlaneConv(nn.Module):
    """3x3 convolution in the plane, then batch normalisation; extent unchanged."""

    margin: Triple = (0, 1, 1)

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_width)

    def forward(self, features: Tensor, sections: int) -> Tensor:
        """Features (n * z, c, y, x) of ``sections`` = z sections each, not yet rectified."""
        return cast("Tensor", self.norm(self.conv(features)))


class SectionConv(nn.Module):
    """Convolution over three sections along z, then batch normalisation; extent unchanged."""

    margin: Triple = (1, 0, 0)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, (3, 1), padding=(1, 0), bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width)

    def forward(self, features: Tensor, sections: int) -> Tensor:
        """Features (n * z, c, y, x) of ``sections`` = z sections each, not yet rectified."""
        columns = cast("Tensor", self.norm(self.conv(self._columns(features, sections))))
        return self._planes(columns, features)

    def inside(self, features: Tensor) -> Tensor:
        """Features (z + 2, c, y, x) to (z, c, y, x), from those on both sides of each section."""
        columns = self._columns(features, len(features))
        return self._planes(functional.conv2d(columns, self.conv.weight, self.conv.bias), features)

    @staticmethod
    def _columns(features: Tensor, sections: int) -> Tensor:
        """The same memory as (n, c, z, y * x), channels-last."""
        _, width, height, length = features.shape
        return features.reshape(-1, sections, width, height, length).transpose(1, 2).flatten(3)

    @staticmethod
    def _planes(columns: Tensor, like: Tensor) -> Tensor:
        """Columns as (n * z, c, y, x) again."""
        _, width, height, length = like.shape
        planes = columns.reshape(*columns.shape[:3], height, length).transpose(1, 2)
        return planes.reshape(-1, width, height, length)


class Block(nn.Module):
    """Residual block: in plane, along z where asked, in plane; added to its input and rectified."""

    def __init__(self, width: int, along_z: bool) -> None:
        super().__init__()
        self.first = PlaneConv(width, width)
        self.middle = SectionConv(width) if along_z else None
        self.last = PlaneConv(width, width)

    @property
    def margin(self) -> Triple:
        """Positions (z, y, x) on each side of an output position that the block reads."""
        along_z = self.middle.margin if self.middle is not None else NO_MARGIN
        return _sum(self.first.margin, along_z, self.last.margin)

    def forward(self, features: Tensor, sections: int) -> Tensor:
        """Features (n * z, width, y, x) to the same shape, none negative."""
        inner = functional.relu_(self.first(features, sections))
        if self.middle is not None:
            inner = functional.relu_(self.middle(inner, sections))
        return functional.relu_(self.last(inner, sections).add_(features))


class Down(nn.Module):
    """From a level to the next coarser one: a kernel as large as its stride, then normalisation."""

    def __init__(self, in_width: int, out_width: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(in_width * stride[0], out_width, stride[1:], stride[1:], bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_width)

    def forward(self, features: Tensor, sections: int) -> Tensor:
        """Features (n * z, c, y, x) to (n * z / sz, c', y / sy, x / sx)."""
        if self.stride[0] > 1:  # sections that merge become channels: (n * z / sz, sz * c, y, x)
            _, width, height, length = features.shape
            features = features.reshape(-1, self.stride[0] * width, height, length)
            features = features.contiguous(memory_format=torch.channels_last)
        return cast("Tensor", self.norm(self.conv(features)))


class Up(nn.Module):
    """From a level to the next finer one: a 1x1 convolution, then each position repeated."""

    def __init__(self, in_width: int, out_width: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(in_width, out_width, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Features (n * z, c, y, x) to (n * z * sz, c', y * sy, x * sx)."""
        mixed = self.norm(self.conv(features))
        if self.stride[1:] != (1, 1):
            height, length = features.shape[2] * self.stride[1], features.shape[3] * self.stride[2]
            mixed = functional.interpolate(mixed, size=(height, length), mode="nearest")
        if self.stride[0] > 1:
            mixed = mixed.repeat_interleave(self.stride[0], dim=0)
        return cast("Tensor", mixed)


class UNet(nn.Module):
    """The network of a `UNetConfig`; see the drawing on top of this module.

    Args:
        config: A configuration that `check_unet_config` lets pass.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, levels = config.widths, range(len(config.widths))
        blocks = [Block(widths[level], level in config.z_kernel_levels) for level in levels]
        mirror = [Block(widths[level], level in config.z_kernel_levels) for level in levels[:-1]]
        pairs = list(zip(widths[:-1], widths[1:], config.strides, strict=True))
        self.first = PlaneConv(config.in_channels * config.stem**2, widths[0])
        self.encoder = nn.ModuleList(blocks)
        self.downs = nn.ModuleList([Down(fine, coarse, stride) for fine, coarse, stride in pairs])
        self.ups = nn.ModuleList([Up(coarse, fine, stride) for fine, coarse, stride in pairs])
        self.decoder = nn.ModuleList(mirror)
        self.head = nn.Conv2d(widths[0], len(config.channels) * config.stem**2, 1)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        Args:
            image: (n, in_channels, z, y, x) float32, normalised, every extent a multiple of the
                network's lattice.

        Returns:
            (n, channels, z, y, x) float32 logits (a sigmoid makes them probabilities).

        Raises:
            InputError: Another number of dimensions, of channels, or an extent off the lattice.
        """
        self.check_input(image)
        sections = image.shape[2]
        features = self.enter(image)
        skips = []
        for level, block in enumerate(self.encoder):
            if level:
                features = self.downs[level - 1](features, sections)
                sections //= self.config.strides[level - 1][0]
            features = block(features, sections)
            skips.append(features)
        for level in range(len(self.decoder) - 1, -1, -1):
            sections *= self.config.strides[level][0]
            features = self.ups[level](features).add_(skips[level])
            features = self.decoder[level](features, sections)
        return self.leave(features, sections)

    def enter(self, image: Tensor) -> Tensor:
        """Input of level 0's block: (n, c, z, y, x) to (n * z, width, y / stem, x / stem)."""
        planes = image.transpose(1, 2).flatten(0, 1)  # (n * z, c, y, x)
        planes = functional.pixel_unshuffle(planes, self.config.stem)
        planes = planes.contiguous(memory_format=torch.channels_last)
        return functional.relu_(self.first(planes, image.shape[2]))

    def leave(self, features: Tensor, sections: int) -> Tensor:
        """Logits in float32: (n * z, width, y / stem, x / stem) to (n, channels, z, y, x)."""
        logits = functional.pixel_shuffle(self.head(features.float()), self.config.stem)
        planes = logits.reshape(-1, sections, *logits.shape[1:])  # (n, z, channels, y, x)
        return planes.transpose(1, 2)

    def check_input(self, image: Tensor) -> None:
        """Raise an InputError unless `forward` can take an image of this shape."""
        lattice = total_stride(self.config)
        faults = []
        if image.dim() != 5 or image.shape[1] != self.config.in_channels:
            faults.append(
                f"shape {tuple(image.shape)}: expected (n, {self.config.in_channels}, z, y, x)"
            )
        elif any(extent % step for extent, step in zip(image.shape[2:], lattice, strict=True)):
            faults.append(f"extent {tuple(image.shape[2:])}: expected multiples of {lattice}")
        raise_faults("image", faults)

    def _initialise(self) -> None:
        """He's initialisation; residual branches start at zero, logits near it."""
        if self.head.weight.is_meta:
            return  # no weights; to draw them, torch would load its compiler, which takes seconds
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(cast("nn.BatchNorm2d", module.last.norm).weight)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(cast("Tensor", self.head.bias))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _channels_last(module)


def total_stride(config: UNetConfig) -> Triple:
    """The factor (z, y, x) between the input's voxels and the deepest level's positions."""
    z, y, x = 1, config.stem, config.stem
    for stride in config.strides:
        z, y, x = z * stride[0], y * stride[1], x * stride[2]
    return z, y, x


def fold_batch_norm(network: UNet) -> UNet:
    """A copy for inference whose batch normalisations are folded into their convolutions.

    The folding is computed in float64, so logits equal the original's in evaluation mode but for
    float32 rounding.
    """
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        norm = getattr(module, "norm", None)
        if isinstance(norm, nn.BatchNorm2d):
            layer = cast("PlaneConv | SectionConv | Down | Up", module)
            layer.conv = _fold(layer.conv, norm)
            layer.norm = nn.Identity()
    return folded


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).float())
    folded.bias = nn.Parameter((norm.bias.double() - mean.double() * scale).float())
    return _channels_last(folded)


def _channels_last(conv: nn.Conv2d) -> nn.Conv2d:
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(weight)
    return conv


def _sum(*margins: Triple) -> Triple:
    z, y, x = (sum(along) for along in zip(*margins, strict=True))
    return z, y, x


def blocks(modules: nn.ModuleList) -> Iterator[Block]:
    """Modules known to be blocks."""
    return (cast("Block", module) for module in modules)


def ups(modules: nn.ModuleList) -> Iterator[Up]:
    """Modules known to raise features to a finer level."""
    return (cast("Up", module) for module in modules)
