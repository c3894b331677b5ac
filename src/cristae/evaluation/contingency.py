"""The overlap table: every prediction, every truth instance, and how much of each lies in which.

It is made in one pass over both label arrays, in blocks, and holds integers only, so it is the
same for any blocks, workers and scheduling. All scores are functions of this table (`metrics`,
`matching`); nothing looks at voxels again. `overlaps_of_tally` is where other sources of the same
counts, such as run tables, join.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import promise_memory
from cristae.engine.executors import Resources
from cristae.engine.ledger import Ledger
from cristae.errors import InputError, raise_faults
from cristae.evaluation.label_runs import run_table_of, table_rows
from cristae.grid import Box, Triple, tile
from cristae.measurement.blocks import (
    TABLE_BYTES,
    blocks_of,
    memory_of,
    pieces_of,
    read_block,
    tally_blocks,
)
from cristae.measurement.tally import (
    FIRST,
    START,
    STOP,
    SUM,
    VOXELS,
    WEIGHT,
    Integers,
    LabelRuns,
    Labels,
    Tally,
    as_labels,
    check_extent,
    check_signs,
    collapse,
    merge_tallies,
    tally_block,
    tally_runs,
)
from cristae.volumes.volume import Volume

Align = Literal["origin", "corner"]
Floats = NDArray[np.float64]

FLOAT_UNIT = 1 << 24
"""Scores that are floats are counted in steps of 2**-24, so that their sums are integers too."""

_TOLERANCE_VX = 1e-3

SLAB_RUNS, RUN_BYTES = 1 << 20, 160
"""Runs of a slab that are tallied at a time, and the memory of each while they are (measured)."""


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
    """

    prediction: Instances
    truth: Instances
    predicted: NDArray[np.intp]
    true: NDArray[np.intp]
    voxels: Integers
    score_unit: int | None = None

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


@dataclass(frozen=True)
class Compared:
    """What is compared, volume by volume.

    Attributes:
        prediction: Labels (z, y, x), 0 background, ids up to 2**64 - 1.
        truth: Labels of the same place.
        scores: Prediction ([c,] z, y, x), unsigned integers over their type's whole range or
            floats in [0, 1], whose mean within an instance is its score.
        score_channel: Channel of ``scores``; the mean over channels by default.
        mask: Voxels where it is 0 are left out of everything.
    """

    prediction: Volume
    truth: Volume
    scores: Volume | None = None
    score_channel: int | None = None
    mask: Volume | None = None

    @property
    def volumes(self) -> dict[str, Volume]:
        """Those given, by role."""
        roles = {
            "prediction": self.prediction,
            "truth": self.truth,
            "scores": self.scores,
            "mask": self.mask,
        }
        return {role: volume for role, volume in roles.items() if volume is not None}

    @property
    def score_unit(self) -> int | None:
        """What a voxel of score 1 adds up to over the channels used; None without scores."""
        if self.scores is None:
            return None
        channels = 1 if self.score_channel is not None else len(self.scores.channels or ("",))
        kind = self.scores.dtype.kind
        if kind in "bf":
            return channels * (FLOAT_UNIT if kind == "f" else 1)
        return channels * int(np.iinfo(self.scores.dtype).max)

    @property
    def bytes_per_voxel(self) -> int:
        """Bytes a worker holds for a voxel of its block."""
        p, t = self.prediction.dtype.itemsize, self.truth.dtype.itemsize
        total = p + t
        if self.scores is not None:
            total += len(self.scores.channels or ("",)) * self.scores.dtype.itemsize
            total += 8 if self.scores.dtype.kind == "f" else 0
        return total if self.mask is None else total + p + t + self.mask.dtype.itemsize + 1


def overlap_table(
    compared: Compared,
    *,
    crop: bool = False,
    align: Align = "origin",
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    ledger: Ledger | None = None,
) -> Overlaps:
    """Count how the instances of two label volumes overlap.

    Two segmentations with run tables are compared by these, without looking at a voxel.

    Args:
        compared: The volumes.
        crop: Compare the common part of volumes that do not cover the same place.
        align: ``origin`` places the volumes by their origins, ``corner`` lays voxel 0 on voxel 0.
        block_shape: Voxels (z, y, x) read at a time, also where there are run tables; by default
            whole chunks of all volumes.
        resources: Workers and executor.
        ledger: Remembers finished blocks.

    Returns:
        The table, independent of blocks and workers.

    Raises:
        InputError: Volumes of different places or voxel sizes, offsets that are not whole voxels,
            labels that are negative or fractional; all faults of the volumes at once.
        MemoryLimitError: A block does not fit.
    """
    resources = Resources() if resources is None else resources
    box, placed = place_volumes(compared, crop, align)
    unit = compared.score_unit
    check_extent(compared.prediction.shape, compared.prediction.name, unit or 1)
    by_runs = None if block_shape else _pass_of_runs(placed, box.start, compared.prediction.shape)
    if by_runs is not None:
        blocks = by_runs.slabs()
        parallel = min(resources.workers, len(blocks))
        promise_memory("evaluate", parallel * 2 * SLAB_RUNS * RUN_BYTES + TABLE_BYTES, resources)
    else:
        volumes = list(placed.volumes.values())
        whole = Box.of(placed.prediction.shape)
        blocks = tile(whole, block_shape) if block_shape else blocks_of(volumes)
        pieces = [piece for block in blocks for piece in pieces_of(block, volumes)]
        promise_memory("evaluate", memory_of(pieces, placed.bytes_per_voxel, resources), resources)
    tally = tally_blocks(
        by_runs or _Pass(placed, box.start, compared.prediction.shape),
        blocks,
        description="overlaps",
        resources=resources,
        ledger=ledger,
    )
    return overlaps_of_tally(tally, box, compared.prediction.shape, unit)


