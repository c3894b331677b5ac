"""Resolve: from the tables of all blocks to what every piece becomes.

The one step that sees all blocks, and it sees no voxel: it joins pieces and seeds over the face
runs, counts the seeds, and says of every piece whether it is an instance's (one seed reaches
it), nobody's (no seed does), or contested (several do) and has to be flooded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.segmentation.affinity import join_by_edges
from cristae.segmentation.components import (
    NOWHERE,
    Statistics,
    add_statistics,
    join,
    no_statistics,
)
from cristae.segmentation.flood import agglomeration_bytes, flood_bytes
from cristae.segmentation.runs import Ints, Runs
from cristae.segmentation.scratch import Job, load_table, save_arrays

NOBODY = -1
SEED_FIELDS = ("seed_voxels", "seed_face", "pairs", "seed_first")
BATCH_VOXELS = 1_000_000
"""Contested pieces are flooded together up to so many voxels."""


@dataclass(frozen=True)
class Batch:
    """Contested pieces that one task floods.

    Attributes:
        pieces: Their numbers among the contested.
        blocks: Indices of the blocks they lie in.
        size: Voxels of all of them.
        bytes: Memory to decode them.
        largest: Voxels of the largest.
        box: (z, y, x) start and stop of the largest one's box.
    """

    pieces: tuple[int, ...]
    blocks: tuple[int, ...]
    size: int
    bytes: int
    largest: int
    box: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """What every piece becomes.

    Attributes:
        instances: Number of instances, 0..n-1 in raster order of the first voxel of the seed, or
            on the connected path of the component: the same for any blocks, but not final.
        statistics: Sums over the pieces that need no flood, by instance.
        batches: Floods to be done.
        largest: Voxels of the largest piece that is somebody's.
        removed: Whole instances the blocks dropped because they are small.
        runs: Number of runs of each block.

    Three arrays are left for the tasks in ``plan``: ``target`` holds for every piece of every
    block its instance, `NOBODY`, or -2 - k where it is part of contested piece k; ``seed`` for
    every seed its instance or `NOBODY`; ``base`` the first piece and the first seed of each block
    in those, and the end.
    """

    instances: int
    statistics: Statistics
    batches: tuple[Batch, ...]
    largest: int
    removed: int
    runs: Ints


def resolve_pieces(job: Job) -> Plan:
    """Join the tables of all blocks, and say what every piece becomes."""
    count = len(job.blocks)
    names = (*Statistics._fields, "removed", "start", "share_piece", "contacts")
    tables = [load_table(job, i, *names) for i in range(count)]
    runs, shares = (np.array([table[k].size for table in tables]) for k in (6, 7))
    piece_base = _bases([len(table[0]) for table in tables])
    piece, n_pieces = _join_pieces(job, piece_base)
    statistics, contacts = no_statistics(n_pieces), np.zeros(n_pieces, np.int64)
    for i, table in enumerate(tables):
        part = Statistics(*table[:5])
        add_statistics(statistics, part, piece[piece_base[i] : piece_base[i + 1]])
        np.add.at(contacts, piece[piece_base[i] : piece_base[i + 1]], table[8])
    removed = sum(int(table[5][0]) for table in tables)
    del tables
    if job.decoding.seed is None:
        target, instances = _piece_targets(statistics.first, contacts)
        seed, seed_base = np.zeros(0, np.int64), np.zeros(count + 1, np.int64)
    else:
        target, instances, seed, seed_base = _seed_targets(job, piece, n_pieces, piece_base)
    base = np.stack([piece_base, seed_base])
    save_arrays(job.path("plan"), {"target": target[piece], "seed": seed, "base": base})
    owned = np.flatnonzero(target >= 0)
    totals = no_statistics(instances)
    add_statistics(totals, Statistics(*(field[owned] for field in statistics)), target[owned])
    batches = _batches(job, target, piece, piece_base, _Sizes(statistics, runs + shares, contacts))
    somebody = statistics.voxels[target != NOBODY]
    largest = int(somebody.max(initial=0))
    return Plan(instances, totals, batches, largest, removed, runs)


def _bases(counts: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _join_pieces(job: Job, base: Ints) -> tuple[Ints, int]:
    faces, owners = [], []
    for i in range(len(job.blocks)):
        start, length, piece, face = load_table(job, i, "start", "length", "piece", "face")
        faces.append(Runs(start[face], length[face]))
        owners.append(piece[face].astype(np.int64) + base[i])
    if job.decoding.affinity is not None:
        cross = [load_table(job, i, "cross")[0] for i in range(len(job.blocks))]
        return join_by_edges(faces, owners, cross, int(base[-1]))
    connectivity = 26 if job.decoding.seed is None else 6
    return join(faces, owners, int(base[-1]), job.raster, connectivity)


def _piece_targets(first: Ints, contacts: Ints) -> tuple[Ints, int]:
    """Target of joined pieces without seeds, and the number of those that are an instance each."""
    target = np.empty(first.size, np.int64)
    whole, several = np.flatnonzero(contacts == 0), np.flatnonzero(contacts)
    target[whole[np.argsort(first[whole])]] = np.arange(whole.size)
    target[several] = -2 - np.arange(several.size)
    return target, whole.size


def _seed_targets(
    job: Job, piece: Ints, n_pieces: int, piece_base: Ints
) -> tuple[Ints, int, Ints, Ints]:
    """Target of joined pieces, number of instances, instance of seeds, first seed of blocks."""
    count = len(job.blocks)
    tables = [load_table(job, i, *SEED_FIELDS) for i in range(count)]
    seed_base = _bases([len(table[0]) for table in tables])
    faces = [Runs(t[1][0], t[1][1].astype(np.int32)) for t in tables]
    owners = [t[1][2] + seed_base[i] for i, t in enumerate(tables)]
    seed, n_seeds = join(faces, owners, int(seed_base[-1]), job.raster, 26)
    voxels, first = np.zeros(n_seeds, np.int64), np.full(n_seeds, NOWHERE, np.int64)
    np.add.at(voxels, seed, np.concatenate([t[0] for t in tables]))
    np.minimum.at(first, seed, np.concatenate([t[3] for t in tables]))
    kept = np.flatnonzero(voxels >= job.decoding.min_seed_size)
    instance = np.full(n_seeds, NOBODY, np.int64)
    instance[kept[np.argsort(first[kept])]] = np.arange(kept.size)
    pairs = np.concatenate([t[2] + (piece_base[i], seed_base[i]) for i, t in enumerate(tables)])
    pairs = np.stack([piece[pairs[:, 0]], instance[seed[pairs[:, 1]]]], axis=1)
    pairs = np.unique(pairs[pairs[:, 1] >= 0], axis=0)
    held = np.bincount(pairs[:, 0], minlength=n_pieces)
    target = np.full(n_pieces, NOBODY, np.int64)
    single = held[pairs[:, 0]] == 1
    target[pairs[single, 0]] = pairs[single, 1]
    contested = np.flatnonzero(held > 1)
    target[contested] = -2 - np.arange(contested.size)
    return target, kept.size, instance[seed], seed_base


class _Sizes(NamedTuple):
    """Statistics of the joined pieces, runs and seed runs of each block, contacts of the pieces."""

    statistics: Statistics
    runs: Ints
    contacts: Ints


def _batches(job: Job, target: Ints, piece: Ints, base: Ints, sizes: _Sizes) -> tuple[Batch, ...]:
    """Contested pieces in order of their first block, packed up to `BATCH_VOXELS`."""
    contested = np.flatnonzero(target < NOBODY)
    if contested.size == 0:
        return ()
    block = np.repeat(np.arange(base.size - 1), np.diff(base))
    mine = target[piece] < NOBODY
    pairs = np.unique(np.stack([-2 - target[piece[mine]], block[mine]], axis=1), axis=0)
    first = np.searchsorted(pairs[:, 0], np.arange(contested.size + 1))
    order = np.lexsort((np.arange(contested.size), pairs[first[:-1], 1]))
    voxels = sizes.statistics.voxels[contested]
    batches: list[Batch] = []
    group: list[int] = []
    total = 0
    for k in order.tolist():
        if group and total + voxels[k] > BATCH_VOXELS:
            batches.append(_batch(job, group, pairs, first, contested, sizes))
            group, total = [], 0
        group.append(k)
        total += int(voxels[k])
    batches.append(_batch(job, group, pairs, first, contested, sizes))
    return tuple(batches)


def _batch(
    job: Job, group: list[int], pairs: Ints, first: Ints, contested: Ints, sizes: _Sizes
) -> Batch:
    blocks: NDArray[Any] = np.unique(
        np.concatenate([pairs[first[k] : first[k + 1], 1] for k in group])
    )
    pieces, statistics = contested[group], sizes.statistics
    size = int(statistics.voxels[pieces].sum())
    runs = min(size, int(sizes.runs[blocks].sum()))
    needed = flood_bytes(size, runs)
    if job.decoding.affinity is not None:
        needed = agglomeration_bytes(size, runs, int(sizes.contacts[pieces].sum()))
    big = pieces[np.argmax(statistics.voxels[pieces])]
    return Batch(
        tuple(group),
        tuple(blocks.tolist()),
        size,
        needed,
        int(statistics.voxels[big]),
        (tuple(statistics.low[big].tolist()), tuple(statistics.high[big].tolist())),
    )
