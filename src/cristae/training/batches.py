"""Batches: each a pure function of the seed and its number, made ahead of the step it is for."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from cristae.training.config import TrainConfig, augmentations_of
from cristae.training.copy_paste import CopyPasteConfig, copy_paste_touching, is_pasted
from cristae.training.defects import apply_defects, draw_defects
from cristae.training.intensity import apply_grey, draw_grey
from cristae.training.sampling import (
    DEFECTS,
    GEOMETRY,
    GREY,
    PASTE,
    Source,
    cut_patch,
    plan_patch,
    random_stream,
)
from cristae.training.targets import make_targets, needs_cpu
from cristae.training.warp import warp_patches

PREFETCH = 3


@dataclass(frozen=True)
class PatchBatch:
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
) -> PatchBatch:
    """The ``batch`` patches from patch ``first`` on; a pure function of the seed and ``first``.

    The processor reads and draws; patches are turned and changed on the device, all at once.
    """
    chosen = augmentations_of(config)
    cuts, greys, defects = [], [], []
    for index in range(first, first + config.batch):
        plan = plan_patch(
            sources,
            config.patch,
            config.working_voxel_size_nm,
            config.sampling,
            chosen.geometry,
            random_stream(config.seed, index, GEOMETRY),
        )
        cuts.append(cut_patch(sources[plan.source], plan, config.patch, config.intensity))
        greys.append(draw_grey(config.patch, chosen.grey, random_stream(config.seed, index, GREY)))
        stream = random_stream(config.seed, index, DEFECTS)
        defects.append(draw_defects(config.patch, chosen.defects, stream))
    images, labels, known = warp_patches(cuts, config.patch, device)
    _copy_paste(images, labels, chosen.copy_paste, config.seed, first)
    images = apply_grey(apply_defects(images, defects), greys)
    return stack_patches(images, labels, known, config)


def _copy_paste(
    images: Tensor, labels: Tensor, config: CopyPasteConfig, seed: int, first: int
) -> None:
    """Copy instances beside others, in place; only patches where that is done leave the device."""
    for number in range(len(images)):
        if not is_pasted(config, random_stream(seed, first + number, PASTE)):
            continue
        image, ids = (stack[number].cpu().numpy() for stack in (images, labels))
        stream = random_stream(seed, first + number, PASTE)
        pasted = copy_paste_touching(image, ids, config, stream)
        for stack, array in zip((images, labels), pasted, strict=True):
            stack[number] = torch.from_numpy(array).to(stack.device)


def supply(
    make: Callable[[int], PatchBatch], first: int, last: int, depth: int = PREFETCH
) -> Generator[PatchBatch]:
    """Batches of steps ``first`` to ``last`` (exclusive), made ahead in a thread of its own."""
    waiting: deque[Future[PatchBatch]] = deque()
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
    images: Tensor, labels: Tensor, known: Tensor | None, config: TrainConfig
) -> PatchBatch:
    """A batch from images, labels and where these are known, each (n, z, y, x) on the device."""
    channels, target = config.network.channels, None
    if needs_cpu(channels):
        target = make_targets(labels.cpu(), channels, config.targets).to(images.device)
    valid = None if known is None else known[:, None]
    return PatchBatch(images[:, None], labels, valid, target)
