"""The error atlas: where an error shows best, and three planes through that place."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.figures.crops import PANELS, Planes, ThreePlanes, place_picture
from cristae.grid import Box, Triple
from cristae.report.errors import SegmentationError
from cristae.report.sampling import read_at, voxel_size_of
from cristae.volumes.volume import Volume

#: Sections looked at to find where an error shows best, and most voxels along their sides.
_SECTIONS, _SIDE = 9, 2048
#: Least and most extent of a close-up, in smallest voxel edges.
_LEAST, _MOST = 130, 700


@dataclass(frozen=True)
class ScoredVolumes:
    """The volumes an atlas looks into.

    Attributes:
        image: Grey values.
        instances: Predicted ids; boxes count its voxels.
        truth: True ids.
    """

    image: Volume
    instances: Volume
    truth: Volume


def locate(scene: ScoredVolumes, error: SegmentationError) -> Triple:
    """The voxel (z, y, x) of the instances where an error shows best.

    At most nine sections of its box are looked at; the one, then the row, then the column with
    most wrong voxels is taken (for merges and splits: where two parts show side by side).
    """
    box = _within(error.box, scene.instances.box)
    planes = np.unique(np.linspace(box.start[0], box.stop[0] - 1, _SECTIONS).round().astype(int))
    best, found = -1.0, box.start
    for z in planes.tolist():
        section = Box((z, *box.start[1:]), (z + 1, *box.stop[1:]))
        wrong, beside = _wrong(
            error,
            read_at(scene.truth, scene.instances, section)[0],
            read_at(scene.instances, scene.instances, section)[0],
        )
        value = _value(wrong.sum(), beside.sum())
        if wrong.any() and value > best:
            row = int(np.argmax(_value(wrong.sum(axis=1), beside.sum(axis=1))))
            column = int(np.median(np.flatnonzero(wrong[row]))) if wrong[row].any() else 0
            best, found = value, (z, box.start[1] + row, box.start[2] + column)
    return found


def _within(box: Box, whole: Box) -> Box:
    """The middle of a box, at most `_SIDE` voxels along y and x."""
    box = box.clip(whole)
    start, stop = list(box.start), list(box.stop)
    for axis in (1, 2):
        spare = max(0, stop[axis] - start[axis] - _SIDE)
        start[axis] += spare // 2
        stop[axis] -= spare - spare // 2
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _wrong(
    error: SegmentationError, truth: NDArray[Any], prediction: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Wrong voxels of a section, and those that they should be seen beside."""
    in_truth = np.isin(truth, error.truth[:1])
    in_prediction = np.isin(prediction, error.prediction[:1])
    if error.kind == "missed":
        return in_truth, in_truth
    if error.kind == "false_positive":
        return in_prediction, in_prediction
    if error.kind == "poor":
        wrong = in_truth ^ in_prediction
        return wrong, wrong
    if error.kind == "merge":
        return in_prediction & np.isin(truth, error.truth[1:]), in_prediction & in_truth
    return in_truth & np.isin(prediction, error.prediction[1:]), in_truth & in_prediction


def _value(wrong: Any, beside: Any) -> Any:
    return np.minimum(wrong, beside) + 1e-3 * wrong


def error_picture(
    scene: ScoredVolumes, error: SegmentationError, point: Triple, window: tuple[float, float]
) -> bytes:
    """Three planes through a point of an error, as JPEG."""
    size, unit = voxel_size_of(scene.instances)
    around = _close_up(scene.instances, error.box, point)
    image, truth, prediction = (
        _planes(volume, scene.instances, around, point)
        for volume in (scene.image, scene.truth, scene.instances)
    )
    place = ThreePlanes(
        image, truth, prediction, size, window, error.truth, error.prediction, unit=unit
    )
    return place_picture(place)


def _close_up(instances: Volume, box: Box, point: Triple) -> Box:
    """A piece of about equal sides around a box, or around the point where the box is large."""
    size, _ = voxel_size_of(instances)
    edge = min(size)
    widest = max(length * each for length, each in zip(box.shape, size, strict=True))
    side = min(max(1.3 * widest, _LEAST * edge), _MOST * edge)
    start, stop = [], []
    for axis, each in enumerate(size):
        length = min(instances.shape[axis], max(1, round(side / each)))
        middle = point[axis]
        if length >= box.shape[axis]:
            middle = (box.start[axis] + box.stop[axis]) // 2
        first = min(max(0, middle - length // 2), instances.shape[axis] - length)
        start.append(first)
        stop.append(first + length)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _planes(volume: Volume, reference: Volume, around: Box, point: Triple) -> Planes:
    """Three planes of a piece through a point, each with rows and columns as in `PANELS`."""
    planes = []
    for _, down, across in PANELS:
        cut = 3 - down - across
        start, stop = list(around.start), list(around.stop)
        start[cut], stop[cut] = point[cut], point[cut] + 1
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        section = np.take(read_at(volume, reference, box), 0, axis=cut)
        planes.append(section if down < across else section.T)
    return planes[0], planes[1], planes[2]
