"""Configurations of PyTorch Connectomics v1 (YACS YAML) turned into runs of cristae.

Targets, losses, optimiser, schedule, batch, patch, augmentation and volumes are carried over. The
network is the recipe's where that is asked for. Else it is cristae's own, with the recipe's widths:
so the patch is rounded down to its lattice, and whatever is said of another network's layers or
windows is listed as not carried over. What no file names has PyTorch Connectomics v1's default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cristae.configuration import from_plain, to_plain
from cristae.errors import ConfigError, raise_faults
from cristae.networks.families.pytc.recipe_files import PytcSetup, read_pytc_config, read_pytc_keys
from cristae.samples.mitoem import mitoem_samples
from cristae.training.augment import PYTC
from cristae.training.config import TrainConfig, patch_lattice
from cristae.training.config_checks import check_train_config
from cristae.training.geometry import GeometryConfig
from cristae.training.targets import target_of

_DEFAULTS: dict[str, Any] = {
    "MODEL.TARGET_OPT": ["0"],
    "MODEL.WEIGHT_OPT": [["1"]],
    "MODEL.LOSS_OPTION": [["WeightedBCE"]],
    "MODEL.LOSS_WEIGHT": [[1.0]],
    "MODEL.LABEL_EROSION": None,
    "MODEL.FILTERS": [28, 36, 48, 64, 80],
    "MODEL.INPUT_SIZE": [8, 256, 256],
    "SOLVER.NAME": "SGD",
    "SOLVER.LR_SCHEDULER_NAME": "MultiStepLR",
    "SOLVER.ITERATION_TOTAL": 40000,
    "SOLVER.ITERATION_SAVE": 5000,
    "SOLVER.ITERATION_VAL": 5000,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.STEPS": [30000, 35000],
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.SAMPLES_PER_BATCH": 2,
    "SYSTEM.NUM_GPUS": 4,
    "AUGMENTOR.ENABLED": True,
    "DATASET.INPUT_PATH": "",
    "DATASET.OUTPUT_PATH": "outputs",
    "DATASET.IMAGE_NAME": [],
    "DATASET.LABEL_NAME": [],
    "DATASET.VALID_MASK_NAME": [],
    "DATASET.VAL_IMAGE_NAME": [],
    "DATASET.VAL_LABEL_NAME": [],
    "DATASET.VAL_VALID_MASK_NAME": [],
}
"""Keys that are carried over, with their defaults."""

_VOLUMES = tuple(key for key in _DEFAULTS if key.startswith("DATASET.") and "OUT" not in key)
"""Those that say what is learned from."""

_LOSSES = {
    "WeightedBCE": "bce",
    "WeightedBCEWithLogitsLoss": "bce",
    "DiceLoss": "dice",
    "WeightedMSE": "mse",
}
_SCHEDULES = {
    "WarmupCosineLR": "warmup_cosine",
    "WarmupMultiStepLR": "warmup_multistep",
    "MultiStepLR": "warmup_multistep",
}
_OPTIMIZERS = {"SGD": "sgd", "AdamW": "adamw"}
_BALANCE: dict[str, bool | str] = {"0": False, "1": True, "1-1": "dilated"}
_OF_THE_NETWORK = (
    "MODEL.ARCHITECTURE",
    "MODEL.BLOCK_TYPE",
    "MODEL.ISOTROPY",
    "MODEL.PAD_MODE",
    "MODEL.NORM_MODE",
    "MODEL.ACT_MODE",
    "MODEL.POOLING_LAYER",
    "MODEL.IN_PLANES",
    "MODEL.OUT_PLANES",
    "MODEL.OUTPUT_SIZE",
    "MODEL.OUTPUT_ACT",
)


@dataclass(frozen=True)
class ImportedConfig:
    """A configuration for ``cristae train`` and ``cristae run``.

    Attributes:
        tree: Plain keys and values: ``out``, ``volumes`` and ``train``.
        not_carried: Every key that was not carried over, or not as it stood; a line each.
    """

    tree: Mapping[str, Any]
    not_carried: tuple[str, ...]


def import_pytc_config(
    paths: Sequence[str | Path],
    data: Sequence[str | Path] = (),
    network: Literal["own", "pytc"] = "own",
) -> ImportedConfig:
    """Turn the configuration files of a recipe into one of cristae.

    Args:
        paths: YAML files; later ones override earlier ones key by key.
        data: Folders of the MitoEM data set, whose labelled splits take the place of the recipe's
            volumes.
        network: Whether cristae's own network is trained, with the recipe's widths, or the
            recipe's, with its windows.

    Raises:
        InputError: ``data`` that is not laid out as MitoEM is.
        SourceNotFoundError: No such file.
        ConfigError: Files that cannot be read, or a recipe that cannot be followed; all faults
            at once.
    """
    setup, given = read_pytc_config(paths), read_pytc_keys(paths)
    name = ", ".join(str(path) for path in paths)
    values = _DEFAULTS | {key: value for key, value in given.items() if key in _DEFAULTS}
    faults: list[str] = []
    solver = _solver(values, faults)
    targets = _targets(values["MODEL.TARGET_OPT"], faults)
    losses = _losses(values, setup, faults)
    volumes = _volumes(values, faults) if not data else _splits(data)
    raise_faults(name, faults, ConfigError)
    kept = network == "pytc"
    train: dict[str, Any] = {
        **solver,
        **(_recipe_network(setup) if kept else _own_network(values, setup)),
        "working_voxel_size_nm": [None, None, None],
        "intensity": "uint8",
        "sampling": {"uniform": 1.0, "foreground": 0.0, "instance": 0.0},
        "targets": {**targets, "label_erosion": values["MODEL.LABEL_EROSION"] or 0},
        "loss": {"targets": losses},
        "decoder": setup.decoder,
        **_augmentation(values),
    }
    train["patch"], lines = _patch(values["MODEL.INPUT_SIZE"], train)
    check_train_config(from_plain(TrainConfig, train, name))
    tree = {"out": values["DATASET.OUTPUT_PATH"], "volumes": volumes, "train": train}
    lines += [f"{key}: volumes are those of --data" for key in given if data and key in _VOLUMES]
    return ImportedConfig(tree, (*lines, *_not_carried(given, setup, kept)))


def _own_network(values: Mapping[str, Any], setup: PytcSetup) -> dict[str, Any]:
    depth = len(values["MODEL.FILTERS"])
    network = {
        "channels": list(setup.network.channels),
        "widths": list(values["MODEL.FILTERS"]),
        "strides": [[1, 2, 2] for _ in range(depth - 1)],
        "z_kernel_levels": list(range(1, depth)),
    }
    return {"network": network}


def _recipe_network(setup: PytcSetup) -> dict[str, Any]:
    return {"network": to_plain(setup.network), "windows": to_plain(setup.windows)}


def _solver(values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Optimiser, schedule, batch, and how often it is validated and saved."""
    known = {"SOLVER.NAME": _OPTIMIZERS, "SOLVER.LR_SCHEDULER_NAME": _SCHEDULES}
    for key, names in known.items():
        if values[key] not in names:
            faults.append(f"{key} {values[key]!r}: expected one of {', '.join(names)}")
    named = values["SOLVER.LR_SCHEDULER_NAME"]
    schedule = _SCHEDULES.get(named, "warmup_cosine")
    return {
        "steps": values["SOLVER.ITERATION_TOTAL"],
        "batch": values["SOLVER.SAMPLES_PER_BATCH"] * max(1, values["SYSTEM.NUM_GPUS"]),
        "optimizer": _OPTIMIZERS.get(values["SOLVER.NAME"], "sgd"),
        "momentum": values["SOLVER.MOMENTUM"],
        "learning_rate": values["SOLVER.BASE_LR"],
        "schedule": schedule,
        "warmup_steps": 0 if named == "MultiStepLR" else values["SOLVER.WARMUP_ITERS"],
        "warmup_factor": values["SOLVER.WARMUP_FACTOR"],
        "milestones": list(values["SOLVER.STEPS"]) if schedule == "warmup_multistep" else [],
        "gamma": values["SOLVER.GAMMA"],
        "weight_decay": values["SOLVER.WEIGHT_DECAY"],
        "clip_norm": None,
        "validate_every": values["SOLVER.ITERATION_VAL"],
        "checkpoint_every": values["SOLVER.ITERATION_SAVE"],
    }


