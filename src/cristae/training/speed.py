"""How fast a device trains, and how fast patches are supplied to it: measured, not guessed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from cristae.configuration import to_plain
from cristae.engine.executors import Resources
from cristae.engine.memory import GIB, available_memory
from cristae.networks.cpu import threads_set
from cristae.networks.families.table import fresh_network
from cristae.networks.model import Model
from cristae.samples.held import compact_ids
from cristae.training.batches import make_batch
from cristae.training.config import TrainConfig
from cristae.training.proposal import Device
from cristae.training.sampling import Source
from cristae.training.step import batch_loss, reduced_precision, run_network
from cristae.training.targets import TargetsConfig, make_targets
from cristae.volumes.volume import Array, Volume, array_volume

ROOM_SHARE = 0.8
"""Share of the memory that is free, of which a patch and batch are chosen."""


@dataclass(frozen=True)
class StepTimes:
    """Mean times of the parts of a training step, in seconds.

    Attributes:
        supply: One thread reads, turns and changes a batch.
        forward: Targets, network and loss.
        backward: Gradients.
        voxels: Voxels of a batch, in working voxels.
        patches: Patches of a batch.
    """

    supply: float
    forward: float
    backward: float
    voxels: int
    patches: int

    @property
    def step(self) -> float:
        """What the device takes for a batch."""
        return self.forward + self.backward

    @property
    def bottleneck(self) -> str:
        """What a run waits for, as batches are made while the device computes."""
        return "data supply" if self.supply > self.step else "the device"


def find_device(resources: Resources) -> Device:
    """What trainings run on here, and the memory they may take."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Device("cuda", torch.cuda.get_device_name(), int(ROOM_SHARE * free))
    room = ROOM_SHARE * available_memory()
    if resources.memory_gib is not None:
        room = resources.memory_gib * GIB
    cores = f"CPU, {resources.workers} threads"
    return Device("cpu", cores, int(room))


def measure_step(
    config: TrainConfig, sources: Sequence[Source], kind: str, threads: int, *, repeats: int = 3
) -> StepTimes:
    """Time steps of a fresh network on real patches; nothing is updated or written.

    Args:
        config: Settings.
        sources: What patches are taken from.
        kind: Device where the arithmetic is done, ``cpu`` or ``cuda``.
        threads: Threads of the arithmetic on a CPU.
        repeats: Steps timed, after one that is not.
    """
    device = torch.device(kind)
    network = fresh_network(config.network).to(device).train()
    with threads_set(threads):
        times = [_timed(network, config, sources, device, i) for i in range(repeats + 1)][1:]
    supply, forward, backward = (sum(part) / repeats for part in zip(*times, strict=True))
    patch = config.patch[0] * config.patch[1] * config.patch[2]
    return StepTimes(supply, forward, backward, config.batch * patch, config.batch)


def perfect_prediction(labels: Array, model: Model, targets: TargetsConfig) -> Volume:
    """What a faultless model would predict of labels, to try later stages on.

    Args:
        labels: Ids (z, y, x).
        model: Names the channels, the decoder and its thresholds.
        targets: How the channels' targets are drawn.

    Returns:
        uint8 (channels, z, y, x), with the attributes a prediction has.
    """
    ids = torch.from_numpy(compact_ids(labels).astype(np.int32))[None]
    drawn = make_targets(ids, model.channels, targets)[0].numpy()
    signed = np.array([channel == "distance" for channel in model.channels])
    drawn[signed] = (drawn[signed] + 1) / 2
    levels = (255 * drawn).astype(np.uint8)
    volume = array_volume(levels, name="labels as a prediction", channels=model.channels)
    attributes = {"decoder": model.decoder, "thresholds": dict(model.thresholds)}
    offsets = {"offsets": to_plain(model.offsets)} if model.offsets else {}
    return volume.with_(attributes=attributes | offsets)


def _timed(
    network: torch.nn.Module,
    config: TrainConfig,
    sources: Sequence[Source],
    device: torch.device,
    index: int,
) -> tuple[float, float, float]:
    moments = [time.perf_counter()]
    with threads_set(1):  # as in a run, where a thread of its own makes batches
        batch = make_batch(sources, config, index * config.batch, device)
    moments.append(_now(device))
    logits = run_network(network, batch.image, config, reduced_precision(config, device))
    loss, _ = batch_loss(logits, batch, config)
    moments.append(_now(device))
    loss.backward()  # type: ignore[no-untyped-call]
    moments.append(_now(device))
    network.zero_grad(set_to_none=True)
    supply, forward, backward = (b - a for a, b in pairwise(moments))
    return supply, forward, backward


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
