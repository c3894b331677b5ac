"""The model file: weights with all that a later stage needs to know about them.

A model file is one `torch.save` archive of tensors and plain values (numbers, strings, lists,
dicts, null), read with ``weights_only=True``, so that opening a stranger's file runs no code::

    format          "cristae model"
    format_version  1
    network         the name of its family: "unet", or "pytc" for PyTorch Connectomics v1's
    network_config  its configuration, plain
    windows, variants, section_spacing_nm, scales and others    an `InferenceRecipe`, by its
                                                                recorded names
    channels, working_voxel_size_nm, intensity, decoder, thresholds, card,
    threshold_voxel_size_nm    as `Model` has them
    offsets         (z, y, x) of the voxel each affinity channel joins a voxel to; else empty
    stored_as       "float32" or "float16": how the convolutions' weights lie in the file
    state_dict      tensors by name
"""

import hashlib
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cristae.configuration import from_plain, to_plain
from cristae.engine.checksums import check_zip
from cristae.engine.files import write_atomic
from cristae.engine.paths import user_path
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import InputError, raise_faults
from cristae.grid import Triple
from cristae.networks.channels import affinity_offsets
from cristae.networks.families.table import (
    family_of,
    find_family,
    fresh_network,
    load_foreign,
    named_family,
)
from cristae.networks.family import NetworkConfig
from cristae.networks.recipe import (
    InferenceRecipe,
    VoxelSize,
    own_recipe_faults,
    read_recipe,
    stored_recipe,
)
from cristae.networks.shipped import find_model
from cristae.renamed import recorded_names

FORMAT = "cristae model"
FORMAT_VERSION = 1
GREY = "grey"
"""In a card: mean and standard deviation of each training volume's grey values, as it saw them."""
INTENSITY_RULES = ("window", "uint8")
COUNTS = ("min_size", "min_seed_size")

