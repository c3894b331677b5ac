"""Components, block by block: what a block knows alone, and how blocks are joined.

A block is labelled alone; then the runs on faces that another block adjoins are joined, across
faces, edges and corners at once, because runs of neighbouring blocks touch exactly where their
places do (`cristae.labels.runs`)::

      block A      | block B          A's run on the face and B's run on the face meet end to end,
    ....=====......|....=====....     or touch row by row as inside a block: one walk over the
    .......========|======.......     face runs of all blocks finds every contact
                  face

What a piece and a seed are, and how pieces are joined, each decoder says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.grid import Box
from cristae.labels.runs import (
    Ints,
    Raster,
    Runs,
    join_owners,
    label_runs,
    no_runs,
    number_roots,
    on_faces,
)
from cristae.labels.statistics import measure_runs, probability_sums
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.job import Decoding, Joined, SegmentJob, Targets, load_table
from cristae.segmentation.scanning import select_values


@dataclass(frozen=True)
class LabelledComponents:
    """Runs in a block, and the components they make there.

    Attributes:
        runs: The runs.
        label: Component of each.
        n: Number of components.
        face: Which runs lie on a face of the block that another block adjoins.
        touches_face: Which components do.
    """

    runs: Runs
    label: NDArray[np.int32]
    n: int
    face: NDArray[np.bool_]
    touches_face: NDArray[np.bool_]

    @classmethod
    def of(
        cls, runs: Runs, label: NDArray[np.int32], n: int, box: Box, raster: Raster
    ) -> "LabelledComponents":
        """Labelled runs of a block."""
        face = on_faces(runs, box, raster)
        touches_face = np.zeros(n, bool)
        touches_face[label[face]] = True
        return cls(runs, label, n, face, touches_face)

    @property
    def on_face(self) -> Ints:
        """Places, lengths and components of the runs on such faces; (3, n)."""
        start, length = self.runs.take(self.face)
        return np.stack([start, length, self.label[self.face]]).astype(np.int64)

    def keep(self, wanted: NDArray[np.bool_]) -> "LabelledComponents":
        """Only some of the components, numbered anew in the same order."""
        number = np.cumsum(wanted).astype(np.int32) - 1
        mine = wanted[self.label]
        return LabelledComponents(
            self.runs.take(mine),
            number[self.label[mine]],
            int(wanted.sum()),
            self.face[mine],
            self.touches_face[wanted],
        )


def label_pieces(runs: Runs, box: Box, raster: Raster, connectivity: int) -> LabelledComponents:
    """Components of the runs of a block."""
    return LabelledComponents.of(runs, *label_runs(runs, raster, connectivity), box, raster)


def connected_table(
    pieces: LabelledComponents, value: NDArray[np.uint8], raster: Raster, decoding: Decoding
) -> BlockTable:
    """Table of a block whose pieces are instances, or parts of instances.

    Args:
        pieces: The pieces of the block.
        value: What is summed over an instance for its confidence: of each voxel, run by run.
        raster: Numbering of the volume.
        decoding: The decoder.
    """
    small = small_at_once(pieces, decoding)
    return plain_table(*keep_valued(pieces, value, ~small), raster, int(small.sum()))


def keep_valued(
    pieces: LabelledComponents, value: NDArray[np.uint8], wanted: NDArray[np.bool_]
) -> tuple[LabelledComponents, NDArray[np.uint8]]:
    """Only some of the pieces (`Labelled.keep`), and the values of their voxels."""
    its = select_values(pieces.runs.length, wanted[pieces.label], value)
    return pieces.keep(wanted), its


def small_at_once(pieces: LabelledComponents, decoding: Decoding) -> NDArray[np.bool_]:
    """Which pieces are whole instances too small to stay."""
    voxels = np.bincount(pieces.label, pieces.runs.length, pieces.n)
    small: NDArray[np.bool_] = ~pieces.touches_face & (voxels < decoding.min_size)
    return small & decoding.drops_small_at_once


def plain_table(
    pieces: LabelledComponents, value: NDArray[np.uint8], raster: Raster, removed: int
) -> BlockTable:
    """Table of a block without seeds."""
    return block_table(pieces, value, raster, np.zeros(pieces.n, bool), no_seeds(), removed)


class SeedOverlap(NamedTuple):
    """Voxels of seeds inside the foreground: runs, the piece and the seed of each."""

    runs: Runs
    piece: Ints
    seed: Ints


@dataclass(frozen=True)
class Seeds:
    """What a block keeps of its seeds (`BlockTable`)."""

    voxels: Ints
    first: Ints
    face: Ints
    pairs: Ints
    seed_overlap: SeedOverlap


def no_seeds() -> Seeds:
    """Where there are none."""
    none = np.zeros((3, 0), np.int64)
    seed_overlap = SeedOverlap(no_runs(), none[0], none[0])
    return Seeds(none[0], none[0], none, np.zeros((0, 2), np.int64), seed_overlap)


def block_table(
    pieces: LabelledComponents,
    value: NDArray[np.uint8],
    raster: Raster,
    keeps_values: NDArray[np.bool_],
    seeds: Seeds,
    removed: int = 0,
) -> BlockTable:
    """Table of a block.

    Args:
        pieces: The pieces that are kept.
        value: What is summed over an instance for its confidence: of each voxel, run by run.
        raster: Numbering of the volume.
        keeps_values: Pieces whose values are kept.
        seeds: The seeds.
        removed: Whole instances that were dropped because they are small.
    """
    probability_sum = probability_sums(pieces.runs.length, value)
    statistics = measure_runs(pieces.runs, pieces.label, pieces.n, probability_sum, raster)
    shared = keeps_values[seeds.seed_overlap.piece]
    overlap_runs = seeds.seed_overlap.runs.take(shared)
    return BlockTable(
        pieces.runs.start,
        pieces.runs.length,
        pieces.label,
        *statistics,
        pieces.on_face,
        seeds.voxels,
        seeds.first,
        seeds.face,
        seeds.pairs,
        keeps_values,
        select_values(pieces.runs.length, keeps_values[pieces.label], value),
        np.stack([overlap_runs.start, overlap_runs.length, seeds.seed_overlap.seed[shared]]),
        seeds.seed_overlap.piece[shared],
        np.array([removed], np.int64),
        np.zeros((2, 0), np.int64),
        np.zeros(pieces.n, np.int64),
    )


def bases(counts: Sequence[int]) -> Ints:
    """First item of each block where items are counted over all blocks, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def component_targets(joined: Joined) -> Targets:
    """Pieces without contacts are an instance each; the others have to be decoded."""
    target = np.empty(joined.first.size, np.int64)
    whole, several = np.flatnonzero(joined.contacts == 0), np.flatnonzero(joined.contacts)
    target[whole[np.argsort(joined.first[whole])]] = np.arange(whole.size)
    target[several] = -2 - np.arange(several.size)
    none = np.zeros(0, np.int64)
    return Targets(target, whole.size, none, np.zeros(joined.base.size, np.int64))


