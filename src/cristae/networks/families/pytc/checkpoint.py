"""Checkpoints of PyTorch Connectomics v1, with their configurations, as models."""

import collections
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cristae.configuration import to_plain
from cristae.engine.checksums import check_zip
from cristae.engine.paths import user_path
from cristae.engine.progress import log
from cristae.errors import InputError, SourceNotFoundError, raise_faults
from cristae.networks.channels import affinity_offsets
from cristae.networks.families.pytc.recipe_files import read_pytc_config
from cristae.networks.model import FORMAT, Model, model_faults
from cristae.networks.recipe import InferenceRecipe

_PLAIN_CLASSES: list[Any] = [
    collections.Counter,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    np.float64(0).__reduce__()[0],  # how a NumPy number of a schedule is pickled
]
"""What optimisers and schedules put in a checkpoint beside tensors; none of it runs code."""


def load_pytc_model(checkpoint: str | Path, configs: Sequence[str | Path]) -> Model:
    """A network of PyTorch Connectomics v1 as a model.

    Such a model has no working voxel size (images are never resampled), takes grey values divided
    by 255, runs on the windows of its recipe, and leaves thresholds to its decoder's defaults. Keys
    of the configuration that are not followed are logged, and stand in the model's card.

    Args:
        checkpoint: ``checkpoint_*.pth.tar``: a dict with ``state_dict``, whose names may begin
            with ``module.``.
        configs: The YAML files of its recipe; later ones override earlier ones.

    Raises:
        SourceNotFoundError: A file that is not there.
        InputError: Not a checkpoint, a configuration that cannot be followed, or weights that do
            not fit it; all faults at once.
    """
    path = user_path(checkpoint)
    setup = read_pytc_config(configs)
    tree = _read(path)
    state = _state(tree["state_dict"])
    for name in state.keys() & {"n_averaged"}:  # of averaged weights (SWA)
        del state[name]
    model = Model(
        network_config=setup.network,
        state_dict=state,
        channels=setup.network.channels,
        intensity="uint8",
        decoder=setup.decoder,
        recipe=InferenceRecipe(windows=setup.windows),
        offsets=affinity_offsets(setup.network.channels),
        card={
            "source": path.name,
            "iteration": int(tree.get("iteration") or 0),
            "not_carried_over": list(setup.not_carried),
        },
    )
    raise_faults(f"{path} with {', '.join(map(str, configs))}", model_faults(model))
    log.info("%s: %s", path.name, to_plain(setup.network))
    log.info("%s: %s; decoder %s", path.name, to_plain(setup.windows), setup.decoder)
    for line in setup.not_carried:
        log.info("not carried over: %s", line)
    return model


def _read(path: Path) -> dict[str, Any]:
    """The tree of a checkpoint; only tensors and plain values are read."""
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such checkpoint")
    if zipfile.is_zipfile(path):
        check_zip(path)
    try:
        with torch.serialization.safe_globals(_PLAIN_CLASSES):
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a checkpoint that can be read safely: {reason}") from error
    if isinstance(tree, dict) and tree.get("format") == FORMAT:
        raise InputError(f"{path}: a model of cristae, which carries its own configuration")
    if not isinstance(tree, dict) or not isinstance(tree.get("state_dict"), Mapping):
        found = sorted(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
        raise InputError(f"{path}: {found} found, expected a checkpoint with 'state_dict'")
    return tree


def _state(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by the network's own names, floating ones in float32."""
    state = {}
    for name, tensor in tensors.items():
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if isinstance(tensor, Tensor):
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state