StoredAs = Literal["float32", "float16"]

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "network_config": dict,
    "channels": list,
    "working_voxel_size_nm": list,
    "intensity": str,
    "decoder": str,
    "thresholds": dict,
    "card": dict,
    "stored_as": str,
    "state_dict": dict,
}


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with what its use needs to know.

    Attributes:
        network_config: What the network is built from.
        state_dict: Its tensors by name; floating ones are float32.
        channels: Names of its outputs, in order.
        working_voxel_size_nm: Voxel size (z, y, x) in nm it was trained at; null on an axis where
            images are never resampled.
        intensity: The rule of `cristae.volumes.intensity` for its input: "window" or "uint8".
        decoder: The decoder its outputs are meant for.
        thresholds: That decoder's thresholds, by name; none means the decoder's defaults.
        card: Where it comes from: data, settings, date, scores. Plain values.
        format_version: Version of the file it was read from, or will be written as.
        recipe: How it wants to be run.
        offsets: Offset (z, y, x) of the voxel that each channel joins a voxel to, from the first
            channel on while they are affinities; none by default.
        threshold_voxel_size_nm: Voxel size (z, y, x) in nm at which the thresholds that count
            voxels were found; None where that is not known, and they are taken as they are.
    """

    network_config: NetworkConfig
    state_dict: Mapping[str, Tensor]
    channels: tuple[str, ...]
    working_voxel_size_nm: VoxelSize = (None, None, None)
    intensity: str = "window"
    decoder: str = "bc_watershed"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    recipe: InferenceRecipe = field(default_factory=InferenceRecipe)
    offsets: tuple[Triple, ...] = ()
    threshold_voxel_size_nm: tuple[float, float, float] | None = None

    def thresholds_at(
        self, voxel_size_nm: tuple[float, float, float] | None, sections: int | None = None
    ) -> dict[str, Any]:
        """The thresholds at a voxel size: those that count voxels keep their volume.

        Args:
            voxel_size_nm: Voxel size (z, y, x) of the volume; None where it is not known.
            sections: How many sections it has, where they may be few: a stack thinner than one
                section of `threshold_voxel_size_nm` shows only slices of its instances, and
                counts as thick as that section.
        """
        known = dict(self.thresholds)
        if voxel_size_nm and self.threshold_voxel_size_nm:
            z, y, x = voxel_size_nm
            if sections is not None:
                z = max(z, self.threshold_voxel_size_nm[0] / sections)
            ratio = math.prod(self.threshold_voxel_size_nm) / (z * y * x)
            for name in COUNTS:
                if known.get(name):
                    known[name] = max(1, round(known[name] * ratio))
        return known

    @property
    def fingerprint(self) -> str:
        """Identity of what can change a prediction: 16 hexadecimal digits.

        Weights, network, channels, working voxel size, intensity rule and windows. The decoder, its
        thresholds, the offsets and the card are left out: a prediction does not go stale when they
        change.
        """
        digest = hashlib.sha256()
        facts: dict[str, Any] = {
            "network": to_plain(self.network_config),
            "channels": list(self.channels),
            "working_voxel_size_nm": list(self.working_voxel_size_nm),
            "intensity": self.intensity,
        }
        if self.recipe.windows is not None:
            facts["windows"] = recorded_names(to_plain(self.recipe.windows))
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict.items()):
            if tensor.is_floating_point():
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def model_network(model: Model) -> nn.Module:
    """The model's network with its weights, in evaluation mode.

    Raises:
        InputError: Weights that do not fit the network; all misfits at once.
    """
    raise_faults("model", _misfits(model.network_config, model.state_dict))
    network = fresh_network(model.network_config)
    network.load_state_dict(dict(model.state_dict))
    return network.eval()


def save_model(model: Model, path: str | Path, *, stored_as: StoredAs = "float32") -> Model:
    """Write a model file; a reader sees the old file or the whole new one, never a part.

    Args:
        model: What to write.
        path: The file; its folder is made where it is missing.
        stored_as: "float16" halves the file: weights of two or more axes are rounded to half
            precision. Biases and the statistics of batch normalisation stay float32.

    Returns:
        The model exactly as `load_model` will read it: the given one, or its rounded twin with
        another fingerprint.

    Raises:
        InputError: Faults of the model, or weights outside the range of half precision.
    """
    path = user_path(path)
    raise_faults(str(path), model_faults(model, stored_as))
    tensors = {name: _stored(tensor, stored_as) for name, tensor in model.state_dict.items()}
    tree = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": named_family(model.network_config)[0],
        "network_config": to_plain(model.network_config),
        "channels": list(model.channels),
        "working_voxel_size_nm": list(model.working_voxel_size_nm),
        "intensity": model.intensity,
        "decoder": model.decoder,
        "thresholds": dict(model.thresholds),
        "card": to_plain(model.card),
        "stored_as": stored_as,
        "offsets": to_plain(model.offsets),
        "threshold_voxel_size_nm": to_plain(model.threshold_voxel_size_nm),
        **stored_recipe(model.recipe),
        "state_dict": tensors,
    }
    write_atomic(path, lambda file: torch.save(tree, file))
    return replace(model, state_dict=_widened(tensors), format_version=FORMAT_VERSION)


def load_model(path_or_name: str | Path) -> Model:
    """Read a model file, or a model of the package by its name.

    Args:
        path_or_name: A path, or one of `shipped.named_models`. A name wins over a file of the same
            name in the working folder; write ``./NAME`` for that.

    Raises:
        SourceNotFoundError: Neither a file nor a known name; the known names are listed.
        InputError: Not a model file, one of a newer format, or one with missing or unfit parts.
    """
    path = find_model(path_or_name)
    refuse_unfinished(path)
    return read_model(path)


def read_model(path: Path) -> Model:
    """Read a model file, also one that its training has not finished; see `load_model`."""
    try:
        tree = read_tree(path)
    except InputError:
        found: Model | None = load_foreign(path)
        if found is None:
            raise
        raise_faults(str(path), model_faults(found))
        return found
    version = tree.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {version} found, this version of cristae reads up to "
            f"{FORMAT_VERSION}: install a newer one"
        )
    faults = [
        f"{key}: {type(tree.get(key)).__name__} found, expected {kind}"
        for key, kind in _FIELDS.items()
        if not isinstance(tree.get(key), kind)
    ]
    raise_faults(str(path), faults)
    family = find_family(str(tree.get("network")), str(path))
    offsets = tree.get("offsets")
    counted = tree.get("threshold_voxel_size_nm")
    channels = tuple(tree["channels"])
    model = Model(
        network_config=from_plain(
            family.config_class, tree["network_config"], f"{path}: network_config"
        ),
        state_dict=_widened(tree["state_dict"]),
        channels=channels,
        working_voxel_size_nm=tuple(tree["working_voxel_size_nm"]),
        intensity=tree["intensity"],
        decoder=tree["decoder"],
        thresholds=tree["thresholds"],
        card=tree["card"],
        format_version=version,
        recipe=read_recipe(tree, str(path)),
        offsets=affinity_offsets(channels)  # files of before name none
        if offsets is None
        else from_plain(tuple[Triple, ...], offsets, f"{path}: offsets"),
        threshold_voxel_size_nm=None
        if counted is None
        else from_plain(tuple[float, float, float], counted, f"{path}: threshold_voxel_size_nm"),
    )
    raise_faults(str(path), model_faults(model, tree["stored_as"]))
    return model


def read_tree(path: Path) -> dict[str, Any]:
    """The tree of a model file; an InputError for anything else."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a model file (no archive written by torch)")
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise InputError(f"{path}: a TorchScript program found, expected a model file")
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a model file, or a damaged one: {reason}") from error
    if isinstance(tree, dict) and "format" not in tree and "state_dict" in tree:
        raise InputError(
            f"{path}: a checkpoint of PyTorch Connectomics; give its configuration, too "
            f"(--pytc-config BASE.yaml --pytc-config OVERRIDE.yaml)"
        )
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
        raise InputError(f"{path}: not a model file (format {found!r} found, expected {FORMAT!r})")
    return tree


