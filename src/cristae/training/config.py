"""Settings of a training run, their check, and the learning rate they mean."""

import math
from dataclasses import field

from cristae.configuration import config_dataclass
from cristae.errors import ConfigError, raise_faults
from cristae.grid import Triple
from cristae.networks.unet import UNetConfig, check_unet_config, network_context
from cristae.training.augment import GeometryConfig, GreyConfig
from cristae.training.losses import LossConfig
from cristae.training.paste import PasteConfig
from cristae.training.sampling import SamplingConfig
from cristae.training.targets import TargetsConfig, check_channels
from cristae.volumes.intensity import RULES

RUNNING_KEYS = ("steps", "checkpoint_every", "cache_gib")
"""Settings that say how far and how a run goes, not what it is."""


@config_dataclass
class TrainConfig:
    """A training run.

    Attributes:
        seed: Of the first weights and of every patch.
        steps: Updates of the weights; a raised number continues a finished run.
        batch: Patches an update.
        patch: Extent (z, y, x) of a patch in working voxels.
        learning_rate: Highest rate of AdamW; falls to 0 along a cosine.
        warmup_steps: Updates over which the rate rises from 0.
        weight_decay: Of AdamW, on convolution weights only.
        clip_norm: Largest norm of an update's gradient.
        ema_decay: Of the moving average of the weights; less in the first steps.
        network: What is trained; its channels say which targets.
        working_voxel_size_nm: Voxel size (z, y, x) the network sees; null: as it comes (z always).
        intensity: Rule that grey values are normalised by.
        targets: How labels become targets.
        loss: What is minimised.
        sampling: Where patches are taken from.
        geometry: How patches are turned and bent.
        grey: How grey values are changed.
        paste: How instances are copied beside others, to touch them.
        validate_every: Steps between validations.
        validation_patches: Patches of each validation sample.
        calibration_batches: Batches that batch normalisation statistics are taken over.
        checkpoint_every: Steps between checkpoints; at most so many are lost.
        cache_gib: Memory for samples; those that do not fit are read from disk, patch by patch.
        decoder: Decoder that the model asks for.
        thresholds: Its thresholds, where they differ from the decoder's defaults.
        card: Facts for the model's card (data, licences, where it fails).
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 2
    patch: Triple = (16, 128, 128)
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    network: UNetConfig = field(default_factory=UNetConfig)
    working_voxel_size_nm: tuple[float | None, float | None, float | None] = (None, 8.0, 8.0)
    intensity: str = "window"
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    grey: GreyConfig = field(default_factory=GreyConfig)
    paste: PasteConfig = field(default_factory=PasteConfig)
    validate_every: int = 250
    validation_patches: int = 12
    calibration_batches: int = 16
    checkpoint_every: int = 250
    cache_gib: float = 2.0
    decoder: str = "bc_watershed"
    thresholds: dict[str, float] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)


def check_train_config(config: TrainConfig) -> None:
    """Raise one ConfigError that lists every fault of a configuration."""
    check_unet_config(config.network)
    check_channels(config.network.channels)
    lattice = network_context(config.network).lattice
    positive = ["steps", "batch", "learning_rate", "clip_norm", "validate_every"]
    positive += ["validation_patches", "calibration_batches", "checkpoint_every"]
    faults = [
        f"{name} {getattr(config, name)}: expected more than 0"
        for name in positive
        if getattr(config, name) <= 0
    ]
    if any(extent < 1 or extent % step for extent, step in zip(config.patch, lattice, strict=True)):
        faults.append(f"patch {config.patch}: expected multiples of the network's {lattice}")
    if config.network.in_channels != 1:
        faults.append(f"network.in_channels {config.network.in_channels}: expected 1")
    if config.working_voxel_size_nm[0] is not None:
        faults.append(
            f"working_voxel_size_nm {config.working_voxel_size_nm}: expected null along z; "
            "sections are not resampled, `z_steps` of a sample leaves some out"
        )
    if any(size is not None and size <= 0 for size in config.working_voxel_size_nm):
        faults.append(f"working_voxel_size_nm {config.working_voxel_size_nm}: expected above 0")
    if config.intensity not in RULES:
        faults.append(f"intensity {config.intensity!r}: expected one of {', '.join(RULES)}")
    if len(config.loss.channels) not in (0, len(config.network.channels)):
        faults.append(
            f"loss.channels {config.loss.channels}: expected a weight for each of "
            f"{config.network.channels}, or none"
        )
    low, high = config.geometry.scale
    if not 0 < low <= high:
        faults.append(f"geometry.scale {config.geometry.scale}: expected 0 < low <= high")
    raise_faults("train", faults, ConfigError)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of an update: a linear rise, then half a cosine down to 0 at the last step."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / config.steps))
