"""One run: every stage in order, each judged alone, with its provenance.

A run folder is made by `run` from a `RunConfig`; the same call again does only what is missing.
"""

import platform
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas
import yaml

from cristae import __version__
from cristae.configuration import config_dataclass, to_plain
from cristae.engine.blockwise import Stopwatch, peak_memory
from cristae.engine.executors import Resources
from cristae.engine.files import read_json, write_json, write_text
from cristae.engine.paths import user_path
from cristae.engine.progress import log
from cristae.errors import ConfigError, raise_faults
from cristae.evaluation.evaluate import (
    EvaluateConfig,
    ScoreFiles,
    evaluate_volume,
    pool_scores,
    read_matches,
    write_scores,
)
from cristae.measurement.measure import measure_instances
from cristae.networks.device import device_faults
from cristae.networks.model import Model, load_model
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.presentation.report import ReportData, write_report
from cristae.presentation.training import read_training
from cristae.runfolder import RunFolder, SampleFolder
from cristae.segmentation.segment import SegmentConfig, segment_volume
from cristae.training.train import TrainConfig, train_model
from cristae.volumes.convert import convert_volume
from cristae.volumes.dataset import Sample, open_sources, sample_faults
from cristae.volumes.partial import split_ignored
from cristae.volumes.place import common_part, lay, misplaced
from cristae.volumes.sources import open_volume
from cristae.volumes.volume import Volume

STAGES = ("convert", "train", "predict", "segment", "evaluate", "measure", "report")
"""The stages of a run in their order."""

Sources = tuple[Volume, Volume | None, Volume | None]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@config_dataclass
class RunConfig:
    """What a run does.

    Attributes:
        volumes: The samples. Those of group ``train`` train the model; the others are predicted,
            segmented, measured and, where they have labels, scored.
        out: The run folder.
        model: Name or file of a finished model; None where ``train`` is given.
        train: How to train one; None where ``model`` is given.
        predict: How to predict.
        segment: How to segment.
        evaluate: How to score.
    """

    volumes: tuple[Sample, ...]
    out: str
    model: str | None = None
    train: TrainConfig | None = None
    predict: PredictConfig = PredictConfig()
    segment: SegmentConfig = SegmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


@dataclass(frozen=True)
class Running:
    """How a run is carried out; nothing here changes an output.

    Attributes:
        resources: Workers, executor and memory.
        overwrite: Stage that is redone, with those after it; None to do only what is missing.
        command: What the user typed, for the provenance.
        same_source: The sources are those that records name, although time or content differ.
    """

    resources: Resources = field(default_factory=Resources)
    overwrite: str | None = None
    command: str = ""
    same_source: bool = False

    def redo(self, stage: str) -> bool:
        """Whether an existing output of a stage is to be replaced."""
        return self.overwrite is not None and STAGES.index(stage) >= STAGES.index(self.overwrite)


