"""Other thresholds for a model that is there, its weights untouched."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cristae.configuration import to_plain
from cristae.engine.ownership import keep_record
from cristae.engine.paths import user_path
from cristae.errors import InputError, SourceNotFoundError
from cristae.networks.model import Model, StoredAs, read_model, read_tree, save_model
from cristae.networks.shipped import is_shipped

_TUNED = ("decoder", "thresholds", "threshold_voxel_size_nm")


def retune_model(
    path: str | Path,
    decoder: str,
    thresholds: Mapping[str, Any],
    voxel_size_nm: tuple[float, float, float] | None = None,
) -> Model:
    """Give a model file another decoder and thresholds; what they replace stays in its card.

    The weights keep every bit, and with them every prediction stays valid. A reader sees the old
    file or the new one. The card's ``earlier_thresholds`` lists what was replaced, oldest first.

    Args:
        path: A model file; not a model of the package.
        decoder: Name of the decoder.
        thresholds: Its parameters, by name.
        voxel_size_nm: Voxel size (z, y, x) in nm of what they were found on, where there is one.

    Returns:
        The model as it is now.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not a model file, or one that the package ships.
    """
    path = user_path(path)
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such model file")
    if is_shipped(path):
        raise InputError(f"{path}: a model of the package; copy it and change the copy")
    model = read_model(path)
    stored_as: StoredAs = read_tree(path)["stored_as"]
    new = to_plain(thresholds)
    tuned = replace(model, decoder=decoder, thresholds=new, threshold_voxel_size_nm=voxel_size_nm)
    if all(getattr(tuned, name) == getattr(model, name) for name in _TUNED):
        return model
    old = {"decoder": model.decoder, "thresholds": dict(model.thresholds)}
    card = {**model.card, "earlier_thresholds": [*model.card.get("earlier_thresholds", []), old]}
    with keep_record(path):
        return save_model(replace(tuned, card=card), path, stored_as=stored_as)
