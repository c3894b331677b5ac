"""Networks of whole numbers: their sums are exact in any order, on every processor.

Weights are -1, 0 and 1, what batch normalisation divides by is 1. The last block cuts features off
at a whole number, so that there are few different logits, and none of their probabilities, nor of
the means that are taken of them, comes near the border of two levels.
"""

import numpy as np
import torch

from cristae.networks.families.pytc.network import PytcConfig, build_pytc_network
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.windows import WindowRecipe

THRESHOLDS = {
    "seed_threshold": 0.6,
    "contour_threshold": 0.95,
    "foreground_threshold": 0.5,
    "min_seed_size": 2,
    "min_size": 8,
}


def numbers(count: int, seed: int) -> np.ndarray:
    """Whole numbers from 0 to 255 that are the same for ever: bits, not a distribution."""
    return (np.random.PCG64(seed).random_raw(count) >> 56).astype(np.int64)


def whole_weights(state: dict, seed: int) -> dict:
    """Weights of -1, 0 and 1 for every convolution; normalisations that divide by 1."""
    found = {}
    for place, (name, tensor) in enumerate(state.items()):
        drawn = numbers(max(tensor.numel(), 1), 1000 * seed + place)
        value = np.where(drawn < 72, -1, np.where(drawn > 176, 1, 0))
        if name.endswith("running_var"):
            value = np.full_like(drawn, 1.0 - 1e-5, dtype=np.float64)  # and its eps
        elif name.endswith(("running_mean", "num_batches_tracked")):
            value = np.zeros_like(drawn)
        elif tensor.dim() == 1 and name.endswith("weight"):
            value = np.ones_like(drawn)
        elif tensor.dim() == 1:
            value = np.where(drawn < 128, -1, 0)
        found[name] = torch.tensor(value.reshape(tensor.shape), dtype=tensor.dtype)
    return found


def only_middle(tensor: torch.Tensor, value: float) -> torch.Tensor:
    """A kernel that multiplies each channel with a number."""
    kernel = torch.zeros_like(tensor)
    middle = tuple(n // 2 for n in tensor.shape[2:])
    for channel in range(min(tensor.shape[:2])):
        kernel[(channel, channel, *middle)] = value
    return kernel


def cut_off(state: dict, first: str, last: str, most: int) -> None:
    """Make a residual block give min(features, most): features - relu(features - most)."""
    for name, factor, bias in ((first, 1.0, -float(most)), (last, -1.0, 0.0)):
        conv, norm = (
            (f"{name}.conv", f"{name}.norm")
            if f"{name}.conv.weight" in state
            else (f"{name}.0", f"{name}.1")
        )
        state[f"{conv}.weight"] = only_middle(state[f"{conv}.weight"], factor)
        state[f"{norm}.bias"] = torch.full_like(state[f"{norm}.bias"], bias)


def set_head(state: dict, head: str, most: int) -> None:
    """Logits of -3 where the one feature that an output looks at is 0, of 2 where it is largest."""
    weight = torch.zeros_like(state[f"{head}.weight"])
    middle = tuple(n // 2 for n in weight.shape[2:])
    for output, drawn in enumerate(numbers(len(weight), 7)):
        weight[(output, int(drawn) % 2, *middle)] = 5.0 / most
    state[f"{head}.weight"] = weight
    state[f"{head}.bias"] = torch.full_like(state[f"{head}.bias"], -3.0)


def unet(seed: int, most: int = 1, **changes) -> Model:
    """A small network of ours: halo (1, 21, 21), lattice (1, 4, 4)."""
    config = UNetConfig(stem=2, widths=(2, 3), strides=((1, 2, 2),), z_kernel_levels=(1,))
    state = whole_weights(build_network(config).state_dict(), seed)
    cut_off(state, "decoder.0.first", "decoder.0.last", most)
    set_head(state, "head", most)
    return Model(config, state, config.channels, thresholds=THRESHOLDS, **changes)


def windowed(seed: int, most: int = 1, **recipe) -> Model:
    """A small network of PyTorch Connectomics, run on windows."""
    config = PytcConfig(
        channels=("mask", "contour"),
        outputs=("sigmoid", "tanh"),
        widths=(2, 3),
        isotropy=(False, True),
        activation="relu",
        pooling=True,
    )
    state = whole_weights(build_pytc_network(config).state_dict(), seed)
    cut_off(state, "up_layers.0.1.conv.0", "up_layers.0.1.conv.1", most)
    set_head(state, "conv_out.0", most)
    windows = WindowRecipe(**{"shape": (4, 16, 16), "stride": (2, 8, 8), **recipe})
    return Model(
        config,
        state,
        config.channels,
        thresholds=THRESHOLDS,
        recipe=InferenceRecipe(windows=windows),
    )
