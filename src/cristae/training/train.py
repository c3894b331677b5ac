"""Training: one readable loop, resumable at any step to the same weights.

Beside ``model.pt`` stand ``model.best.pt`` (the best on the validation samples so far),
``model.csv`` (one line every few steps), ``model.tensorboard`` (the same, where TensorBoard is
installed) and ``model.training.pt`` (weights, optimiser and step, to resume from). The weights of a
model file are averages over the last steps (an exponential moving average); its batch normalisation
statistics are taken anew for those weights, over fixed patches.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from cristae.configuration import to_plain
from cristae.engine.blockwise import promise_memory
from cristae.engine.executors import Resources, available_cores
from cristae.engine.ledger import Ledger, open_ledger
from cristae.engine.progress import log, track
from cristae.errors import ConfigError, OutputExistsError
from cristae.networks.channels import affinity_offsets
from cristae.networks.model import Model, load_model, save_model
from cristae.training.batches import Batch, make_batch, stack_patches, supply
from cristae.training.config import (
    TrainConfig,
    check_train_config,
    learning_rate,
    recorded_settings,
)
from cristae.training.losses import combined_loss
from cristae.training.memory import training_bytes
from cristae.training.sampling import Source, fixed_patches, prepare_source, read_patch
from cristae.training.state import (
    Files,
    State,
    Table,
    first_state,
    open_board,
    restore_state,
    save_state,
    update_average,
)
from cristae.training.targets import foreground_channels, make_targets, seam_weight
from cristae.training.validation import check_decoder, decoded_precision
from cristae.volumes.dataset import (
    OpenedSample,
    Sample,
    keep_on_disk,
    load_samples,
    open_samples,
)

__all__ = ["Run", "TrainConfig", "train_model"]

CALIBRATION_START = 1 << 40
"""Patches from here on are for batch normalisation statistics; no step gets so far."""

LOG_EVERY = 10
GIB = 1 << 30


def train_model(
    config: TrainConfig,
    samples: Sequence[Sample],
    out: str | Path,
    *,
    start_from: str | Path | None = None,
    threads: int | None = None,
    stop_after_minutes: float | None = None,
    overwrite: bool = False,
) -> Model:
    """Train a network, or go on where a run of the same settings was cut off.

    A run killed at any moment and called again ends with the weights of an uninterrupted one (with
    the same number of threads). A finished run is left alone; with more ``steps`` it goes on.

    Args:
        config: Settings.
        samples: Those of group ``train`` are learned from, those of ``validation`` measured on.
        out: The model file written; see the module's head for what stands beside it.
        start_from: Model whose weights are the first ones (fine-tuning); a path or a name.
        threads: Threads of the arithmetic; all cores by default.
        stop_after_minutes: Make a checkpoint and return after this time; calling again goes on.
        overwrite: Replace an output of other settings, and start anew.

    Returns:
        The model as it is in ``out``.

    Raises:
        ConfigError: Settings that cannot be used, all at once.
        InputError: Samples that cannot be used, all at once, before the first step.
        OutputExistsError: ``out`` is of other samples or settings, or has more steps.
        MemoryLimitError: The samples held, the patch and the batch do not fit into memory.
    """
    files = Files(Path(out))
    check_train_config(config)
    if config.validate_ap_every:
        check_decoder(config)
    start = None if start_from is None else _load_start(start_from, config)
    opened = _open_train_samples(config, samples)
    threads = threads or available_cores()
    torch.set_num_threads(threads)
    with _open_run(config, opened, files, start, overwrite) as ledger:
        if ledger.state == "done" and ledger.summary["steps"] == config.steps:
            log.info("%s: already done", out)
            return load_model(files.model)
        if ledger.state == "done":
            ledger.reopen()
        promise_memory("train", training_bytes(config, opened), Resources(threads))
        room = int(config.cache_gib * GIB)
        opened = keep_on_disk(opened, ledger.scratch, Resources(threads), room)
        run = Run.prepare(config, opened, files, start)
        if run.train(stop_after_minutes):
            ledger.finish(steps=config.steps, best_validation_iou=run.state.best)
    return load_model(files.model)


@dataclass
class Run:
    """A run at work: settings, what it learns from, and its state.

    Attributes:
        config: Settings.
        files: Where it writes.
        train_sources: Samples it learns from.
        validation_sources: Samples it is measured on.
        state: Weights and all else that changes.
        device: Where the arithmetic is done.
    """

    config: TrainConfig
    files: Files
    train_sources: list[Source]
    validation_sources: list[Source]
    state: State
    device: torch.device

    @classmethod
    def prepare(
        cls,
        config: TrainConfig,
        opened: Sequence[OpenedSample],
        files: Files,
        start: Model | None,
    ) -> Self:
        """Load and index the samples, make the network, and take up the last checkpoint.

        Raises:
            OutputExistsError: The checkpoint has more steps than are asked for.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        state = first_state(config, start, device)
        if files.checkpoint.exists():
            restore_state(state, files.checkpoint, device)
            log.info("train: %s goes on from step %d", files.model, state.step)
        if state.step > config.steps:
            raise _too_far(files.model, state.step, config.steps)
        loaded = load_samples(opened, int(config.cache_gib * GIB))
        sources = [prepare_source(one) for one in loaded]
        groups = {
            group: [s for s in sources if s.opened.sample.group == group and s.opened.sample.weight]
            for group in ("train", "validation")
        }
        return cls(config, files, groups["train"], groups["validation"], state, device)

    def train(self, stop_after_minutes: float | None) -> bool:
        """Go on to the last step; False where the time was up before."""
        config, state = self.config, self.state
        deadline = math.inf if stop_after_minutes is None else 60 * stop_after_minutes
        begun = time.monotonic()
        table = Table(self.files.table, state.step, open_board(self.files.board, state.step))
        with (
            contextlib.closing(table),
            contextlib.closing(supply(self._make_batch, state.step, config.steps)) as batches,
            track("train", config.steps, "steps", state.step) as advance,
        ):
            clock = _Clock()
            for batch in clock.waiting(batches):
                figures = self._update(batch)
                advance(1)
                last = state.step == config.steps
                late = time.monotonic() - begun > deadline
                if state.step % LOG_EVERY == 0 or last or late:
                    table.add(state.step, figures | clock.lap())
                if state.step % config.validate_every == 0 or last:
                    table.add(state.step, self._write_models())
                    clock.lap()
                if state.step % config.checkpoint_every == 0 or last or late:
                    table.write()
                    save_state(state, self.files.checkpoint)
                if late and not last:
                    save_model(self._model({}), self.files.model)
                    log.info("train: %s stopped at step %d", self.files.model, state.step)
                    return False
        if not self.files.model.exists():
            self._write_models()
        return True

    def _make_batch(self, step: int) -> Batch:
        return make_batch(self.train_sources, self.config, step * self.config.batch, self.device)

    def _update(self, batch: Batch) -> dict[str, float]:
        """One step of the weights and of their moving average; the loss and its parts."""
        config, state = self.config, self.state
        rate = learning_rate(state.step, config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        loss, parts = _loss(state.network(batch.image), batch, config)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = math.inf if config.clip_norm is None else config.clip_norm
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), limit)
        state.optimizer.step()
        update_average(state, config.ema_decay)
        state.step += 1
        return {
            "learning_rate": rate,
            "loss": float(loss.detach()),
            **{name: float(part) for name, part in parts.items()},
            "gradient_norm": float(norm),
        }

    def _write_models(self) -> dict[str, Any]:
        """Write the model as it is now, also as the best one where it is; its figures."""
        state = self.state
        network = self._averaged()
        figures = self._validate(network)
        if figures and self._decodes():
            figures["validation_ap75"] = decoded_precision(
                network, self.validation_sources, self.config, self.device
            )
        model = self._model(figures, network)
        save_model(model, self.files.model)
        if figures:
            if figures["validation_iou"] > state.best:
                state.best = figures["validation_iou"]
                save_model(model, self.files.best)
            log.info(
                "train: step %d, validation loss %.3f, foreground IoU %.3f (best %.3f)%s: %s",
                state.step,
                figures["validation_loss"],
                figures["validation_iou"],
                state.best,
                _precision_text(figures),
                figures["by_sample"],
            )
        return figures

    def _decodes(self) -> bool:
        """Whether instances are decoded in this validation."""
        every, step = self.config.validate_ap_every, self.state.step
        return every > 0 and (step % every == 0 or step == self.config.steps)

    @torch.no_grad()
    def _averaged(self) -> nn.Module:
        """The averaged network, its batch normalisation statistics taken over fixed patches."""
        network = self.state.average
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over all batches
        network.train()
        for k in range(self.config.calibration_batches):
            first = CALIBRATION_START + k * self.config.batch
            network(make_batch(self.train_sources, self.config, first, self.device).image)
        return network.eval()

    @torch.no_grad()
    def _validate(self, network: nn.Module) -> dict[str, Any]:
        """Mean loss over fixed patches; foreground IoU pooled in a sample, mean over samples."""
        config, sources = self.config, self.validation_sources
        losses: list[float] = []
        counts = torch.zeros((len(sources), 2), dtype=torch.int64)  # in both, in either
        for plan in fixed_patches(
            sources, config.validation_patches, config.patch, config.working_voxel_size_nm
        ):
            image, ids, mask = read_patch(
                sources[plan.source], plan, config.patch, config.intensity
            )
            batch = stack_patches(image[None].to(self.device), [ids], [mask], config)
            logits = network(batch.image)
            losses.append(float(_loss(logits, batch, config)[0]))
            counts[plan.source] += _overlap(logits, batch, config)
        if not losses:
            return {}
        ious = (counts[:, 0] / counts[:, 1].clamp(min=1)).tolist()
        names = [source.opened.sample.name for source in sources]
        return {
            "validation_loss": sum(losses) / len(losses),
            "validation_iou": sum(ious) / len(ious),
            "by_sample": " ".join(f"{n}={v:.4f}" for n, v in zip(names, ious, strict=True)),
        }

    def _model(self, figures: Mapping[str, Any], network: nn.Module | None = None) -> Model:
        config = self.config
        tensors = (network or self._averaged()).state_dict()
        return Model(
            network_config=config.network,
            state_dict={k: v.detach().cpu().clone() for k, v in tensors.items()},
            channels=config.network.channels,
            working_voxel_size_nm=config.working_voxel_size_nm,
            intensity=config.intensity,
            decoder=config.decoder,
            thresholds=dict(config.thresholds),
            offsets=affinity_offsets(config.network.channels),
            card={
                **config.card,
                "trained_on": ", ".join(s.opened.sample.name for s in self.train_sources),
                "steps": str(self.state.step),
                **{key: str(value) for key, value in figures.items()},
            },
        )


