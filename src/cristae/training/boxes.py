"""What a network in training makes of a box, as a prediction would hold it.

A tile-invariant network takes the box at once, flipped too where predictions will be. One that is
not is swept over it in the windows of its model, blended as prediction blends them, the box
reflected at its borders.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from cristae.grid import Box, Triple
from cristae.networks.families.pytc.network import PytcNetwork
from cristae.networks.families.unet.network import UNet
from cristae.networks.runner import Runner, make_runner
from cristae.networks.windows import Tta, WindowRecipe, window_axes
from cristae.prediction.blending import Sums, Sweep
from cristae.prediction.tile_inference import tile_probabilities
from cristae.training.config import TrainConfig, windows_of
from cristae.training.step import sigmoid_logits
from cristae.volumes.volume import Array, array_volume, read_reflected

Levels = Callable[[Tensor], Array]


def make_levels(network: nn.Module, config: TrainConfig, device: torch.device) -> Levels:
    """A function that makes uint8 probabilities (c, z, y, x) of an image (z, y, x).

    Args:
        network: In evaluation mode.
        config: Settings of the run.
        device: Where the network is.
    """
    recipe = windows_of(config)
    if recipe is None and config.tta > 1:
        runner = make_runner(cast("UNet", network), "float32", device)
        return lambda image: _with_tta(runner, image, config.tta)
    if recipe is None:
        return lambda image: _at_once(network, image, config, device)
    return lambda image: _in_windows(cast("PytcNetwork", network), image, recipe, device)


@torch.no_grad()
def _at_once(network: nn.Module, image: Tensor, config: TrainConfig, device: torch.device) -> Array:
    logits = network(image[None, None].to(device))
    return _levels(torch.sigmoid(sigmoid_logits(logits, config.network))[0])


def _with_tta(runner: Runner, image: Tensor, tta: Tta) -> Array:
    whole = Box.of(cast("Triple", tuple(image.shape)))
    return _levels(tile_probabilities(runner, image.cpu().numpy(), whole, tta))


def _levels(probability: Tensor) -> Array:
    levels: Array = (255 * probability).round().to(torch.uint8).cpu().numpy()
    return levels


def _in_windows(
    network: PytcNetwork, image: Tensor, recipe: WindowRecipe, device: torch.device
) -> Array:
    runner = make_runner(network, "float32", device)
    box, endless = Box.of(cast("Triple", tuple(image.shape))), array_volume(image.cpu().numpy())
    axes = window_axes(recipe, box.shape)
    channels = len(network.config.channels)
    sweep = Sweep(recipe, axes, box.shape, box.shape, channels, recipe.tta, None)
    sums, whole = Sums(sweep, [box], truncate=False), Box.of(recipe.shape)
    starts = axes[0].starts
    done = []
    for z, after in pairwise((*starts, box.shape[0])):
        for corner in ((z, y, x) for y in axes[1].starts for x in axes[2].starts):
            window = read_reflected(endless, Box(corner, corner).grow((0, 0, 0), recipe.shape))
            found = tile_probabilities(runner, window, whole, recipe.tta, recipe.combine)
            sums.add(corner, found.cpu().numpy())
        done += sums.finish(range(max(z, 0), max(after, 0)))
    return done[0][1].array
