from collections.abc import Callable

import pytest
import torch
from torch import nn

from cristae.networks.families.unet.network import UNet, UNetConfig, build_network

Maker = Callable[[UNetConfig], UNet]


@pytest.fixture(scope="session")
def random_network() -> Maker:
    """Networks in evaluation mode whose every layer matters: nothing in them is 0 or 1."""

    def make(config: UNetConfig, seed: int = 0) -> UNet:
        torch.manual_seed(seed)
        network = build_network(config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.momentum = None  # the plain mean of what follows
        nn.init.normal_(network.head.weight, std=0.2)
        network.train()
        with torch.no_grad():  # statistics as training leaves them
            for _ in range(3):
                network(torch.randn(1, config.in_channels, 8, 48, 48))
        return network.eval()

    return make