class _Clock:
    """Seconds since the last lap, and how many of them were spent waiting for batches."""

    def __init__(self) -> None:
        self.start, self.waited = time.monotonic(), 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time each takes to come counts as waiting."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def lap(self) -> dict[str, float]:
        """Both times, which begin anew."""
        now = time.monotonic()
        times = {"seconds": now - self.start, "waited": self.waited}
        self.start, self.waited = now, 0.0
        return times


def _precision_text(figures: Mapping[str, Any]) -> str:
    """What is said of decoded instances; nothing where none were decoded."""
    if "validation_ap75" not in figures:
        return ""
    precision = figures["validation_ap75"]
    return ", AP-75 of none" if precision is None else f", AP-75 {precision:.3f}"


def _loss(logits: Tensor, batch: Batch, config: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    channels = config.network.channels
    target = batch.target
    if target is None:
        target = make_targets(batch.labels, channels, config.targets)
    weight = None
    if config.loss.seam:
        weight = seam_weight(batch.labels, config.loss.seam).expand_as(target)
    return combined_loss(
        logits, target, config.loss, channels=channels, valid=batch.valid, weight=weight
    )


def _overlap(logits: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """Voxels in both, and in either, of the foreground found and the true one; int64 (2,)."""
    picks = foreground_channels(config.network.channels)
    found = (logits[:, picks] > 0).any(dim=1)
    true = batch.labels > 0
    if batch.valid is not None:
        known = batch.valid[:, 0] > 0
        found, true = found & known, true & known
    return torch.stack([(found & true).sum(), (found | true).sum()]).cpu()


def _load_start(source: str | Path, config: TrainConfig) -> Model:
    model = load_model(source)
    if model.network_config != config.network:
        raise ConfigError(
            f"{source}: network {to_plain(model.network_config)}, expected that of the "
            f"configuration, {to_plain(config.network)}"
        )
    return model


def _open_train_samples(config: TrainConfig, samples: Sequence[Sample]) -> list[OpenedSample]:
    """Open all samples that are learned from or measured on."""
    if not any(s.group == "train" and s.weight > 0 for s in samples):
        found = ", ".join(f"{s.name} ({s.group}, weight {s.weight})" for s in samples) or "none"
        raise ConfigError(f"volumes: found {found}; expected one of group train at least")
    return open_samples(
        [s for s in samples if s.group != "test"],
        voxel_size_needed=any(size is not None for size in config.working_voxel_size_nm),
    )


def _open_run(
    config: TrainConfig,
    opened: Sequence[OpenedSample],
    files: Files,
    start: Model | None,
    overwrite: bool,
) -> Ledger:
    inputs = {o.sample.name: o.fingerprint for o in opened}
    if start is not None:
        inputs["start_from"] = start.fingerprint
    settings = recorded_settings(config)
    settings["volumes"] = {o.sample.name: to_plain(o.sample) for o in opened}
    ledger = open_ledger(
        files.model, stage="train", inputs=inputs, settings=settings, overwrite=overwrite
    )
    if ledger.state == "new":
        for path in (files.best, files.checkpoint, files.table):
            path.unlink(missing_ok=True)
        shutil.rmtree(files.board, ignore_errors=True)
    if ledger.state == "done" and ledger.summary["steps"] > config.steps:
        raise _too_far(files.model, ledger.summary["steps"], config.steps)
    return ledger


def _too_far(path: Path, done: int, asked: int) -> OutputExistsError:
    return OutputExistsError(
        f"{path}: trained for {done} steps, {asked} asked for; a run can be continued, not cut "
        "(--overwrite starts anew)"
    )
