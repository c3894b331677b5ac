"""Many settings of a decoder on one prediction: what they share is done once.

The prediction is read once, and only the voxels above the loosest mask threshold of all settings
are kept, as runs with their values one after the other::

    runs       ..====...===.==..     places in the volume (`Raster`)
    values     vvvv|vvv|vv|          one byte a voxel and channel, and a 0 behind every run

The packed values are scanned like a volume of a single row, so that every rule of every setting is
applied by the decoders' own scan, and the runs found are moved back to their places. Settings of
one foreground rule share its components and values, so that a setting costs its seeds, the flood of
the components that hold several, and one walk along the runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.kernels import njit
from cristae.engine.memory import Promise
from cristae.engine.progress import track
from cristae.grid import Box, Triple
from cristae.labels.blocks import blocks_of
from cristae.labels.label_runs import LabelledRuns, renumber
from cristae.labels.runs import Ints, Raster, Runs, grown, intersect, label_runs
from cristae.segmentation.flood import flood, flood_bytes
from cristae.segmentation.job import Decoding
from cristae.segmentation.levels import quantise
from cristae.segmentation.scanning import ThresholdRule, scan_rule, select_values, values_of
from cristae.volumes.volume import Volume

Bytes = NDArray[np.uint8]

NO_SEED, SEVERAL = -1, -2
"""What stands for the label of a component without a seed, and of one that is flooded."""

READ_RUN_BYTES, SHARED_RUN_BYTES, OWN_RUN_BYTES = 90, 60, 180
"""Memory for each run of the loosest foreground: to read it, of what all settings share, and to
decode one (measured)."""


@dataclass(frozen=True)
class Packed:
    """The voxels of a prediction above a mask threshold.

    Attributes:
        shape: Extent (z, y, x) of the prediction.
        start: (runs,) places of the runs, in raster order.
        first: (runs,) index of the first value of each.
        values: One array a channel: the values of the runs' voxels, a 0 behind every run.
    """

    shape: Triple
    start: Ints
    first: Ints
    values: tuple[Bytes, ...]

    @property
    def raster(self) -> Raster:
        """Numbering of the volume's voxels."""
        return Raster(self.shape)

    @property
    def row(self) -> Box:
        """The packed values as a volume of one row."""
        return Box.of((1, 1, self.values[0].size))

    def scan(self, rule: ThresholdRule) -> Runs:
        """Runs of the packed values that pass a rule (`scan_rule`), in packed places."""
        lines = tuple(channel[None, None] for channel in self.values)
        return scan_rule(lines, self.row, Raster(self.row.shape), rule)

    def placed(self, packed: Runs) -> Runs:
        """Packed runs at their places in the volume."""
        return Runs(_moved(self.first, self.start, packed.start), packed.length)

    def mask_of(self, packed: Runs) -> Bytes:
        """Mask value of every voxel of packed runs, one run after the other."""
        return values_of(packed, self.values[0][None, None], self.row, Raster(self.row.shape))


class Foreground(NamedTuple):
    """What settings of one foreground rule share.

    Attributes:
        runs: Of the foreground, at their places in the volume.
        component: (runs,) component of each run, 0..n-1.
        value: Mask value of each voxel, in the order of the runs.
    """

    runs: Runs
    component: NDArray[np.int32]
    value: Bytes


def can_share(decoding: Decoding) -> bool:
    """Whether `decode_setting` gives what `segment_volume` gives with this decoder."""
    return bool(decoding.shared_rules) and not decoding.to_neighbor


