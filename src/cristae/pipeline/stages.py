"""The stages of a run in order, each judged alone.

A run folder is made by `run` from a `RunConfig`; the same call again does only what is missing.
"""

from pathlib import Path

from cristae.engine.files import read_json
from cristae.engine.locks import locked_folder
from cristae.engine.memory import Stopwatch
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, log, takes_progress
from cristae.errors import ConfigError
from cristae.evaluation.compare import write_pooled
from cristae.evaluation.evaluate import ScoreFiles, evaluate_volume, pool_scores, read_matches
from cristae.measurement.measure import read_measurements, write_measurements
from cristae.networks.model import Model, load_model
from cristae.pipeline.checks import Sources, check_run, settings_for
from cristae.pipeline.config import RunConfig, Running, predicted_samples
from cristae.pipeline.story import begin_call, finish_call, shown_provenance
from cristae.prediction.predict import predict_volume
from cristae.report.report import ReportData, write_report
from cristae.report.training import read_training
from cristae.runfolder import RunFolder, SampleFolder
from cristae.samples.dataset import Sample
from cristae.segmentation.segment import segment_volume
from cristae.training.train import train_model
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume


@takes_progress
def run(
    config: RunConfig,
    running: Running | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> Path:
    """Do every stage of a run that is not done yet.

    Args:
        config: What to do.
        running: How to carry it out.
        progress: Called with a `Progress` as work is done.

    Returns:
        Path of the report.

    Raises:
        CristaeError: A fault of the configuration, a volume or a stage; all that can be known are
            told at once, before any work.
        BusyError: Another process runs in the same folder.
    """
    folder = RunFolder(user_path(config.out))
    with locked_folder(folder.root):
        return _run(config, Running() if running is None else running, folder)


def _run(config: RunConfig, running: Running, folder: RunFolder) -> Path:
    sources = check_run(config, running)
    watch = Stopwatch()
    call = begin_call(config, running, folder)
    model = _get_model(config, folder, running)
    for sample in predicted_samples(config):
        _run_sample(
            config, sample, sources[sample.name], model, folder.sample(sample.name), running
        )
    _pool_scores(config, folder)
    finish_call(call, watch.seconds, folder)
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
    return write_report(
        data,
        folder.report,
        title=folder.root.resolve().name,
        provenance=shown_provenance(folder),
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
    prediction = predict_volume(
        image,
        model,
        folder.prediction,
        config=settings_for(sample, config),
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
    write_measurements(instances, folder.table, resources=resources, overwrite=redo("measure"))


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
    names = [sample.name for sample in predicted_samples(config)]
    scored = [name for name in names if folder.sample(name).scores.is_file()]
    if not scored:
        return
    if len(scored) == 1:
        tree = read_json(folder.sample(scored[0]).scores)
    else:
        tables = [read_matches(folder.sample(name).matches) for name in scored]
        tree = pool_scores(tables, config.evaluate).to_dict()
    write_pooled(folder, scored, tree, config.model)


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
        measurements=read_measurements(folder.table) if folder.table.is_file() else None,
        table=f"{name}/{folder.table.name}",
    )
