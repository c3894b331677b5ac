"""The loop of a training run: batches in, weights, tables and model files out."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import nn

from cristae.configuration import to_plain
from cristae.engine.progress import Advance, log, track
from cristae.errors import OutputExistsError
from cristae.networks.channels import affinity_offsets
from cristae.networks.model import (
    GREY,
    Model,
    model_network,
    read_model,
    save_model,
)
from cristae.networks.retune import retune_model
from cristae.renamed import recorded_names
from cristae.samples.dataset import OpenedSample
from cristae.samples.held import load_samples
from cristae.training.batches import PatchBatch, make_batch, supply
from cristae.training.config import TrainConfig, learning_rate, recipe_of
from cristae.training.panels import example_panels, save_panels
from cristae.training.sampling import Source, prepare_source
from cristae.training.state import (
    FALSE_OBJECTS,
    State,
    Table,
    TrainingFiles,
    first_state,
    open_board,
    restore_state,
    save_state,
    update_average,
)
from cristae.training.step import (
    batch_loss,
    check_gradients,
    reduced_precision,
    run_network,
)
from cristae.training.team import Team
from cristae.training.validation import decoded_precision, tuned_thresholds, validate
from cristae.volumes.intensity import grey_moments

CALIBRATION_START = 1 << 40
"""Patches from here on are for batch normalisation statistics; no step gets so far."""

LOG_EVERY = 10
GIB = 1 << 30


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
        team: The processes that train together.
        reduced: What most of a step is computed in; None for float32.
    """

    config: TrainConfig
    files: TrainingFiles
    train_sources: list[Source]
    validation_sources: list[Source]
    state: State
    device: torch.device
    team: Team = field(default_factory=Team)
    reduced: torch.dtype | None = None

    @classmethod
    def prepare(
        cls,
        config: TrainConfig,
        opened: Sequence[OpenedSample],
        files: TrainingFiles,
        start: Model | None,
        team: Team,
        identity: str = "",
    ) -> Self:
        """Load and index the samples, make the network, and take up the last checkpoint.

        Raises:
            OutputExistsError: The checkpoint has more steps than are asked for.
        """
        device = team.device()
        reduced = reduced_precision(config, device)
        state = first_state(config, start, device, reduced)
        state.run = identity
        if files.checkpoint.exists():
            if restore_state(state, files.checkpoint, device):
                log.info("train: %s goes on from step %d", files.model, state.step)
            else:
                log.warning("%s: of another run, not gone on from", files.checkpoint)
        if state.step > config.steps:
            raise too_far(files.model, state.step, config.steps)
        loaded = load_samples(opened, int(config.cache_gib / team.count * GIB))
        groups = {
            group: [s for s in loaded if s.sample.group == group and s.sample.weight]
            for group in ("train", "validation")
        }
        learned = [prepare_source(one) for one in groups["train"]]
        measured = [prepare_source(one) for one in groups["validation"]] if team.leads else []
        return cls(config, files, learned, measured, state, device, team, reduced)

    def train(self, stop_after_minutes: float | None) -> bool:
        """Go on to the last step; False where the time was up before."""
        config, state, leads = self.config, self.state, self.team.leads
        deadline = math.inf if stop_after_minutes is None else 60 * stop_after_minutes
        begun = time.monotonic()
        board = open_board(self.files.board, state.step) if leads else None
        table = Table(self.files.table, state.step, board)
        if self.reduced is not None and self.device.type == "cpu" and state.step < config.steps:
            check_gradients(state.network, self._make_batch(state.step), config, self.reduced)
        network = self.team.join(state.network)
        with (
            contextlib.closing(table),
            contextlib.closing(supply(self._make_batch, state.step, config.steps)) as batches,
            self._track() as advance,
        ):
            clock = _Clock()
            for batch in clock.waiting(batches):
                figures, late = self._update(network, batch, time.monotonic() - begun > deadline)
                if leads:
                    advance(1, f"loss {figures['loss']:.4f}")
                    self._record(table, clock, figures, late)
                if late and state.step < config.steps:
                    if leads:
                        save_model(self._model({}), self.files.model)
                        log.info("train: %s stopped at step %d", self.files.model, state.step)
                    return False
            if leads and not self.files.model.exists():
                self._write_models(table)
        return True

    def tune(self) -> None:
        """Search thresholds for the last model and the best one, and store them in their files."""
        if not self.config.tune or not self.validation_sources:
            return
        for path in (self.files.model, self.files.best):
            if not path.exists():
                continue
            network = model_network(read_model(path)).to(self.device)
            found = tuned_thresholds(network, self.validation_sources, self.config, self.device)
            if found is None:
                log.warning("train: thresholds not tuned, no true instance in the boxes looked at")
                return
            parameters, precision = found
            retune_model(path, self.config.decoder, parameters)
            log.info("train: %s: tuned thresholds reach an AP-75 of %.3f", path.name, precision)

    def _track(self) -> contextlib.AbstractContextManager[Advance]:
        if self.team.leads:
            return track("train", self.config.steps, "steps", self.state.step)
        return contextlib.nullcontext(lambda _amount, _note="": None)

    def _make_batch(self, step: int) -> PatchBatch:
        """This process's share of the batch of a step."""
        share = replace(self.config, batch=self.config.batch // self.team.count, devices=1)
        first = self.team.first_patch(step, share.batch)
        return make_batch(self.train_sources, share, first, self.device)

    def _update(
        self, network: nn.Module, batch: PatchBatch, late: bool
    ) -> tuple[dict[str, float], bool]:
        """One step of the weights and of their moving average.

        Args:
            network: That of the state, as the team runs it.
            batch: This process's share.
            late: Whether this process thinks that the time is up.

        Returns:
            The loss and its parts, of the whole batch; and whether the time is up for any.
        """
        config, state = self.config, self.state
        rate = learning_rate(state.step, config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        logits = run_network(network, batch.image, config, self.reduced)
        loss, parts = batch_loss(logits, batch, config)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        state.scaler.unscale_(state.optimizer)
        limit = math.inf if config.clip_norm is None else config.clip_norm
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), limit)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        update_average(state, config.ema_decay)
        state.step += 1
        named = {"loss": loss.detach(), **parts}
        flag = loss.new_tensor(float(late))
        *values, any_late = self.team.mean(torch.stack([*named.values(), flag])).tolist()
        figures = {
            "learning_rate": rate,
            **dict(zip(named, values, strict=True)),
            "gradient_norm": float(norm),
        }
        return figures, any_late > 0

    def _record(
        self, table: Table, clock: "_Clock", figures: Mapping[str, float], late: bool
    ) -> None:
        """What is written after a step: a line, a validation, a checkpoint, as they fall due."""
        config, state = self.config, self.state
        last = state.step == config.steps
        if state.step % LOG_EVERY == 0 or last or late:
            table.add(state.step, dict(figures) | clock.lap())
        if state.step % config.validate_every == 0 or last:
            table.add(state.step, self._write_models(table))
            clock.lap()
        if state.step % config.checkpoint_every == 0 or last or late:
            table.write()
            save_state(state, self.files.checkpoint)

    def _write_models(self, table: Table) -> dict[str, Any]:
        """Write the model as it is now, also as the best one where it is; its figures."""
        state = self.state
        network = self._averaged()
        figures = validate(network, self.validation_sources, self.config, self.device)
        if figures and self._decodes():
            figures["validation_ap75"] = decoded_precision(
                network, self.validation_sources, self.config, self.device
            )
        self._show(network, table)
        model = self._model(figures, network)
        save_model(model, self.files.model)
        if figures:
            if self._is_best(figures):
                save_model(model, self.files.best)
            log.info(
                "train: step %d, validation loss %.3f, foreground IoU %.3f (best %.3f)%s%s: %s",
                state.step,
                figures["validation_loss"],
                figures["validation_iou"],
                state.best,
                _precision_text(figures, state.best_precision),
                f", {figures[FALSE_OBJECTS]} false objects" if FALSE_OBJECTS in figures else "",
                figures["by_sample"],
            )
        return figures

    def _is_best(self, figures: Mapping[str, Any]) -> bool:
        """Whether no model before was as good: by instances where they are decoded, else by IoU."""
        state = self.state
        further = bool(figures["validation_iou"] > state.best)
        state.best = max(state.best, figures["validation_iou"])
        if not self.config.validate_ap_every:
            return further
        precision = figures.get("validation_ap75")
        if precision is None or precision <= state.best_precision:
            return False
        state.best_precision = precision
        return True

    def _show(self, network: nn.Module, table: Table) -> None:
        """Example panels, for the report and TensorBoard."""
        sources = self.validation_sources or self.train_sources
        panels = example_panels(network, sources, self.config, self.device)
        save_panels(panels, self.state.step, self.files.panels)
        for panel in panels:
            table.show(panel, self.state.step)

    def _decodes(self) -> bool:
        """Whether instances are decoded in this validation."""
        every, step = self.config.validate_ap_every, self.state.step
        return every > 0 and (step % every == 0 or step == self.config.steps)

    @torch.no_grad()
    def _averaged(self) -> nn.Module:
        """The averaged network, its batch normalisation statistics taken over fixed patches."""
        network = self.state.average
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over all batches
        network.train()
        for k in range(self.config.calibration_batches):
            first = CALIBRATION_START + k * self.config.batch
            network(make_batch(self.train_sources, self.config, first, self.device).image)
        return network.eval()

    def _model(self, figures: Mapping[str, Any], network: nn.Module | None = None) -> Model:
        config = self.config
        tensors = (network or self._averaged()).state_dict()
        samples = [source.opened.sample for source in self.train_sources]
        return replace(
            model_of(config, {k: v.detach().cpu().clone() for k, v in tensors.items()}),
            card={
                **config.card,
                "trained_on": ", ".join(sample.name for sample in samples),
                "volumes": [recorded_names(to_plain(sample)) for sample in samples],
                "steps": str(self.state.step),
                GREY: [
                    [round(value, 4) for value in grey_moments(source.statistics, config.intensity)]
                    for source in self.train_sources
                ],
                **{key: str(value) for key, value in figures.items()},
            },
        )