def decode_settings(
    prediction: Volume,
    decodings: Sequence[Decoding],
    resources: Resources,
    promise: Promise | None = None,
    *,
    first_alone: bool = False,
) -> Iterator[tuple[int, LabelledRuns]]:
    """Decode a prediction with every setting.

    Args:
        prediction: What `segment_volume` takes.
        decodings: The settings; `can_share` holds for each.
        resources: Workers and executor.
        promise: Told of the memory, which counts as held until all settings are done.
        first_alone: The first setting comes before any other, which then wait for it.

    Yields:
        (index of the setting, its instances), numbered as `segment_volume` numbers them, as soon
        as they are there.

    Raises:
        InputError: Probabilities outside [0, 1].
        MemoryLimitError: The foreground does not fit.
    """
    above = min(rule.mask_above for decoding in decodings for rule in decoding.shared_rules)
    promise = promise or Promise(resources)
    threads = replace(resources, executor="serial" if resources.executor == "serial" else "threads")
    packed = pack(prediction, above, max(d.channels for d in decodings), threads, promise)
    needed = _shared_bytes(packed, threads)
    promise("tune", needed)
    promise.held += needed
    groups: dict[tuple[ThresholdRule, bool], list[int]] = {}
    for i, decoding in enumerate(decodings):
        foreground_rule, *seed_rule = decoding.shared_rules
        groups.setdefault((foreground_rule, not seed_rule), []).append(i)
    with track("settings", len(decodings), "settings") as advance:
        for (rule, connected), members in groups.items():
            foreground = _foreground(packed, rule, 26 if connected else 6)
            task = partial(_decode_one, packed, foreground, decodings, promise)
            if first_alone and 0 in members:
                yield 0, task(0)
                advance(1)
                members.remove(0)
            for i, found in run_tasks(task, members, threads):
                yield i, found
                advance(1)
            del foreground, task  # before the next is made
    promise.held -= needed


def _shared_bytes(packed: Packed, resources: Resources) -> int:
    """Memory of all that is packed, of one foreground and of the runs of each worker's setting."""
    runs = packed.start.size
    needed = sum(values.nbytes for values in packed.values) + packed.values[0].nbytes
    return needed + (SHARED_RUN_BYTES + max(1, resources.workers) * OWN_RUN_BYTES) * runs


def _decode_one(
    packed: Packed,
    foreground: Foreground,
    decodings: Sequence[Decoding],
    promise: Promise,
    index: int,
) -> LabelledRuns:
    return decode_setting(packed, foreground, decodings[index], promise)


def pack(
    prediction: Volume, above: int, channels: int, resources: Resources, promise: Promise
) -> Packed:
    """Read a prediction once and keep its voxels above a mask value.

    Args:
        prediction: ([c,] z, y, x).
        above: Of 256 levels.
        channels: Number of channels kept, from the first on.
        resources: Workers and executor.
        promise: Told of the memory as blocks are read.
    """
    blocks, parts = blocks_of([prediction]), []
    width = prediction.dtype.itemsize + 1
    needed = max(1, resources.workers) * channels * width * max(block.size for block in blocks)
    promise("tune, reading", needed)
    task = partial(_pack_block, prediction, above, channels)
    with track("reading", prediction.size, "voxels") as advance:
        for block, part in run_tasks(task, blocks, resources):
            parts.append(part)
            needed += READ_RUN_BYTES * part[0].start.size + (2 * channels + 1) * part[1][0].size
            promise("tune, reading", needed)
            advance(block.size)
    start = np.concatenate([runs.start for runs, _ in parts])
    length = np.concatenate([runs.length for runs, _ in parts])
    order = np.argsort(start, kind="stable")
    begin = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])[:-1][order]
    start, length = start[order], length[order]
    # runs that the blocks cut are made whole: only then a 0 stands behind them
    head = np.ones(start.size, bool)
    head[1:] = start[1:] != (start + length)[:-1]
    before = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])[:-1]
    first = before + np.cumsum(head) - 1
    size = int(length.sum(dtype=np.int64)) + int(head.sum())
    values = []
    for c in range(channels):
        packed = np.zeros(max(size, 1), np.uint8)
        _copy_stretches(np.concatenate([v[c] for _, v in parts]), begin, length, first, packed)
        values.append(packed)
    return Packed(prediction.shape, start[head], first[head], tuple(values))


def _pack_block(
    prediction: Volume, above: int, channels: int, block: Box
) -> tuple[Runs, tuple[Bytes, ...]]:
    array = prediction.read(block)
    array = array[None] if array.ndim == 3 else array[:channels]
    planes = quantise(array, f"{prediction.name}, box {block}")
    raster = Raster(prediction.shape)
    runs = scan_rule((planes[0],), block, raster, ThresholdRule(above))
    return runs, tuple(values_of(runs, plane, block, raster) for plane in planes)


@njit(nogil=True, cache=True)
def _copy_stretches(values, begin, length, first, out):  # type: ignore[no-untyped-def]
    for i in range(length.size):
        out[first[i] : first[i] + length[i]] = values[begin[i] : begin[i] + length[i]]


def _foreground(packed: Packed, rule: ThresholdRule, connectivity: int) -> Foreground:
    found = packed.scan(rule)
    runs = packed.placed(found)
    component, _ = label_runs(runs, packed.raster, connectivity)
    return Foreground(runs, component, packed.mask_of(found))