def join_contacts(job: SegmentJob, base: Ints, connectivity: int) -> tuple[Ints, int]:
    """Join the pieces of blocks that touch (`join`).

    Args:
        job: The segmentation, its blocks labelled.
        base: First piece of each block, and the end.
        connectivity: 6 or 26.
    """
    faces, owners = face_runs(job, base)
    return join(faces, owners, int(base[-1]), job.raster, connectivity)


def face_runs(job: SegmentJob, base: Ints) -> tuple[list[Runs], list[Ints]]:
    """Face runs of each block, and their pieces counted over all blocks."""
    tables = [load_table(job, i, "face")[0] for i in range(len(job.blocks))]
    runs = [Runs(face[0], face[1].astype(np.int32)) for face in tables]
    return runs, [face[2] + base[i] for i, face in enumerate(tables)]


def join(
    runs: list[Runs],
    owner: list[NDArray[Any]],
    n: int,
    raster: Raster,
    connectivity: int,
) -> tuple[Ints, int]:
    """Join components of blocks over the runs on their faces.

    Args:
        runs: Face runs of each block.
        owner: Component of each run, numbered over all blocks.
        n: Number of components over all blocks.
        raster: Numbering of the volume.
        connectivity: 6 or 26.

    Returns:
        Joined component of each, 0..m-1, and m.
    """
    parent = np.arange(n, dtype=np.int64)
    if runs:
        start = np.concatenate([r.start for r in runs])
        order = np.argsort(start, kind="stable")
        length = np.concatenate([r.length for r in runs])
        together = Runs(start[order], length[order].astype(np.int32))
        join_owners(together, np.concatenate(owner)[order], parent, raster, connectivity)
    return number_roots(parent)
