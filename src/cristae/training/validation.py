"""Validation: loss and foreground of fixed patches; instances of boxes, decoded and scored."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cristae.engine.executors import Resources
from cristae.engine.progress import quiet
from cristae.evaluation.evaluate import EvaluateConfig, pool_scores, score_instances
from cristae.networks.channels import affinity_offsets
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decode import decode
from cristae.segmentation.decoders import resolve
from cristae.training.batches import stack_patches
from cristae.training.boxes import make_levels
from cristae.training.config import TrainConfig, validated_patch
from cristae.training.sampling import Source, fixed_patches, read_patch
from cristae.training.state import FALSE_OBJECTS
from cristae.training.step import batch_loss, count_objects, overlap, sigmoid_logits
from cristae.tuning.tune import TuneConfig, tune_decoder, tuned_config
from cristae.volumes.volume import Array, Volume, array_volume

TUNED_FOR = "ap_75"
"""What thresholds are chosen by: a name of `cristae.tuning.tune.SCORES`."""


@torch.no_grad()
def validate(
    network: nn.Module, sources: Sequence[Source], config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Mean loss over fixed patches; foreground IoU pooled in a sample, mean over samples.

    A network that is run in windows is given patches of their extent. Negative samples have no IoU:
    of these the false objects are counted, the 26-connected components of what is taken for
    foreground in a patch.

    Args:
        network: In evaluation mode.
        sources: Validation samples.
        config: Settings of the run.
        device: Where the network is.

    Returns:
        ``validation_loss``, ``validation_iou`` and, as text, ``by_sample``; with negative samples
        also ``false_objects``. Empty without samples.
    """
    losses: list[float] = []
    false_objects = [0] * len(sources)
    counts = torch.zeros((len(sources), 2), dtype=torch.int64)  # in both, in either
    patch = validated_patch(config)
    for plan in fixed_patches(
        sources, config.validation_patches, patch, config.working_voxel_size_nm
    ):
        image, ids, mask = read_patch(sources[plan.source], plan, patch, config.intensity)
        known = None if mask is None else mask[None].to(device)
        batch = stack_patches(image[None].to(device), ids[None].to(device), known, config)
        logits = sigmoid_logits(network(batch.image), config.network)
        losses.append(float(batch_loss(logits, batch, config)[0]))
        counts[plan.source] += overlap(logits, batch, config)
        if sources[plan.source].opened.sample.negative:
            false_objects[plan.source] += count_objects(logits, batch, config)
    if not losses:
        return {}
    ious = (counts[:, 0] / counts[:, 1].clamp(min=1)).tolist()
    found = [source.opened.sample for source in sources]
    positive = [iou for iou, sample in zip(ious, found, strict=True) if not sample.negative]
    texts = [
        f"{sample.name}={false} false" if sample.negative else f"{sample.name}={iou:.4f}"
        for sample, iou, false in zip(found, ious, false_objects, strict=True)
    ]
    figures = {
        "validation_loss": sum(losses) / len(losses),
        "validation_iou": sum(positive) / len(positive),
        "by_sample": " ".join(texts),
    }
    return figures | ({FALSE_OBJECTS: sum(false_objects)} if len(positive) < len(found) else {})


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
    scoring = EvaluateConfig(relabel=True)
    for levels, true, known in _predicted_boxes(network, sources, config, device):
        found = decode_levels(levels, config)
        if known is not None:
            found, true = found * known, true * known
        with quiet():
            scores = score_instances(found, true, config=scoring)
        tables += [scores.tables] if scores.tables is not None else []
    return pool_scores(tables, scoring).average_precision_coco["75"] if tables else None


def tuned_thresholds(
    network: nn.Module, sources: Sequence[Source], config: TrainConfig, device: torch.device
) -> tuple[dict[str, Any], float] | None:
    """The decoder's parameters that are best on the boxes of `decoded_precision`.

    The grid is that of `cristae tune`. The boxes are searched as one prediction, one behind the
    other along z, with an empty section between; voxels whose labels are not known are empty.

    Args:
        network: In evaluation mode.
        sources: Validation samples.
        config: Settings of the run.
        device: Where the network is.

    Returns:
        Parameters and the average precision at an IoU of .75 they reach; None where no box holds
        a true instance.
    """
    predictions, truths, highest = [], [], 0
    for levels, ids, known in _predicted_boxes(network, sources, config, device):
        true = ids.astype(np.int64)
        if known is not None:
            levels, true = levels * known, true * known
        predictions.append(np.pad(levels, ((0, 0), (0, 1), (0, 0), (0, 0))))
        truths.append(np.pad(np.where(true > 0, true + highest, 0), ((0, 1), (0, 0), (0, 0))))
        highest = int(truths[-1].max(initial=highest))
    if not highest:
        return None
    truth = array_volume(np.concatenate(truths).astype(np.uint32), name="truth", kind="labels")
    return _best_parameters(np.concatenate(predictions, axis=1), truth, config)


def check_tuning(config: TrainConfig) -> None:
    """Raise a ConfigError where there is no grid for the run's decoder."""
    levels = np.zeros((len(config.network.channels), 1, 1, 1), np.uint8)
    truth = array_volume(np.ones((1, 1, 1), np.uint32), name="truth", kind="labels")
    _best_parameters(levels, truth, config)


def decode_levels(levels: Array, config: TrainConfig) -> Array:
    """The instances that a run's decoder makes of uint8 probabilities (c, z, y, x).

    Raises:
        ConfigError: A decoder or thresholds that cannot be used with these channels.
    """
    with quiet():
        return decode(_prediction(levels, config), resources=Resources(torch.get_num_threads()))


def check_decoder(config: TrainConfig) -> None:
    """Raise a ConfigError where the run's decoder cannot decode its network's channels."""
    levels = np.zeros((len(config.network.channels), 1, 1, 1), np.uint8)
    resolve(SegmentConfig(), _prediction(levels, config))


def _predicted_boxes(
    network: nn.Module, sources: Sequence[Source], config: TrainConfig, device: torch.device
) -> Iterator[tuple[Array, Array, Array | None]]:
    """Prediction uint8 (c, z, y, x), true ids (z, y, x) and where these are known, of each box."""
    box, levels_of = config.validate_ap_box, make_levels(network, config, device)
    for plan in fixed_patches(sources, config.validate_ap_boxes, box, config.working_voxel_size_nm):
        image, ids, mask = read_patch(sources[plan.source], plan, box, config.intensity)
        yield levels_of(image), ids.numpy(), None if mask is None else mask.numpy() > 0


def _best_parameters(
    levels: Array, truth: Volume, config: TrainConfig
) -> tuple[dict[str, Any], float]:
    with quiet():
        tuning = tune_decoder(
            _prediction(levels, config),
            truth,
            config=TuneConfig(score=TUNED_FOR),
            resources=Resources(torch.get_num_threads()),
        )
    best = tuning.settings[tuning.best or 0]
    parameters = tuned_config(best)
    del parameters["decoder"]
    return parameters, float(best.value or 0)


def _prediction(levels: Array, config: TrainConfig) -> Volume:
    channels = config.network.channels
    attributes = {
        "decoder": config.decoder,
        "thresholds": dict(config.thresholds),
        "offsets": affinity_offsets(channels),
    }
    volume = array_volume(levels, name="prediction", channels=channels)
    return volume.with_(attributes=attributes)
