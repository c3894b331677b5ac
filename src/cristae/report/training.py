"""The part of a report about the training: losses, scores, learning rate, and example panels."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.figures.charts import Curve, progress_chart
from cristae.figures.raster import data_uri, png, resize_image

ROWS = 180
"""Rows of an example picture; small ones are enlarged to it."""

_CHARTS: tuple[tuple[str, str, dict[str, str], bool], ...] = (
    ("loss", "Loss", {"loss": "training", "validation_loss": "validation"}, False),
    (
        "scores",
        "On the validation samples",
        {"validation_iou": "IoU of the foreground", "validation_ap75": "AP-75 of instances"},
        True,
    ),
    ("rate", "Learning rate", {"learning_rate": "learning rate"}, False),
)
"""Name, caption, columns with what they are called, and whether values lie in [0, 1]."""


@dataclass(frozen=True)
class TrainingData:
    """What a training run has written so far.

    Attributes:
        table: One row every few steps, with the column ``step``.
        panels: By sample, pictures uint8 (pictures, y, x).
        titles: What each of a sample's pictures shows.
        panels_step: Step that the panels are of.
    """

    table: pd.DataFrame
    panels: dict[str, NDArray[np.uint8]]
    titles: tuple[str, ...]
    panels_step: int


def read_training(table: Path, panels: Path) -> TrainingData | None:
    """What is there of a training run; None where it has written no step yet.

    Args:
        table: The CSV of the run.
        panels: Its example panels, ``.npz``; may be missing.

    Raises:
        InputError: One of them that is damaged.
    """
    if not table.is_file():
        return None
    try:  # by its content: pandas takes a path such as file:/a for an address
        rows = pd.read_csv(io.BytesIO(table.read_bytes()))
    except ValueError as error:
        raise InputError(f"{table}: cannot be read as a table: {error}") from error
    if rows.empty:
        return None
    if "step" not in rows:
        raise InputError(f"{table}: no column step")
    if not panels.is_file():
        return TrainingData(rows, {}, (), 0)
    try:
        with np.load(io.BytesIO(panels.read_bytes())) as stored:
            arrays = dict(stored)
        titles, step = tuple(arrays["titles"].tolist()), int(arrays["step"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{panels}: cannot be read as example panels: {error}") from error
    pictures = {
        key.removeprefix("panel_"): array
        for key, array in arrays.items()
        if key.startswith("panel_")
    }
    return TrainingData(rows, pictures, titles, step)


def training_page(data: TrainingData) -> dict[str, Any]:
    """The tree of plain values that the template draws."""
    last = data.table.iloc[-1]
    charts = []
    for name, caption, columns, share in _CHARTS:
        curves = {
            text: curve for key, text in columns.items() if (curve := _curve(data.table, key))
        }
        if curves:
            svg = progress_chart(curves, share=share, name=f"training-{name}")
            charts.append({"caption": caption, "svg": svg})
    facts = [("steps", f"{int(last['step'])}"), *_last_values(data.table)]
    panels = [
        {"sample": name, "pictures": _pictures(data.titles, pictures)}
        for name, pictures in data.panels.items()
    ]
    return {"charts": charts, "facts": facts, "panels": panels, "panels_step": data.panels_step}


def _curve(table: pd.DataFrame, key: str) -> Curve | None:
    """Steps and values where there are any."""
    if key not in table or not (known := table[key].notna()).any():
        return None
    steps, values = (table.loc[known, k].to_numpy(dtype=float) for k in ("step", key))
    return steps, values


def _last_values(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The latest of each figure, and the best of the scores."""
    facts = []
    for _, _, columns, share in _CHARTS[:2]:
        for key, text in columns.items():
            curve = _curve(table, key)
            if curve is None:
                continue
            value = f"{curve[1][-1]:.3f}"
            if share:
                best = int(np.argmax(curve[1]))
                value += f" (best {curve[1][best]:.3f}, step {int(curve[0][best])})"
            facts.append((text if share else f"{text} loss", value))
    return facts


def _pictures(titles: Sequence[str], pictures: NDArray[np.uint8]) -> list[dict[str, Any]]:
    shown = []
    for title, picture in zip(titles, pictures, strict=True):
        factor = max(1.0, ROWS / picture.shape[0])
        rows, columns = (round(n * factor) for n in picture.shape)
        large = resize_image(picture, (rows, columns)).round().clip(0, 255).astype(np.uint8)
        source = data_uri(png(large))
        shown.append({"title": title, "source": source, "width": columns, "height": rows})
    return shown