def overlaps_of_tally(
    tally: Tally, box: Box, extent: Triple, score_unit: int | None = None
) -> Overlaps:
    """The overlap table from counts of (prediction, truth) pairs, wherever they come from.

    Args:
        tally: Facts of every pair; first label the prediction's, second the truth's.
        box: What was compared; instances that touch its faces are cut.
        extent: Shape (z, y, x) of the array that raster indices count in.
        score_unit: What one voxel of score 1 adds to the weights; None without scores.
    """
    prediction = _instances(*collapse(tally, 0), box, extent)
    truth = _instances(*collapse(tally, 1), box, extent)
    both = (tally.labels > 0).all(axis=1)
    pairs = tally.labels[both]
    return Overlaps(
        prediction,
        truth,
        np.searchsorted(prediction.labels, pairs[:, 0]),
        np.searchsorted(truth.labels, pairs[:, 1]),
        tally.facts[both, VOXELS],
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


@dataclass(frozen=True)
class _Pass:
    """Reads one block of every volume and tallies it; the volumes have one shape."""

    compared: Compared
    corner: Triple
    extent: Triple

    def __call__(self, block: Box) -> Tally:
        pieces = pieces_of(block, list(self.compared.volumes.values()))
        return merge_tallies(map(self._tally, pieces)) if len(pieces) > 1 else self._tally(block)

    def _tally(self, block: Box) -> Tally:
        prediction, truth = self.compared.prediction, self.compared.truth
        first = as_labels(read_block(prediction, block), prediction.name, block)
        second = as_labels(read_block(truth, block), truth.name, block)
        left_out = 0
        if self.compared.mask is not None:
            inside = read_block(self.compared.mask, block) != 0
            first, second = first * inside, second * inside
            left_out = inside.size - int(np.count_nonzero(inside))
        scores = self.compared.scores
        weights = None if scores is None else _weights(scores, block, self.compared.score_channel)
        corner = block.shift(self.corner).start
        tally = tally_block(first, second, weights, corner=corner, extent=self.extent)
        check_signs(tally, 0, prediction.dtype, prediction.name, block)
        check_signs(tally, 1, truth.dtype, truth.name, block)
        return Tally(tally.labels, tally.facts, tally.voxels - left_out)


@dataclass(frozen=True)
class _RunPass:
    """Tallies whole planes of two segmentations from their run tables."""

    volumes: tuple[Volume, Volume]
    folders: tuple[Path, Path]
    corner: Triple
    extent: Triple

    def __call__(self, slab: Box) -> Tally:
        first, second = (
            _moved(table_rows(folder, volume, (slab.start[0], slab.stop[0])), self, volume.shape)
            for folder, volume in zip(self.folders, self.volumes, strict=True)
        )
        tally = tally_runs(first, second, self.extent)
        return Tally(tally.labels, tally.facts, slab.size)

    def slabs(self) -> list[Box]:
        """Planes of about `SLAB_RUNS` runs, as many in each slab, judged by a few of them."""
        shape = self.volumes[0].shape
        sampled = {0, shape[0] // 4, shape[0] // 2, 3 * shape[0] // 4, shape[0] - 1}
        most = max(
            len(table_rows(folder, volume, (z, z + 1)).row)
            for folder, volume in zip(self.folders, self.volumes, strict=True)
            for z in sampled
        )
        return tile(Box.of(shape), (max(1, SLAB_RUNS // max(most, 1)), *shape[1:]))


def _pass_of_runs(placed: Compared, corner: Triple, extent: Triple) -> _RunPass | None:
    """How to compare by run tables; None where a volume has none, or voxels have to be read."""
    if placed.scores is not None or placed.mask is not None:
        return None
    first, second = run_table_of(placed.prediction), run_table_of(placed.truth)
    if first is None or second is None:
        return None
    return _RunPass((placed.prediction, placed.truth), (first, second), corner, extent)


def _moved(rows: LabelRuns, to: _RunPass, shape: Triple) -> LabelRuns:
    """Runs of a part of a volume, counted in the whole of it."""
    if to.corner == (0, 0, 0) and shape == to.extent:
        return rows
    z, y = np.divmod(rows.row, shape[1])
    row = (z + to.corner[0]) * to.extent[1] + y + to.corner[1]
    dx = np.int32(to.corner[2])
    return LabelRuns(row, rows.start + dx, rows.stop + dx, rows.label)


def _weights(scores: Volume, block: Box, channel: int | None) -> NDArray[Any]:
    """(c, z, y, x) integer scores of a block."""
    array = read_block(scores, block)
    array = array[None] if array.ndim == 3 else array
    array = array if channel is None else array[channel : channel + 1]
    if array.dtype.kind != "f":
        return array
    if not ((array >= 0) & (array <= 1)).all():
        raise InputError(f"{scores.name}: scores outside [0, 1] in box {block}")
    return np.rint(array * float(FLOAT_UNIT)).astype(np.int64)


def place_volumes(compared: Compared, crop: bool, align: Align) -> tuple[Box, Compared]:
    """The box to compare in the prediction's voxels, and every volume cropped to it.

    Nothing is read; options and errors are those of `overlap_table`.
    """
    prediction, truth, volumes = compared.prediction, compared.truth, compared.volumes
    faults = _type_faults(compared)
    offsets: dict[str, Triple] = {}
    for role, volume in volumes.items():
        offsets[role], found = _offset(prediction, volume, align)
        faults += found
    raise_faults(f"{prediction.name} and {truth.name}", faults)
    boxes = {role: volume.box.shift(offsets[role]) for role, volume in volumes.items()}
    common = boxes["prediction"].clip(boxes["truth"])
    if boxes["truth"] != boxes["prediction"] and not crop:
        faults.append(
            f"prediction has shape {prediction.shape}, truth has shape {truth.shape} at voxel "
            f"{offsets['truth']} of it; expected the same place (crop compares the common part)"
        )
    elif common.empty:
        faults.append(f"truth at {boxes['truth']} and prediction at {prediction.box} do not meet")
    for role in ("scores", "mask"):
        if role in boxes and not boxes[role].contains(common):
            faults.append(f"{role} at {boxes[role]} does not cover {common}")
    raise_faults(f"{prediction.name} and {truth.name}", faults)
    parts = {role: v.crop(common.relative_to(offsets[role])) for role, v in volumes.items()}
    placed = replace(
        compared,
        prediction=parts["prediction"],
        truth=parts["truth"],
        scores=parts.get("scores"),
        mask=parts.get("mask"),
    )
    return common, placed


def _offset(base: Volume, volume: Volume, align: Align) -> tuple[Triple, list[str]]:
    """Voxel of ``base`` on which voxel 0 of ``volume`` lies, and what is wrong with that."""
    size, other = base.voxel_size_nm, volume.voxel_size_nm
    faults = []
    if size is not None and other is not None and not np.allclose(size, other, rtol=1e-4):
        faults.append(f"voxel size {other} nm of {volume.name}, {size} nm of {base.name}")
    if align == "corner":
        return (0, 0, 0), faults
    # where the voxel size is unknown, origins are counted in voxels
    here, there = (np.array(v.origin_nm) / (v.voxel_size_nm or (1.0,) * 3) for v in (base, volume))
    offset = there - here
    whole = np.rint(offset)
    if not faults and (np.abs(offset - whole) > _TOLERANCE_VX).any():
        z, y, x = np.round(offset, 3).tolist()
        faults.append(
            f"{volume.name} lies ({z}, {y}, {x}) voxels from {base.name}, expected whole voxels"
        )
    z, y, x = (int(i) for i in whole)
    return (z, y, x), faults


def _type_faults(compared: Compared) -> list[str]:
    faults = []
    for role, volume in compared.volumes.items():
        if role != "scores" and volume.channels is not None:
            faults.append(f"{role} has channels {', '.join(volume.channels)}, expected none")
        if role in ("prediction", "truth") and volume.dtype.kind not in "buif":
            faults.append(f"{role} is {volume.dtype}, expected integer labels")
        if role == "scores":
            faults += _score_faults(volume, compared.score_channel)
    return faults


def _score_faults(scores: Volume, channel: int | None) -> list[str]:
    faults = []
    kind, width = scores.dtype.kind, scores.dtype.itemsize
    if kind not in "buf" or (kind == "u" and width > 4):
        faults.append(f"scores are {scores.dtype}, expected uint8 to uint32, or floats in [0, 1]")
    channels = len(scores.channels or ("",))
    if channel is not None and not 0 <= channel < channels:
        faults.append(f"score channel {channel}, scores have channels 0 to {channels - 1}")
    return faults
