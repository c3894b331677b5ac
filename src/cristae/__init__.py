"""cristae finds every mitochondrion in electron-microscopy volumes, and measures each.

The public functions are module and verb; each is imported when it is first used, so that
``import cristae`` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Box": "cristae.grid",
    "EvaluateConfig": "cristae.evaluation.scoring",
    "Model": "cristae.networks.model",
    "PredictConfig": "cristae.prediction.checks",
    "Progress": "cristae.engine.progress",
    "Resources": "cristae.engine.executors",
    "RunConfig": "cristae.pipeline",
    "Sample": "cristae.samples.dataset",
    "SegmentConfig": "cristae.segmentation.config",
    "SimulationConfig": "cristae.simulation.simulate",
    "TrainConfig": "cristae.training.config",
    "TuneConfig": "cristae.tuning.tune",
    "Volume": "cristae.volumes.volume",
    "array_volume": "cristae.volumes.volume",
    "check_image": "cristae.volumes.check",
    "convert_volume": "cristae.volumes.convert",
    "decode": "cristae.segmentation.decode",
    "evaluate_volume": "cristae.evaluation.evaluate",
    "load_model": "cristae.networks.model",
    "measure_instances": "cristae.measurement.measure",
    "open_volume": "cristae.volumes.formats",
    "predict_volume": "cristae.prediction.predict",
    "repair_image": "cristae.volumes.check",
    "run": "cristae.pipeline",
    "score_instances": "cristae.evaluation.evaluate",
    "segment_volume": "cristae.segmentation.segment",
    "simulate_volume": "cristae.simulation.simulate",
    "train_model": "cristae.training.train",
    "tune_decoder": "cristae.tuning.tune",
    "write_report": "cristae.report.report",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cristae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
