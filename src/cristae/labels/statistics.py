"""Statistics: sums over the voxels of labelled runs."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import Ints, Raster, Runs, locate

NOWHERE = np.iinfo(np.int64).max


class Statistics(NamedTuple):
    """Sums over the voxels of labels 0..n-1; integers, so any order gives the same.

    Attributes:
        voxels: Number of voxels.
        probability_sum: Sum of the mask channel's values.
        first: Place of the first voxel.
        low: First voxel of the box (z, y, x), (n, 3).
        high: Last voxel of the box, plus one, (n, 3).
    """

    voxels: Ints
    probability_sum: Ints
    first: Ints
    low: Ints
    high: Ints


def no_statistics(n: int) -> Statistics:
    """Statistics of n labels without a voxel."""
    return Statistics(
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.full(n, NOWHERE, np.int64),
        np.full((n, 3), NOWHERE, np.int64),
        np.zeros((n, 3), np.int64),
    )


def add_statistics(total: Statistics, part: Statistics, label: NDArray[Any]) -> None:
    """Add the statistics of parts to those of the labels they belong to, in place."""
    np.add.at(total.voxels, label, part.voxels)
    np.add.at(total.probability_sum, label, part.probability_sum)
    np.minimum.at(total.first, label, part.first)
    np.minimum.at(total.low, label, part.low)
    np.maximum.at(total.high, label, part.high)


def measure_runs(
    runs: Runs, label: NDArray[Any], n: int, probability_sum: Ints, raster: Raster
) -> Statistics:
    """Statistics of labelled runs.

    Args:
        runs: The runs.
        label: Label of each, 0..n-1.
        n: Number of labels.
        probability_sum: Sum of the mask channel over each run.
        raster: Numbering of the volume.
    """
    found = no_statistics(n)
    _measure(runs.start, runs.length, label, probability_sum, raster.plane, raster.row, found)
    return found


@njit(nogil=True, cache=True)
def _measure(start, length, label, run_sum, plane, row, found):  # type: ignore[no-untyped-def]
    voxels, probability_sum, first, low, high = found
    z = y = 0
    begin = np.int64(-row)  # of the row of the run before, which is often this one's
    for i in range(start.size):
        k = label[i]
        if start[i] < begin or start[i] >= begin + row:
            z, y, x = locate(start[i], plane, row)
            begin = start[i] - x
        x = start[i] - begin
        voxels[k] += length[i]
        probability_sum[k] += run_sum[i]
        first[k] = min(first[k], start[i])
        low[k, 0] = min(low[k, 0], z)
        low[k, 1] = min(low[k, 1], y)
        low[k, 2] = min(low[k, 2], x)
        high[k, 0] = max(high[k, 0], z + 1)
        high[k, 1] = max(high[k, 1], y + 1)
        high[k, 2] = max(high[k, 2], x + length[i])


def probability_sums(length: NDArray[np.int32], value: NDArray[np.uint8]) -> Ints:
    """Sum of the values of each run, given one run's after the other's."""
    probability_sum = np.zeros(length.size, np.int64)
    _sum_values(length, value, probability_sum)
    return probability_sum


@njit(nogil=True, cache=True)
def _sum_values(length, value, probability_sum):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(length.size):
        its = value[at : at + length[i]]
        total = 0
        for k in range(its.size):
            total += np.int64(its[k])  # type: ignore[assignment]
        probability_sum[i] = total
        at += length[i]


def probability_sums_in(runs: Runs, mask: NDArray[np.uint8], box: Box, raster: Raster) -> Ints:
    """Sum of the mask over each run of a block."""
    probability_sum = np.zeros(runs.start.size, np.int64)
    corner = raster.voxel_index(*box.start)
    _sum_mask(runs.start, runs.length, mask, corner, raster.plane, raster.row, probability_sum)
    return probability_sum


@njit(nogil=True, cache=True)
def _sum_mask(start, length, mask, corner, plane, row, probability_sum):  # type: ignore[no-untyped-def]
    for i in range(start.size):
        z, y, x = locate(start[i] - corner, plane, row)
        line = mask[z, y]
        total = 0
        for k in range(x, x + length[i]):
            total += np.int64(line[k])  # type: ignore[assignment]
        probability_sum[i] = total
