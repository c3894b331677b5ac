"""Example panels: a section of a few samples, what is to be learned of it, and what is found."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cristae.engine.files import write_atomic
from cristae.training.boxes import make_levels
from cristae.training.config import TrainConfig, validated_patch
from cristae.training.sampling import Source, fixed_patches, read_patch
from cristae.training.targets import make_targets, target_of
from cristae.volumes.volume import Array

SAMPLES = 4
"""At most so many samples are shown."""


@dataclass(frozen=True)
class Panel:
    """One section of one sample, as pictures side by side.

    Attributes:
        sample: Its name.
        titles: What each picture shows.
        pictures: uint8 (pictures, y, x): the image, then target and output of every channel.
    """

    sample: str
    titles: tuple[str, ...]
    pictures: Array


def example_panels(
    network: nn.Module, sources: Sequence[Source], config: TrainConfig, device: torch.device
) -> list[Panel]:
    """The middle section of one patch of each sample; the same at every call.

    Args:
        network: In evaluation mode.
        sources: Samples; the first four are shown.
        config: Settings of the run.
        device: Where the network is.
    """
    panels, patch = [], validated_patch(config)
    levels_of = make_levels(network, config, device)
    sources = sources[:SAMPLES]
    for plan in fixed_patches(sources, 1, patch, config.working_voxel_size_nm):
        source = sources[plan.source]
        image, ids, _ = read_patch(source, plan, patch, config.intensity)
        found = levels_of(image)
        drawn = make_targets(ids[None], config.network.channels, config.targets)[0].numpy()
        middle = patch[0] // 2
        pictures = [_levels(image[middle].numpy(), -1)]
        titles = ["image"]
        for i, channel in enumerate(config.network.channels):
            lowest = -1 if target_of(channel) == "distance" else 0
            pictures += [_levels(drawn[i, middle], lowest), found[i, middle]]
            titles += [f"{channel}, true", f"{channel}, found"]
        panels.append(Panel(source.opened.sample.name, tuple(titles), np.stack(pictures)))
    return panels


def save_panels(panels: Sequence[Panel], step: int, path: Path) -> None:
    """Write panels to an ``.npz`` file, atomically: ``step``, ``titles``, and each by its sample.

    Args:
        panels: From `example_panels`.
        step: Of the run.
        path: The file.
    """
    arrays = {f"panel_{panel.sample}": panel.pictures for panel in panels}
    titles = np.array(panels[0].titles if panels else [])
    content = io.BytesIO()
    np.savez_compressed(content, step=np.array(step), titles=titles, **arrays)  # type: ignore[arg-type]
    write_atomic(path, lambda file: file.write(content.getvalue()))


def _levels(values: Array, lowest: int) -> Array:
    """Values from ``lowest`` to 1 as uint8."""
    share = (values - lowest) / (1 - lowest)
    levels: Array = (255 * share.clip(0, 1)).round().astype(np.uint8)
    return levels
