"""Watershed: seeds flood a foreground.

Seeds are the 26-connected components of the voxels that pass the seed rule; they flood the voxels
that pass the foreground rule (`cristae.segmentation.flood`). Two labellings are kept. *Pieces* are
the 6-connected components of the foreground: a flood cannot leave one, and its order inside one
depends on nothing outside. *Seeds* lie wherever they lie. A piece that only one seed reaches is
that seed's without any flood; only a piece that holds several seeds is flooded, and only such
pieces keep the values of their voxels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import Ints, Raster, Runs, intersect, join_owners, number_roots
from cristae.labels.statistics import NOWHERE
from cristae.segmentation.batches import Extent, PieceBatch
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.components import (
    LabelledComponents,
    SeedOverlap,
    Seeds,
    bases,
    block_table,
    join,
    join_contacts,
    keep_valued,
    label_pieces,
)
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.flood import flood, flood_bytes, labelled_runs
from cristae.segmentation.job import Decoding, Joined, SegmentJob, Targets, load_table
from cristae.segmentation.levels import distance_bound
from cristae.segmentation.multi_seed import (
    Decoded,
    MultiSeedRuns,
    in_raster_order,
    multi_seed_runs,
    save_decoded,
)
from cristae.segmentation.reading import read_layers, sample_rules
from cristae.segmentation.resolve import UNASSIGNED
from cristae.segmentation.scanning import Scanned, ThresholdRule, scan_layers

SEED_FIELDS = ("seed_voxels", "seed_face", "pairs", "seed_first")


@dataclass(frozen=True)
class Watershed(Decoding):
    """Instances are what each seed floods."""

    @property
    def rules(self) -> tuple[ThresholdRule, ...]:
        """Those of the foreground and of seeds."""
        contour, distance, seed_distance = 256, -1, -1
        if self.channels > 1:
            contour = int(255 * self.parameters["contour_threshold"])
        if self.channels > 2:
            distance = distance_bound(self.parameters["distance_foreground_threshold"])
            seed_distance = distance_bound(self.parameters["distance_seed_threshold"])
        foreground = int(255 * self.parameters["foreground_threshold"])
        seed = int(255 * self.parameters["seed_threshold"])
        return (
            ThresholdRule(foreground, distance_above=distance),
            ThresholdRule(seed, contour, seed_distance),
        )

    @property
    def shared_rules(self) -> tuple[ThresholdRule, ...]:
        """Both rules, where slices are not joined."""
        return () if self.planar else self.rules

    def label(self, job: SegmentJob, box: Box) -> BlockTable:
        """Pieces and seeds of a block; whole pieces without a seed are dropped."""
        found = scan_layers(read_layers(job, box), job.raster, self.rules)
        pieces = label_pieces(found.runs, box, job.raster, 6)
        return _seeded_table(pieces, found, box, job.raster, self)

    def join(self, job: SegmentJob, base: Ints) -> tuple[Ints, int]:
        """Pieces of neighbouring blocks are one where their faces touch."""
        return join_contacts(job, base, 6)

    def targets(self, job: SegmentJob, joined: Joined) -> Targets:
        """A piece is the instance of its only seed, unassigned, or has to be flooded."""
        piece, base = joined.piece, joined.base
        tables = [load_table(job, i, *SEED_FIELDS) for i in range(len(job.blocks))]
        seed_base = bases([len(table[0]) for table in tables])
        seed, first, voxels = _join_seeds(job, tables, seed_base)
        kept = np.flatnonzero(voxels >= self.min_seed_size)
        instance = np.full(first.size, UNASSIGNED, np.int64)
        instance[kept[np.argsort(first[kept])]] = np.arange(kept.size)
        pairs = np.concatenate([t[2] + (base[i], seed_base[i]) for i, t in enumerate(tables)])
        pairs = np.stack([piece[pairs[:, 0]], instance[seed[pairs[:, 1]]]], axis=1)
        pairs = np.unique(pairs[pairs[:, 1] >= 0], axis=0)
        held = np.bincount(pairs[:, 0], minlength=joined.first.size)
        target = np.full(joined.first.size, UNASSIGNED, np.int64)
        single = held[pairs[:, 0]] == 1
        target[pairs[single, 0]] = pairs[single, 1]
        multi_seed = np.flatnonzero(held > 1)
        target[multi_seed] = -2 - np.arange(multi_seed.size)
        return Targets(target, kept.size, instance[seed], seed_base)

    def decode(self, job: SegmentJob, k: int, batch: PieceBatch) -> None:
        """Flood pieces of several seeds; leaves labelled runs by block."""
        found, block = multi_seed_runs(job, batch)
        instances, name = np.unique(found.overlap_seed, return_inverse=True)
        order, runs, value, bounds = in_raster_order(found, len(batch.pieces), 1)
        found = found._replace(value=value)  # the only copy from here on
        pieces = (order, runs, bounds)
        results = _flood_pieces(found, pieces, name.astype(np.int32) + 1, batch, job)
        labels = max((int(result.label.max(initial=-1)) + 1 for result in results), default=0)
        instances = np.append(instances, ~np.arange(max(0, labels - instances.size)))
        save_decoded(job, k, batch, results, instances, block)

    def sample(self, job: SegmentJob, box: Box) -> tuple[float, float]:
        """By both rules."""
        return sample_rules(job, box, self.rules)

    def piece_bytes(self, extent: Extent) -> int:
        """Memory to flood pieces."""
        return flood_bytes(extent.voxels, extent.runs)


def _seeded_table(
    pieces: LabelledComponents, scanned: Scanned, box: Box, raster: Raster, decoding: Decoding
) -> BlockTable:
    seeds = label_pieces(scanned.seeds, box, raster, 26)
    voxels = np.bincount(seeds.label, seeds.runs.length, seeds.n)
    seeds = seeds.keep(seeds.touches_face | (voxels >= decoding.min_seed_size))
    common, in_piece, in_seed = intersect(pieces.runs, seeds.runs)
    piece = pieces.label[in_piece].astype(np.int64)
    seed = seeds.label[in_seed].astype(np.int64)
    seeded = np.zeros(pieces.n, bool)
    seeded[piece] = True
    wanted = pieces.touches_face | seeded
    number = np.cumsum(wanted) - 1
    seed_overlap = SeedOverlap(common, number[piece], seed)
    found = Seeds(
        np.bincount(seeds.label, seeds.runs.length, seeds.n).astype(np.int64),
        _first_of(seeds),
        seeds.on_face,
        _unique_pairs(seed_overlap.piece, seed, seeds.n),
        seed_overlap,
    )
    its, value = keep_valued(pieces, scanned.value, wanted)
    keeps_values = (np.bincount(found.pairs[:, 0], minlength=its.n) > 1) | its.touches_face
    return block_table(its, value, raster, keeps_values, found)


def _join_seeds(job: SegmentJob, tables: list[list[Ints]], base: Ints) -> tuple[Ints, Ints, Ints]:
    """Joined seed of each block's seed; first voxel and number of voxels of each joined one."""
    faces = [Runs(t[1][0], t[1][1].astype(np.int32)) for t in tables]
    owners = [t[1][2] + base[i] for i, t in enumerate(tables)]
    seed, count = join(faces, owners, int(base[-1]), job.raster, 26)
    voxels, first = np.zeros(count, np.int64), np.full(count, NOWHERE, np.int64)
    np.add.at(voxels, seed, np.concatenate([t[0] for t in tables]))
    np.minimum.at(first, seed, np.concatenate([t[3] for t in tables]))
    return seed, first, voxels


