"""Many settings of a decoder on one prediction: what they share is done once.

The prediction is read once, and only the voxels above the loosest mask threshold of all settings
are kept, as runs with their values one after the other::

    runs       ..====...===.==..     places in the volume (`Raster`)
    values     vvvv|vvv|vv|          one byte a voxel and channel, and a 0 behind every run

The packed values are scanned like a volume of a single row, so that every rule of every setting is
applied by the decoders' own scan, and the runs found are moved back to their places. Settings of
one foreground rule share its components, and what a flood of them needs to know of its voxels
(`sweep_flood`), so that a setting costs its seeds, one flood and one walk along the runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import Promise
from cristae.engine.executors import Resources, run_tasks
from cristae.engine.kernels import njit
from cristae.engine.progress import track
from cristae.grid import Box, Triple
from cristae.labels.blocks import blocks_of
from cristae.labels.label_runs import Labelled, renumber
from cristae.labels.runs import Ints, Raster, Runs, intersect, label_runs
from cristae.segmentation.decoders import Decoding, quantise
from cristae.segmentation.scanning import scan_rule, values_of
from cristae.tuning.sweep_flood import (
    NO_SEED,
    SEVERAL,
    Voxels,
    flood_bytes,
    flood_pieces,
    painted,
    voxels_of,
)
from cristae.volumes.volume import Volume

Bytes = NDArray[np.uint8]

KNOWN = {
    "foreground_threshold",
    "seed_threshold",
    "contour_threshold",
    "distance_seed_threshold",
    "distance_foreground_threshold",
    "min_seed_size",
    "min_size",
    "small",
    "dilation",
}
"""Parameters whose meaning `decode` knows."""

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

    def scan(self, rule: Triple) -> Runs:
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
        packed: Runs in packed places.
        runs: The same runs in the volume.
        piece: (runs,) component of each run, 0..n-1.
        voxels: What floods need to know; None where there are no seeds.
    """

    packed: Runs
    runs: Runs
    piece: NDArray[np.int32]
    voxels: Voxels | None


def can_sweep(decoding: Decoding) -> bool:
    """Whether `decode` gives what the whole pipeline gives with this decoder."""
    parameters = decoding.parameters
    return (
        decoding.path in ("seeded_watershed", "connected")
        and decoding.reach == (0, 0)
        and parameters.get("small", "background") == "background"
        and set(parameters) <= KNOWN
    )


