"""Connected: instances are the 26-connected components of a mask, dilated where that is asked for.

A voxel is of the mask where its foreground probability is above a threshold and, with a contour
channel, its contour probability below one.
"""

from dataclasses import dataclass

from cristae.grid import Box
from cristae.labels.runs import Ints
from cristae.segmentation.batches import Extent, PieceBatch
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.components import (
    component_targets,
    connected_table,
    join_contacts,
    label_pieces,
)
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.job import Decoding, Joined, SegmentJob, Targets
from cristae.segmentation.reading import read_layers, sample_rules
from cristae.segmentation.scanning import ThresholdRule, scan_layers


@dataclass(frozen=True)
class Connected(Decoding):
    """Instances are components."""

    @property
    def rules(self) -> tuple[ThresholdRule, ...]:
        """The rule that a voxel of the foreground passes."""
        above = int(255 * self.parameters["foreground_threshold"])
        below = int(255 * self.parameters["contour_threshold"]) if self.channels > 1 else 256
        return (ThresholdRule(above, below),)

    @property
    def reach(self) -> tuple[int, int]:
        """Half the box of ``dilation``, in plane."""
        _, y, x = self.parameters.get("dilation", (1, 1, 1))
        return y // 2, x // 2

    @property
    def shared_rules(self) -> tuple[ThresholdRule, ...]:
        """The rule, where nothing is dilated."""
        return self.rules if self.reach == (0, 0) else ()

    def label(self, job: SegmentJob, box: Box) -> BlockTable:
        """Components of a block; whole ones that are small are dropped."""
        found = scan_layers(read_layers(job, box), job.raster, self.rules)
        pieces = label_pieces(found.runs, box, job.raster, 26)
        return connected_table(pieces, found.value, job.raster, self)

    def join(self, job: SegmentJob, base: Ints) -> tuple[Ints, int]:
        """Components of neighbouring blocks are one where they touch."""
        return join_contacts(job, base, 26)

    def targets(self, job: SegmentJob, joined: Joined) -> Targets:
        """Every component is an instance."""
        return component_targets(joined)

    def decode(self, job: SegmentJob, k: int, batch: PieceBatch) -> None:
        """Never called: no piece is left to decode."""
        raise TypeError(f"{self.decoder} decodes no pieces")

    def sample(self, job: SegmentJob, box: Box) -> tuple[float, float]:
        """By the rule."""
        return sample_rules(job, box, self.rules)

    def piece_bytes(self, extent: Extent) -> int:
        """Nothing is decoded."""
        return 0


DECODER = Decoder(Connected, ("mask", "contour"))