def _first_of(found: LabelledComponents) -> Ints:
    first = np.full(found.n, NOWHERE, np.int64)
    np.minimum.at(first, found.label, found.runs.start)
    return first


def _unique_pairs(piece: Ints, seed: Ints, seeds: int) -> Ints:
    first = _is_new(piece, seed, np.full(seeds, -1, np.int64))
    key = np.unique(piece[first] * max(seeds, 1) + seed[first])
    return np.stack(np.divmod(key, max(seeds, 1)), axis=1)


@njit(nogil=True, cache=True)
def _is_new(piece, seed, last):  # type: ignore[no-untyped-def]
    """Which pairs have another piece than the pair of the same seed before."""
    new = np.empty(piece.size, np.bool_)
    for i in range(piece.size):
        new[i] = last[seed[i]] != piece[i]
        last[seed[i]] = piece[i]
    return new


def _flood_pieces(
    found: MultiSeedRuns,
    pieces: tuple[Ints, Runs, list[list[int]]],
    name: NDArray[np.int32],
    batch: PieceBatch,
    job: SegmentJob,
) -> list[Decoded]:
    (order, runs, bounds), most = pieces, int(name.max(initial=0))
    seed_order = np.lexsort((found.overlap_start, found.overlap_piece))
    seeds = Runs(found.overlap_start[seed_order], found.overlap_length[seed_order])
    name = name[seed_order]
    seed_first = np.searchsorted(found.overlap_piece[seed_order], np.arange(len(bounds) + 1))
    results = []
    for p, (low, high, first, last) in enumerate(bounds):
        its = slice(seed_first[p], seed_first[p + 1])
        here, piece = found.value[first:last], runs.take(slice(low, high))
        label = flood(piece, here, seeds.take(its), name[its], job.raster)
        if batch.cut:
            label_unreached(piece, label, most, job.raster)
        cut, cut_name, source = labelled_runs(piece, label)
        results.append(Decoded(*cut, cut_name - 1, order[low:high][source], here[label > 0]))
    return results


def label_unreached(piece: Runs, label: NDArray[np.int32], most: int, raster: Raster) -> None:
    """Make the parts of a cut piece that no seed reaches labels of their own, in place.

    Args:
        piece: Runs in raster order.
        label: Label of each voxel, 0 where its seed lies beyond the cut.
        most: The new labels begin behind this one.
        raster: Numbering of the volume.
    """
    rest, _, _ = labelled_runs(piece, (label == 0).astype(np.int32))
    parent = np.arange(rest.start.size, dtype=np.int64)
    join_owners(rest, np.arange(rest.start.size), parent, raster, 6)
    part, _ = number_roots(parent)
    label[label == 0] = np.repeat(part + (most + 1), rest.length)


DECODER = Decoder(Watershed, ("mask", "contour", "distance"))
