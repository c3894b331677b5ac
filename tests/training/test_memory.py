"""The memory promised for a step is what a step takes: at least that, and at most twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import psutil, sys, torch
torch.set_num_threads(1)
from cristae.networks.unet import UNetConfig, build_network
from cristae.training.losses import LossConfig, combined_loss
from cristae.training.memory import OWN_BYTES, step_bytes
from cristae.training.targets import TargetsConfig, make_targets

isotropic = UNetConfig(strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)), z_kernel_levels=(0, 1, 2, 3))
network, patch = {"default": (UNetConfig(), (16, 96, 96)), "isotropic": (isotropic, (24, 96, 96))}[
    sys.argv[1]
]
net = build_network(network)
optimizer = torch.optim.AdamW(net.parameters(), fused=True)


def step(patch):
    labels = torch.ones((1, *patch), dtype=torch.int32)
    target = make_targets(labels, network.channels, TargetsConfig())
    loss, _ = combined_loss(net(torch.randn(1, 1, *patch)), target, LossConfig())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


step((8, 32, 32))  # some imports come with the first step
before = psutil.Process().memory_info().rss
step(patch)
# not ru_maxrss, which a new process inherits from the one that started it
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024 - before, step_bytes(network, patch) + OWN_BYTES)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("kind", ["default", "isotropic"])
def test_step(kind):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, kind],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    peak, promised = (int(text) for text in found.stdout.split())
    assert peak <= promised <= 2 * peak
