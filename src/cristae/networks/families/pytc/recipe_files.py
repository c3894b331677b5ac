"""Configurations of PyTorch Connectomics v1 (YACS YAML), read as what cristae does with them.

Later files override earlier ones, and what no file names has PyTorch Connectomics v1's default. Of
a recipe, prediction takes the network, its windows and what its channels mean. A key that would
make the prediction another one and cannot be followed is an error; every other key that is not
carried over is listed with the reason.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cristae.configuration import from_plain, read_yaml
from cristae.engine.paths import user_path
from cristae.errors import ConfigError, raise_faults
from cristae.networks.channels import affinity_step
from cristae.networks.families.pytc.network import PytcConfig, check_pytc_config
from cristae.networks.windows import WindowRecipe, recipe_faults

_CARRIED: dict[str, Any] = {
    "MODEL.ARCHITECTURE": "unet_3d",
    "MODEL.BLOCK_TYPE": "residual",
    "MODEL.FILTERS": [28, 36, 48, 64, 80],
    "MODEL.ISOTROPY": [False, False, False, True, True],
    "MODEL.TARGET_OPT": ["0"],
    "MODEL.IN_PLANES": 1,
    "MODEL.OUT_PLANES": 1,
    "MODEL.PAD_MODE": "replicate",
    "MODEL.NORM_MODE": "bn",
    "MODEL.ACT_MODE": "elu",
    "MODEL.POOLING_LAYER": False,
    "MODEL.INPUT_SIZE": [8, 256, 256],
    "MODEL.OUTPUT_SIZE": [8, 256, 256],
    "DATASET.IS_ISOTROPIC": False,
    "DATASET.PAD_SIZE": [2, 64, 64],
    "DATASET.DATA_CHUNK_NUM": [1, 1, 1],
    "INFERENCE.INPUT_SIZE": None,
    "INFERENCE.OUTPUT_SIZE": None,
    "INFERENCE.PAD_SIZE": None,
    "INFERENCE.OUTPUT_ACT": ["sigmoid"],
    "INFERENCE.STRIDE": [4, 128, 128],
    "INFERENCE.BLENDING": "gaussian",
    "INFERENCE.AUG_MODE": "mean",
    "INFERENCE.AUG_NUM": None,
}
"""Keys that are followed, with their defaults in PyTorch Connectomics v1."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "MODEL.HEAD_DEPTH": (1,),
    "MODEL.RETURN_FEATS": (None,),
    "MODEL.AUX_OUT": (False,),
    "DATASET.MEAN": (0.5,),
    "DATASET.STD": (0.5,),
    "DATASET.MATCH_ACT": ("none",),
    "DATASET.DO_2D": (False,),
    "DATASET.LOAD_2D": (False,),
    "DATASET.DATA_SCALE": ([1, 1, 1],),
    "DATASET.IMAGE_SCALE": (None, [1, 1, 1]),
    "DATASET.PAD_MODE": ("reflect",),
    "INFERENCE.DATA_SCALE": (None, [1, 1, 1]),
    "INFERENCE.OUTPUT_SCALE": ([1, 1, 1],),
    "INFERENCE.DO_EVAL": (True,),
    "INFERENCE.UNPAD": (True,),
    "INFERENCE.MODEL_RETURN_FEATS": (None,),
}
"""Keys that can only be followed at these values; another one would be another prediction."""


def _keys(section: str, names: str) -> frozenset[str]:
    return frozenset(f"{section}.{name}" for name in names.split())


