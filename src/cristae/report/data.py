"""What a report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cristae.evaluation.tables import MatchTables
from cristae.figures.charts import Curve
from cristae.volumes.volume import Volume


@dataclass(frozen=True)
class ReportData:
    """What a report shows of one sample; what is None is left out, and the report says so.

    Attributes:
        name: Of the sample.
        image: Grey values (z, y, x).
        instances: Predicted ids (z, y, x) of the same place, see `cristae.volumes.place`.
        prediction: The network's output; only its attributes are shown.
        truth: True ids (z, y, x), likewise.
        scores: In the layout of ``scores.json``.
        precision_recall: IoU -> (recall, precision); made of ``matches`` when None.
        matches: What became of every instance; gives the curves and the error atlas.
        measurements: One row an instance, from `measure_instances`.
        table: Where the whole table of measurements is, as the reader would open it.
    """

    name: str
    image: Volume
    instances: Volume
    prediction: Volume | None = None
    truth: Volume | None = None
    scores: Mapping[str, Any] | None = None
    precision_recall: Mapping[float, Curve] | None = None
    matches: MatchTables | None = None
    measurements: pd.DataFrame | None = None
    table: str | None = None
