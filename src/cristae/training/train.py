"""Training: one readable loop (`loop`), resumable at any step to the same weights.

Beside ``model.pt`` stand ``model.best.pt`` (the best on the validation samples so far),
``model.csv`` (one line every few steps), ``model.panels.npz`` (example sections),
``model.tensorboard`` (all of it, where TensorBoard is installed) and ``model.training.pt``
(weights, optimiser and step, to resume from). The weights of a model file are averages over the
last steps (an exponential moving average); its batch normalisation statistics are taken anew for
those weights, over fixed patches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cristae.configuration import to_plain
from cristae.engine.executors import Resources, available_cores
from cristae.engine.identity import Identity
from cristae.engine.ledger import Ledger, check_output, open_ledger
from cristae.engine.memory import available_memory, promise_memory
from cristae.engine.ownership import work_folder
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, log, takes_progress
from cristae.engine.records import finished_summary, identity_tree, record_fingerprint
from cristae.engine.written import note_writes
from cristae.errors import ConfigError, InputError, MemoryLimitError
from cristae.networks.cpu import threads_set
from cristae.networks.families.table import fresh_network
from cristae.networks.model import Model, load_model, read_model
from cristae.samples.dataset import OpenedSample, Sample, open_samples, plain_sample
from cristae.samples.held import keep_on_disk
from cristae.training.config import TrainConfig, recorded_settings
from cristae.training.config_checks import check_train_config
from cristae.training.loop import GIB, Run, model_of, too_far
from cristae.training.memory import fitting_text, step_bytes, training_bytes
from cristae.training.replay import replayed_samples
from cristae.training.state import TrainingFiles
from cristae.training.step import reduced_precision
from cristae.training.team import Team, check_devices, run_team
from cristae.training.validation import check_decoder, check_tuning

__all__ = ["TrainConfig", "train_model"]

RUN_STEP = "run"
"""Step of the record that names the run's identity."""

ALLOCATION_WORDS = ("allocate memory", "ALLOC_FAILED")
"""What a failed allocation says of itself: torch's on a CPU, and those of NVIDIA's libraries."""

LEARNED_SHARE = 0.9
"""A step that ran out of memory needs more than there is: advice is for so much of it."""


@takes_progress
def train_model(  # noqa: PLR0913 - one parameter an option
    config: TrainConfig,
    samples: Sequence[Sample],
    out: str | Path,
    *,
    start_from: str | Path | None = None,
    threads: int | None = None,
    stop_after_minutes: float | None = None,
    overwrite: bool = False,
    same_source: bool = False,
    progress: ProgressCallback | None = None,
) -> Model:
    """Train a network, or go on where a run of the same settings was cut off.

    A run killed at any moment and called again ends with the weights of an uninterrupted one (with
    the same number of threads). A finished run is left alone; with more ``steps`` it goes on. With
    more than one of ``devices`` it starts processes, so a script that calls it keeps the call
    under ``if __name__ == "__main__":``.

    Args:
        config: Settings.
        samples: Those of group ``train`` are learned from, those of ``validation`` measured on.
        out: The model file written; see the module's head for what stands beside it.
        start_from: Model whose weights are the first ones (fine-tuning); a path or a name.
        threads: Threads of the arithmetic; all cores by default.
        stop_after_minutes: Make a checkpoint and return after this time; calling again goes on.
        overwrite: Replace an output of other settings, and start anew.
        same_source: The samples are those that a record names, although time or content differ.
        progress: Called with a `Progress` as work is done.

    Returns:
        The model as it is in ``out``.

    Raises:
        ConfigError: Settings that cannot be used, all at once.
        InputError: Samples that cannot be used, all at once, before the first step.
        OutputExistsError: ``out`` is of other samples or settings, or has more steps; or what
            would be written beside it is not cristae's.
        BusyError: Another process is training it.
        MemoryLimitError: The samples held, the patch and the batch do not fit into memory; names
            a patch and batch that would.
        WorkerError: One of several processes died.
    """
    asked = _ask(config, samples, user_path(out), start_from, same_source)
    threads = threads or available_cores()
    with threads_set(threads):
        return _train(asked, threads, stop_after_minutes, overwrite)


