"""Components, block by block: what a block knows alone, and how blocks are joined.

A block is labelled alone; then the runs on faces that another block adjoins are joined, across
faces, edges and corners at once, because runs of neighbouring blocks touch exactly where their
places do (`cristae.labels.runs`)::

      block A      | block B          A's run on the face and B's run on the face meet end to end,
    ....=====......|....=====....     or touch row by row as inside a block: one walk over the
    .......========|======.......     face runs of all blocks finds every contact
                  face

The seeded path keeps two labellings. *Pieces* are the 6-connected components of the foreground:
a flood cannot leave one, and its order inside one depends on nothing outside. *Seeds* are the
26-connected components of the seed mask, wherever they lie. A piece that only one seed reaches
is that seed's without any flood; only a piece that holds several seeds is flooded, and only such
pieces keep the values of their voxels. The connected path has pieces alone, 26-connected.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import (
    Ints,
    Raster,
    Runs,
    intersect,
    join_owners,
    label_runs,
    no_runs,
    number_roots,
    on_faces,
)
from cristae.labels.statistics import NOWHERE, Statistics, mass_of, measure_runs
from cristae.segmentation.decoders import Decoding
from cristae.segmentation.scanning import Layers, Scanned, scan_layers, select_values


class BlockTable(NamedTuple):
    """What a block keeps between the steps; local numbers are those of the block alone.

    Attributes:
        start: Places of the runs of the pieces kept, in raster order.
        length: Their lengths.
        piece: Local piece of each run.
        voxels: Voxels of each piece in this block.
        mass: Sum of the mask channel over them.
        first: Place of each piece's first voxel in this block.
        low: First voxel (z, y, x) of each piece's box in this block.
        high: Last voxel of it, plus one.
        face: Places, lengths and local pieces of the runs on faces that another block adjoins;
            (3, n).
        seed_voxels: Voxels of each local seed in this block.
        seed_first: Place of its first voxel in this block.
        seed_face: Places, lengths and local seeds of seed runs on such faces; (3, n).
        pairs: (piece, seed) that share a voxel, each pair once; (n, 2).
        valued: Whether the values of a piece's voxels are kept: it may hold several seeds.
        value: Those values, one run after the other; of an agglomeration the three edges that
            end in each voxel, z, y, x.
        share: Places, lengths and local seeds of the seeds' voxels in those pieces; (3, n).
        share_piece: Local piece of each.
        removed: Whole instances dropped because they are small.
        cross: Affinity path: places of voxels that an edge joins to another block, and how far
            before it the edge ends; (2, n).
        contacts: Agglomeration: at most so many edges between fragments of each piece end here.
    """

    start: Ints
    length: NDArray[np.int32]
    piece: NDArray[np.int32]
    voxels: Ints
    mass: Ints
    first: Ints
    low: Ints
    high: Ints
    face: Ints
    seed_voxels: Ints
    seed_first: Ints
    seed_face: Ints
    pairs: Ints
    valued: NDArray[np.bool_]
    value: NDArray[np.uint8]
    share: Ints
    share_piece: Ints
    removed: Ints
    cross: Ints
    contacts: Ints

    @property
    def runs(self) -> Runs:
        """Runs of the pieces."""
        return Runs(self.start, self.length)

    @property
    def statistics(self) -> Statistics:
        """Statistics of the pieces in this block."""
        return Statistics(self.voxels, self.mass, self.first, self.low, self.high)


@dataclass(frozen=True)
class Labelled:
    """Runs in a block, and the components they make there.

    Attributes:
        runs: The runs.
        label: Component of each.
        n: Number of components.
        face: Which runs lie on a face of the block that another block adjoins.
        leaves: Which components do.
    """

    runs: Runs
    label: NDArray[np.int32]
    n: int
    face: NDArray[np.bool_]
    leaves: NDArray[np.bool_]

    @classmethod
    def of(
        cls, runs: Runs, label: NDArray[np.int32], n: int, box: Box, raster: Raster
    ) -> "Labelled":
        """Labelled runs of a block."""
        face = on_faces(runs, box, raster)
        leaves = np.zeros(n, bool)
        leaves[label[face]] = True
        return cls(runs, label, n, face, leaves)

    @property
    def on_face(self) -> Ints:
        """Places, lengths and components of the runs on such faces; (3, n)."""
        start, length = self.runs.take(self.face)
        return np.stack([start, length, self.label[self.face]]).astype(np.int64)

    def keep(self, wanted: NDArray[np.bool_]) -> "Labelled":
        """Only some of the components, numbered anew in the same order."""
        number = np.cumsum(wanted).astype(np.int32) - 1
        mine = wanted[self.label]
        return Labelled(
            self.runs.take(mine),
            number[self.label[mine]],
            int(wanted.sum()),
            self.face[mine],
            self.leaves[wanted],
        )


def label_block(layers: Layers, box: Box, raster: Raster, decoding: Decoding) -> BlockTable:
    """Label one block alone and keep what the joined volume will need of it.

    A component that does not reach a face another block adjoins is whole: what can be said of it
    here is said here, and what will never become an instance is dropped.

    Args:
        layers: The uint8 prediction of the block, layer by layer.
        box: Where the block lies in the volume.
        raster: Numbering of the volume.
        decoding: The decoder.
    """
    found = scan_layers(layers, raster, decoding)
    connectivity = 6 if decoding.seed is not None else 26
    pieces = _label(found.runs, box, raster, connectivity)
    if decoding.seed is None:
        return connected_table(pieces, found.value, raster, decoding)
    return _seeded_table(pieces, found, box, raster, decoding)


def _label(runs: Runs, box: Box, raster: Raster, connectivity: int) -> Labelled:
    return Labelled.of(runs, *label_runs(runs, raster, connectivity), box, raster)


def connected_table(
    pieces: Labelled, value: NDArray[np.uint8], raster: Raster, decoding: Decoding
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
    pieces: Labelled, value: NDArray[np.uint8], wanted: NDArray[np.bool_]
) -> tuple[Labelled, NDArray[np.uint8]]:
    """Only some of the pieces (`Labelled.keep`), and the values of their voxels."""
    its = select_values(pieces.runs.length, wanted[pieces.label], value)
    return pieces.keep(wanted), its


def small_at_once(pieces: Labelled, decoding: Decoding) -> NDArray[np.bool_]:
    """Which pieces are whole instances too small to stay."""
    voxels = np.bincount(pieces.label, pieces.runs.length, pieces.n)
    small: NDArray[np.bool_] = ~pieces.leaves & (voxels < decoding.min_size)
    return small & decoding.drops_small_at_once


def plain_table(
    pieces: Labelled, value: NDArray[np.uint8], raster: Raster, removed: int
) -> BlockTable:
    """Table of a block without seeds."""
    return _table(pieces, value, raster, None, removed)


class Share(NamedTuple):
    """Voxels of seeds inside the foreground: runs, the piece and the seed of each."""

    runs: Runs
    piece: Ints
    seed: Ints


@dataclass(frozen=True)
class _Seeds:
    """What a block keeps of its seeds."""

    voxels: Ints
    first: Ints
    face: Ints
    pairs: Ints
    share: Share


def _seeded_table(
    pieces: Labelled, scanned: Scanned, box: Box, raster: Raster, decoding: Decoding
) -> BlockTable:
    seeds = _label(scanned.seeds, box, raster, 26)
    voxels = np.bincount(seeds.label, seeds.runs.length, seeds.n)
    seeds = seeds.keep(seeds.leaves | (voxels >= decoding.min_seed_size))
    common, in_piece, in_seed = intersect(pieces.runs, seeds.runs)
    piece = pieces.label[in_piece].astype(np.int64)
    seed = seeds.label[in_seed].astype(np.int64)
    seeded = np.zeros(pieces.n, bool)
    seeded[piece] = True
    wanted = pieces.leaves | seeded
    number = np.cumsum(wanted) - 1
    share = Share(common, number[piece], seed)
    found = _Seeds(
        np.bincount(seeds.label, seeds.runs.length, seeds.n).astype(np.int64),
        _first_of(seeds),
        seeds.on_face,
        _unique_pairs(share.piece, seed, seeds.n),
        share,
    )
    return _table(*keep_valued(pieces, scanned.value, wanted), raster, found, 0)


def _first_of(found: Labelled) -> Ints:
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


def _table(
    pieces: Labelled,
    value: NDArray[np.uint8],
    raster: Raster,
    seeds: _Seeds | None,
    removed: int,
) -> BlockTable:
    mass = mass_of(pieces.runs.length, value)
    statistics = measure_runs(pieces.runs, pieces.label, pieces.n, mass, raster)
    valued = np.zeros(pieces.n, bool)
    if seeds is None:
        none = np.zeros((3, 0), np.int64)
        share = Share(no_runs(), none[0], none[0])
        seeds = _Seeds(none[0], none[0], none, np.zeros((0, 2), np.int64), share)
    else:
        valued = (np.bincount(seeds.pairs[:, 0], minlength=pieces.n) > 1) | pieces.leaves
    shared = valued[seeds.share.piece]
    share_runs = seeds.share.runs.take(shared)
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
        valued,
        select_values(pieces.runs.length, valued[pieces.label], value),
        np.stack([share_runs.start, share_runs.length, seeds.share.seed[shared]]),
        seeds.share.piece[shared],
        np.array([removed], np.int64),
        np.zeros((2, 0), np.int64),
        np.zeros(pieces.n, np.int64),
    )


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
