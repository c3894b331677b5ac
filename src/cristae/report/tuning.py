"""The files of a search for thresholds: table, page with heat map, and ``TUNED.yaml``."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from cristae import __version__
from cristae.configuration import load_config, read_yaml, to_plain
from cristae.engine.executors import Resources
from cristae.engine.files import write_text
from cristae.engine.ledger import open_ledger
from cristae.engine.progress import log
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import ConfigError
from cristae.evaluation.judge import TriedSetting
from cristae.figures.raster import contrast_window, data_uri
from cristae.labels.label_runs import runs_volume
from cristae.measurement.table import write_table
from cristae.report.error_gallery import ScoredVolumes, error_picture, locate
from cristae.report.errors import choose, find_errors
from cristae.report.report import templates
from cristae.report.sampling import plane_box, read_at
from cristae.segmentation.config import SegmentConfig
from cristae.tuning.tune import (
    TuneConfig,
    Tuning,
    check_tune,
    tune_decoder,
    tuned_config,
)
from cristae.volumes.finite import checked_voxels
from cristae.volumes.place import lay, recorded_places, spread_over
from cristae.volumes.volume import Volume

TUNED, TABLE, PAGE = "TUNED.yaml", "settings.csv", "tuning.html"
_PLACES = 4
"""Pictures of each setting that differs most."""


def tune_volume(
    prediction: Volume,
    truth: Volume | None,
    out: Path,
    *,
    image: Volume | None = None,
    config: TuneConfig | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
) -> Path:
    """Search thresholds on a validation pair and write what was found.

    Args:
        prediction: What `segment_volume` takes.
        truth: True labels of the same place; without it the page shows what each setting changes.
        out: Folder for ``settings.csv``, ``tuning.html`` and, with a truth, ``TUNED.yaml``, which
            `SegmentConfig` reads.
        image: Grey values (z, y, x) for the pictures, of the same place; the prediction's mask by
            default.
        config: What is tried.
        resources: Workers, executor and memory.
        overwrite: Replace an output of other inputs or settings.

    Returns:
        ``TUNED.yaml``, or the page where there is no truth.

    Raises:
        CristaeError: See `tune_decoder`.
        OutputExistsError: The output exists and was made of other inputs or settings.
    """
    config = config or TuneConfig()
    volumes = {"prediction": prediction, "truth": truth, "image": image}
    given = {role: v for role, v in volumes.items() if v is not None}
    inputs = {role: v.identity.now() for role, v in given.items()}
    if image is not None:
        overlay = lay(prediction, image, config.evaluate.align, crop=True)
        image = spread_over(prediction, image, overlay)
    named = out / (PAGE if truth is None else TUNED)
    resources = resources or Resources()
    beside = [out / name for name in (TUNED, TABLE, PAGE) if out / name != named]
    check_tune(prediction, truth, config)
    prediction = checked_voxels(prediction, resources, probabilities=True, out=named, inputs=inputs)
    with open_ledger(
        named,
        stage="tune",
        inputs=inputs,
        settings={**to_plain(config), "places": recorded_places(given)},
        overwrite=overwrite,
        beside=beside,
    ) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", named)
            return named
        tuning = tune_decoder(prediction, truth, config=config, resources=resources)
        write_table(out / TABLE, tuning.table())
        write_text(out / PAGE, page_of(tuning, prediction, truth, image))
        if tuning.best is not None:
            write_text(named, _tuned_text(tuning, prediction, truth))
        ledger.finish(settings=len(tuning.settings))
    return named


def read_tuned(path: Path) -> tuple[str, dict[str, Any]]:
    """Decoder and parameters of a ``TUNED.yaml``.

    Raises:
        SourceNotFoundError: No such file.
        ConfigError: Not such a file.
    """
    refuse_unfinished(path)
    found = load_config(SegmentConfig, path)
    if found.decoder is None:
        raise ConfigError(f"{path}: names no decoder")
    named = [name for name in read_yaml(path) if name != "decoder"]
    return found.decoder, {name: to_plain(getattr(found, name)) for name in named}


def _tuned_text(tuning: Tuning, prediction: Volume, truth: Volume | None) -> str:
    best = tuning.settings[tuning.best or 0]
    head = [
        f"Best of {len(tuning.settings)} settings by {tuning.score}: {_number(best.value)}",
        f"prediction: {prediction.name}",
        f"truth: {truth.name if truth else ''}",
    ]
    comment = "".join(f"# {line}\n" for line in head)
    return comment + yaml.safe_dump(tuned_config(best), sort_keys=False)


def page_of(
    tuning: Tuning, prediction: Volume, truth: Volume | None, image: Volume | None = None
) -> str:
    """One self-contained HTML page: heat map, where settings differ, every setting.

    Args:
        tuning: From `tune_decoder`.
        prediction: The prediction it was made of.
        truth: The truth it was made with, or None.
        image: Grey values for pictures; the prediction's mask by default.
    """
    base = tuning.settings[tuning.base]
    scored = tuning.best is not None
    against = f"against {truth.name}" if truth else f"beside {_setting_text(base)}"
    columns = tuning.table()
    rows = [[_number(v) for v in row] for row in zip(*columns.values(), strict=True)]
    return (
        templates()
        .get_template("tuning.html")
        .render(
            version=__version__,
            title=Path(prediction.name).name,
            lead=f"{len(tuning.settings)} settings of {base.decoder} {against}.",
            measure=tuning.score if scored else "Instances found",
            sheets=list(_sheets(tuning)),
            pictures=[] if scored else list(_pictures(tuning, prediction, image)),
            base=_setting_text(base),
            grey="the network's mask" if image is None else image.name,
            table={"names": list(columns), "rows": rows},
        )
    )


def _sheets(tuning: Tuning) -> Iterator[dict[str, Any]]:
    """Heat maps over the two longest axes of the grid, one for each choice of the others."""
    names = sorted(tuning.grid, key=lambda name: -len(tuning.grid[name]))
    across, down = names[0], names[1] if len(names) > 1 else None
    others = [name for name in tuning.grid if name not in (across, down)]
    shown = [_shown(tuning, setting) for setting in tuning.settings]
    values = [value for value in shown if value is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    marked = tuning.base if tuning.best is None else tuning.best
    for fixed in product(*(tuning.grid[name] for name in others)):
        rows = []
        for value in tuning.grid[down] if down else (None,):
            wanted = {**dict(zip(others, fixed, strict=True)), **({down: value} if down else {})}
            cells = [
                {
                    "text": _number(shown[i]),
                    "best": i == marked,
                    "share": round(((shown[i] or low) - low) / ((high - low) or 1.0), 3),
                }
                for i, setting in enumerate(tuning.settings)
                if all(setting.values[name] == there for name, there in wanted.items())
            ]
            rows.append({"name": "" if value is None else f"{value:g}", "cells": cells})
        yield {
            "caption": ", ".join(f"{n} {v:g}" for n, v in zip(others, fixed, strict=True)),
            "down": down or across,
            "across": across if down else None,
            "columns": [f"{value:g}" for value in tuning.grid[across]],
            "rows": rows,
        }


def _shown(tuning: Tuning, setting: TriedSetting) -> float | None:
    return float(setting.instances) if tuning.best is None else setting.value


def _pictures(
    tuning: Tuning, prediction: Volume, image: Volume | None
) -> Iterator[Mapping[str, str]]:
    """Places where the settings that differ most have other instances than the base."""
    grey = image or prediction
    base = runs_volume(tuning.kept[tuning.base], prediction, "base")
    for i, found in tuning.kept.items():
        table = tuning.settings[i].against_base
        if table is None:
            continue
        scene = ScoredVolumes(grey, runs_volume(found, prediction, "setting"), base)
        for error in choose(find_errors(table), _PLACES):
            point = locate(scene, error)
            window = contrast_window([read_at(grey, base, plane_box(base.shape, 0, point))[0]])
            jpeg = error_picture(scene, error, point, window)
            text = (
                f"{_setting_text(tuning.settings[i])}: {_KINDS[error.kind]}, {error.lost} voxels, "
                f"at voxel {', '.join(map(str, point))}"
            )
            yield {"source": data_uri(jpeg), "text": text}


_KINDS = {
    "missed": "an instance less",
    "false_positive": "an instance more",
    "merge": "several joined",
    "split": "one divided",
    "poor": "another outline",
}


def _setting_text(setting: TriedSetting) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.values.items())


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
