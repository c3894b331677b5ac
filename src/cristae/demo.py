"""The demonstration: simulated EM with known instances through the whole line."""

from dataclasses import dataclass
from pathlib import Path

from cristae.engine.executors import Resources
from cristae.engine.files import read_json
from cristae.pipeline import RunConfig, Running, run
from cristae.runfolder import RunFolder
from cristae.samples.dataset import Sample
from cristae.simulation.simulate import SimulationConfig, touching_pairs
from cristae.volumes.formats import open_volume

DEMO_VOLUME = SimulationConfig(
    shape=(48, 640, 640),
    voxel_size_nm=(30.0, 8.0, 8.0),
    seed=20260,
    mitochondria_fraction=0.09,
    touching_share=0.5,
    mitochondria_grey=115.0,
    membrane_grey=60.0,
    noise=8.0,
    blur_nm=4.5,
    look_variation=0.4,
)
"""MitoEM's voxel size, good staining and focus; a seed that no configuration trains on."""


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration leaves.

    Attributes:
        report: Path of the report.
        scores: Path of the scores.
        text: The main numbers, one a line.
    """

    report: Path
    scores: Path
    text: str


def run_demo(
    out: Path, *, resources: Resources | None = None, overwrite: bool = False
) -> DemoResult:
    """Simulate a volume, find its mitochondria with the `general` weights, score and report.

    Args:
        out: The run folder to make.
        resources: Workers, executor and memory.
        overwrite: Do all of it again.

    Returns:
        Where the report and the scores are, and the main numbers.
    """
    sample = Sample(name="demo", simulate=DEMO_VOLUME, group="test")
    config = RunConfig(volumes=(sample,), out=str(out), model="general")
    redo = "convert" if overwrite else None
    report = run(config, Running(resources or Resources(), redo, "cristae demo"))
    folder = RunFolder(out)
    scores = read_json(folder.scores)
    labels = open_volume(folder.sample("demo").truth).read()
    touching = {one for pair in touching_pairs(labels) for one in pair}
    true, ap = len(set(labels.ravel().tolist()) - {0}), scores["average_precision_coco"]
    text = (
        f"true instances       {true} ({len(touching)} of them touch another)\n"
        f"AP-50                {ap['50']:.3f}\n"
        f"AP-75                {ap['75']:.3f}\n"
        f"foreground IoU       {scores['voxel']['foreground_iou']:.3f}"
    )
    return DemoResult(report, folder.scores, text)
