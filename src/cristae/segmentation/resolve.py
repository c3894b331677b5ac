"""Resolve: from the tables of all blocks to what every piece becomes.

The one step that sees all blocks, and it sees no voxel: it joins pieces and seeds over the face
runs, counts the seeds, and says of every piece whether it is an instance's (one seed reaches
it), nobody's (no seed does), or contested (several do) and has to be flooded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cristae.labels.runs import Ints, Runs
from cristae.labels.statistics import NOWHERE, Statistics, add_statistics, no_statistics
from cristae.segmentation.affinity import join_by_edges
from cristae.segmentation.batches import Batch, Packer, Parts
from cristae.segmentation.components import join
from cristae.segmentation.scratch import Job, load_table

NOBODY = -1
PIECE_BYTES, SEED_BYTES, FACE_BYTES, CROSS_BYTES = 300, 50, 130, 120
"""Memory of resolving for each piece, seed, run on a face and edge between blocks (measured)."""

SEED_FIELDS = ("seed_voxels", "seed_face", "pairs", "seed_first")


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
    every seed its instance or `NOBODY`; ``base`` (blocks + 1, 2) the first piece and the first seed
    of each block in those, and the end.
    """

    instances: int
    statistics: Statistics
    batches: tuple[Batch, ...]
    largest: int
    removed: int
    runs: Ints


def joining_bytes(job: Job) -> int:
    """Memory of `resolve_pieces`, once all blocks are labelled."""
    needed = 0
    for i in range(len(job.blocks)):
        sizes = ("voxels", "seed_voxels", "face", "seed_face", "cross")
        shapes = job.scratch.shapes(f"label-{i}", *sizes)
        piece, seed, face, seed_face, cross = (shape[-1] for shape in shapes)
        needed += PIECE_BYTES * piece + SEED_BYTES * seed
        needed += FACE_BYTES * (face + seed_face) + CROSS_BYTES * cross
    return needed


def resolve_pieces(job: Job, budget: int | None = None) -> Plan:
    """Join the tables of all blocks, and say what every piece becomes.

    Memory grows with the pieces, seeds and face runs of all blocks, of which the contested pieces
    are a part: `joining_bytes`, promised before it begins.

    Args:
        job: The segmentation.
        budget: Memory over which a contested piece is cut; None to cut none.
    """
    count = len(job.blocks)
    names = (*Statistics._fields, "removed", "contacts")
    tables = [load_table(job, i, *names) for i in range(count)]
    sizes = [job.scratch.shapes(f"label-{i}", "start", "share_piece") for i in range(count)]
    runs, shares = np.array(sizes, np.int64)[..., 0].T
    piece_base = _bases([len(table[0]) for table in tables])
    piece, n_pieces = _join_pieces(job, piece_base)
    statistics, contacts = no_statistics(n_pieces), np.zeros(n_pieces, np.int64)
    for i, table in enumerate(tables):
        part = Statistics(*table[:5])
        add_statistics(statistics, part, piece[piece_base[i] : piece_base[i + 1]])
        np.add.at(contacts, piece[piece_base[i] : piece_base[i + 1]], table[6])
    removed = sum(int(table[5][0]) for table in tables)
    here = np.concatenate([np.stack([table[0], table[6]]) for table in tables], axis=1)
    del tables
    if job.decoding.seed is None:
        target, instances = _piece_targets(statistics.first, contacts)
        seed, seed_base = np.zeros(0, np.int64), np.zeros(count + 1, np.int64)
    else:
        target, instances, seed, seed_base = _seed_targets(job, piece, n_pieces, piece_base)
    base = np.stack([piece_base, seed_base], axis=1)
    job.scratch.save("plan", {"target": target[piece], "seed": seed, "base": base})
    owned = np.flatnonzero(target >= 0)
    totals = no_statistics(instances)
    add_statistics(totals, Statistics(*(field[owned] for field in statistics)), target[owned])
    contested = np.flatnonzero(target < NOBODY)
    mine = target[piece] < NOBODY
    block = np.repeat(np.arange(count), np.diff(piece_base))
    packer = Packer(
        Parts.of(-2 - target[piece[mine]], block[mine], *here[:, mine]),
        Statistics(*(field[contested] for field in statistics)),
        runs + shares,
        job.decoding.affinity is not None,
        budget,
    )
    somebody = statistics.voxels[target != NOBODY]
    largest = int(somebody.max(initial=0))
    return Plan(instances, totals, packer.pack(), largest, removed, runs)


def _bases(counts: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _join_pieces(job: Job, base: Ints) -> tuple[Ints, int]:
    faces, owners = [], []
    for i in range(len(job.blocks)):
        (face,) = load_table(job, i, "face")
        faces.append(Runs(face[0], face[1].astype(np.int32)))
        owners.append(face[2] + base[i])
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
