"""Validation by instances: boxes of held-out samples, decoded and scored."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cristae.engine.executors import Resources
from cristae.engine.progress import log
from cristae.evaluation.evaluate import EvaluateConfig, pool_scores, score_instances
from cristae.networks.channels import affinity_offsets
from cristae.segmentation.decoders import SegmentConfig, resolve
from cristae.segmentation.segment import segment_volume
from cristae.training.config import TrainConfig
from cristae.training.sampling import Source, fixed_patches, read_patch
from cristae.volumes.volume import Array, Volume, array_volume


@torch.no_grad()
def decoded_precision(
    network: nn.Module, sources: Sequence[Source], config: TrainConfig, device: torch.device
) -> float | None:
    """Average precision at an IoU of .75 of decoded instances, pooled over all boxes.

    The same boxes at every call: ``validate_ap_boxes`` of each sample, of ``validate_ap_box``
    working voxels. Instances are decoded with the run's own decoder and thresholds, ranked by
    size, and cut at the boxes' borders as the true ones are; voxels whose labels are not known
    count for neither.

    Args:
        network: In evaluation mode.
        sources: Validation samples.
        config: Settings of the run.
        device: Where the network is.

    Returns:
        The precision; None where no box holds a true instance.
    """
    tables = []
    box = config.validate_ap_box
    scoring = EvaluateConfig(relabel=True)
    for plan in fixed_patches(sources, config.validate_ap_boxes, box, config.working_voxel_size_nm):
        image, ids, mask = read_patch(sources[plan.source], plan, box, config.intensity)
        probability = torch.sigmoid(network(image[None, None].to(device)))[0]
        levels = (255 * probability).round().to(torch.uint8).cpu().numpy()
        found, true = decode_levels(levels, config), ids.numpy()
        if mask is not None:
            known = mask.numpy() > 0
            found, true = found * known, true * known
        scores = score_instances(found, true, config=scoring)
        tables += [scores.tables] if scores.tables is not None else []
    return pool_scores(tables, scoring).average_precision_coco["75"] if tables else None


def decode_levels(levels: Array, config: TrainConfig) -> Array:
    """The instances that a run's decoder makes of uint8 probabilities (c, z, y, x).

    Raises:
        ConfigError: A decoder or thresholds that cannot be used with these channels.
    """
    resources = Resources(torch.get_num_threads())
    with tempfile.TemporaryDirectory(prefix="cristae-") as folder, _quietly():
        return segment_volume(
            _prediction(levels, config),
            Path(folder) / "labels.zarr",
            pyramid=False,
            resources=resources,
        ).read()


def check_decoder(config: TrainConfig) -> None:
    """Raise a ConfigError where the run's decoder cannot decode its network's channels."""
    levels = np.zeros((len(config.network.channels), 1, 1, 1), np.uint8)
    resolve(SegmentConfig(), _prediction(levels, config))


@contextmanager
def _quietly() -> Iterator[None]:
    """Boxes are many and small: what is said about each is no news."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _prediction(levels: Array, config: TrainConfig) -> Volume:
    channels = config.network.channels
    attributes = {
        "decoder": config.decoder,
        "thresholds": dict(config.thresholds),
        "offsets": affinity_offsets(channels),
    }
    volume = array_volume(levels, name="prediction", channels=channels)
    return volume.with_(attributes=attributes)