_TRAINING = _keys(
    "MODEL",
    """LABEL_EROSION LABEL_DILATION WEIGHT_OPT LOSS_OPTION OUTPUT_ACT LOSS_WEIGHT LOSS_KWARGS_KEY
    LOSS_KWARGS_VAL REGU_OPT REGU_TARGET REGU_WEIGHT FINETUNE EXACT SIZE_MATCH PRE_MODEL
    PRE_MODEL_LAYER PRE_MODEL_ITER MIXED_PRECESION TARGET_OPT_MULTISEG_SPLIT""",
) | _keys(
    "DATASET",
    """LABEL_SCALE VALID_MASK_SCALE LABEL_NAME VALID_MASK_NAME VAL_IMAGE_NAME VAL_LABEL_NAME
    VAL_VALID_MASK_NAME VAL_PAD_SIZE LABEL_VAST REDUCE_LABEL LABEL_BINARY LABEL_MAG
    DATA_CHUNK_STRIDE DATA_CHUNK_ITER VALID_RATIO ENSURE_MIN_SIZE DISTRIBUTED
    REJECT_SAMPLING.SIZE_THRES REJECT_SAMPLING.DIVERSITY REJECT_SAMPLING.P
    REJECT_SAMPLING.NUM_TRIAL""",
)
_PLACES = _keys("DATASET", "IMAGE_NAME INPUT_PATH OUTPUT_PATH IS_ABSOLUTE_PATH") | _keys(
    "INFERENCE",
    """INPUT_PATH IMAGE_NAME OUTPUT_PATH OUTPUT_NAME IS_ABSOLUTE_PATH TENSORSTORE_PATH DO_SINGLY
    DO_SINGLY_START_INDEX DO_SINGLY_STEP""",
)
_OTHER_NETWORKS = _keys(
    "MODEL",
    """BACKBONE DEPLOY_MODE BLOCKS KERNEL_SIZES ATTENTION EMBEDDING SWIN_UNETR_FEATURE_SIZE DEPTHS
    SWIN_UNETR_NUM_HEADS NORM_NAME SWIN_UNETR_DROPOUT_RATE ATTN_DROP_RATE DROPOUT_PATH_RATE
    NORMALIZE USE_CHECKPOINT SPATIAL_DIMS DOWNSAMPLE USE_V2 UNETR_FEATURE_SIZE HIDDEN_SIZE MLP_DIM
    UNETR_NUM_HEADS POS_EMBED CONV_BLOCK RES_BLOCK UNETR_DROPOUT_RATE""",
)
_REASONS: dict[str, str] = {
    "DATASET.NORMALIZE_RANGE": "grey values are divided by 255",
    "DATASET.DO_CHUNK_TITLE": "windows lie on one grid over the whole volume",
    "INFERENCE.DO_CHUNK_TITLE": "windows lie on one grid over the whole volume",
    "DATASET.DATA_CHUNK_IND": "the whole volume is predicted; --roi takes a part",
    "DATASET.CHUNK_IND_SPLIT": "the whole volume is predicted; --roi takes a part",
    "DATASET.DATA_COORD_RANGE": "the whole volume is predicted; --roi takes a part",
    "INFERENCE.SAMPLES_PER_BATCH": "windows are computed one at a time",
    "INFERENCE.TEST_NUM": "one process predicts the whole volume",
    "INFERENCE.TEST_ID": "one process predicts the whole volume",
    "DATASET.DROP_CHANNEL": "images have no channels here",
    "DATASET.SCALE_FACTOR": "of super-resolution networks",
}
_SECTIONS = {
    "SOLVER": "of training",
    "AUGMENTOR": "of training",
    "MONITOR": "of training",
    "SYSTEM": "of the machine; see --workers",
}

_TARGETS = {
    "0": ("mask",),
    "2": ("affinity_z", "affinity_y", "affinity_x"),
    "4": ("contour",),
    "5": ("distance",),
    "6": ("distance",),
}
"""Channels of a target, by the first character of its option."""

_DECODERS = {
    ("mask",): "binary_watershed",
    ("mask", "contour"): "bc_watershed",
    ("mask", "contour", "distance"): "bcd_watershed",
    _TARGETS["2"]: "affinity_connected",
    (*_TARGETS["2"], "contour"): "affinity_connected",
}


@dataclass(frozen=True)
class PytcSetup:
    """What prediction takes of a recipe.

    Attributes:
        network: The network and what its channels mean.
        windows: How it is run.
        decoder: The decoder its channels are meant for.
        not_carried: Every key that was not followed, a line each with the reason.
    """

    network: PytcConfig
    windows: WindowRecipe
    decoder: str
    not_carried: tuple[str, ...]


def read_pytc_config(paths: Sequence[str | Path]) -> PytcSetup:
    """Read the configuration files of a recipe.

    Args:
        paths: YAML files; later ones override earlier ones key by key.

    Raises:
        SourceNotFoundError: No such file.
        ConfigError: Files that cannot be read, values of the wrong kind, or ones that cannot be
            followed; all faults at once.
    """
    given = read_pytc_keys(paths)
    name = ", ".join(str(path) for path in paths)
    values = _CARRIED | {key: given[key] for key in given if key in _CARRIED}
    faults = [
        f"{key}: {given[key]!r} found, only {' or '.join(map(repr, allowed))} can be followed"
        for key, allowed in _FIXED.items()
        if key in given and given[key] not in allowed
    ]
    channels, outputs = _channels(values, faults)
    windows = _windows(values, faults)
    raise_faults(name, faults, ConfigError)
    network = from_plain(
        PytcConfig,
        {
            "architecture": values["MODEL.ARCHITECTURE"],
            "block": values["MODEL.BLOCK_TYPE"],
            "in_channels": values["MODEL.IN_PLANES"],
            "channels": channels,
            "outputs": outputs,
            "widths": values["MODEL.FILTERS"],
            "is_isotropic": values["DATASET.IS_ISOTROPIC"],
            "isotropy": values["MODEL.ISOTROPY"],
            "padding": values["MODEL.PAD_MODE"],
            "activation": values["MODEL.ACT_MODE"],
            "norm": values["MODEL.NORM_MODE"],
            "pooling": values["MODEL.POOLING_LAYER"],
        },
        f"{name}: network",
    )
    recipe = from_plain(WindowRecipe, windows, f"{name}: windows")
    check_pytc_config(network)
    raise_faults(name, recipe_faults(recipe), ConfigError)
    decoder = _DECODERS.get(network.channels, "binary_watershed")
    lines = (f"{key}: {_reason(key)}" for key in given if key not in _CARRIED | _FIXED)
    return PytcSetup(network, recipe, decoder, tuple(lines))


