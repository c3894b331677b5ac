"""The 3D U-Nets of PyTorch Connectomics v1, with its names for every tensor.

::

    image                                                     logits
      | 5x5 in the plane                                        ^ 5x5 in the plane
    level 0: 3x3, residual block ------------------- + --- residual block
      | stride or pooling                            ^ trilinear, corners aligned
    level 1: ... ----------------------------------- + ---     (levels of `isotropy`: 3x3x3)
      |                                              ^
    deepest level --- non-local block ---------------+ --- also to every level (unet_plus_3d)

Quirks that published weights were trained with and that are kept: residual blocks look at their
own section only, even where a level is isotropic, and the 1x1x1 layers of `unet_plus_3d` pad their
input by a voxel on every side, which shifts their maps a little when they are resized.

These networks are not tile-invariant: squeeze-and-excitation, group and instance norm, the
non-local block and the resizing to a skip's size all depend on the whole input. So they run on the
windows they were made for (`cristae.networks.windows`).

J. Lin et al., PyTorch Connectomics, https://arxiv.org/abs/2112.05754.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.errors import raise_faults
from cristae.grid import Triple

GROUPS = 8
"""Groups of a group norm; widths are multiples of it."""

REDUCTION = 4
"""Squeeze-and-excitation squeezes channels by this factor."""

OutputActivation = Literal["sigmoid", "tanh"]


@config_dataclass
class PytcConfig:
    """What a network of PyTorch Connectomics v1 is built from.

    Attributes:
        architecture: ``unet_plus_3d`` adds the non-local block and the path from the bottleneck.
        block: Residual block; ``_se`` with squeeze-and-excitation, ``_pa`` with norm and
            activation before the convolution.
        in_channels: Channels of the image.
        channels: Names of the logits, in order.
        outputs: What makes each channel a value in [0, 1]: the sigmoid, or (1 + tanh) / 2.
        widths: Feature channels of each level, finest first.
        is_isotropic: Makes every level isotropic, and the first and last kernel 5x5x5.
        isotropy: Which levels are entered with 3x3x3 kernels and stride (or pooling) 2 along z.
        padding: What lies beyond the input's faces.
        activation: Of all layers but the last.
        norm: ``bn``, ``sync_bn`` (the same at inference), ``in``, ``gn`` of 8 groups, or ``none``.
        pooling: Coarser levels by max-pooling rather than by stride.
    """

    architecture: Literal["unet_3d", "unet_plus_3d"] = "unet_3d"
    block: Literal["residual", "residual_se", "residual_pa", "residual_se_pa"] = "residual"
    in_channels: int = 1
    channels: tuple[str, ...] = ("mask",)
    outputs: tuple[OutputActivation, ...] = ("sigmoid",)
    widths: tuple[int, ...] = (28, 36, 48, 64, 80)
    is_isotropic: bool = False
    isotropy: tuple[bool, ...] = (False, False, False, True, True)
    padding: Literal["zeros", "reflect", "replicate", "circular"] = "replicate"
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "swish", "efficient_swish", "none"] = (
        "elu"
    )
    norm: Literal["bn", "sync_bn", "in", "gn", "none"] = "bn"
    pooling: bool = False

    @property
    def levels(self) -> tuple[bool, ...]:
        """Whether each level is isotropic."""
        return (True,) * len(self.widths) if self.is_isotropic else self.isotropy


def build_pytc_network(config: PytcConfig) -> "PytcNetwork":
    """A network with fresh weights.

    Raises:
        InputError: Faults of the configuration, all at once.
    """
    check_pytc_config(config)
    return PytcNetwork(config)


def check_pytc_config(config: PytcConfig) -> None:
    """Raise one InputError that lists every fault of a network configuration."""
    faults = []
    if config.in_channels < 1:
        faults.append(f"in_channels {config.in_channels}: expected at least 1")
    if not config.channels or len(set(config.channels)) != len(config.channels):
        faults.append(f"channels {config.channels}: expected one or more different names")
    if len(config.outputs) != len(config.channels):
        faults.append(f"{len(config.outputs)} outputs: expected one a channel")
    if len(config.widths) < 2 or min(config.widths) < 1:
        faults.append(f"widths {config.widths}: expected two or more positive numbers")
    if not config.is_isotropic and len(config.isotropy) != len(config.widths):
        faults.append(f"{len(config.isotropy)} levels of isotropy: expected {len(config.widths)}")
    if config.norm == "gn" and any(width % GROUPS for width in config.widths):
        faults.append(f"widths {config.widths}: expected multiples of {GROUPS} for norm 'gn'")
    if config.architecture == "unet_plus_3d" and config.norm in ("in", "none"):
        faults.append(f"norm {config.norm!r}: unet_plus_3d has weights in its norms; expected bn")
    if "_se" in config.block and min(config.widths) < REDUCTION:
        faults.append(f"widths {config.widths}: block {config.block} takes at least {REDUCTION}")
    raise_faults("network configuration", faults)


class PytcNetwork(nn.Module):
    """The network of a `PytcConfig`; see the drawing on top of this module."""

    def __init__(self, config: PytcConfig) -> None:
        super().__init__()
        self.config = config
        widths, levels = config.widths, config.levels
        ends: Triple = (5, 5, 5) if config.is_isotropic else (1, 5, 5)
        self.conv_in = _conv_norm(config, config.in_channels, widths[0], ends)
        self.conv_out = nn.Sequential(_conv(config, widths[0], len(config.channels), ends, True))
        self.down_layers = nn.ModuleList()
        for level, isotropic in enumerate(levels):
            entered = widths[max(0, level - 1)]
            stride: Triple = (2, 2, 2) if isotropic else (1, 2, 2)
            pool = nn.MaxPool3d(stride) if config.pooling and level else nn.Identity()
            step: Triple = (1, 1, 1) if config.pooling or not level else stride
            entry = _conv_norm(config, entered, widths[level], _kernel(isotropic), step)
            self.down_layers.append(nn.Sequential(pool, entry, _block(config, widths[level])))
        self.up_layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _conv_norm(config, coarse, fine, _kernel(isotropic)),
                    _block(config, fine),
                ]
            )
            for fine, coarse, isotropic in zip(widths[:-1], widths[1:], levels[1:], strict=True)
        )
        if config.architecture == "unet_plus_3d":
            self.feat_layers = nn.ModuleList(
                _conv_norm(config, widths[-1], width, (1, 1, 1), pad=(1, 1, 1))
                for width in widths[:-1]
            )
            self.non_local = NonLocal(config, widths[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        Args:
            image: (n, in_channels, z, y, x) float32, normalised. Extents of a power of two and one
                more are what the strides are made for; others work.

        Returns:
            (n, channels, z, y, x) float32 logits.

        Raises:
            InputError: Another number of dimensions or channels.
        """
        if image.dim() != 5 or image.shape[1] != self.config.in_channels:
            expected = f"expected (n, {self.config.in_channels}, z, y, x)"
            raise_faults("image", [f"shape {tuple(image.shape)}: {expected}"])
        features = self.conv_in(image)
        skips = []
        for layer in self.down_layers:
            features = layer(features)
            skips.append(features)
        plus = self.config.architecture == "unet_plus_3d"
        bottleneck = features = self.non_local(features) if plus else features
        for level in range(len(self.up_layers) - 1, -1, -1):
            up, block = cast("nn.ModuleList", self.up_layers[level])
            features = self._resize(up(features), skips[level]) + skips[level]
            if plus:
                features = features + self._resize(self.feat_layers[level](bottleneck), features)
            features = block(features)
        return cast("Tensor", self.conv_out(features))

    def _resize(self, features: Tensor, like: Tensor) -> Tensor:
        return functional.interpolate(
            features, size=like.shape[2:], mode="trilinear", align_corners=not self.config.pooling
        )


