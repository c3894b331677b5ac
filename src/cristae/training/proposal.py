"""What a configuration leaves open, proposed from the fingerprints of its volumes and the device.

A configuration names what it wants kept; every other key below gets a value with its reason, each
from those before it, whether proposed or kept::

    working_voxel_size_nm   an instance is 40 voxels across, and never finer than the volumes are
    network.strides         sections merge once the pixels of a level are twice as wide as they are
    network.z_kernel_levels levels whose pixels are not much finer than a section
    precision               bfloat16 on a CPU that multiplies it, for cristae's own network
    patch                   1.5 times the extent of large instances, within what the device is for
    batch                   2 on a CPU; on a GPU as many as fit, 16 at most; the patch shrinks first
                            where one does not fit
    windows                 of a network of PyTorch Connectomics: a patch, in steps of half of one
    thresholds              instances under a quarter of the smallest ones are noise
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cristae.configuration import to_plain
from cristae.engine.memory import GIB
from cristae.errors import MemoryLimitError
from cristae.grid import Triple
from cristae.networks.families.unet.network import UNetConfig, total_stride
from cristae.samples.fingerprint import ENOUGH, Fingerprint
from cristae.segmentation.config import PRESETS
from cristae.training.config import TrainConfig, windows_of
from cristae.training.memory import smaller_patch
from cristae.training.step import trains_in_bfloat16

ACROSS_PX = 40
COARSER = 1.25
"""Resampling that changes the voxel size by less is not worth its cost."""

REACH = 1.5
SMALL_SHARE = 0.25
SEED_SHARE = 0.25
ALONG_Z_BELOW = 1.5
"""Sections over pixels of a level, below which the level's blocks join sections."""

PYTC_STEP = (8, 16, 16)
"""What extents of patches for networks of PyTorch Connectomics are a multiple of, and one more."""

SECTIONS = (8, 32)
PIXELS = {"cpu": (96, 160), "cuda": (128, 256)}
BATCH = {"cpu": 2, "cuda": 16}

Bytes = Callable[[TrainConfig], int]


@dataclass(frozen=True)
class Choice:
    """The value of a key.

    Attributes:
        key: Its path below ``train``.
        value: What it is now.
        proposed: What the fingerprints say; the same where the configuration leaves it open.
        why: The reason for what is proposed.
        given: Whether the configuration names it.
    """

    key: str
    value: Any
    proposed: Any
    why: str
    given: bool

    @property
    def text(self) -> str:
        """One line."""
        value, proposed = (json.dumps(to_plain(v)) for v in (self.value, self.proposed))
        if not self.given:
            return f"{self.key}: {value} ({self.why})"
        same = "as proposed" if value == proposed else f"proposed: {proposed}"
        return f"{self.key}: {value}, given in the configuration; {same} ({self.why})"


@dataclass(frozen=True)
class Device:
    """What a network is trained on.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        name: In words.
        room_bytes: Memory that a run may take there.
    """

    kind: str
    name: str
    room_bytes: int


def propose(
    config: TrainConfig,
    given: frozenset[str],
    prints: Sequence[Fingerprint],
    device: Device,
    bytes_of: Bytes,
) -> tuple[TrainConfig, list[Choice]]:
    """Fill what a configuration leaves open.

    Args:
        config: Settings.
        given: Paths of the keys it names, which stay.
        prints: Of the volumes it learns from, one at least.
        device: What it is trained on.
        bytes_of: Memory that a configuration takes on the device.

    Returns:
        The configuration filled, and every choice. The layers of networks that are not cristae's
        own are left alone.

    Raises:
        MemoryLimitError: Not even the smallest patch fits the device.
    """
    choices: list[Choice] = []

    def decide(key: str, proposed: Any, why: str) -> None:
        nonlocal config
        kept = key in given
        if not kept:
            config = _with(config, key, proposed)
        choices.append(Choice(key, _at(config, key), proposed, why, kept))

    decide("working_voxel_size_nm", *_working(prints))
    plane = _plane_nm(config, prints)
    section = float(np.median([p.voxel_size_nm[0] for p in prints]))
    if isinstance(config.network, UNetConfig):
        decide("network.strides", *_strides(config.network, section, plane))
        decide("network.z_kernel_levels", *_z_levels(config.network, section, plane))
        lattice, odd = total_stride(config.network), 0
    else:
        lattice, odd = PYTC_STEP, 1
    if device.kind == "cpu" and trains_in_bfloat16(config.network):
        decide("precision", "bfloat16", "this processor multiplies it, at about twice the speed")
    patch, why = _patch(prints, (section, plane, plane), lattice, device.kind)
    decide("patch", tuple(n + odd for n in patch), why)
    config, line = _fitted(config, given, device, bytes_of, lattice)
    if line:
        choices[-1] = replace(choices[-1], value=config.patch, proposed=config.patch, why=line)
    decide("batch", *_batch(config, device, bytes_of))
    if not isinstance(config.network, UNetConfig):
        decide("windows", windows_of(replace(config, windows=None)), "half of a patch on")
    for key, value, why in _thresholds(config, prints):
        decide(f"thresholds.{key}", value, why)
    return config, choices


def _working(prints: Sequence[Fingerprint]) -> tuple[Any, str]:
    sizes = [math.sqrt(p.voxel_size_nm[1] * p.voxel_size_nm[2]) for p in prints]
    native = float(np.median(sizes))
    across = [p.across_nm for p in prints if p.across_nm is not None]
    wanted = max(native, float(np.median(across)) / ACROSS_PX) if across else native
    spread = max(sizes) / min(sizes)
    if wanted < COARSER * native and spread < COARSER:
        return (None, None, None), f"pixels of {native:.3g} nm, as they are"
    wanted = max(0.5, round(2 * wanted) / 2)
    if spread >= COARSER:
        reason = f"pixels of {min(sizes):.3g} to {max(sizes):.3g} nm"
    else:
        reason = f"an instance is {np.median(across):.0f} nm across, pixels {native:.3g} nm"
    return (None, wanted, wanted), reason


