"""Batches: each a pure function of the seed and its number, made ahead of the step it is for."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from cristae.training.config import TrainConfig, augmentations_of
from cristae.training.defects import apply_defects, draw_defects
from cristae.training.grey import apply_grey, draw_grey
from cristae.training.paste import paste_touching
from cristae.training.sampling import (
    DEFECTS,
    GEOMETRY,
    GREY,
    PASTE,
    Source,
    plan_patch,
    random_stream,
    read_patch,
)
from cristae.training.targets import make_targets, needs_cpu

PREFETCH = 3


@dataclass(frozen=True)
class Batch:
    """Patches of a step.

    Attributes:
        image: float32 (n, 1, z, y, x), normalised.
        labels: int32 (n, z, y, x).
        valid: float32 (n, 1, z, y, x), 0 where nothing is known, or None.
        target: Targets (n, c, z, y, x) where making them takes the CPU a while, or None.
    """

    image: Tensor
    labels: Tensor
    valid: Tensor | None
    target: Tensor | None = None


def make_batch(
    sources: Sequence[Source], config: TrainConfig, first: int, device: torch.device
) -> Batch:
    """The ``batch`` patches from patch ``first`` on; a pure function of the seed and ``first``."""
    chosen = augmentations_of(config)
    images, labels, masks, greys, defects = [], [], [], [], []
    for index in range(first, first + config.batch):
        plan = plan_patch(
            sources,
            config.patch,
            config.working_voxel_size_nm,
            config.sampling,
            chosen.geometry,
            random_stream(config.seed, index, GEOMETRY),
        )
        image, ids, mask = read_patch(sources[plan.source], plan, config.patch, config.intensity)
        pasted, known_ids = paste_touching(
            image.numpy(), ids.numpy(), chosen.paste, random_stream(config.seed, index, PASTE)
        )
        images.append(torch.from_numpy(pasted))
        labels.append(torch.from_numpy(known_ids))
        masks.append(mask)
        greys.append(draw_grey(config.patch, chosen.grey, random_stream(config.seed, index, GREY)))
        stream = random_stream(config.seed, index, DEFECTS)
        defects.append(draw_defects(config.patch, chosen.defects, stream))
    stack = apply_defects(torch.stack(images).to(device), defects)
    return stack_patches(apply_grey(stack, greys), labels, masks, config)


def supply(
    make: Callable[[int], Batch], first: int, last: int, depth: int = PREFETCH
) -> Generator[Batch]:
    """Batches of steps ``first`` to ``last`` (exclusive), made ahead in a thread of its own."""
    waiting: deque[Future[Batch]] = deque()
    # its own thread count: the arithmetic of the step keeps all of its threads
    pool = ThreadPoolExecutor(1, "supply", initializer=_one_thread)
    try:
        for step in range(first, last):
            while len(waiting) < depth and step + len(waiting) < last:
                waiting.append(pool.submit(make, step + len(waiting)))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def stack_patches(
    images: Tensor,
    labels: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    config: TrainConfig,
) -> Batch:
    """A batch from images (n, z, y, x) and the labels and masks of each patch."""
    channels, target = config.network.channels, None
    if needs_cpu(channels):
        target = make_targets(torch.stack(list(labels)), channels, config.targets)
        target = target.to(images.device)
    valid = None
    if any(mask is not None for mask in masks):
        filled = [
            torch.ones_like(ids, dtype=torch.float32) if mask is None else mask
            for ids, mask in zip(labels, masks, strict=True)
        ]
        valid = torch.stack(filled)[:, None].to(images.device)
    return Batch(images[:, None], torch.stack(list(labels)).to(images.device), valid, target)
