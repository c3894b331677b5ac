"""Where a network computes: the processor, NVIDIA GPUs (CUDA) or Apple's (MPS).

A tile's way on a GPU; the processor needs none of it::

    image (host) ── pinned memory ──► device ── network, channels-last ──► probabilities (device)

What is done with the probabilities stays on the device as well, until 256 levels come back
(`cristae.prediction.tile_inference.quantise`). Convolutions run in bfloat16 or float16, the first
and the last in float32, as autocast would have it, but with the weights converted once.

None of this has run on a GPU yet; tests run it on the processor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cristae.errors import ConfigError, MemoryLimitError, raise_faults
from cristae.grid import Box
from cristae.networks.cpu import bfloat16_is_fast, cpu_prepared
from cristae.networks.precision import Precision

DeviceName = Literal["auto", "cpu", "cuda", "mps"]

ROOM_SHARE = 0.6
"""Share of a GPU's free memory that is planned with; the rest is for what kernels need."""


def present_devices() -> tuple[str, ...]:
    """Names of the devices that there are, as `find_devices` takes them."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names.append("cuda")
    if torch.backends.mps.is_available():
        names.append("mps")
    return tuple(names)


def device_faults(wanted: DeviceName) -> list[str]:
    """What is wrong with a device that was asked for, a line each."""
    present = present_devices()
    if wanted == "auto" or wanted in present:
        return []
    return [f"device {wanted}: not found here, expected auto or one of {', '.join(present)}"]


def find_devices(wanted: DeviceName) -> tuple[torch.device, ...]:
    """The devices to compute on: every GPU that torch sees, or one device of another kind.

    Args:
        wanted: ``auto``: CUDA where there is any, else the processor.

    Raises:
        ConfigError: A device that is not there; those that are, are named.
    """
    raise_faults("settings", device_faults(wanted), ConfigError)
    if wanted == "auto":
        wanted = "cuda" if "cuda" in present_devices() else "cpu"
    if wanted == "cuda":
        return tuple(torch.device("cuda", number) for number in range(torch.cuda.device_count()))
    return (torch.device(wanted),)


def device_room(devices: Sequence[torch.device]) -> int | None:
    """Bytes of its own memory that each device may take; None where it is the processor's."""
    free = [torch.cuda.mem_get_info(device)[0] for device in devices if device.type == "cuda"]
    return int(ROOM_SHARE * min(free)) if free else None


def reduced_precision(device: torch.device) -> Precision | None:
    """The precision below float32 that a device multiplies fast in; None where none is known."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "cpu" and bfloat16_is_fast() else None


@contextmanager
def devices_prepared(devices: Sequence[torch.device], threads: int) -> Iterator[None]:
    """Set what torch keeps for all: `cpu_prepared`, and float32 that is float32 on a GPU, too."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    if any(device.type == "cuda" for device in devices):
        cudnn.allow_tf32 = False
    try:
        with cpu_prepared(threads):
            yield
    finally:
        cudnn.allow_tf32 = before


def pinned(image: NDArray[np.float32], devices: Sequence[torch.device]) -> NDArray[np.float32]:
    """An image in memory that a GPU reads by itself; as it is where none will."""
    if not any(device.type == "cuda" for device in devices):
        return image
    found: NDArray[np.float32] = torch.from_numpy(image).pin_memory().numpy()
    return found


class DeviceNetwork(Protocol):
    """A network made ready for inference, its weights on a device."""

    precision: Precision

    def probabilities(self, image: NDArray[np.float32] | Tensor, core: Box) -> Tensor:
        """As of `Runner`; the image may be on the device already."""


class DeviceRunner:
    """A network on one device.

    Args:
        network: It and its weights are on the device.
        device: Where.
    """

    def __init__(self, network: DeviceNetwork, device: torch.device) -> None:
        self._network, self.device = network, device

    @property
    def precision(self) -> Precision:
        """Of the network's arithmetic."""
        return self._network.precision

    @torch.no_grad()
    def probabilities(self, image: NDArray[np.float32], core: Box) -> Tensor:
        """Outputs in [0, 1] of the core of a tile, on the device; see `Runner.probabilities`.

        Raises:
            MemoryLimitError: The device has too little memory left.
        """
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                tile = torch.from_numpy(image).to(self.device, non_blocking=True)
                return self._network.probabilities(tile, core)
        except torch.OutOfMemoryError as error:
            raise MemoryLimitError(
                f"predict: {self.device} has no memory left for a tile of {image.shape}; a smaller "
                f"--block-shape takes less, --device cpu takes the processor's"
            ) from error