def run(config: RunConfig, running: Running | None = None) -> Path:
    """Do every stage of a run that is not done yet.

    Args:
        config: What to do.
        running: How to carry it out.

    Returns:
        Path of the report.

    Raises:
        ConfigError: A configuration that cannot work; all faults at once, before any work.
        CristaeError: A fault of a stage.
    """
    running = Running() if running is None else running
    raise_faults("run", _faults(config, running), ConfigError)
    watch, folder = Stopwatch(), RunFolder(user_path(config.out))
    sources = {sample.name: _open_sources(sample, config, running) for sample in _predicted(config)}
    _write_yaml(folder.config, to_plain(config))
    provenance = _provenance(config, running)
    write_json(folder.provenance, provenance)
    model = _get_model(config, folder, running)
    for sample in _predicted(config):
        _run_sample(
            config, sample, sources[sample.name], model, folder.sample(sample.name), running
        )
    _pool_scores(config, folder)
    provenance["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    provenance["seconds"] = round(watch.seconds, 1)
    provenance["peak_memory_bytes"] = peak_memory()
    write_json(folder.provenance, provenance)
    report = report_run(folder.root)
    log.info("run: %d volumes in %.0f s; %s", len(sources), watch.seconds, report)
    return report


def report_run(root: str | Path) -> Path:
    """Write the report of a run folder, also while the run or its training is half done.

    Args:
        root: The run folder, or the folder a model is trained in.

    Returns:
        Path of the report.

    Raises:
        ConfigError: Not a run folder, or one without instances or a training yet.
    """
    folder = RunFolder(user_path(root))
    training = read_training(folder.training_table, folder.training_panels)
    if not folder.config.is_file() and training is None:
        raise ConfigError(f"{root}: not a run folder (no {folder.config.name})")
    names = folder.samples()
    if not names and training is None:
        raise ConfigError(f"{root}: no instances to report yet")
    data = [_report_data(name, folder.sample(name)) for name in names]
    provenance = read_json(folder.provenance) or {}
    return write_report(
        data,
        folder.report,
        title=folder.root.resolve().name,
        provenance=provenance,
        training=training,
    )


def _run_sample(
    config: RunConfig,
    sample: Sample,
    sources: Sources,
    model: Model,
    folder: SampleFolder,
    running: Running,
) -> None:
    resources, redo = running.resources, running.redo
    image_source, truth_source, known = sources
    image = convert_volume(
        image_source, folder.volume, kind="image", resources=resources, overwrite=redo("convert")
    )
    predict = replace(config.predict, invert=config.predict.invert or sample.invert)
    prediction = predict_volume(
        image,
        model,
        folder.prediction,
        config=predict,
        resources=resources,
        overwrite=redo("predict"),
    )
    instances = segment_volume(
        prediction,
        folder.instances,
        config=config.segment,
        resources=resources,
        overwrite=redo("segment"),
    )
    if truth_source is not None:
        truth = convert_volume(
            truth_source,
            folder.truth,
            kind="labels",
            resources=resources,
            overwrite=redo("convert"),
        )
        evaluate_volume(
            instances,
            truth,
            ScoreFiles(folder.scores, folder.matches, redo("evaluate")),
            mask=known,
            config=config.evaluate,
            resources=resources,
        )
    measure_instances(instances, folder.table, resources=resources, overwrite=redo("measure"))


def _predicted(config: RunConfig) -> list[Sample]:
    return [sample for sample in config.volumes if sample.group != "train"]


def _faults(config: RunConfig, running: Running) -> list[str]:
    """Faults of a configuration that need no file to be opened."""
    faults = []
    names = [sample.name for sample in config.volumes]
    faults += [f"volumes: name {name!r} twice" for name in set(names) if names.count(name) > 1]
    faults += [
        f"volumes: name {name!r}: expected letters, digits, '.', '_' and '-'"
        for name in names
        if not _NAME.fullmatch(name)
    ]
    if (config.model is None) == (config.train is None):
        faults.append(f"model {config.model!r} and train: expected exactly one of them")
    if not _predicted(config):
        faults.append("volumes: all of group train, expected one of validation or test at least")
    if running.overwrite is not None and running.overwrite not in STAGES:
        faults.append(f"--overwrite {running.overwrite!r}: expected one of {', '.join(STAGES)}")
    faults += device_faults(config.predict.device)
    faults += [
        f"volumes: {sample.name}: {fault}"
        for sample in _predicted(config)
        for fault in sample_faults(sample, labels_needed=False)
    ]
    return faults


def _open_sources(sample: Sample, config: RunConfig, running: Running) -> Sources:
    """Image, truth, and where the truth is known, of a sample; all faults at once."""
    image, labels, mask = open_sources(sample, running.same_source)
    if labels is None:
        return image, None, None
    faults = [
        f"{role} {misplaced(image, volume, 'expected all of it, or `evaluate.crop: true`')}"
        for role, volume in (("labels", labels), ("mask", mask))
        if volume is not None and not config.evaluate.crop and not lay(image, volume).same
    ]
    raise_faults(f"volume {sample.name!r}", faults)
    if mask is not None:
        labels, mask = common_part([labels, mask])
    return image, *split_ignored(labels, mask, sample.ignore_label)


def _get_model(config: RunConfig, folder: RunFolder, running: Running) -> Model:
    if config.train is None:
        return load_model(config.model or "")
    return train_model(
        config.train,
        config.volumes,
        folder.model,
        threads=running.resources.workers,
        overwrite=running.redo("train"),
        same_source=running.same_source,
    )


def _pool_scores(config: RunConfig, folder: RunFolder) -> None:
    """The scores of all samples together; of a single one, its own."""
    scored = [folder.sample(sample.name) for sample in _predicted(config)]
    scored = [sample for sample in scored if sample.scores.is_file()]
    if len(scored) == 1:
        write_json(folder.scores, read_json(scored[0].scores))
    elif scored:
        tables = [read_matches(sample.matches) for sample in scored]
        write_scores(pool_scores(tables, config.evaluate), folder.scores, None)


def _provenance(config: RunConfig, running: Running) -> dict[str, Any]:
    packages = ("numpy", "numba", "scipy", "tensorstore", "torch")
    return {
        "cristae": __version__,
        "command": running.command or None,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "model": config.model,
        "sources": {
            sample.name: to_plain(sample.simulate) if sample.simulate else sample.image
            for sample in config.volumes
        },
    }


def _write_yaml(path: Path, tree: Any) -> None:
    write_text(path, yaml.safe_dump(tree, sort_keys=False))


def _report_data(name: str, folder: SampleFolder) -> ReportData:
    """What is there of a sample, for the report."""
    scored = folder.scores.is_file()
    return ReportData(
        name=name,
        image=open_volume(folder.volume),
        instances=open_volume(folder.instances),
        prediction=open_volume(folder.prediction) if folder.prediction.is_dir() else None,
        truth=open_volume(folder.truth) if folder.truth.is_dir() else None,
        scores=read_json(folder.scores) if scored else None,
        matches=read_matches(folder.matches) if scored else None,
        measurements=pandas.read_csv(folder.table) if folder.table.is_file() else None,
        table=f"{name}/{folder.table.name}",
    )
