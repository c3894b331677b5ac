"""Every check of every stage on every volume, before the first stage writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cristae.engine.files import check_disk, check_writable
from cristae.engine.paths import user_path
from cristae.errors import ConfigError, CristaeError, InputError, OutputExistsError, raise_faults
from cristae.evaluation.evaluate import ScoreFiles, check_evaluate, check_evaluate_config
from cristae.measurement.measure import check_measure
from cristae.networks.model import Model, load_model
from cristae.pipeline.config import RunConfig, Running, config_faults, predicted_samples
from cristae.pipeline.story import folder_faults
from cristae.prediction.expected import check_predict
from cristae.prediction.predict import PredictConfig
from cristae.runfolder import RunFolder, SampleFolder
from cristae.samples.dataset import Sample, open_sources
from cristae.samples.ignore_label import split_ignored
from cristae.segmentation.checks import check_segment
from cristae.training.train import check_train
from cristae.volumes.convert import check_convert
from cristae.volumes.expected import Expected
from cristae.volumes.finite import checked_voxels
from cristae.volumes.negative import label_faults
from cristae.volumes.place import common_part, lay, misplaced
from cristae.volumes.volume import Volume

Sources = tuple[Volume, Volume | None, Volume | None]
"""Image, truth, and where the truth is known, of a sample."""


@dataclass
class _Found:
    """What the checks find on their way.

    Attributes:
        errors: Of all stages and volumes.
        disk: Bytes that each output will take at most.
    """

    errors: list[CristaeError] = field(default_factory=list)
    disk: dict[Path, int] = field(default_factory=dict)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep an error; what comes after it in the block is not looked at."""
        try:
            yield
        except CristaeError as error:
            self.errors.append(error)

    def volume(self, path: Path, expected: Expected) -> Volume:
        """The volume that a stage will leave, whose bytes count."""
        self.disk[path] = expected.disk_bytes
        if expected.volume is None:
            raise ValueError(f"{path}: a stage without a volume")
        return expected.volume


def check_run(config: RunConfig, running: Running) -> dict[str, Sources]:
    """Find every fault of a run that can be known before it starts; nothing is written.

    Volumes are opened, signed labels read, grey values sampled, and each stage is asked whether its
    output can be made, is there, or is of other settings. What depends on a model that is trained
    first is judged by its configuration.

    Returns:
        The sources of each predicted sample, by name.

    Raises:
        ConfigError: A configuration that cannot work; all faults at once, before any file is read.
        CristaeError: Faults of the volumes, of all stages together.
    """
    raise_faults("run", config_faults(config, running), ConfigError)
    folder, found = RunFolder(user_path(config.out)), _Found()
    raise_faults("run", folder_faults(folder), OutputExistsError)
    model: tuple[Model, bool] | None = None
    with found.collecting():
        check_writable(folder.config)
        check_evaluate_config(config.evaluate)
    with found.collecting():
        model = _check_model(config, folder, running)
    sources: dict[str, Sources] = {}
    for sample in predicted_samples(config):
        with found.collecting():
            sources[sample.name] = _open_sources(sample, config, running)
    for sample in predicted_samples(config):
        if sample.name in sources and model is not None:
            _check_sample(config, sample, sources[sample.name], model, running, found)
    _raise(found.errors)
    (first, needed), *others = found.disk.items()
    check_disk(first, needed, dict(others))
    return sources


def settings_for(sample: Sample, config: RunConfig) -> PredictConfig:
    """How a sample is predicted."""
    return replace(config.predict, invert=config.predict.invert or sample.invert)


def _raise(errors: list[CristaeError]) -> None:
    """One error for all: itself where it is alone, of their class where that is one."""
    if len(errors) == 1:
        raise errors[0]
    classes = {type(error) for error in errors}
    lines = list(dict.fromkeys(str(error) for error in errors))
    raise_faults("run", lines, classes.pop() if len(classes) == 1 else InputError)


def _check_model(config: RunConfig, folder: RunFolder, running: Running) -> tuple[Model, bool]:
    """The model, or one like it will be; and whether it is known."""
    if config.train is None:
        return load_model(config.model or ""), True
    return check_train(
        config.train,
        config.volumes,
        folder.model,
        threads=running.resources.workers,
        overwrite=running.redo("train"),
        same_source=running.same_source,
    )


def _open_sources(sample: Sample, config: RunConfig, running: Running) -> Sources:
    """Image, truth, and where the truth is known, of a sample; all faults at once."""
    image, labels, mask = open_sources(sample, running.same_source)
    out = RunFolder(user_path(config.out)).sample(sample.name).volume
    inputs = {"source": image.identity}
    image = checked_voxels(image, running.resources, out=out, inputs=inputs)
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
    truth, known = split_ignored(labels, mask, sample.ignore_label)
    if sample.negative:
        raise_faults(f"volume {sample.name!r}", label_faults(truth, negative=True))
    return image, truth, known


def _check_sample(
    config: RunConfig,
    sample: Sample,
    sources: Sources,
    model: tuple[Model, bool],
    running: Running,
    found: _Found,
) -> None:
    """Ask every stage of a sample; one that fails ends its line, the truth is looked at alone."""
    folder = RunFolder(user_path(config.out)).sample(sample.name)
    image_source, truth_source, known = sources

    def running_as(stage: str) -> dict[str, Any]:
        return {"resources": running.resources, "overwrite": running.redo(stage)}

    truth: Volume | None = None
    if truth_source is not None:
        with found.collecting():
            expected = check_convert(
                truth_source, folder.truth, kind="labels", **running_as("convert")
            )
            truth = found.volume(folder.truth, expected)
    with found.collecting():
        image = found.volume(
            folder.volume,
            check_convert(image_source, folder.volume, kind="image", **running_as("convert")),
        )
        prediction = found.volume(
            folder.prediction,
            check_predict(
                image,
                model[0],
                folder.prediction,
                config=settings_for(sample, config),
                model_known=model[1],
                **running_as("predict"),
            ),
        )
        instances = found.volume(
            folder.instances,
            check_segment(
                prediction, folder.instances, config=config.segment, **running_as("segment")
            ),
        )
        _check_instances(config, folder, (instances, truth, known), running, found)


def _check_instances(
    config: RunConfig, folder: SampleFolder, volumes: Sources, running: Running, found: _Found
) -> None:
    """Scores and measurements of a sample."""
    instances, truth, known = volumes
    if truth is not None:
        with found.collecting():
            check_evaluate(
                instances,
                truth,
                ScoreFiles(folder.scores, folder.matches, running.redo("evaluate")),
                mask=known,
                config=config.evaluate,
            )
    with found.collecting():
        check_measure(instances, folder.table, overwrite=running.redo("measure"))
