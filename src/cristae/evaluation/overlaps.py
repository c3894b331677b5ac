"""The overlap table: every prediction, every truth instance, and how much of each lies in which.

It holds integers only, counted in one pass over both label arrays (`contingency`). All scores are
functions of this table (`metrics`, `matching`); nothing looks at voxels again. `overlaps_of_table`
is where every source of such counts joins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.labels.overlap_kernels import FIRST, START, STOP, SUM, VOXELS, WEIGHT
from cristae.labels.overlap_table import Integers, Labels, OverlapTable, collapse
from cristae.volumes.volume import Array, Volume

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Instances:
    """Exact facts of the instances of one label array, ascending by label.

    Attributes:
        labels: (n,) uint64, none 0.
        voxels: (n,) voxel counts.
        start: (n, 3) first voxel (z, y, x) of the bounding box.
        stop: (n, 3) its last voxel, exclusive.
        first: (n, 3) the instance's first voxel in raster order.
        sums: (n, 3) coordinate sums (z, y, x) over its voxels.
        score_sums: (n,) sums of the scores in integer units; zeros where there are none.
        cut: (n,) whether it touches a face of what was compared, so that part may be missing.
    """

    labels: Labels
    voxels: Integers
    start: Integers
    stop: Integers
    first: Integers
    sums: Integers
    score_sums: Integers
    cut: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(column.nbytes for column in vars(self).values())

    @property
    def centroids(self) -> Floats:
        """(n, 3) mean voxel coordinates (z, y, x)."""
        return self.sums / self.voxels[:, None]

    def select(self, keep: NDArray[np.bool_]) -> "Instances":
        """Those where ``keep`` is true."""
        return Instances(
            self.labels[keep],
            self.voxels[keep],
            self.start[keep],
            self.stop[keep],
            self.first[keep],
            self.sums[keep],
            self.score_sums[keep],
            self.cut[keep],
        )


class Placed(NamedTuple):
    """The two label volumes that a table is of, voxel on voxel, for metrics that read them.

    Attributes:
        prediction: Predicted labels, of what was compared.
        truth: True labels of the same voxels.
        corner: First voxel (z, y, x) of both, as the table counts voxels.
    """

    prediction: Volume
    truth: Volume
    corner: Triple

    def read(self, box: Box) -> tuple[Array, Array]:
        """Predicted and true labels of a box of the table's voxels; no mask is in them."""
        here = box.relative_to(self.corner)
        return self.prediction.read(here), self.truth.read(here)


@dataclass(frozen=True)
class Overlaps:
    """The sparse overlap table of a prediction and a truth.

    Attributes:
        prediction: Facts of the predicted instances; coordinates are voxels of that array.
        truth: Facts of the true instances, in the same coordinates.
        predicted: (m,) rows of ``prediction``, one entry a pair that overlaps, ascending.
        true: (m,) rows of ``truth`` of the same pairs, ascending within a prediction.
        voxels: (m,) voxels that the pair shares, at least 1.
        score_unit: What one voxel of score 1 adds to ``score_sums``; None without scores.
        placed: The volumes; None where the table was made of other tables, or of a search.
    """

    prediction: Instances
    truth: Instances
    predicted: NDArray[np.intp]
    true: NDArray[np.intp]
    voxels: Integers
    score_unit: int | None = None
    placed: Placed | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        pairs = self.predicted.nbytes + self.true.nbytes + self.voxels.nbytes
        return self.prediction.nbytes + self.truth.nbytes + pairs

    @property
    def iou(self) -> Floats:
        """(m,) intersection over union of every pair."""
        union = self.prediction.voxels[self.predicted] + self.truth.voxels[self.true] - self.voxels
        return self.voxels / union

    @property
    def mean_scores(self) -> Floats | None:
        """(predictions,) mean score of each predicted instance, 0 to 1; None without scores."""
        if self.score_unit is None:
            return None
        return self.prediction.score_sums / (self.prediction.voxels * float(self.score_unit))

    def select(
        self, keep_predictions: NDArray[np.bool_], keep_truth: NDArray[np.bool_]
    ) -> "Overlaps":
        """The table of some instances only."""
        keep = keep_predictions[self.predicted] & keep_truth[self.true]
        row_of_prediction = np.cumsum(keep_predictions) - 1
        row_of_truth = np.cumsum(keep_truth) - 1
        return Overlaps(
            self.prediction.select(keep_predictions),
            self.truth.select(keep_truth),
            row_of_prediction[self.predicted[keep]],
            row_of_truth[self.true[keep]],
            self.voxels[keep],
            self.score_unit,
        )


def overlaps_of_table(
    counted: OverlapTable, box: Box, extent: Triple, score_unit: int | None = None
) -> Overlaps:
    """The overlap table from counts of (prediction, truth) pairs, wherever they come from.

    Args:
        counted: Facts of every pair; first label the prediction's, second the truth's.
        box: What was compared; instances that touch its faces are cut.
        extent: Shape (z, y, x) of the array that raster indices count in.
        score_unit: What one voxel of score 1 adds to the weights; None without scores.
    """
    prediction = _instances(*collapse(counted, 0), box, extent)
    truth = _instances(*collapse(counted, 1), box, extent)
    both = (counted.labels > 0).all(axis=1)
    pairs = counted.labels[both]
    return Overlaps(
        prediction,
        truth,
        np.searchsorted(prediction.labels, pairs[:, 0]),
        np.searchsorted(truth.labels, pairs[:, 1]),
        counted.facts[both, VOXELS],
        score_unit,
    )


def pool(tables: Sequence[Overlaps]) -> Overlaps:
    """The instances of several volumes as if of one; ids may then occur more than once."""
    units = {table.score_unit for table in tables}
    if len(units) > 1:
        raise InputError(f"volumes scored in units of {units} cannot be pooled")
    predictions = np.cumsum([0, *(len(table.prediction) for table in tables)])
    truths = np.cumsum([0, *(len(table.truth) for table in tables)])
    return Overlaps(
        _joined([table.prediction for table in tables]),
        _joined([table.truth for table in tables]),
        np.concatenate([t.predicted + n for t, n in zip(tables, predictions, strict=False)]),
        np.concatenate([t.true + n for t, n in zip(tables, truths, strict=False)]),
        np.concatenate([table.voxels for table in tables]),
        units.pop(),
    )


def _joined(parts: Sequence[Instances]) -> Instances:
    columns = (f.name for f in fields(Instances))
    return Instances(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))


def _instances(labels: Labels, facts: Integers, box: Box, extent: Triple) -> Instances:
    start, stop = facts[:, START], facts[:, STOP]
    at_face = (start <= np.array(box.start)) | (stop >= np.array(box.stop))
    return Instances(
        labels,
        facts[:, VOXELS],
        start,
        stop,
        np.stack(np.unravel_index(facts[:, FIRST], extent), axis=1).astype(np.int64),
        facts[:, SUM],
        facts[:, WEIGHT],
        np.asarray(at_face.any(axis=1)),
    )