def model_of(config: TrainConfig, state_dict: Mapping[str, torch.Tensor]) -> Model:
    """The model of a configuration with some weights, its card apart."""
    return Model(
        network_config=config.network,
        state_dict=state_dict,
        channels=config.network.channels,
        working_voxel_size_nm=config.working_voxel_size_nm,
        intensity=config.intensity,
        decoder=config.decoder,
        thresholds=dict(config.thresholds),
        recipe=recipe_of(config),
        offsets=affinity_offsets(config.network.channels),
    )


class _Clock:
    """Seconds since the last lap, and how many of them were spent waiting for batches."""

    def __init__(self) -> None:
        self.start, self.waited = time.monotonic(), 0.0

    def waiting(self, batches: Iterator[PatchBatch]) -> Iterator[PatchBatch]:
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


def too_far(path: Any, done: int, asked: int) -> OutputExistsError:
    """A run that has more steps than are asked for."""
    return OutputExistsError(
        f"{path}: trained for {done} steps, {asked} asked for; a run can be continued, not cut "
        "(--overwrite starts anew)"
    )


def _precision_text(figures: Mapping[str, Any], best: float) -> str:
    """What is said of decoded instances; nothing where none were decoded."""
    if "validation_ap75" not in figures:
        return ""
    precision = figures["validation_ap75"]
    return ", AP-75 of none" if precision is None else f", AP-75 {precision:.3f} (best {best:.3f})"
