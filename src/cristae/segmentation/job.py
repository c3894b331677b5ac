"""Job: one segmentation as its tasks know it, and what a decoder has to say (`Decoding`).

A decoder's file holds one class of these. The steps of `cristae.segmentation.segment`, and those of
`cristae.segmentation.decode` in memory, call its methods and look at nothing else of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from cristae.grid import Box, Triple, tile
from cristae.labels.runs import Ints, Raster
from cristae.segmentation.batches import Extent, PieceBatch
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.scanning import ThresholdRule
from cristae.segmentation.scratch import Scratch
from cristae.volumes.volume import Array, Volume


class Joined(NamedTuple):
    """The pieces of all blocks, joined over the faces.

    Attributes:
        piece: Joined piece of each block's piece, in order of the blocks.
        base: First piece of each block in ``piece``, and the end.
        first: Place of the first voxel of each joined piece.
        contacts: What the tables of the blocks have under that name, summed.
    """

    piece: Ints
    base: Ints
    first: Ints
    contacts: Ints


class Targets(NamedTuple):
    """What every joined piece becomes.

    Attributes:
        target: Its instance, `cristae.segmentation.resolve.UNASSIGNED`, or -2 - k where it is the
            k-th that has to be decoded whole.
        instances: How many instances are known without decoding, 0..n-1 in raster order.
        seed: Of every block's seeds the instance or `UNASSIGNED`; empty where there are no seeds.
        seed_base: First seed of each block in ``seed``, and the end.
    """

    target: Ints
    instances: int
    seed: Ints
    seed_base: Ints


@dataclass(frozen=True)
class Decoding(ABC):
    """A decoder with every number fixed; two equal ones give equal instances.

    Attributes:
        decoder: The name it was asked for by.
        channels: Number of channels read, from the first on.
        parameters: Every parameter, by name; ``min_size`` and ``small`` are among them.
        approximate: Whether a piece too large for memory is cut.
    """

    decoder: str
    channels: int
    parameters: Mapping[str, Any]
    approximate: bool = False

    planar: ClassVar[bool] = False
    """Whether slices are decoded one by one, and then joined."""
    ordered: ClassVar[bool] = True
    """Whether `Targets` numbers all instances, so that blocks do not change their order; those of
    decoded pieces alone are ordered by their first voxel."""
    width: ClassVar[int] = 1
    """Values of a voxel in the tables of blocks."""
    voxel_bytes: ClassVar[int] = 0
    """Memory of labelling for each voxel of a block, beside what is read."""

    @classmethod
    def of(
        cls,
        decoder: str,
        channels: int,
        parameters: Mapping[str, Any],
        approximate: bool,
        prediction: Volume,
    ) -> Self:
        """The decoding of a prediction."""
        return cls(decoder, channels, parameters, approximate)

    @classmethod
    def faults(cls, parameters: Mapping[str, Any], prediction: Volume, channels: int) -> list[str]:
        """What is wrong beside ranges of parameters and number of channels, a line each."""
        return []

    @abstractmethod
    def label(self, job: "SegmentJob", box: Box) -> BlockTable:
        """Label one block alone."""

    @abstractmethod
    def join(self, job: "SegmentJob", base: Ints) -> tuple[Ints, int]:
        """Join the pieces of all blocks; the joined piece of each, 0..n-1, and n.

        Args:
            job: The segmentation, its blocks labelled.
            base: First piece of each block, counted over all, and the end.
        """

    @abstractmethod
    def targets(self, job: "SegmentJob", joined: Joined) -> Targets:
        """Say what every joined piece becomes."""

    @abstractmethod
    def decode(self, job: "SegmentJob", k: int, batch: PieceBatch) -> None:
        """Decode a batch of pieces, each whole and on its own; leaves ``flood-k``."""

    @abstractmethod
    def sample(self, job: "SegmentJob", box: Box) -> tuple[float, float]:
        """Runs and foreground a voxel of a box, for the memory of labelling."""

    @abstractmethod
    def piece_bytes(self, extent: Extent) -> int:
        """Memory to decode pieces."""

    @property
    def reach(self) -> tuple[int, int]:
        """Voxels (y, x) that instances are dilated by to each side."""
        return 0, 0

    @property
    def whole_blocks(self) -> bool:
        """Whether a block is read at once, not in layers."""
        return self.reach != (0, 0)

    @property
    def shared_rules(self) -> tuple[ThresholdRule, ...]:
        """Rules of foreground, and of seeds, that say all of it but sizes (`cristae.tuning`).

        Settings of a search then share one reading; none where there is more to it.
        """
        return ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What makes it this one beside its parameters, for the record."""
        return {}

    @property
    def drops_small_at_once(self) -> bool:
        """Whether a small piece can go before all blocks are known.

        It cannot where voxels are added to it, nor where a neighbour may want it: components
        of a mask touch no other, those of edges do.
        """
        return self.reach == (0, 0)

    @property
    def min_size(self) -> int:
        """Instances of fewer voxels are removed."""
        return int(self.parameters["min_size"])

    @property
    def to_neighbor(self) -> bool:
        """Whether small instances join the neighbour with most contact."""
        return bool(self.parameters["small"] == "neighbor")

    @property
    def min_seed_size(self) -> int:
        """Seeds of fewer voxels are dropped."""
        return int(self.parameters.get("min_seed_size", 0))


