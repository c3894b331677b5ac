"""Settings of a training run, their check, and the learning rate they mean."""

import math
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from cristae.configuration import config_dataclass, to_plain
from cristae.grid import Triple
from cristae.networks.families.pytc.network import PytcConfig
from cristae.networks.families.table import family_of
from cristae.networks.families.unet.network import UNetConfig
from cristae.networks.family import NetworkConfig
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.windows import Tta, WindowRecipe
from cristae.renamed import recorded_names
from cristae.training.augment import PYTC, Augmentations
from cristae.training.copy_paste import CopyPasteConfig
from cristae.training.defects import DefectsConfig
from cristae.training.geometry import GeometryConfig
from cristae.training.intensity import GreyConfig
from cristae.training.losses import LossConfig
from cristae.training.sampling import SamplingConfig
from cristae.training.targets import (
    TargetsConfig,
)

Schedule = Literal["cosine", "warmup_cosine", "warmup_multistep"]

RUNNING_KEYS = ("steps", "checkpoint_every", "cache_gib", "devices")
"""Settings that say how far and how a run goes, not what it is."""

SILENT_KEYS = (
    "optimizer",
    "momentum",
    "schedule",
    "warmup_factor",
    "milestones",
    "gamma",
    "targets.label_erosion",
    "targets.distance",
    "targets.distance_across_sections",
    "targets.distance_z_scale",
    "targets.distance_alpha_px",
    "targets.distance_background_around",
    "loss.targets",
    "augmentation",
    "defects",
    "geometry.rescale",
    "geometry.rescale_range",
    "geometry.elastic_sigma_px",
    "geometry.elastic_alpha_px",
    "geometry.shift_turns",
    "geometry.lost",
    "geometry.lost_sections",
    "grey.contrast_about",
    "validate_ap_every",
    "validate_ap_box",
    "validate_ap_boxes",
    "windows",
    "precision",
    "replay",
    "tune",
    "tta",
    "section_spacing_nm",
    "scales",
)
"""Settings that a record names only where they are not the default."""


Precision = Literal["auto", "float32", "bfloat16", "float16"]


def _kind_of(network: Any) -> str:
    """Which network a value stands for; only one of PyTorch Connectomics has an architecture."""
    named = isinstance(network, dict) and "architecture" in network
    return "<pytc>" if named or isinstance(network, PytcConfig) else "<unet>"


Network = Annotated[
    Annotated[UNetConfig, Tag("<unet>")] | Annotated[PytcConfig, Tag("<pytc>")],
    Discriminator(_kind_of),
]


