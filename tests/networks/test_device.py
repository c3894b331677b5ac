"""Devices: which there are, and networks on them; the processor stands in for a GPU."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cristae.errors import ConfigError, MemoryLimitError
from cristae.grid import Box
from cristae.networks.device import (
    DeviceRunner,
    device_room,
    find_devices,
    reduced_precision,
)
from cristae.networks.families.pytc.inference import WindowNetwork
from cristae.networks.families.pytc.network import PytcConfig, build_pytc_network
from cristae.networks.families.unet.inference import TileNetwork
from cristae.networks.families.unet.network import UNetConfig, build_network

CPU = torch.device("cpu")
CORE = Box((0, 8, 8), (4, 24, 24))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,)))


@pytest.fixture(scope="module")
def tiles():
    return np.random.default_rng(0).normal(size=(3, 4, 32, 32)).astype(np.float32)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    free = {"cuda:0": 10_000, "cuda:1": 8_000}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[str(device)], 80_000))


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=r"device cuda: not found here.*one of cpu, mps"):
        find_devices("cuda")
    assert find_devices("mps") == (torch.device("mps"),)
    assert find_devices("auto") == (CPU,)  # Apple's GPU only when asked for


def test_auto_takes_every_gpu_and_the_room_of_the_fullest(two_gpus):
    gpus = find_devices("auto")
    assert gpus == find_devices("cuda") == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert device_room(gpus) == int(0.6 * 8_000)
    assert find_devices("cpu") == (CPU,)
    assert device_room((CPU,)) is None


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_computes_in_what_it_has(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert reduced_precision(torch.device("cuda:0")) == precision
    assert reduced_precision(torch.device("mps")) is None


def test_on_a_device_a_network_answers_the_same(network, tiles):
    plain = TileNetwork(network, "float32")
    runner = DeviceRunner(TileNetwork(network, "float32", CPU), CPU)
    assert runner.precision == "float32"
    assert torch.equal(runner.probabilities(tiles[0], CORE), plain.probabilities(tiles[0], CORE))


class Strangers(TorchDispatchMode):
    """Names of the operations that see a tensor of another device."""

    def __init__(self, device):
        super().__init__()
        self.device, self.found = device, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.device != self.device:
                self.found.add(str(function))
        return result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_nothing_is_computed_elsewhere_or_waited_for(network, tiles, norm, precision):
    """On the device ``meta``, which has no data: a look at a value would fail."""
    meta = torch.device("meta")
    config = PytcConfig(
        "unet_plus_3d", "residual_se", widths=(8, 16), isotropy=(False, True), norm=norm
    )
    for prepared in (
        TileNetwork(network, precision, meta),
        WindowNetwork(build_pytc_network(config), precision, meta),
    ):
        with Strangers(meta) as strangers:
            found = DeviceRunner(prepared, meta).probabilities(tiles[0], CORE)
        tile = {"aten.lift_fresh.default", "aten._to_copy.default"}  # from NumPy to the device
        assert strangers.found == tile
        assert found.shape == (len(prepared.config.channels), *CORE.shape)


def test_a_device_without_memory_left_is_told(network, tiles, monkeypatch):
    def full(image, core):
        raise torch.OutOfMemoryError("CUDA out of memory")

    prepared = TileNetwork(network, "float32", CPU)
    monkeypatch.setattr(prepared, "probabilities", full)
    with pytest.raises(MemoryLimitError, match=r"cpu has no memory left.*\(4, 32, 32\)"):
        DeviceRunner(prepared, CPU).probabilities(tiles[0], CORE)