def _plane_nm(config: TrainConfig, prints: Sequence[Fingerprint]) -> float:
    """Width of a working pixel."""
    native = [math.sqrt(p.voxel_size_nm[1] * p.voxel_size_nm[2]) for p in prints]
    return config.working_voxel_size_nm[2] or float(np.median(native))


def _strides(network: UNetConfig, section: float, plane: float) -> tuple[Any, str]:
    found, width = [], plane * network.stem
    depth = section
    for _ in network.widths[1:]:
        along_z = 2 if 2 * depth <= width else 1
        found.append((along_z, 2, 2))
        depth, width = depth * along_z, width * 2
    merged = sum(stride[0] == 2 for stride in found)
    return tuple(found), f"sections of {section:g} nm, pixels of {plane:g}: {merged} merges along z"


def _z_levels(network: UNetConfig, section: float, plane: float) -> tuple[Any, str]:
    depth, width = section, plane * network.stem
    found = []
    for level, stride in enumerate(((1, 1, 1), *network.strides)):
        depth, width = depth * stride[0], width * stride[2]
        if depth < ALONG_Z_BELOW * width:
            found.append(level)
    return tuple(found), f"sections under {ALONG_Z_BELOW:g} times as thick as pixels are wide"


def _patch(
    prints: Sequence[Fingerprint], voxel_nm: tuple[float, ...], lattice: Triple, kind: str
) -> tuple[Triple, str]:
    extents = [p.extent_nm for p in prints if p.extent_nm is not None]
    reach = REACH * np.median(extents, axis=0) if extents else np.zeros(3)
    wanted = [reach[0] / voxel_nm[0], max(reach[1:]) / voxel_nm[1], max(reach[1:]) / voxel_nm[2]]
    bounds = (SECTIONS, PIXELS[kind], PIXELS[kind])
    there = [
        min(p.shape[axis] * p.voxel_size_nm[axis] / voxel_nm[axis] for p in prints)
        for axis in range(3)
    ]
    patch = []
    for extent, (low, high), most, step in zip(wanted, bounds, there, lattice, strict=True):
        length = min(max(extent, low), high, most)
        patch.append(max(step, round(length / step) * step))
    why = "the volumes' extent and the bounds of a " + kind
    if extents:
        large = ", ".join(f"{e / REACH:.0f}" for e in reach)
        why = f"large instances reach over {large} nm; bounded for a {kind}"
    return (patch[0], patch[1], patch[2]), why


def _fitted(
    config: TrainConfig,
    given: frozenset[str],
    device: Device,
    bytes_of: Bytes,
    lattice: Triple,
) -> tuple[TrainConfig, str]:
    """The configuration with a patch of which one fits, and what was done for that."""
    line = ""
    while bytes_of(replace(config, batch=_least_batch(config, given))) > device.room_bytes:
        patch = config.patch
        smaller = smaller_patch(patch, lattice)
        if "patch" in given or smaller is None:
            needed = bytes_of(replace(config, batch=1)) / GIB
            raise MemoryLimitError(
                f"plan: patch {patch} needs {needed:.2f} GiB, {device.room_bytes / GIB:.2f} GiB "
                f"are there on {device.name}"
            )
        config = replace(config, patch=smaller)
        line = f"as large as {device.room_bytes / GIB:.2f} GiB on {device.name} allow"
    return config, line


def _least_batch(config: TrainConfig, given: frozenset[str]) -> int:
    return config.batch if "batch" in given else 1


def _batch(config: TrainConfig, device: Device, bytes_of: Bytes) -> tuple[int, str]:
    batch = BATCH[device.kind]
    while batch > 1 and bytes_of(replace(config, batch=batch)) > device.room_bytes:
        batch -= 1
    needed = bytes_of(replace(config, batch=batch)) / GIB
    return batch, f"{needed:.2f} GiB of {device.room_bytes / GIB:.2f} on {device.name}"


def _thresholds(config: TrainConfig, prints: Sequence[Fingerprint]) -> list[tuple[str, int, str]]:
    """Sizes the decoder drops, in voxels of the finest volume."""
    smallest = [p.volume_um3[0] for p in prints if p.volume_um3 and p.whole >= ENOUGH]
    if not smallest or config.decoder not in PRESETS:
        return []
    voxel_um3 = min(math.prod(p.voxel_size_nm) for p in prints) / 1e9
    size = max(1, round(SMALL_SHARE * min(smallest) / voxel_um3))
    why = f"95 % of the instances have {min(smallest):.3g} um3 at least"
    found = {"min_size": size, "min_seed_size": max(1, round(SEED_SHARE * size))}
    known = PRESETS[config.decoder].defaults
    return [(key, value, why) for key, value in found.items() if key in known]


def _with(config: TrainConfig, key: str, value: Any) -> TrainConfig:
    head, _, last = key.rpartition(".")
    if head == "thresholds":
        return replace(config, thresholds={**config.thresholds, last: value})
    if head == "network":
        return replace(config, network=replace(config.network, **{last: value}))
    return replace(config, **{last: value})


def _at(config: TrainConfig, key: str) -> Any:
    head, _, last = key.rpartition(".")
    if head == "thresholds":
        return config.thresholds.get(last)
    return getattr(config.network if head == "network" else config, last)
