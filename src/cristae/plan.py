"""The plan of a run: what its configuration leaves open, and what every stage will take.

The fingerprint of the volumes and the device decide (`cristae.training.proposal`); a key that the
configuration names is kept, and the plan says what it would have been. Times are measured here, on
a few steps, one tile and one box, and carried over to the whole by the number of voxels.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cristae.configuration import from_plain, to_plain
from cristae.engine.executors import Resources
from cristae.engine.files import temporary_folder
from cristae.engine.memory import GIB
from cristae.engine.progress import duration_text, quiet
from cristae.errors import ConfigError
from cristae.grid import Box
from cristae.networks.model import Model, load_model
from cristae.pipeline import RunConfig
from cristae.prediction.estimate import expected_precision, network_rate, prediction_work
from cristae.samples.dataset import OpenedSample, Sample, open_samples, open_sources
from cristae.samples.fingerprint import Fingerprint, fingerprint_sample, label_boxes
from cristae.segmentation.decoders import resolve
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.memory import labelling_bytes, sampled_density
from cristae.segmentation.scratch import MemoryScratch
from cristae.segmentation.segment import segment_volume
from cristae.simulation.simulate import simulate_volume
from cristae.training.config import TrainConfig
from cristae.training.config_checks import check_train_config
from cristae.training.memory import step_bytes, training_bytes
from cristae.training.proposal import Choice, Device, propose
from cristae.training.sampling import prepare_source
from cristae.training.speed import StepTimes, find_device, measure_step, perfect_prediction
from cristae.training.train import untrained_model
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import Layout
from cristae.volumes.volume import Volume

BOXES = 24
"""Boxes of labels read for the fingerprints of all volumes together."""


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        stage: Name of the stage, and of the volume.
        memory_bytes: What the stage will promise, imports apart.
        seconds: By what was measured; None where it could not be.
        how: What was measured.
    """

    stage: str
    memory_bytes: int
    seconds: float | None
    how: str

    @property
    def text(self) -> str:
        """One line."""
        taken = "time unknown" if self.seconds is None else duration_text(self.seconds)
        return f"{self.stage}: {self.memory_bytes / GIB:.2f} GiB, {taken} ({self.how})"


@dataclass(frozen=True)
class Plan:
    """What `plan_run` found.

    Attributes:
        tree: The configuration with what it left open filled in, plain.
        device: What was planned for.
        prints: Fingerprints of the labelled volumes.
        choices: Every key that was proposed, or kept.
        costs: Memory and time of the stages.
    """

    tree: Mapping[str, Any]
    device: Device
    prints: tuple[Fingerprint, ...]
    choices: tuple[Choice, ...]
    costs: tuple[Cost, ...]

    @property
    def text(self) -> str:
        """All of it, a line each."""
        parts = [[f"device: {self.device.name}, {self.device.room_bytes / GIB:.1f} GiB to use"]]
        parts += [[each.text for each in part] for part in (self.prints, self.choices, self.costs)]
        return "\n\n".join("\n".join(part) for part in parts if part)


