"""The memory promised for a step is what a step takes: at least that, and at most twice."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cristae.samples.dataset import OpenedSample, Sample
from cristae.training.config import TrainConfig
from cristae.training.instance_index import index_instances
from cristae.training.memory import index_bytes, step_bytes, training_bytes
from cristae.volumes.volume import Volume

SIZE = (30.0, 8.0, 8.0)
MEASURE = """
import psutil, sys, torch
torch.set_num_threads(1)
from cristae.networks.families.table import fresh_network
from cristae.networks.families.pytc.network import PytcConfig
from cristae.networks.families.unet.network import UNetConfig
from cristae.training.losses import LossConfig, combined_loss
from cristae.training.memory import OWN_BYTES, step_bytes
from cristae.training.targets import TargetsConfig, make_targets

isotropic = UNetConfig(strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)), z_kernel_levels=(0, 1, 2, 3))
pytc = PytcConfig(channels=("mask", "contour"), outputs=("sigmoid", "sigmoid"))
network, patch = {
    "default": (UNetConfig(), (16, 96, 96)),
    "isotropic": (isotropic, (24, 96, 96)),
    "pytc": (pytc, (9, 97, 97)),
}[sys.argv[1]]
net = fresh_network(network)
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
@pytest.mark.parametrize("kind", ["default", "isotropic", "pytc"])
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


class Blobs:
    """Labels made as they are read: squares of 32 voxels in a quarter of the place."""

    def read(self, box):
        y, x = (np.arange(a, b) // 32 for a, b in list(zip(box.start, box.stop, strict=True))[1:])
        inside = (y % 2 == 0)[:, None] & (x % 2 == 0)[None]
        plane = np.where(inside, 1 + 1000 * (y % 500)[:, None] + (x % 1000)[None], 0)
        return np.broadcast_to(plane.astype(np.uint32), box.shape).copy()


def opened(shape):
    labels = Volume("labels", Blobs(), shape, np.dtype(np.uint32), voxel_size_nm=SIZE)
    image = labels.with_(name="image", dtype=np.dtype(np.uint8))
    return OpenedSample(Sample("large", "image", "labels"), image, labels, None)


def test_what_does_not_fit_is_not_counted():
    """MitoEM's size: the promise is the step's, one index block, patches; not the volume's."""
    config = TrainConfig()
    step = config.batch * step_bytes(config.network, config.patch)
    besides = training_bytes(config, [opened((1000, 4096, 4096))] * 3) - step
    assert 100 << 20 < besides < 1 << 30
    held = training_bytes(config, [opened((64, 1024, 1024))]) - step
    assert held > 64 * 1024 * 1024 * 3  # this one fits: one byte of grey, two of ids


def test_index():
    labels = opened((40, 1024, 1024)).labels
    tracemalloc.start()
    try:
        index_instances(labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= index_bytes(labels) <= 2 * peak