@config_dataclass
class TrainConfig:
    """A training run.

    Attributes:
        seed: Of the first weights and of every patch.
        steps: Updates of the weights; a raised number continues a finished run.
        batch: Patches an update.
        patch: Extent (z, y, x) of a patch in working voxels.
        optimizer: ``adamw`` or ``sgd``.
        momentum: Of SGD.
        learning_rate: Highest rate.
        schedule: How the rate rises and falls, see `learning_rate`.
        warmup_steps: Updates over which it rises.
        warmup_factor: Share of the rate that the ``warmup_`` schedules begin with.
        milestones: Steps at which ``warmup_multistep`` multiplies the rate by ``gamma``.
        gamma: See there.
        weight_decay: On convolution weights only.
        clip_norm: Largest norm of an update's gradient; null: any.
        ema_decay: Of the moving average of the weights; less in the first steps.
        network: What is trained; its channels say which targets.
        precision: What most of a step is computed in; by default bfloat16 on a GPU that has it, and
            float32 else (`reduced_precision`).
        working_voxel_size_nm: Voxel size (z, y, x) the network sees; null: as it comes (z always).
        intensity: Rule that grey values are normalised by.
        targets: How labels become targets.
        loss: What is minimised.
        sampling: Where patches are taken from.
        augmentation: ``own``: the next four; ``pytc``: those of PyTorch Connectomics v1 with its
            values for MitoEM, and none of the next four may be given.
        geometry: How patches are turned and bent.
        grey: How grey values are changed.
        defects: Which defects of sections and imaging are added.
        copy_paste: How instances are copied beside others, to touch them.
        validate_every: Steps between validations.
        validation_patches: Patches of each validation sample.
        validate_ap_every: Steps between validations that decode instances, too, and take their
            average precision at an IoU of .75; a multiple of ``validate_every``, 0 for never.
        validate_ap_box: Extent (z, y, x) in working voxels of the boxes that are decoded.
        validate_ap_boxes: Boxes of each validation sample.
        calibration_batches: Batches that batch normalisation statistics are taken over.
        checkpoint_every: Steps between checkpoints; at most so many are lost.
        cache_gib: Memory for samples; those that do not fit are read from disk, patch by patch.
        devices: Processes that share each batch, one a GPU, or of the CPU's cores; they end with
            the weights of one process, up to rounding.
        replay: Share of patches from the volumes that the model started from has learned from, so
            that it does not forget them; of a fine-tuning only.
        tune: At the end, search the decoder's thresholds on the boxes that ``validate_ap_box`` and
            ``validate_ap_boxes`` say, and store the best ones in the model.
        windows: Windows that a network of PyTorch Connectomics is validated and predicted in.
        tta: Test-time augmentation that the model is validated and, unless told otherwise,
            predicted with (`cristae.prediction.predict.PredictConfig`); not for ``windows``.
        section_spacing_nm: Target section spacing of the model: thinner sections are subsampled
            (`cristae.networks.strided_sections`), so the ``z_steps`` of such volumes should give
            about that. Validation does not subsample. None: nor does the model; not for
            ``windows``.
        scales: Times the working voxel size in the plane at which the model, unless told otherwise,
            sees an image, to average the outputs. Validation looks at 1. Not for ``windows``.
        decoder: Decoder that the model asks for.
        thresholds: Its thresholds, where they differ from the decoder's defaults.
        card: Facts for the model's card (data, licences, where it fails).
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 2
    patch: Triple = (16, 128, 128)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup_steps: int = 100
    warmup_factor: float = 0.001
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    ema_decay: float = 0.998
    network: Network = field(default_factory=UNetConfig)
    windows: WindowRecipe | None = None
    precision: Precision = "auto"
    working_voxel_size_nm: tuple[float | None, float | None, float | None] = (None, 8.0, 8.0)
    intensity: str = "window"
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: Literal["own", "pytc"] = "own"
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    grey: GreyConfig = field(default_factory=GreyConfig)
    defects: DefectsConfig = field(default_factory=DefectsConfig)
    copy_paste: CopyPasteConfig = field(default_factory=CopyPasteConfig)
    validate_every: int = 250
    validation_patches: int = 12
    validate_ap_every: int = 0
    validate_ap_box: Triple = (32, 256, 256)
    validate_ap_boxes: int = 2
    calibration_batches: int = 16
    checkpoint_every: int = 250
    cache_gib: float = 2.0
    devices: int = 1
    replay: float = 0.0
    tune: bool = False
    tta: Tta = 1
    section_spacing_nm: float | None = None
    scales: tuple[float, ...] = (1.0,)
    decoder: str = "bc_watershed"
    thresholds: dict[str, int | float] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)


OFFERED = ("tta", "section_spacing_nm", "scales")
"""Properties of an `InferenceRecipe` that a training gives to its model as it gets them."""


def augmentations_of(config: TrainConfig) -> Augmentations:
    """What is changed about the patches of a run."""
    if config.augmentation == "pytc":
        return PYTC
    return Augmentations(config.geometry, config.grey, config.defects, config.copy_paste)


def windows_of(config: TrainConfig) -> WindowRecipe | None:
    """The windows that the model is to be run on; None of cristae's own network.

    By default those of a patch, in steps of half of one, after half of one of padding.
    """
    family = family_of(config.network)
    if family.context(config.network) is not None or config.windows is not None:
        return config.windows
    z, y, x = (max(1, n // 2) for n in config.patch)
    return WindowRecipe(config.patch, (z, y, x), (z, y, x))


def recipe_of(config: TrainConfig) -> InferenceRecipe:
    """How the model is to be run: the settings of a training that a recipe has, by their names."""
    named = {name: getattr(config, name) for name in OFFERED}
    return InferenceRecipe(**named, windows=windows_of(config))


def validated_patch(config: TrainConfig) -> Triple:
    """Extent (z, y, x) of what a run is validated on at a time: its patch, or a window."""
    recipe = windows_of(config)
    return config.patch if recipe is None else recipe.shape


def patch_lattice(network: NetworkConfig) -> Triple:
    """What the extents (z, y, x) of a network's patches have to be multiples of."""
    context = family_of(network).context(network)
    return context.lattice if context else (1, 1, 1)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of an update, counted from 0.

    - ``cosine``: a linear rise that reaches the whole rate with update ``warmup_steps``; half a
      cosine down to 0 at the last step.
    - ``warmup_cosine``: the same cosine, with a linear rise from ``warmup_factor`` on.
    - ``warmup_multistep``: the same rise; the rate times ``gamma`` from each milestone on.

    The last two are WarmupCosineLR and WarmupMultiStepLR of PyTorch Connectomics v1.
    """
    if config.schedule == "cosine":
        rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    else:
        share = min(1.0, step / max(1, config.warmup_steps))
        rise = config.warmup_factor * (1 - share) + share
    if config.schedule == "warmup_multistep":
        passed = sum(step >= milestone for milestone in config.milestones)
        return config.learning_rate * rise * config.gamma**passed
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def recorded_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that make a run what it is, as its record holds them.

    `RUNNING_KEYS` are left out, and `SILENT_KEYS` where they have their default.
    """
    settings: dict[str, Any] = {
        key: value for key, value in to_plain(config).items() if key not in RUNNING_KEYS
    }
    defaults = to_plain(TrainConfig())
    for path in SILENT_KEYS:
        *parents, key = path.split(".")
        node, default = settings, defaults
        for parent in parents:
            node, default = node[parent], default[parent]
        if node[key] == default[key]:
            del node[key]
    return recorded_names(settings)
