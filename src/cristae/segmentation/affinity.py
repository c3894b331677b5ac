"""Affinities: which neighbouring voxels belong together, and the components that makes.

An *edge* joins two voxels that share a face, where its affinity passes the threshold. A voxel
with no such edge is background. Whichever voxel of the two a prediction stores it at, here an edge
is known by the later one, so that a block knows all edges that end in it::

    edges[axis, v]   joins v and the voxel before it along the axis

A block is a core whose voxels it labels, and one voxel behind it along each axis: edges from there
tell that a voxel on the core's last plane is foreground. A run is a stretch along x that edges
hold together, so two runs may meet end to end and be strangers, and blocks are joined by the edges
between them, not by contact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box, Triple
from cristae.labels.runs import Ints, Raster, Runs, grown, number_roots, unite
from cristae.segmentation.batches import Extent, PieceBatch
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.components import (
    LabelledComponents,
    component_targets,
    connected_table,
    face_runs,
)
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.job import Decoding, Joined, SegmentJob, Targets, load_table
from cristae.segmentation.reading import read_channels
from cristae.segmentation.scanning import values_of
from cristae.volumes.volume import Volume

OFFSETS: tuple[Triple, ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
"""Of z, y and x: each joins a voxel to the one before."""

EDGE_BYTES = 4
"""Memory of labelling for each voxel of a block: its edges and their mean."""

Edges = NDArray[np.uint8]


def box_of_edges(box: Box, shape: Triple, offsets: Sequence[Triple]) -> Box:
    """The box of the prediction that `edges_of` needs for a block."""
    after = any(max(offset) > 0 for offset in offsets)
    return box.grow((1, 1, 1) if after else (0, 0, 0), (1, 1, 1)).clip(Box.of(shape))


def edges_of(channels: NDArray[np.uint8], read: Box, box: Box, offsets: Sequence[Triple]) -> Edges:
    """Edges that end in a block or just behind it.

    Args:
        channels: (3, z, y, x) uint8 affinities of the box ``read``.
        read: `box_of_edges` of the block.
        box: The block.
        offsets: Which voxel each channel joins a voxel to.

    Returns:
        (3, z + 1, y + 1, x + 1) uint8: the value of the edge to the voxel before along z, y and x;
        0 where the volume has no such voxel.
    """
    z, y, x = (extent + 1 for extent in box.shape)
    edges = np.zeros((3, z, y, x), np.uint8)
    for channel, offset in zip(channels, offsets, strict=True):
        axis = int(np.argmax(np.abs(offset)))
        first = (int(axis == 0), int(axis == 1), int(axis == 2))  # nothing before the volume
        ends = box.grow((0, 0, 0), (1, 1, 1)).clip(Box(first, read.stop))
        stored = ends.relative_to(offset) if offset[axis] > 0 else ends
        target, source = ends.relative_to(box.start), stored.relative_to(read.start)
        edges[axis][target.slices()] = channel[source.slices()]
    return edges


def confidence_of(edges: Edges) -> NDArray[np.uint8]:
    """Mean of the three edges that end in each voxel of a block, as (z, y, x) uint8."""
    mean = np.empty([extent - 1 for extent in edges.shape[1:]], np.uint8)
    for z, plane in enumerate(mean):
        plane[:] = edges[:, z, :-1, :-1].sum(axis=0, dtype=np.uint16) // 3
    return mean


def scan_edges(
    edges: Edges, box: Box, raster: Raster, level: int
) -> tuple[Runs, NDArray[np.int32], Ints]:
    """Runs of a block, the forest its edges make of them, and the edges to other blocks.

    Args:
        edges: `edges_of` the block.
        box: Where it lies in the volume.
        raster: Numbering of the volume.
        level: An edge joins its voxels where its value is above.

    Returns:
        The runs, union-find parents over them, and (2, n): place of the voxel where an edge to
        another block ends, and how far before it the edge begins.
    """
    corner = raster.voxel_index(*box.start)
    start, length, parent, *cross = _scan_edges(edges, level, corner, raster.plane, raster.row)
    return Runs(start, length), parent, np.stack(cross)


@njit(nogil=True, cache=True)
def _scan_edges(edges, level, corner, plane, row):  # type: ignore[no-untyped-def]
    _, nz, ny, nx = edges.shape
    nz, ny, nx = nz - 1, ny - 1, nx - 1
    start = np.empty(max(1024, nx), np.int64)
    length = np.empty(max(1024, nx), np.int32)
    parent = np.empty(max(1024, nx), np.int32)
    ends, back = np.empty((2, 1024 + 3 * nx), np.int64)
    run_of = np.full((2, ny, nx), -1, np.int32)  # of this plane and the one before
    n = crossing = 0
    for z in range(nz):
        now, before = run_of[z % 2], run_of[1 - z % 2]
        for y in range(ny):
            if n + nx > start.size:
                start, length, parent = grown(start, 0), grown(length, 0), grown(parent, 0)
            if crossing + 3 * nx > ends.size:
                ends, back = grown(ends, 0), grown(back, 0)
            voxel_index = corner + z * plane + y * row
            rows = (edges[0, z, y], edges[1, z, y], edges[0, z + 1, y], edges[1, z, y + 1])
            n = _scan_row(
                rows, edges[2, z, y], level, voxel_index, (start, length, parent), n, now[y]
            )
            if edges[2, z, y, 0] > level:
                ends[crossing], back[crossing] = voxel_index, 1
                crossing += 1
            for axis, step in ((1, row), (0, plane)):
                value = edges[axis, z, y]
                if y > 0 and axis == 1:
                    _join_rows(value, level, now[y], now[y - 1], parent)
                elif z > 0 and axis == 0:
                    _join_rows(value, level, now[y], before[y], parent)
                else:
                    for x in range(nx):
                        if value[x] > level:
                            ends[crossing], back[crossing] = voxel_index + x, step
                            crossing += 1
    runs = (start[:n].copy(), length[:n].copy(), parent[:n].copy())
    return (*runs, ends[:crossing].copy(), back[:crossing].copy())


@njit(nogil=True, cache=True)
def _scan_row(rows, to_x, level, voxel_index, found, n, run_of):  # type: ignore[no-untyped-def]
    """Append the runs of a row, and note the run of each voxel, -1 in the background."""
    to_z, to_y, from_z, from_y = rows
    start, length, parent = found
    for x in range(run_of.size):
        along_x = max(to_x[x], to_x[x + 1])
        if max(max(along_x, max(to_z[x], to_y[x])), max(from_z[x], from_y[x])) <= level:
            run_of[x] = -1
            continue
        if x > 0 and to_x[x] > level:
            length[n - 1] += 1
        else:
            start[n], length[n], parent[n] = voxel_index + x, 1, n
            n += 1
        run_of[x] = n - 1
    return n


@njit(nogil=True, cache=True)
def _join_rows(value, level, run_of, run_before, parent):  # type: ignore[no-untyped-def]
    for x in range(run_of.size):
        if value[x] > level:
            unite(parent, run_of[x], run_before[x])


def join_by_edges(
    runs: Sequence[Runs], owner: Sequence[NDArray[Any]], cross: Sequence[Ints], n: int
) -> tuple[Ints, int]:
    """Join components of blocks by the edges between them.

    Args:
        runs: Face runs of each block.
        owner: Component of each run, numbered over all blocks.
        cross: Edges from each block to earlier ones, as `scan_edges` gives them.
        n: Number of components over all blocks.

    Returns:
        Joined component of each, 0..m-1, and m.
    """
    parent = np.arange(n, dtype=np.int64)
    start = np.concatenate([r.start for r in runs])
    order = np.argsort(start, kind="stable")
    start, name = start[order], np.concatenate(owner)[order]
    ends, back = np.concatenate(cross, axis=1)
    here = name[np.searchsorted(start, ends, side="right") - 1]
    there = name[np.searchsorted(start, ends - back, side="right") - 1]
    _unite_pairs(parent, here, there)
    return number_roots(parent)


@njit(nogil=True, cache=True)
def _unite_pairs(parent, a, b):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        unite(parent, a[i], b[i])


def _are_offsets(value: Any) -> bool:
    """Whether a value is three (z, y, x) offsets of one voxel, one along each axis."""
    try:
        steps = np.array(value)
    except ValueError:  # rows of unequal lengths
        return False
    if steps.shape != (3, 3) or steps.dtype.kind != "i":
        return False
    size = np.abs(steps)
    return bool((size.sum(axis=0) == 1).all() and (size.sum(axis=1) == 1).all())


@dataclass(frozen=True)
class Affinity(Decoding):
    """Instances are what the edges above ``affinity_threshold`` hold together.

    Attributes:
        offsets: Offset (z, y, x) of the voxel that each channel joins a voxel to.
    """

    offsets: tuple[Triple, ...] = OFFSETS

    ordered = False
    width = 3
    voxel_bytes = EDGE_BYTES

    @classmethod
    def of(
        cls,
        decoder: str,
        channels: int,
        parameters: Mapping[str, Any],
        approximate: bool,
        prediction: Volume,
    ) -> Self:
        """With the offsets that the prediction names."""
        steps = _offsets_of(prediction, channels)
        offsets = tuple((int(z), int(y), int(x)) for z, y, x in steps)
        return cls(decoder, channels, parameters, approximate, offsets)

    @classmethod
    def faults(cls, parameters: Mapping[str, Any], prediction: Volume, channels: int) -> list[str]:
        """Offsets that cannot be used."""
        offsets = _offsets_of(prediction, channels)
        if _are_offsets(offsets):
            return []
        return [
            f"offsets: {offsets!r} found, expected three of one voxel, one along each axis, "
            f"such as {[list(o) for o in OFFSETS]}"
        ]

    @property
    def edge(self) -> int:
        """An edge joins its voxels where its value is above."""
        return int(255 * self.parameters["affinity_threshold"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The offsets."""
        return {"offsets": self.offsets}

    @property
    def whole_blocks(self) -> bool:
        """Edges of a block are made of all of its channels."""
        return True

    @property
    def drops_small_at_once(self) -> bool:
        """Components of edges touch others, which may want them."""
        return not self.to_neighbor

    def read_edges(self, job: SegmentJob, box: Box) -> Edges:
        """The edges that end in a block or just behind it."""
        read = box_of_edges(box, job.prediction.shape, self.offsets)
        return edges_of(read_channels(job, read), read, box, self.offsets)

    def label(self, job: SegmentJob, box: Box) -> BlockTable:
        """Components of a block's edges; whole ones that are small are dropped."""
        return self.label_edges(self.read_edges(job, box), job.raster, box)

    def label_edges(self, edges: Edges, raster: Raster, box: Box) -> BlockTable:
        """See `label`."""
        runs, parent, cross = scan_edges(edges, box, raster, self.edge)
        pieces = LabelledComponents.of(runs, *number_roots(parent), box, raster)
        own_mean = values_of(pieces.runs, confidence_of(edges), box, raster)
        return connected_table(pieces, own_mean, raster, self)._replace(cross=cross)

    def join(self, job: SegmentJob, base: Ints) -> tuple[Ints, int]:
        """Components of neighbouring blocks are one where an edge joins them."""
        cross = [load_table(job, i, "cross")[0] for i in range(len(job.blocks))]
        return join_by_edges(*face_runs(job, base), cross, int(base[-1]))

    def targets(self, job: SegmentJob, joined: Joined) -> Targets:
        """A component of one fragment is an instance; others have to be agglomerated."""
        return component_targets(joined)

    def decode(self, job: SegmentJob, k: int, batch: PieceBatch) -> None:
        """Never called: no piece is left to decode."""
        raise TypeError(f"{self.decoder} decodes no pieces")

    def sample(self, job: SegmentJob, box: Box) -> tuple[float, float]:
        """By the edges."""
        runs, _, _ = scan_edges(self.read_edges(job, box), box, job.raster, self.edge)
        return runs.start.size / box.size, float(runs.length.sum()) / box.size

    def piece_bytes(self, extent: Extent) -> int:
        """Nothing is decoded."""
        return 0


def _offsets_of(prediction: Volume, channels: int) -> Any:
    """The offsets of the channels that are read; others join voxels farther away."""
    offsets = prediction.attributes.get("offsets") or OFFSETS
    return offsets[:channels] if isinstance(offsets, list | tuple) else offsets


DECODER = Decoder(Affinity, ("affinity_z", "affinity_y", "affinity_x"))