def _targets(options: Sequence[Any], faults: list[str]) -> dict[str, Any]:
    """How targets are drawn, of options such as ``4-1-1`` and ``6-2d-8-50``."""
    drawn: dict[str, Any] = {}
    for option in map(str, options):
        kind, *given = option.split("-")
        try:
            drawn |= _drawn(kind, given)
        except ValueError:
            faults.append(f"MODEL.TARGET_OPT {option!r}: cannot be followed")
    return drawn


def _drawn(kind: str, given: list[str]) -> dict[str, Any]:
    """What one option says; a ValueError where it asks for something else."""
    defaults = {"4": ["1", "1"], "5": ["2d", "0", "0", "5.0", "0"], "6": ["2d", "8", "50"]}
    fields = given + defaults.get(kind, [])[len(given) :]
    if len(fields) != len(defaults.get(kind, [])):
        raise ValueError(kind)
    if kind == "4":
        return {
            "contour_half_width": int(fields[0]),
            "contour_around": bool(int(fields[1])),
            "contour_across_sections": "none",
        }
    if kind == "5":
        mode, pad, _, z_scale, erosion = fields
        if int(erosion):
            raise ValueError(erosion)
        return {
            "distance": "instance",
            "distance_across_sections": mode == "3d",
            "distance_background_around": bool(int(pad)),
            "distance_z_scale": float(z_scale),
        }
    if kind == "6":
        return {
            "distance": "signed",
            "distance_across_sections": fields[0] == "3d",
            "distance_alpha_px": [float(fields[1]), float(fields[2])],
        }
    return {}


