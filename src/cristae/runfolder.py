"""The names inside a run folder; no other module knows them.

::

    RUN/
      run.yaml           what was asked for
      provenance.json    what was used: versions, inputs, times
      model.pt           the model trained, where the run trains one
      model.csv          its losses and scores, one row every few steps
      model.panels.npz   example sections with what it makes of them
      scores.json        all samples pooled
      report.html
      NAME/              one folder a sample
        volume.zarr  truth.zarr  prediction.zarr  instances.zarr
        scores.json  instances.csv
        errors/          one row a truth instance, one a predicted one
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SampleFolder:
    """Where the files of one sample lie.

    Attributes:
        root: The sample's folder.
    """

    root: Path

    @property
    def volume(self) -> Path:
        """The image."""
        return self.root / "volume.zarr"

    @property
    def truth(self) -> Path:
        """The true labels."""
        return self.root / "truth.zarr"

    @property
    def prediction(self) -> Path:
        """The network's output."""
        return self.root / "prediction.zarr"

    @property
    def instances(self) -> Path:
        """The segmented instances."""
        return self.root / "instances.zarr"

    @property
    def scores(self) -> Path:
        """The scores."""
        return self.root / "scores.json"

    @property
    def table(self) -> Path:
        """The measurements, one row an instance."""
        return self.root / "instances.csv"

    @property
    def matches(self) -> Path:
        """Folder of the match tables."""
        return self.root / "errors"


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run lie.

    Attributes:
        root: The run's folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.root / "run.yaml"

    @property
    def provenance(self) -> Path:
        """What was used."""
        return self.root / "provenance.json"

    @property
    def model(self) -> Path:
        """The model the run trains."""
        return self.root / "model.pt"

    @property
    def training_table(self) -> Path:
        """Losses and scores of its training."""
        return self.model.with_suffix(".csv")

    @property
    def training_panels(self) -> Path:
        """Example sections of its training."""
        return self.model.with_suffix(".panels.npz")

    @property
    def scores(self) -> Path:
        """The scores of all samples pooled."""
        return self.root / "scores.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.html"

    def sample(self, name: str) -> SampleFolder:
        """The folder of a sample."""
        return SampleFolder(self.root / name)

    def samples(self) -> list[str]:
        """Names of the samples whose instances are there, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/instances.zarr"))
