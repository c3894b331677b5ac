"""What a training run keeps: its state from step to step, its files, and its table of losses."""

import copy
import csv
import importlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from cristae.engine.checksums import check_zip
from cristae.engine.files import write_atomic
from cristae.networks.families.table import fresh_network, trained_of
from cristae.networks.model import Model
from cristae.training.config import TrainConfig
from cristae.training.panels import Panel

COLUMNS = (
    "step",
    "learning_rate",
    "loss",
    "bce",
    "dice",
    "mse",
    "gradient_norm",
    "seconds",
    "waited",
    "validation_loss",
    "validation_iou",
    "validation_ap75",
    "by_sample",
)
"""Columns of the table of a run."""

FALSE_OBJECTS = "false_objects"
"""A further column, where there are negative validation samples."""

WRITE_EVERY = 10


@dataclass
class State:
    """What changes from step to step, and nothing else: the whole of a checkpoint.

    Attributes:
        step: Updates done.
        network: The weights being trained.
        average: A network whose weights are their moving average.
        optimizer: AdamW with its moments, or SGD with its momentum.
        scaler: Keeps gradients of half precision within its range; does nothing otherwise.
        run: Identity of the run; a checkpoint of another one is not gone on from.
        best: Best foreground IoU on the validation samples so far; -1 before the first.
        best_precision: Best average precision of decoded instances so far; -1 before the first.
    """

    step: int
    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    run: str = ""
    best: float = -1.0
    best_precision: float = -1.0


@dataclass(frozen=True)
class TrainingFiles:
    """Where a run writes, all beside its model file."""

    model: Path

    @property
    def best(self) -> Path:
        """The model that was best on the validation samples."""
        return self.model.with_suffix(".best.pt")

    @property
    def checkpoint(self) -> Path:
        """What a run is resumed from."""
        return self.model.with_suffix(".training.pt")

    @property
    def table(self) -> Path:
        """Losses and rates, one line every few steps."""
        return self.model.with_suffix(".csv")

    @property
    def panels(self) -> Path:
        """Example sections with what the network makes of them."""
        return self.model.with_suffix(".panels.npz")

    @property
    def board(self) -> Path:
        """The same for TensorBoard, where it is installed."""
        return self.model.with_suffix(".tensorboard")

    @property
    def beside(self) -> tuple[Path, ...]:
        """All that is written beside the model."""
        return (self.best, self.checkpoint, self.table, self.panels, self.board)

    def clear_board(self) -> None:
        """Remove what TensorBoard's writer has left; files of others stay."""
        if self.board.is_dir():
            for path in self.board.glob("events.out.tfevents.*"):
                path.unlink()
            if not any(self.board.iterdir()):
                self.board.rmdir()


class Board(Protocol):
    """What is needed of TensorBoard's writer."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """One figure of a step."""

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> Any:
        """One picture of a step."""

    def close(self) -> Any:
        """Put everything on disk."""


def open_board(folder: Path, step: int) -> Board | None:
    """A writer for TensorBoard, whose figures after a step are dropped; None where there is none.

    TensorBoard is used where it is installed, and not needed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return None
    summaries = importlib.import_module("torch.utils.tensorboard")
    return cast("Board", summaries.SummaryWriter(str(folder), purge_step=step + 1))


class Table:
    """The CSV of a run; lines after the step that is resumed from are dropped."""

    def __init__(self, path: Path, step: int, board: Board | None = None) -> None:
        self.path = path
        self.board = board
        self.rows: list[dict[str, str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def add(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add figures to a step's line, with six digits; the file is written now and then."""
        figures = {k: v for k, v in figures.items() if v is not None}
        for name, value in figures.items():
            if self.board is not None and isinstance(value, int | float):
                self.board.add_scalar(name, value, step)
        texts = {k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in figures.items()}
        if not self.rows or self.rows[-1]["step"] != str(step):
            self.rows.append({"step": str(step)})
        self.rows[-1].update(texts)
        if len(self.rows) % WRITE_EVERY == 1 or "validation_iou" in figures:
            self.write()

    def show(self, panel: Panel, step: int) -> None:
        """Put pictures side by side on the board."""
        if self.board is not None:
            wide = np.concatenate(list(panel.pictures), axis=1)
            self.board.add_image(f"panel/{panel.sample}", wide, step, dataformats="HW")

    def close(self) -> None:
        """Close the board; the CSV is written by `write`."""
        if self.board is not None:
            self.board.close()

    def write(self) -> None:
        """Put all lines on disk."""
        text = io.StringIO(newline="")
        further = [FALSE_OBJECTS] if any(FALSE_OBJECTS in row for row in self.rows) else []
        writer = csv.DictWriter(text, [*COLUMNS, *further], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.path, lambda file: file.write(text.getvalue().encode()))


def first_state(
    config: TrainConfig,
    start: Model | None,
    device: torch.device,
    reduced: torch.dtype | None = None,
) -> State:
    """The state before the first step: weights from the seed, or those of a model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network: nn.Module = fresh_network(config.network)
    if start is not None:
        network.load_state_dict(start.state_dict)
    network = network.to(device)
    if trained_of(config.network).planar:  # all its convolutions are in two dimensions
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in network.parameters() if p.dim() > 1]
    plain = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    average = copy.deepcopy(network).requires_grad_(False)
    scaler = torch.amp.GradScaler(device.type, enabled=reduced == torch.float16)
    return State(0, network, average, optimizer, scaler)


def restore_state(state: State, path: Path, device: torch.device) -> bool:
    """Take up a checkpoint; the inverse of `save_state`.

    Returns:
        Whether it is of this run; else nothing is taken. Those of release 0.1 do not say of which
        run they are, and are taken.
    """
    check_zip(path)
    tree = torch.load(path, map_location=device, weights_only=True)
    if tree.get("run", state.run) != state.run:
        return False
    state.network.load_state_dict(tree["network"])
    state.average.load_state_dict(tree["average"])
    state.optimizer.load_state_dict(tree["optimizer"])
    state.scaler.load_state_dict(tree.get("scaler", {}))
    state.step, state.best = tree["step"], tree["best"]
    state.best_precision = tree.get("best_precision", -1.0)
    return True


@torch.no_grad()
def update_average(state: State, decay: float) -> None:
    """Move the averaged weights towards the present ones; faster in the first steps."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    pairs = zip(state.average.parameters(), state.network.parameters(), strict=True)
    for average, new in pairs:
        average.lerp_(new, 1 - decay)


def save_state(state: State, path: Path) -> None:
    """Write a checkpoint, atomically."""
    tree = {
        "run": state.run,
        "step": state.step,
        "best": state.best,
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "best_precision": state.best_precision,
        "scaler": state.scaler.state_dict(),
    }
    write_atomic(path, lambda file: torch.save(tree, file))
