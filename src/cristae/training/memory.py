"""How much memory a training run takes, told before it starts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from cristae.engine.memory import GIB
from cristae.grid import Triple
from cristae.networks.families.table import fresh_network, trained_of
from cristae.networks.family import NetworkConfig
from cristae.samples.dataset import OpenedSample
from cristae.samples.held import fit_in_memory, held_bytes, is_by_planes
from cristae.training.batches import PREFETCH
from cristae.training.config import TrainConfig, augmentations_of, patch_lattice, windows_of
from cristae.training.instance_index import INDEX_SHAPE
from cristae.training.sampling import working_factors
from cristae.volumes.formats.pages import CACHE_BYTES
from cristae.volumes.volume import Volume

FLOAT = 4
BACKWARD_SHARE = 0.6
"""Gradients and workspaces of the backward pass over what the forward pass keeps, measured."""

LOSS_TENSORS = 10
"""Tensors of the logits' shape that targets and losses need."""

FLAG_BYTES, PLACE_BYTES, FOREGROUND_MOST = 3, 40, 0.3
"""Memory of an index, for each voxel of a block and each of an instance (measured); the share of
those that is reckoned with."""

ROW_BYTES = 2 * 16 * 8
"""Rows and weights that a voxel of a section is a sum of, where it is a mean of samples, twice."""

OWN_BYTES = 32 << 20
"""What the arithmetic libraries allocate at their first use, measured."""


def smaller_patch(patch: Triple, lattice: Triple) -> Triple | None:
    """The patch a lattice step shorter along its longest axis; None where there is none."""
    steps = [n // step for n, step in zip(patch, lattice, strict=True)]
    axis = steps.index(max(steps))
    if steps[axis] <= 1:
        return None
    z, y, x = (n - (lattice[i] if i == axis else 0) for i, n in enumerate(patch))
    return z, y, x


def fitting_text(config: TrainConfig, room: float, bytes_of: Callable[[TrainConfig], int]) -> str:
    """Which smaller patch and batch fit into some memory, in words.

    The batch shrinks first, as that changes least what the network sees.

    Args:
        config: Settings that do not fit.
        room: Bytes there are.
        bytes_of: Bytes that settings take.
    """
    lattice = patch_lattice(config.network)
    batch, patch = config.batch - config.devices, config.patch
    while True:
        if batch < config.devices:
            smaller = smaller_patch(patch, lattice)
            if smaller is None:
                return "not even the smallest patch fits; a smaller network would (network.widths)"
            batch, patch = config.devices, smaller
        needed = bytes_of(replace(config, batch=batch, patch=patch))
        if needed <= room:
            fits = f"patch {list(patch)} with batch {batch} fits"
            return f"{fits}, at {needed / GIB:.2f} GiB of {room / GIB:.2f}"
        batch -= config.devices


def training_bytes(config: TrainConfig, opened: Sequence[OpenedSample], device: str = "cpu") -> int:
    """Upper estimate of the memory that a run takes of the machine's, imports apart.

    Args:
        config: Settings.
        opened: The samples, not yet in memory.
        device: Type of the device; a GPU has memory of its own for the network's step.

    Returns:
        Bytes: samples held, the network's step, and patches in the making.
    """
    patches = config.batch * max((_patch_bytes(config, one) for one in opened), default=0)
    step = max(config.batch * step_bytes(config.network, config.patch), validation_bytes(config))
    return _held_bytes(config, opened) + patches + OWN_BYTES + (step if device == "cpu" else 0)


def step_bytes(network: NetworkConfig, patch: Triple) -> int:
    """Memory that one patch takes in a step: what the forward pass keeps, and the backward pass."""
    known = trained_of(network).kept
    kept = known(network, patch) if known else _recorded_bytes(network, patch)
    voxels = patch[0] * patch[1] * patch[2]
    ends = (LOSS_TENSORS * len(network.channels) + 3 * (PREFETCH + 1)) * voxels * FLOAT
    return int(kept * (1 + BACKWARD_SHARE)) + ends


def _recorded_bytes(network: NetworkConfig, patch: Triple) -> int:
    """What a forward pass keeps for the backward one, of a network without numbers."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.device("meta"), saved_tensors_hooks(note, lambda tensor: tensor):
        fresh_network(network)(torch.empty((1, network.in_channels, *patch)))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def validation_bytes(config: TrainConfig) -> int:
    """Memory of what a validation computes at a time, and of the sums of blended windows."""
    decodes = config.validate_ap_every or config.tune
    recipe = windows_of(config)
    if recipe is None:
        return forward_bytes(config.network, config.validate_ap_box) if decodes else 0
    box = config.validate_ap_box if decodes else recipe.shape
    sums = 2 * FLOAT * len(config.network.channels) * math.prod(box)
    return forward_bytes(config.network, recipe.shape) + sums


def forward_bytes(network: NetworkConfig, box: Triple) -> int:
    """Memory that a box takes in a forward pass without gradients: skips, and a block at work."""
    voxels = box[0] * box[1] * box[2]
    features = [width * share * voxels for width, share in trained_of(network).levels(network)]
    kept, largest = sum(features), 4 * max(features)
    return int(FLOAT * (kept + largest + 3 * len(network.channels) * voxels))


def _held_bytes(config: TrainConfig, opened: Sequence[OpenedSample]) -> int:
    """Samples in memory, and what turns up once besides: loading the largest one, or an index."""
    held, largest = 0, 0
    fitting = fit_in_memory(opened, int(config.cache_gib * GIB))
    for one, fits in zip(opened, fitting, strict=True):
        indexing = index_bytes(one.labels)
        if fits:
            held += held_bytes(one)
            indexing = max(indexing, one.labels.size * (2 * one.labels.dtype.itemsize + 2))
        largest = max(largest, indexing)
    return held + largest + _plane_bytes(opened)


def index_bytes(labels: Volume) -> int:
    """Memory of finding instances: a block of labels, flags, and where the instances are in it."""
    block = min(labels.size, math.prod(INDEX_SHAPE))
    return int(block * (labels.dtype.itemsize + FLAG_BYTES + FOREGROUND_MOST * PLACE_BYTES))


def _plane_bytes(opened: Sequence[OpenedSample]) -> int:
    """The cache of decoded planes."""
    volumes = [v for one in opened for v in (one.image, one.labels, one.mask) if v is not None]
    planes = sum(v.size * v.dtype.itemsize for v in volumes if is_by_planes(v))
    return min(CACHE_BYTES, planes)


def _patch_bytes(config: TrainConfig, one: OpenedSample) -> int:
    """The source box of the largest patch, and what its voxels are sums of.

    The box counts as stored, as floats, labels, and copies of sections and of those in the table.
    """
    y, x = working_factors(one, config.working_voxel_size_nm)
    geometry = augmentations_of(config).geometry
    turned = 2.0 if geometry.turn or geometry.shift_turns else 1.0  # a turned square's bounding box
    scale = geometry.scale[0] * (min(1.0, geometry.rescale_range[0]) if geometry.rescale else 1.0)
    area = config.patch[1] * y * config.patch[2] * x * turned / scale**2
    lost = geometry.lost_sections if geometry.lost else 0
    steps = max(one.sample.z_steps)
    box = area * (config.patch[0] + lost) * (steps * (2 + 2 * FLOAT) + 5 * FLOAT)
    return int(box + config.patch[1] * config.patch[2] * ROW_BYTES)
