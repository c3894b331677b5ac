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

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box, Triple
from cristae.labels.runs import Ints, Raster, Runs, grown, number_roots, unite
from cristae.segmentation.components import (
    BlockTable,
    Labelled,
    connected_table,
    plain_table,
    small_at_once,
)
from cristae.segmentation.decoders import AffinityRule, Decoding
from cristae.segmentation.scanning import values_of

Edges = NDArray[np.uint8]


def box_of_edges(box: Box, shape: Triple, rule: AffinityRule) -> Box:
    """The box of the prediction that `edges_of` needs for a block."""
    after = any(max(offset) > 0 for offset in rule.offsets)
    return box.grow((1, 1, 1) if after else (0, 0, 0), (1, 1, 1)).clip(Box.of(shape))


def edges_of(channels: NDArray[np.uint8], read: Box, box: Box, rule: AffinityRule) -> Edges:
    """Edges that end in a block or just behind it.

    Args:
        channels: (3, z, y, x) uint8 affinities of the box ``read``.
        read: `box_of_edges` of the block.
        box: The block.
        rule: Says which voxel each channel joins a voxel to.

    Returns:
        (3, z + 1, y + 1, x + 1) uint8: the value of the edge to the voxel before along z, y and x;
        0 where the volume has no such voxel.
    """
    z, y, x = (extent + 1 for extent in box.shape)
    edges = np.zeros((3, z, y, x), np.uint8)
    for channel, offset in zip(channels, rule.offsets, strict=True):
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


def label_affinities(edges: Edges, box: Box, raster: Raster, decoding: Decoding) -> BlockTable:
    """Label one block alone by its edges (as `cristae.segmentation.components.label_block`).

    Args:
        edges: `edges_of` the block.
        box: Where the block lies in the volume.
        raster: Numbering of the volume.
        decoding: The decoder.
    """
    runs, parent, cross = scan_edges(edges, box, raster, decoding)
    pieces = Labelled.of(runs, *number_roots(parent), box, raster)
    mean, rule = confidence_of(edges), decoding.affinity
    if rule is None or rule.merge is None:
        own_mean = values_of(pieces.runs, mean, box, raster)
        return connected_table(pieces, own_mean, raster, decoding)._replace(cross=cross)
    contacts = _count_contacts(edges, pieces, box, raster, rule.fragment)
    small = small_at_once(pieces, decoding) & (contacts == 0)  # one fragment, one instance
    pieces, contacts = pieces.keep(~small), contacts[~small]
    valued = pieces.leaves | (contacts > 0)
    mine = pieces.runs.take(valued[pieces.label])
    value = [values_of(mine, axis, box, raster) for axis in edges]
    own_mean = values_of(pieces.runs, mean, box, raster)
    table = plain_table(pieces, own_mean, raster, int(small.sum()))
    return table._replace(
        cross=cross, contacts=contacts, valued=valued, value=np.stack(value, axis=1).reshape(-1)
    )


def _count_contacts(
    edges: Edges, pieces: Labelled, box: Box, raster: Raster, level: int
) -> NDArray[np.int64]:
    """For each piece, how many edges that end in it may lie between two fragments of it."""
    contacts = np.zeros(pieces.n, np.int64)
    earlier = np.array([start > 0 for start in box.start])
    names = (pieces.label, pieces.leaves, earlier)
    corner = raster.place(*box.start)
    _count(edges, *pieces.runs, names, level, (corner, raster.plane, raster.row), contacts)
    return contacts


@njit(nogil=True, cache=True)
def _count(edges, start, length, names, level, place, contacts):  # type: ignore[no-untyped-def]
    label, leaves, earlier = names
    corner, plane, row = place
    _, nz, ny, nx = edges.shape
    label_of = np.full((2, ny, nx), -1, np.int32)  # shifted by one along y and x
    i = 0
    for z in range(nz - 1):
        now, before = label_of[z % 2], label_of[1 - z % 2]
        now[:] = -1
        if z == 0 and earlier[0]:
            before[:] = -2  # unknown: another block's
        if earlier[1]:
            now[0] = -2
        if earlier[2]:
            now[:, 0] = -2
        first = i
        while i < start.size and start[i] < corner + (z + 1) * plane:
            rest = start[i] - corner - z * plane
            y = rest // row
            now[y + 1, rest - y * row + 1 : rest - y * row + 1 + length[i]] = label[i]
            i += 1
        for k in range(first, i):
            rest = start[k] - corner - z * plane
            y = rest // row
            own = label[k]
            for x in range(rest - y * row, rest - y * row + length[k]):
                for axis, other in enumerate((before[y + 1, x + 1], now[y, x + 1], now[y + 1, x])):
                    # pieces that leave the block may be one outside of it
                    maybe = other == own or other == -2 or (other >= 0 and leaves[own])
                    contacts[own] += maybe and edges[axis, z, y, x] <= level


def scan_edges(
    edges: Edges, box: Box, raster: Raster, decoding: Decoding
) -> tuple[Runs, NDArray[np.int32], Ints]:
    """Runs of a block, the forest its edges make of them, and the edges to other blocks.

    Returns:
        The runs, union-find parents over them, and (2, n): place of the voxel where an edge to
        another block ends, and how far before it the edge begins.
    """
    corner = raster.place(*box.start)
    level = decoding.foreground[0]
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
            place = corner + z * plane + y * row
            rows = (edges[0, z, y], edges[1, z, y], edges[0, z + 1, y], edges[1, z, y + 1])
            n = _scan_row(rows, edges[2, z, y], level, place, (start, length, parent), n, now[y])
            if edges[2, z, y, 0] > level:
                ends[crossing], back[crossing] = place, 1
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
                            ends[crossing], back[crossing] = place + x, step
                            crossing += 1
    runs = (start[:n].copy(), length[:n].copy(), parent[:n].copy())
    return (*runs, ends[:crossing].copy(), back[:crossing].copy())


@njit(nogil=True, cache=True)
def _scan_row(rows, to_x, level, place, found, n, run_of):  # type: ignore[no-untyped-def]
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
            start[n], length[n], parent[n] = place + x, 1, n
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