@dataclass(frozen=True)
class SegmentJob:
    """One segmentation, as its tasks know it; small and picklable.

    Attributes:
        prediction: What is segmented.
        decoding: The decoder.
        block_shape: Extent (z, y, x) of the blocks.
        scratch: Where the steps leave their tables.
    """

    prediction: Volume
    decoding: Decoding
    block_shape: Triple
    scratch: Scratch

    @property
    def raster(self) -> Raster:
        """Numbering of the volume's voxels."""
        return Raster(self.prediction.shape, self.decoding.planar)

    @property
    def blocks(self) -> list[Box]:
        """All blocks in raster order."""
        return tile(self.prediction.box, self.block_shape)

    @property
    def name(self) -> str:
        """The block shape as messages and files say it."""
        return shape_name(self.block_shape)

    def block(self, index: int) -> Box:
        """The block of an index."""
        _, ny, nx = (
            -(-n // step) for n, step in zip(self.prediction.shape, self.block_shape, strict=True)
        )
        voxel_index = (index // (ny * nx), index // nx % ny, index % nx)
        z, y, x = (k * step for k, step in zip(voxel_index, self.block_shape, strict=True))
        block = Box((z, y, x), (z, y, x)).grow((0, 0, 0), self.block_shape)
        return block.clip(self.prediction.box)

    def index_of(self, block: Box) -> int:
        """Index of a block."""
        at = 0
        for start, step, extent in zip(
            block.start, self.block_shape, self.prediction.shape, strict=True
        ):
            at = at * -(-extent // step) + start // step
        return at

    def blocks_in(self, box: Box) -> list[tuple[int, Box]]:
        """The blocks that share voxels with a box, with their indices."""
        nz, ny, nx = (
            range(a // step, -(-b // step))
            for a, b, step in zip(box.start, box.stop, self.block_shape, strict=True)
        )
        sz, sy, sx = self.block_shape
        corners = [(z * sz, y * sy, x * sx) for z in nz for y in ny for x in nx]
        found = [Box(c, c).grow((0, 0, 0), self.block_shape) for c in corners]
        clipped = [block.clip(self.prediction.box) for block in found]
        return [(self.index_of(block), block) for block in clipped]


def shape_name(shape: Triple) -> str:
    """``64x512x512``."""
    return "x".join(map(str, shape))


def load_table(job: SegmentJob, index: int, *names: str) -> list[Array]:
    """Some fields of the table of a block (`BlockTable`)."""
    return job.scratch.load(f"label-{index}", *names)


def targets_of(job: SegmentJob, index: int) -> tuple[Ints, Ints]:
    """What each piece, and what each seed of a block becomes (`Plan`)."""
    base = job.scratch.rows("plan", "base", index, index + 2)
    return job.scratch.rows("plan", "target", *base[:, 0]), job.scratch.rows(
        "plan", "seed", *base[:, 1]
    )