def sweep(
    prediction: Volume,
    decodings: Sequence[Decoding],
    resources: Resources,
    promise: Promise | None = None,
    *,
    first_alone: bool = False,
) -> Iterator[tuple[int, Labelled]]:
    """Decode a prediction with every setting.

    Args:
        prediction: What `segment_volume` takes.
        decodings: The settings; `can_sweep` holds for each.
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
    above = min(min(d.foreground[0], (d.seed or d.foreground)[0]) for d in decodings)
    promise = promise or Promise(resources)
    packed = pack(prediction, above, max(d.channels for d in decodings), resources, promise)
    needed = _decoding_bytes(packed, any(d.seed for d in decodings), resources)
    promise("tune", needed)
    promise.held += needed
    groups: dict[tuple[Triple, bool], list[int]] = {}
    for i, decoding in enumerate(decodings):
        groups.setdefault((decoding.foreground, decoding.seed is None), []).append(i)
    with track("settings", len(decodings), "settings") as advance:
        for (rule, connected), members in groups.items():
            foreground = _foreground(packed, rule, 26 if connected else 6)
            task = partial(_decode_one, packed, foreground, decodings)
            if first_alone and 0 in members:
                yield 0, task(0)
                advance(1)
                members.remove(0)
            for i, found in run_tasks(task, members, resources):
                yield i, found
                advance(1)
            del foreground, task  # before the next is made
    promise.held -= needed


def _decoding_bytes(packed: Packed, floods: bool, resources: Resources) -> int:
    """Memory of all that is packed, of one foreground and of as many settings as workers."""
    voxels, runs = packed.values[0].size, packed.start.size
    shared, own = flood_bytes(voxels) if floods else (0, 0)
    needed = sum(v.nbytes for v in packed.values) + shared + SHARED_RUN_BYTES * runs
    return needed + max(1, resources.workers) * (own + OWN_RUN_BYTES * runs)


def _decode_one(
    packed: Packed, foreground: Foreground, decodings: Sequence[Decoding], index: int
) -> Labelled:
    return decode(packed, foreground, decodings[index])


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
    runs = scan_rule((planes[0],), block, raster, (above, 256, -1))
    return runs, tuple(values_of(runs, plane, block, raster) for plane in planes)


@njit(nogil=True, cache=True)
def _copy_stretches(values, begin, length, first, out):  # type: ignore[no-untyped-def]
    for i in range(length.size):
        out[first[i] : first[i] + length[i]] = values[begin[i] : begin[i] + length[i]]


def _foreground(packed: Packed, rule: Triple, connectivity: int) -> Foreground:
    found = packed.scan(rule)
    runs = packed.placed(found)
    piece, _ = label_runs(runs, packed.raster, connectivity)
    if connectivity == 26:
        return Foreground(found, runs, piece, None)
    return Foreground(
        found, runs, piece, voxels_of(runs, piece, packed.mask_of(found), packed.raster)
    )


def decode(packed: Packed, foreground: Foreground, decoding: Decoding) -> Labelled:
    """The instances of one setting.

    Args:
        packed: The prediction, above every mask threshold of the setting.
        foreground: Of the setting's foreground rule; 6-connected where there are seeds, else 26.
        decoding: The setting.
    """
    if decoding.seed is None or foreground.voxels is None:
        return _finished(foreground.runs, foreground.piece.astype(np.int64), decoding.min_size)
    seeds, seed = _seeds(packed, decoding.seed, decoding.min_seed_size)
    common, in_piece, in_seed = intersect(foreground.runs, seeds)
    piece, name = foreground.piece[in_piece], seed[in_seed]
    target = _single_seed(piece, name, int(foreground.piece.max(initial=-1)) + 1)
    mine = np.flatnonzero(target[piece] == SEVERAL)
    mine = mine[np.argsort(piece[mine], kind="stable")]
    label = flood_pieces(foreground.voxels, common.take(mine), in_piece[mine], name[mine])
    runs, owner = painted(foreground.runs, foreground.voxels, target[foreground.piece], label)
    return _finished(runs, owner, decoding.min_size)


@njit(nogil=True, cache=True)
def _single_seed(piece, name, count):  # type: ignore[no-untyped-def]
    """(pieces,) the seed a piece holds, `NO_SEED` or `SEVERAL`."""
    target = np.full(count, NO_SEED, np.int64)
    for i in range(piece.size):
        if target[piece[i]] == NO_SEED:
            target[piece[i]] = name[i]
        elif target[piece[i]] != name[i]:
            target[piece[i]] = SEVERAL
    return target


@njit(nogil=True, cache=True)
def _moved(first, start, packed):  # type: ignore[no-untyped-def]
    """Ascending packed places as places in the volume."""
    place, run = np.empty_like(packed), 0
    for i in range(packed.size):
        while run + 1 < first.size and first[run + 1] <= packed[i]:
            run += 1
        place[i] = start[run] + packed[i] - first[run]
    return place


def _seeds(packed: Packed, rule: Triple, min_size: int) -> tuple[Runs, NDArray[np.int32]]:
    """Runs of the seeds that are large enough, and the seed of each."""
    runs = packed.placed(packed.scan(rule))
    seed, count = label_runs(runs, packed.raster, 26)
    kept = np.bincount(seed, runs.length, count) >= min_size
    mine = kept[seed]
    return runs.take(mine), (np.cumsum(kept).astype(np.int32) - 1)[seed[mine]]


def _finished(runs: Runs, label: Ints, min_size: int) -> Labelled:
    """Instances that are large enough, numbered 1..n in order of their first voxel."""
    count = int(label.max(initial=-1)) + 1
    kept = np.bincount(label, runs.length, count) >= min_size
    mine = kept[label]
    number = (np.cumsum(kept) - 1)[label[mine]]
    return Labelled(runs.take(mine), renumber(number, int(kept.sum())).astype(np.uint64))