def _train(
    asked: "_Asked", threads: int, stop_after_minutes: float | None, overwrite: bool
) -> Model:
    config, files, opened = asked.config, asked.files, asked.opened
    if check_output(**asked.record, overwrite=overwrite) != "done":
        _promise(config, opened, threads)
    with _open_run(asked, overwrite) as ledger:
        if ledger.state == "done" and ledger.summary["steps"] == config.steps:
            log.info("%s: already done", files.model)
            return load_model(files.model)
        run = _run_identity(ledger, asked.record)
        if ledger.state == "done":
            _promise(config, opened, threads)
            ledger.reopen()
        ledger.mark(RUN_STEP, run)
        room = int(config.cache_gib / config.devices * GIB)
        kept = keep_on_disk(opened, ledger.scratch, Resources(threads), room)
        job = (config, kept, files, asked.source, stop_after_minutes, run)
        if config.devices == 1:
            summary = _work(Team(), *job)
        else:
            summary = run_team(_work, job, config.devices, threads=threads)
        if summary is not None:
            ledger.finish(**summary, run=run)
    return read_model(files.model)


def check_train(
    config: TrainConfig,
    samples: Sequence[Sample],
    out: str | Path,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    same_source: bool = False,
) -> tuple[Model, bool]:
    """What `train_model` will make of its arguments, with its errors; nothing is written.

    Returns:
        The model that is there where it is finished, else one like it will be, its weights apart;
        and whether it is finished.
    """
    asked = _ask(config, samples, user_path(out), None, same_source)
    if check_output(**asked.record, overwrite=overwrite) == "done":
        done = (finished_summary(asked.files.model) or {}).get("steps", config.steps)
        if done > config.steps:
            raise too_far(asked.files.model, done, config.steps)
        if done == config.steps:
            return load_model(asked.files.model), True
    _promise(config, asked.opened, threads or available_cores())
    return untrained_model(config), False


@dataclass(frozen=True)
class _Asked:
    """A training that was asked for, checked.

    Attributes:
        config: Settings.
        files: Where it writes.
        opened: The samples it learns from and is measured on.
        start: Model whose weights are the first ones, or None.
        source: Where that was read.
    """

    config: TrainConfig
    files: TrainingFiles
    opened: list[OpenedSample]
    start: Model | None
    source: str | Path | None

    @property
    def record(self) -> dict[str, Any]:
        """What makes it this training, for its record."""
        inputs: dict[str, str | Identity] = {o.sample.name: o.identity for o in self.opened}
        if self.start is not None:
            inputs["start_from"] = self.start.fingerprint
        settings = recorded_settings(self.config)
        settings["volumes"] = {o.sample.name: plain_sample(o.sample) for o in self.opened}
        return {
            "output": self.files.model,
            "stage": "train",
            "inputs": inputs,
            "settings": settings,
            "reads": () if self.source is None else (self.source,),
            "beside": self.files.beside,
        }


def _ask(
    config: TrainConfig,
    samples: Sequence[Sample],
    out: Path,
    start_from: str | Path | None,
    same_source: bool,
) -> _Asked:
    """Find every fault before the first step."""
    _check(config)
    start = None if start_from is None else _load_start(start_from, config)
    own: list[Sample] = []
    if config.replay:
        if start is None:
            raise ConfigError(f"replay {config.replay}: expected with a model to start from only")
        own = replayed_samples(start, str(start_from), samples, config.replay)
    opened = _open_train_samples(config, samples, own, out, same_source)
    source = None if start is None else start_from
    return _Asked(config, TrainingFiles(out), opened, start, source)


def _run_identity(ledger: Ledger, record: Mapping[str, Any]) -> str:
    """What checkpoints of this run carry: the same from its first step to its last."""
    known = [*ledger.done(RUN_STEP), ledger.summary.get("run")]
    tree = identity_tree(record["stage"], record["inputs"], record["settings"])
    return known[0] or record_fingerprint(tree)


def _work(
    team: Team,
    config: TrainConfig,
    opened: Sequence[OpenedSample],
    files: TrainingFiles,
    start_from: str | Path | None,
    stop_after_minutes: float | None,
    identity: str,
) -> dict[str, Any] | None:
    """What every process of a team does; facts for the record, or None where time was up."""
    note_writes((files.model, *files.beside), work_folder(files.model, is_folder=False))
    start = None if start_from is None else load_model(start_from)
    with _advising(config, team.device()):
        run = Run.prepare(config, opened, files, start, team, identity)
        if not run.train(stop_after_minutes):
            return None
        run.tune()
    summary = {"steps": config.steps, "best_validation_iou": run.state.best}
    if config.validate_ap_every:
        summary["best_validation_ap75"] = run.state.best_precision
    return summary


