from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model

CONFIG = UNetConfig(widths=(4, 6, 8), strides=((1, 2, 2), (1, 2, 2)), z_kernel_levels=(1, 2))


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    """Models with random weights in every layer; halo (3, 45, 45), lattice (1, 8, 8)."""

    def make(config: UNetConfig = CONFIG, **changes) -> Model:
        torch.manual_seed(0)
        network = build_network(config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.momentum = None
        nn.init.normal_(network.head.weight, std=0.2)
        network.train()
        with torch.no_grad():
            network(torch.randn(2, 1, 8, 48, 48))
        return Model(config, network.state_dict(), config.channels, **changes)

    return make


@pytest.fixture(scope="session")
def texture() -> Callable[..., np.ndarray]:
    """Images of smooth blobs and noise, uint8."""

    def make(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        coarse = random.normal(size=[-(-n // 6) + 1 for n in shape])
        smooth = coarse.repeat(6, 0).repeat(6, 1).repeat(6, 2)
        cropped = smooth[: shape[0], : shape[1], : shape[2]]
        return (128 + 40 * cropped + random.normal(size=shape) * 10).clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def each_turn() -> Callable[..., Iterator[np.ndarray]]:
    """What a function finds in an image turned each way, turned back: 1, 4, 8 or 16 arrays."""

    def turns(image: np.ndarray, find: Callable, tta: int) -> Iterator[np.ndarray]:
        quarters = {1: (0,), 4: (0, 2)}.get(tta, (0, 1, 2, 3))
        for z in (1, -1) if tta == 16 else (1,):
            for mirror in (1, -1) if tta > 1 else (1,):
                for quarter in quarters:
                    found = find(np.rot90(image[::z, :, ::mirror], quarter, (1, 2)).copy())
                    yield np.rot90(found, -quarter, (2, 3))[:, ::z, :, ::mirror]

    return turns
