"""Every error of a segmentation, found in the overlap table alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cristae.evaluation.overlaps import Instances, Overlaps
from cristae.grid import Box

ErrorKind = Literal["missed", "false_positive", "merge", "split", "poor"]
Rows = NDArray[np.intp]

#: An instance counts as found in another where at least this share of its voxels lies in it.
COVERED = 0.2
#: A one-to-one pair under this IoU is an error of its own.
POOR_IOU = 0.5


@dataclass(frozen=True)
class SegmentationError:
    """One thing that went wrong.

    Attributes:
        kind: ``missed`` truth, ``false_positive``, one prediction that is a ``merge`` of truths,
            one truth that is ``split``, or a ``poor`` outline of one truth by one prediction.
        lost: Voxels lost: those of the instance that is missing or false, less what is covered;
            for merges and splits those outside the largest part; for poor outlines those in only
            one of the two.
        truth: Ids of the truth concerned, largest part first.
        prediction: Ids of the prediction concerned, largest part first.
        iou: Of the best pair among them.
        box: Where, in voxels of the predicted array.
    """

    kind: ErrorKind
    lost: int
    truth: tuple[int, ...]
    prediction: tuple[int, ...]
    iou: float
    box: Box


@dataclass(frozen=True)
class _Side:
    """One side of the table seen from one of its instances.

    Attributes:
        own: The instances.
        other: Those of the other side.
        own_rows: (pairs,) rows of ``own``.
        other_rows: (pairs,) rows of ``other``.
    """

    own: Instances
    other: Instances
    own_rows: Rows
    other_rows: Rows


def find_errors(table: Overlaps) -> list[SegmentationError]:
    """Every error of a comparison, most voxels lost first; equal ones by kind and ids."""
    truth = _Side(table.truth, table.prediction, table.true, table.predicted)
    prediction = _Side(table.prediction, table.truth, table.predicted, table.true)
    errors = [
        *_uncovered("missed", truth, table),
        *_uncovered("false_positive", prediction, table),
        *_joined("merge", prediction, table),
        *_joined("split", truth, table),
    ]
    known = {label for error in errors for label in error.truth}
    errors += _poor(table, known)
    return sorted(errors, key=lambda e: (-e.lost, e.kind, e.truth, e.prediction))


def choose(errors: Sequence[SegmentationError], limit: int) -> list[SegmentationError]:
    """The worst errors in their order, not more than half of one kind while others are left."""
    share = -(-limit // 2)
    chosen: list[int] = []
    for i, error in enumerate(errors):
        alike = sum(errors[j].kind == error.kind for j in chosen)
        if alike < share and len(chosen) < limit:
            chosen.append(i)
    taken = set(chosen)
    left = [i for i in range(len(errors)) if i not in taken]
    return [errors[i] for i in sorted(chosen + left[: limit - len(chosen)])]


def _uncovered(
    kind: Literal["missed", "false_positive"], side: _Side, table: Overlaps
) -> Iterator[SegmentationError]:
    """Instances of which hardly anything lies in an instance of the other side."""
    shared = np.bincount(side.own_rows, table.voxels, minlength=len(side.own)).astype(np.int64)
    for row in np.flatnonzero(shared < COVERED * side.own.voxels).tolist():
        pairs = _largest_first(np.flatnonzero(side.own_rows == row), table)
        own, partners = _ids(side.own, [row]), _ids(side.other, side.other_rows[pairs])
        yield SegmentationError(
            kind,
            int(side.own.voxels[row] - shared[row]),
            own if kind == "missed" else partners,
            partners if kind == "missed" else own,
            float(table.iou[pairs].max(initial=0.0)),
            _box(side.own, row),
        )


def _joined(
    kind: Literal["merge", "split"], side: _Side, table: Overlaps
) -> Iterator[SegmentationError]:
    """Instances in which several of the other side lie."""
    inside = np.flatnonzero(table.voxels >= COVERED * side.other.voxels[side.other_rows])
    rows, counts = np.unique(side.own_rows[inside], return_counts=True)
    for row in rows[counts > 1].tolist():
        pairs = _largest_first(inside[side.own_rows[inside] == row], table)
        own, partners = _ids(side.own, [row]), _ids(side.other, side.other_rows[pairs])
        yield SegmentationError(
            kind,
            int(table.voxels[pairs[1:]].sum()),
            partners if kind == "merge" else own,
            own if kind == "merge" else partners,
            float(table.iou[pairs].max()),
            _box(side.own, row),
        )


def _poor(table: Overlaps, known: set[int]) -> Iterator[SegmentationError]:
    """Truth found by one prediction, but badly outlined."""
    order = np.lexsort((table.predicted, -table.iou, table.true))
    first = np.unique(table.true[order], return_index=True)[1]
    for pair in order[first].tolist():
        true, found = int(table.true[pair]), int(table.predicted[pair])
        label = int(table.truth.labels[true])
        if table.iou[pair] >= POOR_IOU or label in known:
            continue
        one, other = _box(table.truth, true), _box(table.prediction, found)
        lo = np.minimum(one.start, other.start).tolist()
        hi = np.maximum(one.stop, other.stop).tolist()
        both = int(table.truth.voxels[true] + table.prediction.voxels[found])
        yield SegmentationError(
            "poor",
            both - 2 * int(table.voxels[pair]),
            (label,),
            _ids(table.prediction, [found]),
            float(table.iou[pair]),
            Box((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])),
        )


def _largest_first(pairs: Rows, table: Overlaps) -> Rows:
    return pairs[np.argsort(-table.voxels[pairs], kind="stable")]


def _ids(instances: Instances, rows: Rows | list[int]) -> tuple[int, ...]:
    return tuple(int(label) for label in instances.labels[rows])


def _box(instances: Instances, row: int) -> Box:
    z, y, x = (int(i) for i in instances.start[row])
    z1, y1, x1 = (int(i) for i in instances.stop[row])
    return Box((z, y, x), (z1, y1, x1))
