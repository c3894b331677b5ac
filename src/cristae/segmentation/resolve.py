"""Resolve: from the tables of all blocks to what every piece becomes.

The one step that sees all blocks, and it sees no voxel: it joins pieces and seeds over the face
runs, counts the seeds, and says of every piece whether it is an instance's (one seed reaches
it), unassigned (no seed does), or multi-seed (several do) and has to be flooded.
"""

from dataclasses import dataclass

import numpy as np

from cristae.labels.runs import Ints
from cristae.labels.statistics import Statistics, add_statistics, no_statistics
from cristae.segmentation.batches import Packer, PieceBatch, PiecesInBlocks
from cristae.segmentation.components import bases
from cristae.segmentation.job import Joined, SegmentJob, load_table

UNASSIGNED = -1
PIECE_BYTES, SEED_BYTES, FACE_BYTES, CROSS_BYTES = 300, 50, 130, 120
"""Memory of resolving for each piece, seed, run on a face and edge between blocks (measured)."""


@dataclass(frozen=True)
class Resolution:
    """What every piece becomes.

    Attributes:
        instances: Number of instances, 0..n-1 in raster order of the first voxel of the seed, or
            of the component where there are no seeds: the same for any blocks, but not final.
        statistics: Sums over the pieces that need no flood, by instance.
        batches: Floods to be done.
        largest: Voxels of the largest piece that is assigned.
        removed: Whole instances the blocks dropped because they are small.
        runs: Number of runs of each block.

    Three arrays are left for the tasks in ``plan``: ``target`` holds for every piece of every
    block its instance, `UNASSIGNED`, or -2 - k where it is part of multi-seed piece k; ``seed`` for
    every seed its instance or `UNASSIGNED`; ``base`` (blocks + 1, 2) the first piece and the first
    seed of each block in those, and the end.
    """

    instances: int
    statistics: Statistics
    batches: tuple[PieceBatch, ...]
    largest: int
    removed: int
    runs: Ints


def joining_bytes(job: SegmentJob) -> int:
    """Memory of `resolve_pieces`, once all blocks are labelled."""
    needed = 0
    for i in range(len(job.blocks)):
        sizes = ("voxels", "seed_voxels", "face", "seed_face", "cross")
        shapes = job.scratch.shapes(f"label-{i}", *sizes)
        piece, seed, face, seed_face, cross = (shape[-1] for shape in shapes)
        needed += PIECE_BYTES * piece + SEED_BYTES * seed
        needed += FACE_BYTES * (face + seed_face) + CROSS_BYTES * cross
    return needed


def resolve_pieces(job: SegmentJob, budget: int | None = None) -> Resolution:
    """Join the tables of all blocks, and say what every piece becomes.

    Memory grows with the pieces, seeds and face runs of all blocks, of which the multi-seed pieces
    are a part: `joining_bytes`, promised before it begins.

    Args:
        job: The segmentation.
        budget: Memory over which a multi-seed piece is cut; None to cut none.
    """
    count = len(job.blocks)
    names = (*Statistics._fields, "removed", "contacts")
    tables = [load_table(job, i, *names) for i in range(count)]
    sizes = [job.scratch.shapes(f"label-{i}", "start", "overlap_piece") for i in range(count)]
    runs, shares = np.array(sizes, np.int64)[..., 0].T
    piece_base = bases([len(table[0]) for table in tables])
    piece, n_pieces = job.decoding.join(job, piece_base)
    statistics, contacts = no_statistics(n_pieces), np.zeros(n_pieces, np.int64)
    for i, table in enumerate(tables):
        part = Statistics(*table[:5])
        add_statistics(statistics, part, piece[piece_base[i] : piece_base[i + 1]])
        np.add.at(contacts, piece[piece_base[i] : piece_base[i + 1]], table[6])
    removed = sum(int(table[5][0]) for table in tables)
    here = np.concatenate([np.stack([table[0], table[6]]) for table in tables], axis=1)
    del tables
    joined = Joined(piece, piece_base, statistics.first, contacts)
    target, instances, seed, seed_base = job.decoding.targets(job, joined)
    base = np.stack([piece_base, seed_base], axis=1)
    job.scratch.save("plan", {"target": target[piece], "seed": seed, "base": base})
    owned = np.flatnonzero(target >= 0)
    totals = no_statistics(instances)
    add_statistics(totals, Statistics(*(field[owned] for field in statistics)), target[owned])
    multi_seed = np.flatnonzero(target < UNASSIGNED)
    mine = target[piece] < UNASSIGNED
    block = np.repeat(np.arange(count), np.diff(piece_base))
    packer = Packer(
        PiecesInBlocks.of(-2 - target[piece[mine]], block[mine], *here[:, mine]),
        Statistics(*(field[multi_seed] for field in statistics)),
        runs + shares,
        job.decoding.piece_bytes,
        budget,
    )
    assigned = statistics.voxels[target != UNASSIGNED]
    largest = int(assigned.max(initial=0))
    return Resolution(instances, totals, packer.pack(), largest, removed, runs)
