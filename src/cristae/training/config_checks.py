"""What is wrong with the configuration of a training, all of it at once."""

import math
from dataclasses import fields

from cristae.configuration import to_plain
from cristae.errors import ConfigError, raise_faults
from cristae.networks.families.table import family_of
from cristae.networks.recipe import own_recipe_faults
from cristae.training.augment import Augmentations, augmentation_faults
from cristae.training.config import TrainConfig, patch_lattice, recipe_of
from cristae.training.targets import (
    check_channels,
    foreground_channels,
    target_of,
)
from cristae.volumes.intensity import RULES


def check_train_config(config: TrainConfig) -> None:
    """Raise one ConfigError that lists every fault of a configuration."""
    family_of(config.network).check(config.network)
    check_channels(config.network.channels)
    faults = _number_faults(config) + _patch_faults(config) + _schedule_faults(config)
    faults += _network_faults(config) + _target_faults(config)
    faults += augmentation_faults(
        Augmentations(config.geometry, config.grey, config.defects, config.copy_paste)
    )
    if config.augmentation != "own":
        faults += [
            f"{f.name}: given beside augmentation {config.augmentation}, expected one of them"
            for f in fields(Augmentations)
            if getattr(config, f.name) != getattr(Augmentations(), f.name)
        ]
    raise_faults("train", faults, ConfigError)


def _number_faults(config: TrainConfig) -> list[str]:
    positive = ["steps", "batch", "learning_rate", "clip_norm", "gamma", "validate_every"]
    positive += ["validation_patches", "calibration_batches", "checkpoint_every"]
    positive += ["validate_ap_boxes", "devices"]
    faults = [
        f"{name} {getattr(config, name)}: expected more than 0"
        for name in positive
        if getattr(config, name) is not None and getattr(config, name) <= 0
    ]
    shares = ["momentum", "warmup_factor", "ema_decay"]
    faults += [
        f"{name} {getattr(config, name)}: expected a number in [0, 1]"
        for name in shares
        if not 0 <= getattr(config, name) <= 1
    ]
    if not 0 <= config.seed < 2**63:
        faults.append(f"seed {config.seed}: expected 0 to 2**63 - 1")
    weights = to_plain(config.sampling)
    if not all(0 <= w < math.inf for w in weights.values()) or not any(weights.values()):
        faults.append(f"sampling {weights}: expected weights of at least 0, one of them above 0")
    if not 0 <= config.replay < 1:
        faults.append(f"replay {config.replay}: expected a number in [0, 1)")
    if config.devices > 0 and config.batch % config.devices:
        faults.append(
            f"batch {config.batch}: expected a multiple of devices, {config.devices}, which share "
            "it equally"
        )
    return faults


def _schedule_faults(config: TrainConfig) -> list[str]:
    faults = []
    if config.warmup_steps < 0:
        faults.append(f"warmup_steps {config.warmup_steps}: expected at least 0")
    if bool(config.milestones) != (config.schedule == "warmup_multistep"):
        faults.append(
            f"milestones {config.milestones}: expected with schedule warmup_multistep, and there "
            f"only; schedule {config.schedule} found"
        )
    if list(config.milestones) != sorted(set(config.milestones)):
        faults.append(f"milestones {config.milestones}: expected rising steps")
    if config.validate_ap_every < 0 or config.validate_ap_every % max(1, config.validate_every):
        faults.append(
            f"validate_ap_every {config.validate_ap_every}: expected 0 or a multiple of "
            f"validate_every, {config.validate_every}"
        )
    return faults


def _patch_faults(config: TrainConfig) -> list[str]:
    """Whether what is cut out of the volumes fits the network."""
    faults = []
    lattice = patch_lattice(config.network)
    decodes = config.validate_ap_every or config.tune
    for name in ("patch", "validate_ap_box") if decodes else ("patch",):
        extents = getattr(config, name)
        if any(n < 1 or n % step for n, step in zip(extents, lattice, strict=True)):
            faults.append(f"{name} {extents}: expected multiples of the network's {lattice}")
    if config.working_voxel_size_nm[0] is not None:
        faults.append(
            f"working_voxel_size_nm {config.working_voxel_size_nm}: expected null along z; "
            "sections are not resampled, `z_steps` of a sample leaves some out"
        )
    if any(size is not None and size <= 0 for size in config.working_voxel_size_nm):
        faults.append(f"working_voxel_size_nm {config.working_voxel_size_nm}: expected above 0")
    if config.intensity not in RULES:
        faults.append(f"intensity {config.intensity!r}: expected one of {', '.join(RULES)}")
    return faults


def _network_faults(config: TrainConfig) -> list[str]:
    faults = []
    if config.network.in_channels != 1:
        faults.append(f"network.in_channels {config.network.in_channels}: expected 1")
    if config.windows is not None and family_of(config.network).context(config.network):
        faults.append(
            f"windows {to_plain(config.windows)}: expected with a network of PyTorch "
            "Connectomics only (`network.architecture`)"
        )
    lattice = patch_lattice(config.network)
    faults += own_recipe_faults(recipe_of(config), config.working_voxel_size_nm, lattice)
    if len(config.loss.channels) not in (0, len(config.network.channels)):
        faults.append(
            f"loss.channels {config.loss.channels}: expected a weight for each of "
            f"{config.network.channels}, or none"
        )
    return faults


def _target_faults(config: TrainConfig) -> list[str]:
    """Whether channels, targets and losses fit together."""
    channels = config.network.channels
    faults = []
    if not foreground_channels(channels):
        faults.append(
            f"network.channels {channels}: expected mask or an affinity, which say where the "
            "foreground is"
        )
    for kind, own in config.loss.targets.items():
        if kind not in map(target_of, channels):
            faults.append(f"loss.targets.{kind}: none of {channels} has this target")
        of_distance = kind == "distance"
        if own.mse and not of_distance:
            faults.append(f"loss.targets.{kind}.mse {own.mse}: expected for distance only")
        if of_distance and (own.bce or own.dice or own.class_balance):
            faults.append(f"loss.targets.distance {to_plain(own)}: expected mse only")
        if min(own.bce, own.dice, own.mse) < 0 or not own.bce + own.dice + own.mse > 0:
            faults.append(f"loss.targets.{kind} {to_plain(own)}: expected weights above 0")
    targets = config.targets
    if targets.contour_half_width < 0 or targets.label_erosion < 0:
        faults.append(
            f"targets.contour_half_width {targets.contour_half_width}, label_erosion "
            f"{targets.label_erosion}: expected at least 0"
        )
    if min(*targets.distance_alpha_px, targets.distance_z_scale) <= 0:
        faults.append(
            f"targets.distance_alpha_px {targets.distance_alpha_px}, distance_z_scale "
            f"{targets.distance_z_scale}: expected above 0"
        )
    return faults