class Residual(nn.Module):
    """Two in-plane convolutions, with squeeze-and-excitation where asked, added to the input."""

    def __init__(self, config: PytcConfig, width: int) -> None:
        super().__init__()
        kernel = _kernel(isotropic=False)
        layers: nn.Module
        if config.block.endswith("_pa"):
            layers = nn.Sequential(*(_norm_conv(config, width, kernel) for _ in range(2)))
            self.act: nn.Module = nn.Identity()
        else:
            last = _conv_norm(config, width, width, kernel)
            last[2] = nn.Identity()
            layers = nn.Sequential(_conv_norm(config, width, width, kernel), last)
            self.act = _activation(config.activation)
        excited = config.block in ("residual_se", "residual_se_pa")
        self.conv = nn.Sequential(layers, Excitation(config, width)) if excited else layers

    def forward(self, features: Tensor) -> Tensor:
        """Features to the same shape."""
        return cast("Tensor", self.act(self.conv(features) + features))


class Excitation(nn.Module):
    """Squeeze-and-excitation: each channel times a factor drawn from all channels' means."""

    def __init__(self, config: PytcConfig, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // REDUCTION, bias=False),
            _activation(config.activation),
            nn.Linear(width // REDUCTION, width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features to the same shape."""
        factors = cast("Tensor", self.fc(features.mean((2, 3, 4))))
        return features * factors[:, :, None, None, None]


class NonLocal(nn.Module):
    """Every position takes up a mean of all others, weighted by likeness (softmax attention)."""

    def __init__(self, config: PytcConfig, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.g = nn.Conv3d(width, inner, 1)
        self.W = nn.Sequential(nn.Conv3d(inner, width, 1), _norm(config.norm, width))
        self.theta = nn.Conv3d(width, inner, 1)
        self.phi = nn.Conv3d(width, inner, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features to the same shape."""
        query, key, value = (
            layer(features).flatten(2).transpose(1, 2) for layer in (self.theta, self.phi, self.g)
        )
        mixed = torch.matmul(torch.softmax(query @ key.transpose(1, 2), dim=-1), value)
        mixed = mixed.transpose(1, 2).reshape(features.shape[0], -1, *features.shape[2:])
        return cast("Tensor", self.W(mixed) + features)


def pytc_probabilities(config: PytcConfig, logits: Tensor) -> Tensor:
    """What the network's logits (n, channels, ...) mean, in [0, 1]; computed in place."""
    for channel, output in enumerate(config.outputs):
        plane = logits[:, channel]
        if output == "sigmoid":
            plane.sigmoid_()
        else:
            plane.tanh_().add_(1).div_(2)
    return logits


def _kernel(isotropic: bool) -> Triple:
    return (3, 3, 3) if isotropic else (1, 3, 3)


def _conv(
    config: PytcConfig,
    in_width: int,
    out_width: int,
    kernel: Triple,
    bias: bool = False,
    stride: Triple = (1, 1, 1),
    pad: Triple | None = None,
) -> nn.Conv3d:
    z, y, x = kernel
    pad = (z // 2, y // 2, x // 2) if pad is None else pad
    mode = config.padding
    return nn.Conv3d(in_width, out_width, kernel, stride, pad, bias=bias, padding_mode=mode)


def _conv_norm(
    config: PytcConfig,
    in_width: int,
    out_width: int,
    kernel: Triple,
    stride: Triple = (1, 1, 1),
    pad: Triple | None = None,
) -> nn.Sequential:
    """Convolution, norm, activation."""
    conv = _conv(config, in_width, out_width, kernel, False, stride, pad)
    return nn.Sequential(conv, _norm(config.norm, out_width), _activation(config.activation))


def _norm_conv(config: PytcConfig, width: int, kernel: Triple) -> nn.Sequential:
    """Norm, activation, convolution."""
    conv = _conv(config, width, width, kernel)
    return nn.Sequential(_norm(config.norm, width), _activation(config.activation), conv)


def _block(config: PytcConfig, width: int) -> Residual:
    return Residual(config, width)


def _norm(name: str, width: int) -> nn.Module:
    if name in ("bn", "sync_bn"):
        return nn.BatchNorm3d(width)
    if name == "in":
        return nn.InstanceNorm3d(width)
    return nn.GroupNorm(GROUPS, width) if name == "gn" else nn.Identity()


def _activation(name: str) -> nn.Module:
    if name == "elu":
        return nn.ELU(inplace=True)
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "leaky_relu":
        return nn.LeakyReLU(0.2, inplace=True)
    if name == "gelu":
        return nn.GELU()
    return nn.SiLU() if name in ("swish", "efficient_swish") else nn.Identity()