def _losses(values: Mapping[str, Any], setup: PytcSetup, faults: list[str]) -> dict[str, Any]:
    """What is minimised for each target, in the order of the targets."""
    kinds = list(dict.fromkeys(target_of(channel) for channel in setup.network.channels))
    rows = [values[f"MODEL.{key}"] for key in ("LOSS_OPTION", "LOSS_WEIGHT", "WEIGHT_OPT")]
    if {len(row) for row in rows} != {len(kinds)}:
        found = ", ".join(str(len(row)) for row in rows)
        faults.append(
            f"MODEL.LOSS_OPTION, LOSS_WEIGHT and WEIGHT_OPT for {found} targets: expected "
            f"{len(kinds)}, one for each of {values['MODEL.TARGET_OPT']}"
        )
        return {}
    losses: dict[str, Any] = {}
    for kind, names, factors, weights in zip(kinds, *rows, strict=True):
        own: dict[str, Any] = {}
        for named, factor, weight in zip(names, factors, weights, strict=False):
            part = _LOSSES.get(named)
            if part is None:
                faults.append(f"MODEL.LOSS_OPTION {named!r}: expected one of {', '.join(_LOSSES)}")
                continue
            if weight not in _BALANCE or (part != "bce" and weight != "0"):
                faults.append(
                    f"MODEL.WEIGHT_OPT {weight!r} of {named}: expected 0, or 1 or 1-1 of a "
                    "cross-entropy"
                )
            own[part] = float(factor)
            if part == "bce":
                own["class_balance"] = _BALANCE.get(weight, False)
        losses[str(kind)] = own
    return losses


def _augmentation(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["AUGMENTOR.ENABLED"]:
        return {"augmentation": "pytc"}
    grey = {**to_plain(PYTC.grey), "tone": 0.0}
    return {"geometry": to_plain(GeometryConfig.still()), "grey": grey}


def _patch(size: Sequence[int], train: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """The largest patch on the network's lattice, and what there is to say about it."""
    network = from_plain(TrainConfig, {"network": train["network"]}, "network").network
    lattice = patch_lattice(network)
    patch = [max(step, n // step * step) for n, step in zip(size, lattice, strict=True)]
    if patch == list(size):
        return patch, []
    return patch, [f"MODEL.INPUT_SIZE: {list(size)} became {patch}, multiples of {lattice}"]


def _volumes(values: Mapping[str, Any], faults: list[str]) -> list[dict[str, Any]]:
    """Samples of both groups; files count from DATASET.INPUT_PATH."""
    volumes = []
    folder = str(values["DATASET.INPUT_PATH"])
    for group, before in (("train", ""), ("validation", "VAL_")):
        keys = [f"DATASET.{before}{key}_NAME" for key in ("IMAGE", "LABEL", "VALID_MASK")]
        images, labels, masks = (_names(values[key]) for key in keys)
        if len(labels) != len(images) or len(masks) not in (0, len(images)):
            faults.append(
                f"{keys[0]}: {len(images)} images, {len(labels)} labels and {len(masks)} masks, "
                "expected as many of each"
            )
            continue
        for i, image in enumerate(images):
            volume = {
                "name": f"{group}_{i}",
                "group": group,
                "image": str(Path(folder, image)),
                "labels": str(Path(folder, labels[i])),
            }
            volumes.append(volume | ({"mask": str(Path(folder, masks[i]))} if masks else {}))
    if not any(volume["group"] == "train" for volume in volumes):
        faults.append("DATASET.IMAGE_NAME: no volume, expected one at least")
    return volumes


def _splits(data: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The labelled splits of folders of MitoEM; what a sample has by default is left out."""
    keys = ("name", "group", "image", "labels", "voxel_size_nm")
    samples = [to_plain(sample) for sample in mitoem_samples(data)]
    return [{key: sample[key] for key in keys} for sample in samples]


def _names(value: Any) -> list[str]:
    """File names, given as a list or as one text with ``@`` between them."""
    if not value:
        return []
    return value.split("@") if isinstance(value, str) else [str(one) for one in value]


def _not_carried(given: Mapping[str, Any], setup: PytcSetup, kept: bool) -> list[str]:
    """Every key given that has no part in the training, with the reason.

    Args:
        given: All keys.
        setup: What prediction takes of them.
        kept: Whether the recipe's network and windows are, too.
    """
    reasons = dict(line.split(": ", 1) for line in setup.not_carried)
    lines = []
    for key in given:
        if key in _DEFAULTS or (kept and key not in reasons):
            continue
        if key in _OF_THE_NETWORK:
            reason = "the network is cristae's own"
        elif key.startswith("AUGMENTOR."):
            reason = "the preset `pytc` has the reference's default"
        elif key.startswith("INFERENCE.") or key == "DATASET.PAD_SIZE":
            reason = "of prediction; see `cristae predict`"
        elif key.startswith("DATASET.") and "CHUNK" in key:
            reason = "patches come from anywhere in the volume"
        else:
            reason = reasons.get(key, "no counterpart")
            reason = "no counterpart" if reason == "of training" else reason
        lines.append(f"{key}: {reason}")
    return lines