def model_faults(model: Model, stored_as: str = "float32") -> list[str]:
    """Everything wrong with a model, before it is written and after it is read."""
    faults = []
    if stored_as not in ("float32", "float16"):
        faults.append(f"stored_as: {stored_as!r} found, expected 'float32' or 'float16'")
    if model.channels != tuple(model.network_config.channels):
        faults.append(f"channels {model.channels}: the network has {model.network_config.channels}")
    if model.intensity not in INTENSITY_RULES:
        faults.append(f"intensity: {model.intensity!r} found, expected one of {INTENSITY_RULES}")
    sizes = model.working_voxel_size_nm
    if len(sizes) != 3 or any(size is not None and not size > 0 for size in sizes):
        faults.append(f"working_voxel_size_nm {sizes}: expected three positive numbers or nulls")
    counted = model.threshold_voxel_size_nm
    if counted is not None and (len(counted) != 3 or not all(size > 0 for size in counted)):
        faults.append(f"threshold_voxel_size_nm {counted}: expected three positive numbers or none")
    family, windows = family_of(model.network_config), model.recipe.windows
    if windows is None and family.context(model.network_config) is None:
        faults.append(f"windows None: expected, as networks of {family.title} run in windows only")
    elif windows is not None and family.context(model.network_config) is not None:
        faults.append(f"windows {windows}: expected none of a network of {family.title}")
    faults += own_recipe_faults(model.recipe, sizes)
    if len(model.offsets) > len(model.channels):
        faults.append(f"offsets {model.offsets}: expected at most one a channel, {model.channels}")
    faults += _misfits(model.network_config, model.state_dict)
    if stored_as == "float16":
        largest = torch.finfo(torch.float16).max
        faults += [
            f"{name}: a weight of {float(tensor.abs().max()):g}, float16 reaches {largest:g}"
            for name, tensor in model.state_dict.items()
            if _halved(tensor) and float(tensor.abs().max()) > largest
        ]
    return faults


def _misfits(config: NetworkConfig, state: Mapping[str, Tensor]) -> list[str]:
    """Tensors that are missing, unknown, of another shape, or not finite."""
    with torch.device("meta"):
        expected = fresh_network(config).state_dict()
    faults = [f"{name}: not in the file" for name in expected if name not in state]
    faults += [f"{name}: not in the network" for name in state if name not in expected]
    for name in expected.keys() & state.keys():
        found, wanted = tuple(state[name].shape), tuple(expected[name].shape)
        if found != wanted:
            faults.append(f"{name}: shape {found} found, expected {wanted}")
        elif not bool(torch.isfinite(state[name]).all()):
            faults.append(f"{name}: holds values that are not finite")
    return sorted(faults)


def _halved(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() >= 2


def _stored(tensor: Tensor, stored_as: str) -> Tensor:
    """A contiguous copy on the CPU, as it lies in the file."""
    tensor = tensor.detach().cpu().contiguous().clone()
    return tensor.half() if stored_as == "float16" and _halved(tensor) else tensor


def _widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
