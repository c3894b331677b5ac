"""Settings of the stages: listed in their help, and read from a file."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cristae.errors import ConfigError

C = TypeVar("C")

STAGES = {
    "run": ("cristae.pipeline", "RunConfig", ""),
    "plan": ("cristae.pipeline", "RunConfig", ""),
    "simulate": ("cristae.simulation.simulate", "SimulationConfig", ""),
    "train": ("cristae.training.config", "TrainConfig", "train."),
    "preview": ("cristae.prediction.checks", "PredictConfig", ""),
    "predict": ("cristae.prediction.checks", "PredictConfig", ""),
    "tune": ("cristae.tuning.tune", "TuneConfig", ""),
    "segment": ("cristae.segmentation.config", "SegmentConfig", ""),
    "evaluate": ("cristae.evaluation.scoring", "EvaluateConfig", ""),
}
"""Where the configuration of a command is, and what comes before its keys."""

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="settings, or a run's configuration; options and --set override it",
    ),
]


def settings(
    stage: Annotated[str | None, typer.Argument(help=" | ".join(STAGES))] = None,
) -> None:
    """List every setting of a stage, or of a whole run: type, default, and what it is."""
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"settings {stage!r}: expected one of {', '.join(STAGES)}")
    typer.echo(settings_text(stage or "run"))
    if stage in ("segment", "tune", "run", None):
        from cristae.segmentation.decoders import added_settings
        from cristae.settings import table

        if added := added_settings():
            typer.echo(f"of decoders of other packages, beside their name\n{table(added)}")


def settings_text(stage: str) -> str:
    """The settings of a stage, a few lines each."""
    from cristae.settings import settings_of, table

    module, name, before = STAGES[stage]
    return table(settings_of(getattr(import_module(module), name), before))


def stage_config(
    cls: type[C],
    stage: str,
    file: Path | None,
    given: Mapping[str, Any],
    overrides: Sequence[str] | None,
) -> C:
    """A stage's configuration from a file, from options, and from ``--set``; later ones override.

    Args:
        cls: The configuration.
        stage: Its key in a run's configuration.
        file: A YAML file of these settings, or of a run with this stage among them.
        given: Settings that have options of their own.
        overrides: ``key=value``.
    """
    from cristae.configuration import from_plain, load_tree, read_yaml

    tree = {} if file is None else read_yaml(file)
    if "volumes" in tree:  # a run's
        tree = tree.get(stage) or {}
    name = cls.__name__ if file is None else str(file)
    return from_plain(cls, load_tree({**tree, **given}, overrides or ()), name)