def decode_setting(
    packed: Packed, foreground: Foreground, decoding: Decoding, promise: Promise
) -> LabelledRuns:
    """The instances of one setting.

    Args:
        packed: The prediction, above every mask threshold of the setting.
        foreground: Of the setting's foreground rule; 6-connected where there are seeds, else 26.
        decoding: The setting.
        promise: Told of the memory of its flood.
    """
    runs, component, value = foreground
    _, *rule = decoding.shared_rules
    if not rule:
        return _finished(runs, component.astype(np.int64), decoding.min_size)
    seeds, seed = _seeds(packed, rule[0], decoding.min_seed_size)
    common, in_run, in_seed = intersect(runs, seeds)
    of_common, name = component[in_run], seed[in_seed]
    target = _single_seed(of_common, name, int(component.max(initial=-1)) + 1)
    multi_seed, flooded = target[of_common] == SEVERAL, target[component] == SEVERAL
    needed = flood_bytes(
        int(runs.length[flooded].sum(dtype=np.int64)), int(np.count_nonzero(flooded))
    )
    with promise.holding("tune", needed):
        label = flood(
            runs.take(flooded),
            select_values(runs.length, flooded, value),
            common.take(multi_seed),
            name[multi_seed] + np.int32(1),
            packed.raster,
        )
        start, length, owner = _cut(runs.start, runs.length, target[component], label)
    return _finished(Runs(start, length), owner, decoding.min_size)


@njit(nogil=True, cache=True)
def _single_seed(component, name, count):  # type: ignore[no-untyped-def]
    """(components,) the seed a component holds, `NO_SEED` or `SEVERAL`."""
    target = np.full(count, NO_SEED, np.int64)
    for i in range(component.size):
        if target[component[i]] == NO_SEED:
            target[component[i]] = name[i]
        elif target[component[i]] != name[i]:
            target[component[i]] = SEVERAL
    return target


@njit(nogil=True, cache=True)
def _cut(all_start, all_length, target, label):  # type: ignore[no-untyped-def]
    """Runs of one seed each, in raster order, and the seed; ``label`` is of the flooded voxels."""
    start = np.empty(1024 + all_start.size, np.int64)
    length = np.empty(start.size, np.int32)
    owner = np.empty(start.size, np.int64)
    n = voxel = 0
    for i in range(all_start.size):
        extent = all_length[i]
        if n + extent > start.size:
            start, length, owner = (
                grown(start, n + extent),
                grown(length, n + extent),
                grown(owner, n + extent),
            )
        if target[i] >= 0:
            start[n], length[n], owner[n] = all_start[i], extent, target[i]
            n += 1
        elif target[i] == SEVERAL:
            last = 0
            for k in range(extent):
                here = label[voxel + k]
                if here and here == last:
                    length[n - 1] += 1
                elif here:
                    start[n], length[n], owner[n] = all_start[i] + k, 1, here - 1
                    n += 1
                last = here
            voxel += extent
    return start[:n].copy(), length[:n].copy(), owner[:n].copy()


@njit(nogil=True, cache=True)
def _moved(first, start, packed):  # type: ignore[no-untyped-def]
    """Ascending packed places as places in the volume."""
    voxel_index, run = np.empty_like(packed), 0
    for i in range(packed.size):
        while run + 1 < first.size and first[run + 1] <= packed[i]:
            run += 1
        voxel_index[i] = start[run] + packed[i] - first[run]
    return voxel_index


def _seeds(packed: Packed, rule: ThresholdRule, min_size: int) -> tuple[Runs, NDArray[np.int32]]:
    """Runs of the seeds that are large enough, and the seed of each."""
    runs = packed.placed(packed.scan(rule))
    seed, count = label_runs(runs, packed.raster, 26)
    kept = np.bincount(seed, runs.length, count) >= min_size
    mine = kept[seed]
    return runs.take(mine), (np.cumsum(kept).astype(np.int32) - 1)[seed[mine]]


def _finished(runs: Runs, label: Ints, min_size: int) -> LabelledRuns:
    """Instances that are large enough, numbered 1..n in order of their first voxel."""
    count = int(label.max(initial=-1)) + 1
    kept = np.bincount(label, runs.length, count) >= min_size
    mine = kept[label]
    number = (np.cumsum(kept) - 1)[label[mine]]
    return LabelledRuns(runs.take(mine), renumber(number, int(kept.sum())).astype(np.uint64))
