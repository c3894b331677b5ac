"""Batches: which multi-seed pieces are decoded together, and where one too large is cut.

A task decodes a batch: small pieces are packed, a large one is alone. A piece that would not fit
in the memory allowed is an error, unless approximation is allowed. Then it is cut along the borders
of blocks, into stretches of consecutive blocks that fit, and each stretch is decoded on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.labels.runs import Ints
from cristae.labels.statistics import Statistics

BATCH_VOXELS = 2_000_000
"""Multi-seed pieces are decoded together up to about so many voxels."""


@dataclass(frozen=True)
class PieceBatch:
    """Multi-seed pieces that one task decodes.

    Attributes:
        pieces: Their numbers among the multi-seed pieces.
        blocks: Indices of the blocks they lie in; of a piece that is cut, the stretch of them.
        size: Voxels of all of them.
        bytes: Memory to decode them.
        largest: Voxels of the largest.
        box: (z, y, x) start and stop of the largest one's box.
        cut: Whether this is part of a piece only, so that instances may end where it does.
    """

    pieces: tuple[int, ...]
    blocks: tuple[int, ...]
    size: int
    bytes: int
    largest: int
    box: tuple[tuple[int, ...], tuple[int, ...]]
    cut: bool = False


class PiecesInBlocks(NamedTuple):
    """What multi-seed pieces have in each block, in order of the piece, then of the block.

    Attributes:
        piece: Number of the piece among the multi-seed pieces.
        block: Index of the block.
        voxels: Voxels of the piece there.
        contacts: Edges between its fragments there, at most; 0 where nothing is agglomerated.
    """

    piece: Ints
    block: Ints
    voxels: Ints
    contacts: Ints

    @classmethod
    def of(cls, piece: Ints, block: Ints, voxels: Ints, contacts: Ints) -> "PiecesInBlocks":
        """Sum what each piece has in each block, given in any order, also in several rows."""
        pairs, which = np.unique(np.stack([piece, block], axis=1), axis=0, return_inverse=True)
        sums = np.zeros((2, len(pairs)), np.int64)
        for total, part in zip(sums, (voxels, contacts), strict=True):
            np.add.at(total, which.reshape(-1), part)
        return cls(*pairs.T, *sums)

    def take(self, rows: slice | Ints) -> "PiecesInBlocks":
        """Some of the rows."""
        return PiecesInBlocks(*(field[rows] for field in self))


class Extent(NamedTuple):
    """How large pieces are that are decoded one after the other.

    Attributes:
        voxels: Voxels of all of them.
        runs: Runs of all of them, at most.
        contacts: Edges between their fragments, at most; 0 where nothing is agglomerated.
        box: Voxels of the largest one's bounding box.
    """

    voxels: int
    runs: int
    contacts: int
    box: int


@dataclass(frozen=True)
class Packer:
    """Makes batches of multi-seed pieces.

    Attributes:
        parts: What the pieces have in each block.
        statistics: Statistics of the pieces, by number among the multi-seed pieces.
        runs: Runs and seed runs of each block.
        piece_bytes: Memory to decode pieces.
        budget: Memory over which a piece is cut; None to cut none.
    """

    parts: PiecesInBlocks
    statistics: Statistics
    runs: Ints
    piece_bytes: Callable[[Extent], int]
    budget: int | None

    def pack(self) -> tuple[PieceBatch, ...]:
        """Batches in order of their first block, of like size and an even number where they can.

        Two workers then end at the same time. Batches cannot depend on how many there are: a
        segmentation is resumed with other ones.
        """
        voxels = self.statistics.voxels
        pairs = -(-int(voxels.sum()) // (2 * BATCH_VOXELS))
        most = -(-int(voxels.sum()) // max(1, 2 * pairs))
        first = np.searchsorted(self.parts.piece, np.arange(voxels.size + 1))
        order = np.lexsort((np.arange(voxels.size), self.parts.block[first[:-1]]))
        batches: list[PieceBatch] = []
        group: list[int] = []
        total = 0
        for k in order.tolist():
            mine = np.arange(first[k], first[k + 1])
            if self.budget is not None and self._bytes(self.parts.take(mine)) > self.budget:
                batches += [self._batch([k], rows, cut=True) for rows in self._cut(mine)]
                continue
            if group and total + voxels[k] // 2 > most:
                batches.append(self._whole(group, first))
                group, total = [], 0
            group.append(k)
            total += int(voxels[k])
        if group:
            batches.append(self._whole(group, first))
        return tuple(batches)

    def _cut(self, rows: Ints) -> list[Ints]:
        """Cut the rows of a piece into stretches that fit, of at least one block."""
        stretches, low = [], 0
        for high in range(1, rows.size + 1):
            over = high < rows.size and self._bytes(self.parts.take(rows[low : high + 1]))
            if high == rows.size or over > (self.budget or 0):
                stretches.append(rows[low:high])
                low = high
        return stretches

    def _whole(self, group: Sequence[int], first: Ints) -> PieceBatch:
        return self._batch(
            group, np.concatenate([np.arange(first[k], first[k + 1]) for k in group])
        )

    def _batch(self, group: Sequence[int], rows: Ints, *, cut: bool = False) -> PieceBatch:
        parts = self.parts.take(rows)
        blocks: NDArray[Any] = np.unique(parts.block)
        voxels, low, high = self.statistics.voxels, self.statistics.low, self.statistics.high
        big = group[int(np.argmax(voxels[list(group)]))]
        return PieceBatch(
            tuple(group),
            tuple(blocks.tolist()),
            int(parts.voxels.sum()),
            self._bytes(parts),
            int(voxels[big]),
            (tuple(low[big].tolist()), tuple(high[big].tolist())),
            cut,
        )

    def _bytes(self, parts: PiecesInBlocks) -> int:
        size = int(parts.voxels.sum())
        runs = min(size, int(self.runs[np.unique(parts.block)].sum()))
        pieces = np.unique(parts.piece)
        sides = self.statistics.high[pieces] - self.statistics.low[pieces]
        box = int(sides.prod(axis=1).max(initial=0))
        return self.piece_bytes(Extent(size, runs, int(parts.contacts.sum()), box))
