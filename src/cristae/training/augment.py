"""Augmentation: all that is changed about a patch, and the presets.

Geometry comes first, while a patch is cut out of its source (`geometry`); then instances are copied
beside others (`copy_paste`), sections get defects (`defects`) and grey values change (`grey`).
"""

from dataclasses import dataclass, field

from cristae.training.copy_paste import CopyPasteConfig
from cristae.training.defects import DefectsConfig, defects_faults
from cristae.training.geometry import GeometryConfig
from cristae.training.intensity import GreyConfig


@dataclass(frozen=True)
class Augmentations:
    """All that is changed about a patch."""

    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    grey: GreyConfig = field(default_factory=GreyConfig)
    defects: DefectsConfig = field(default_factory=DefectsConfig)
    copy_paste: CopyPasteConfig = field(default_factory=CopyPasteConfig)


PYTC = Augmentations(
    GeometryConfig(
        turn=0.0,  # by quarters only
        scale=(1.0, 1.0),
        stretch=0.0,
        elastic=0.75,
        elastic_sigma_px=4.0,
        elastic_alpha_px=16.0,
        shift=0.5,
        shift_px=16,
        shift_turns=0.5,
        thick_sections=0.0,
        rescale=0.5,
        rescale_range=(0.8, 1.25),
        lost=0.5,
        lost_sections=2,
    ),
    GreyConfig(
        tone=0.75,
        contrast=0.15,
        brightness=0.15,
        gamma=1.0,
        blur=0.0,
        sharpen=0.0,
        noise=0.0,
        clouds=0.0,
        sections=0.0,
        missing=0.0,
        holes=0.0,
        noisy_boxes=0.0,
        contrast_about=0.0,
    ),
    DefectsConfig(lost_parts=0.9, motion_blur=0.5, cut_blur=0.5, cut_noise=0.75),
    CopyPasteConfig(share=0.0),
)
"""The augmentation of PyTorch Connectomics v1, with its values for MitoEM."""


def augmentation_faults(chosen: Augmentations) -> list[str]:
    """Values that cannot be used, a line each."""
    geometry = chosen.geometry
    faults = defects_faults(chosen.defects)
    for name in ("scale", "rescale_range"):
        pair = getattr(geometry, name)
        if not 0 < pair[0] <= pair[1]:
            faults.append(f"geometry.{name} {pair}: expected 0 < low <= high")
    if min(geometry.lost_sections, geometry.elastic_sigma_px) < 0:
        faults.append(
            f"geometry.lost_sections {geometry.lost_sections}, elastic_sigma_px "
            f"{geometry.elastic_sigma_px}: expected at least 0"
        )
    return faults