def read_pytc_keys(paths: Sequence[str | Path]) -> dict[str, Any]:
    """What configuration files say, key by key; later ones override earlier ones.

    Args:
        paths: YAML files.

    Returns:
        Values by dotted keys, such as ``MODEL.TARGET_OPT``.

    Raises:
        SourceNotFoundError: No such file.
        ConfigError: A file that cannot be read.
    """
    given: dict[str, Any] = {}
    for path in paths:
        given |= _flattened(read_yaml(user_path(path)))
    return given


def _flattened(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A tree of sections as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = _value(value)
    return flat


def _value(value: Any) -> Any:
    """A value as YACS takes it: a string that is a Python literal is that literal."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return list(value) if isinstance(value, tuple) else value


def _channels(values: Mapping[str, Any], faults: list[str]) -> tuple[list[str], list[str]]:
    """Names of the channels, and what makes each a value in [0, 1]."""
    targets, acts = values["MODEL.TARGET_OPT"], values["INFERENCE.OUTPUT_ACT"]
    if not isinstance(targets, list) or not isinstance(acts, list) or len(targets) != len(acts):
        faults.append(
            f"INFERENCE.OUTPUT_ACT {acts!r}: expected one activation a target of "
            f"MODEL.TARGET_OPT {targets!r}"
        )
        return [], []
    channels: list[str] = []
    outputs: list[str] = []
    for target, act in zip(map(str, targets), acts, strict=True):
        names = _channels_of(target)
        if not names:
            known = "0, 2 (or 2-z-y-x-v1), 4, 5 (not quantised) or 6"
            faults.append(f"MODEL.TARGET_OPT {target!r}: expected {known}")
        if act not in ("sigmoid", "tanh"):
            faults.append(f"INFERENCE.OUTPUT_ACT {act!r}: expected sigmoid or tanh")
        channels += names
        outputs += [act] * len(names)
    if not faults and len(channels) != values["MODEL.OUT_PLANES"]:
        faults.append(
            f"MODEL.OUT_PLANES {values['MODEL.OUT_PLANES']}: the targets {targets} have "
            f"{len(channels)} channels"
        )
    return channels, outputs


def _channels_of(target: str) -> tuple[str, ...]:
    """Channels of a target's option; none of one that cannot be followed."""
    kind, *fields = target.split("-")
    if kind == "2" and fields:  # ranges along z, y and x, and what they mean
        *ranges, meaning = fields
        named = zip("zyx", ranges, strict=False)
        far = tuple(f"affinity_{axis}{'' if n == '1' else n}" for axis, n in named)
        followed = meaning == "v1" and len(ranges) == 3 and all(map(affinity_step, far))
        return far if followed else ()
    return () if _quantised(target) else _TARGETS.get(target[:1], ())


def _quantised(target: str) -> bool:
    """Whether a distance target has a channel a level: ``5-mode-pad-quant-...``, quant not 0."""
    parts = target.split("-")
    return parts[0] == "5" and len(parts) > 3 and parts[3] != "0"


def _windows(values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The window recipe as a plain tree; what INFERENCE leaves out is MODEL's or DATASET's."""

    def either(name: str, fallback: str) -> Any:
        value = values[f"INFERENCE.{name}"]
        return values[fallback] if value is None else value

    shape = either("INPUT_SIZE", "MODEL.INPUT_SIZE")
    output = either("OUTPUT_SIZE", "MODEL.OUTPUT_SIZE")
    if shape != output:
        faults.append(f"OUTPUT_SIZE {output}: expected that of the input, {shape}")
    return {
        "shape": shape,
        "stride": values["INFERENCE.STRIDE"],
        "padding": either("PAD_SIZE", "DATASET.PAD_SIZE"),
        "blending": values["INFERENCE.BLENDING"],
        "tta": values["INFERENCE.AUG_NUM"] or 1,
        "combine": values["INFERENCE.AUG_MODE"],
        "chunks": values["DATASET.DATA_CHUNK_NUM"],
    }


def _reason(key: str) -> str:
    """Why a key is not followed."""
    if key in _TRAINING:
        return "of training"
    if key in _PLACES:
        return "of places; SOURCE and OUT.zarr say them"
    if key in _OTHER_NETWORKS:
        return "of other networks"
    section = _SECTIONS.get(key.split(".", maxsplit=1)[0])
    return _REASONS.get(key) or section or "no such key in PyTorch Connectomics v1"