def plan_run(tree: Mapping[str, Any], name: str, resources: Resources | None = None) -> Plan:
    """Plan a run without starting it; nothing is written.

    At most 24 boxes of labels of 32 x 512 x 512 voxels are read, and what a training reads to know
    where instances are; so a volume may have any size.

    Args:
        tree: Keys and values as the configuration gives them (`cristae.configuration.load_tree`).
        name: What messages call it.
        resources: Workers, and memory where it is limited.

    Raises:
        ConfigError: A configuration that cannot work.
        InputError: Volumes that cannot be used; all faults at once.
        MemoryLimitError: Not even the smallest patch fits.
    """
    resources = resources or Resources()
    config = from_plain(RunConfig, tree, name)
    if (config.model is None) == (config.train is None):
        raise ConfigError(f"{name}: model {config.model!r} and train: expected exactly one of them")
    device = find_device(resources)
    labelled = [s for s in config.volumes if s.labels or s.simulate or s.negative]
    opened = open_samples(labelled, voxel_size_needed=config.train is not None)
    share = max(1, BOXES // max(1, len(opened)))
    prints = [fingerprint_sample(one, share) for one in opened]
    learned = [s.name for s in labelled if s.group == "train"]
    shown = [s.name for s in labelled if s.group == "train" and not s.negative]
    choices: list[Choice] = []
    costs: list[Cost] = []
    if config.train is not None:
        if not shown:
            raise ConfigError(
                f"{name}: no labelled volume of group train with instances, expected one at least"
            )
        train, choices = propose(
            config.train,
            frozenset(_paths(tree.get("train") or {})),
            [p for p in prints if p.name in learned],
            device,
            partial(_bytes_on, device, opened),
        )
        check_train_config(train)
        config = replace(config, train=train)
        first = next(one for one in opened if one.sample.name == shown[0])
        costs.append(_train_cost(train, first, opened, device, resources))
    model = load_model(config.model) if config.model is not None else _fresh(config.train)
    costs += _use_costs(config, model, opened, resources)
    return Plan(_filled(tree, choices), device, tuple(prints), tuple(choices), tuple(costs))


def _bytes_on(device: Device, opened: Sequence[OpenedSample], config: TrainConfig) -> int:
    if device.kind == "cuda":
        return config.batch * step_bytes(config.network, config.patch)
    return training_bytes(config, opened)


def _train_cost(
    config: TrainConfig,
    first: OpenedSample,
    opened: Sequence[OpenedSample],
    device: Device,
    resources: Resources,
) -> Cost:
    with quiet():
        source = prepare_source(first)
        times = measure_step(config, [source], device.kind, resources.workers)
    seconds = config.steps * max(times.step, times.supply)
    how = f"{config.steps} steps, validations apart; {_step_text(times)}"
    return Cost("train", training_bytes(config, opened), seconds, how)


def _step_text(times: StepTimes) -> str:
    return (
        f"a step {times.step:.3g} s, {times.voxels / times.step / 1e6:.3g} Mvoxels/s; one thread "
        f"supplies its {times.patches} patches in {times.supply:.3g} s: bound by {times.bottleneck}"
    )


def _fresh(train: TrainConfig | None) -> Model:
    """A model as the training will leave it, its weights apart."""
    if train is None:
        raise ValueError("a run without a model trains one")
    return untrained_model(train)


def _use_costs(
    config: RunConfig, model: Model, opened: Sequence[OpenedSample], resources: Resources
) -> Iterator[Cost]:
    """Memory and time of predicting and segmenting every volume that will be."""
    images = {s.name: _open_image(s) for s in config.volumes if s.group != "train"}
    if not images:
        return
    precision = expected_precision(config.predict, model)
    rate = network_rate(model, precision, resources, config.predict.device)
    standing = _stand_in(config.train, model, opened)
    speed = None if standing is None else _segment_rate(standing, config, resources)
    for name, image in images.items():
        with quiet():
            work = prediction_work(image, model, config.predict, precision, resources)
        how = f"{rate / 1e6:.3g} Mvoxels/s on one tile, {precision}"
        yield Cost(f"predict {name}", work.memory_bytes, work.computed / rate, how)
        if standing is None or speed is None:
            yield Cost(f"segment {name}", 0, None, "memory and time need a labelled volume")
            continue
        memory = _segment_bytes(standing, image, config, resources)
        how = f"{speed / 1e6:.3g} Mvoxels/s on {standing.size / 1e6:.3g} Mvoxels of labels"
        yield Cost(
            f"segment {name}", memory, image.size / speed, f"{how}; floods tell theirs later"
        )


def _open_image(sample: Sample) -> Volume:
    if sample.simulate is not None:
        return open_volume(simulate_volume(sample.simulate)[0], roi=sample.roi)
    return open_sources(replace(sample, labels=None, mask=None))[0]


def _stand_in(
    train: TrainConfig | None, model: Model, opened: Sequence[OpenedSample]
) -> Volume | None:
    """A perfect prediction of a box of labels, in the middle of the first with instances."""
    labels = next((one.labels for one in opened if not one.sample.negative), None)
    if labels is None:
        return None
    (box,) = label_boxes(labels.shape, 1)
    return perfect_prediction(labels.read(box), model, (train or TrainConfig()).targets)


def _segment_rate(standing: Volume, config: RunConfig, resources: Resources) -> float:
    """Voxels a second from the stand-in to labels on disk."""
    with temporary_folder() as folder, quiet():
        small = standing.crop(Box.of(standing.shape).clip(Box.of((2, 64, 64))))
        options: dict[str, Any] = {"config": config.segment, "resources": resources}
        segment_volume(small, Path(folder, "first.zarr"), **options)  # compiles
        seconds = _seconds(lambda: segment_volume(standing, Path(folder, "all.zarr"), **options))
    return standing.size / seconds


def _segment_bytes(standing: Volume, image: Volume, config: RunConfig, resources: Resources) -> int:
    """What labelling and writing the image's instances promise, as dense as the stand-in's."""
    decoding = resolve(config.segment, standing)
    shape = Layout().fitted(image.shape).shard
    density = sampled_density(SegmentJob(standing, decoding, shape, MemoryScratch()))
    whole = standing.with_(shape=image.shape)
    return labelling_bytes(
        SegmentJob(whole, decoding, shape, MemoryScratch()), density, True, resources.workers
    )


def _paths(tree: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Paths of all keys of a tree."""
    for key, value in tree.items():
        yield f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{key}.")


def _filled(tree: Mapping[str, Any], choices: Sequence[Choice]) -> dict[str, Any]:
    """The configuration with what was proposed written where it was left open."""
    filled: dict[str, Any] = copy.deepcopy(dict(tree))
    for choice in choices:
        if not choice.given:
            *parents, last = f"train.{choice.key}".split(".")
            node = filled
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = to_plain(choice.value)
    return filled


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return max(1e-9, time.perf_counter() - start)