def untrained_model(config: TrainConfig) -> Model:
    """A model as a training will leave it, its weights and card apart."""
    return model_of(config, fresh_network(config.network).state_dict())


def _check(config: TrainConfig) -> None:
    check_train_config(config)
    check_devices(config.devices)
    reduced_precision(config, Team().device())
    if config.validate_ap_every:
        check_decoder(config)
    if config.tune:
        check_tuning(config)


def _promise(config: TrainConfig, opened: Sequence[OpenedSample], threads: int) -> None:
    """Say the memory of all processes; refuse what cannot fit, with what would."""

    def needed(one: TrainConfig) -> int:
        share = replace(
            one,
            batch=max(1, one.batch // one.devices),
            cache_gib=one.cache_gib / one.devices,
            devices=1,
        )
        return one.devices * training_bytes(share, opened, Team().device().type)

    try:
        promise_memory("train", needed(config), Resources(threads))
    except MemoryLimitError as error:
        advice = fitting_text(config, available_memory(), needed)
        raise MemoryLimitError(f"{error}; {advice}") from error


@contextmanager
def _advising(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Turn a failed allocation into an error that says which patch and batch would fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(
            words in str(error) for words in ALLOCATION_WORDS
        ):
            raise
        raise out_of_memory(config, device) from error


def out_of_memory(config: TrainConfig, device: torch.device) -> MemoryLimitError:
    """The error of a step that did not fit on a device."""

    def needed(one: TrainConfig) -> int:
        return max(1, one.batch // one.devices) * step_bytes(one.network, one.patch)

    there = available_memory()
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        there = free + torch.cuda.memory_reserved(device)
    room = LEARNED_SHARE * min(there, needed(config))
    return MemoryLimitError(
        f"train: out of memory on {device} at patch {list(config.patch)} with batch "
        f"{config.batch}; {fitting_text(config, room, needed)}"
    )


def _load_start(source: str | Path, config: TrainConfig) -> Model:
    model = load_model(source)
    if model.network_config != config.network:
        raise ConfigError(
            f"{source}: network {to_plain(model.network_config)}, expected that of the "
            f"configuration, {to_plain(config.network)}"
        )
    return model


def _open_train_samples(
    config: TrainConfig,
    samples: Sequence[Sample],
    replayed: Sequence[Sample],
    out: Path,
    same_source: bool,
) -> list[OpenedSample]:
    """Open all samples that are learned from or measured on."""
    if not any(s.group == "train" and s.weight > 0 for s in samples):
        found = ", ".join(f"{s.name} ({s.group}, weight {s.weight})" for s in samples) or "none"
        raise ConfigError(f"volumes: found {found}; expected one of group train at least")
    used = [*(s for s in samples if s.group != "test"), *replayed]
    for group in ("train", "validation"):
        chosen = [s for s in used if s.group == group and s.weight > 0]
        if chosen and all(s.negative for s in chosen):
            names = ", ".join(s.name for s in chosen)
            raise ConfigError(
                f"volumes: all of group {group} are negative ({names}), expected one with "
                "instances at least"
            )
    try:
        return open_samples(
            used,
            voxel_size_needed=any(size is not None for size in config.working_voxel_size_nm),
            out=out,
            same_source=same_source,
        )
    except InputError as error:
        if not replayed:
            raise
        names = ", ".join(sample.name for sample in replayed)
        note = f"(to be replayed, as the model's card says: {names})"
        raise InputError(f"{error}\n  {note}") from error


def _open_run(asked: _Asked, overwrite: bool) -> Ledger:
    ledger = open_ledger(**asked.record, overwrite=overwrite)
    if ledger.state == "new":
        asked.files.clear_board()
    if ledger.state == "done" and ledger.summary["steps"] > asked.config.steps:
        raise too_far(asked.files.model, ledger.summary["steps"], asked.config.steps)
    return ledger
