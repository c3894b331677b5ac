"""Cable lengths of the truth, and the categories made of them.

``cable_length_timise_nm`` is what TIMISE calls cable length: the skeleton is traced as if voxels
were cubes of side 1 (``const`` = 300 voxels, so hardly ever a branch), and its vertices take their
places in nm only afterwards. ``skeleton_length_nm`` is traced in physical space (``const`` =
300 nm), from one far end to the others, and is what a person means by the length. The categories
are TIMISE's, of the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import promise_memory
from cristae.engine.executors import Resources, run_tasks
from cristae.engine.progress import track
from cristae.evaluation.contingency import Compared, Floats, Instances
from cristae.grid import Box
from cristae.measurement.blocks import read_block
from cristae.measurement.skeleton import BYTES_PER_VOXEL, Faces, trace_skeleton
from cristae.volumes.volume import Nanometres, Volume

CUBES: Nanometres = (1.0, 1.0, 1.0)
LIMITS_NM = (1000.0, 4000.0)
"""Cable length from which an instance is medium, and large."""

TIMISE, PHYSICAL = "cable_length_timise_nm", "skeleton_length_nm"


@dataclass(frozen=True)
class _Source:
    """The true labels, placed: a box of the table moved back by ``corner`` is one of theirs."""

    truth: Volume
    mask: Volume | None
    corner: tuple[int, int, int]
    voxel_size_nm: Nanometres


def truth_lengths(
    placed: Compared, box: Box, truth: Instances, voxel_size_nm: Nanometres, resources: Resources
) -> Mapping[str, Floats]:
    """Cable lengths of true instances.

    Args:
        placed: The volumes compared, from `place_volumes`.
        box: What was compared, in the coordinates of ``truth``; where it ends, instances are cut.
        truth: The instances.
        voxel_size_nm: Voxel size (z, y, x).
        resources: Workers and executor.

    Returns:
        (truths,) nm: ``cable_length_timise_nm`` and ``skeleton_length_nm``.

    Raises:
        MemoryLimitError: The boxes of the largest instances do not fit.
    """
    boxes = [
        Box((z0, y0, x0), (z1, y1, x1))
        for (z0, y0, x0), (z1, y1, x1) in zip(
            truth.start.tolist(), truth.stop.tolist(), strict=True
        )
    ]
    largest = sorted(each.size for each in boxes)[-max(1, resources.workers) :]
    promise_memory("evaluate, cable lengths", BYTES_PER_VOXEL * sum(largest), resources)
    source = _Source(placed.truth, placed.mask, box.start, voxel_size_nm)
    items = list(zip(range(len(boxes)), boxes, truth.labels.tolist(), strict=True))
    lengths = np.zeros((len(boxes), 2))
    with track("cable lengths", len(items), "instances") as advance:
        for (row, _, _), found in run_tasks(partial(_measure, source, box), items, resources):
            lengths[row] = found
            advance(1)
    return {TIMISE: lengths[:, 0], PHYSICAL: lengths[:, 1]}


def _measure(source: _Source, whole: Box, item: tuple[int, Box, int]) -> tuple[float, float]:
    _, box, label = item
    inside = box.relative_to(source.corner)
    mask = read_block(source.truth, inside) == np.uint64(label)
    if source.mask is not None:
        mask &= read_block(source.mask, inside) != 0
    ends = [
        (a == low, b == high)
        for a, b, low, high in zip(box.start, box.stop, whole.start, whole.stop, strict=True)
    ]
    faces: Faces = (ends[0], ends[1], ends[2])
    size = source.voxel_size_nm
    as_cubes = trace_skeleton(mask, CUBES, faces=faces)
    physical = trace_skeleton(mask, size, faces=faces, cut_ends=False)
    return as_cubes.length(size), physical.length(size)


def length_codes(lengths: Mapping[str, Floats]) -> NDArray[np.int64]:
    """(truths,) index into `matching.CATEGORIES` by TIMISE's cable length."""
    return np.searchsorted(LIMITS_NM, lengths[TIMISE], side="right").astype(np.int64)
