"""What a run does, and how it is carried out."""

import re
from dataclasses import dataclass, field

from cristae.configuration import config_dataclass
from cristae.engine.executors import Resources
from cristae.evaluation.evaluate import EvaluateConfig
from cristae.networks.device import device_faults
from cristae.prediction.predict import PredictConfig
from cristae.samples.dataset import Sample, sample_faults
from cristae.segmentation.config import SegmentConfig
from cristae.training.train import TrainConfig

STAGES = ("convert", "train", "predict", "segment", "evaluate", "measure", "report")
"""The stages of a run in their order."""

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


def predicted_samples(config: RunConfig) -> list[Sample]:
    """The samples that are predicted, segmented and measured: all that are not trained on."""
    return [sample for sample in config.volumes if sample.group != "train"]


def config_faults(config: RunConfig, running: Running) -> list[str]:
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
    if not predicted_samples(config):
        faults.append("volumes: all of group train, expected one of validation or test at least")
    if running.overwrite is not None and running.overwrite not in STAGES:
        faults.append(f"--overwrite {running.overwrite!r}: expected one of {', '.join(STAGES)}")
    faults += device_faults(config.predict.device)
    faults += [
        f"volumes: {sample.name}: {fault}"
        for sample in predicted_samples(config)
        for fault in sample_faults(sample, labels_needed=False)
    ]
    return faults
