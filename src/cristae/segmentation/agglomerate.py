"""Agglomeration: fragments of a component join while the mean affinity between them is high.

Fragments are what the edges above ``seed_threshold`` hold together (and no lower ones than those
above ``affinity_threshold``); a voxel without such an edge is a fragment by itself. The affinity of
two regions is the mean over *all* edges between them. The pair of highest mean joins first, then
again, until no mean is above ``merge_threshold``.

The order is total: of equal means (as float64) the pair comes first that holds the earliest contact
of two fragments, fragments counted in raster order of their first voxel. Regions of different
components share only edges that ``affinity_threshold`` cuts; where ``merge_threshold`` is not below
it, no such mean is ever high enough, so that components never join and each is done on its own.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box
from cristae.labels.runs import Ints, Raster, Runs, find_root, intersect, number_roots, unite
from cristae.segmentation.affinity import Affinity, Edges, confidence_of, scan_edges
from cristae.segmentation.batches import Extent, PieceBatch
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.components import LabelledComponents, plain_table, small_at_once
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.flood import agglomeration_bytes
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.pieces import split_pieces
from cristae.segmentation.scanning import values_of
from cristae.volumes.volume import Volume

SCATTER = np.uint64(0x9E3779B97F4A7C15)
"""Spreads keys over a table (Fibonacci hashing)."""

Contacts = tuple[Ints, Ints, Ints, Ints]
"""First fragment, second fragment (the larger number), sum of the edges, number of edges."""


@dataclass(frozen=True)
class Agglomeration(Affinity):
    """Instances are what the fragments of a component agglomerate to."""

    @classmethod
    def faults(cls, parameters: Mapping[str, Any], prediction: Volume, channels: int) -> list[str]:
        """Offsets, or a merge threshold, that cannot be used."""
        faults = super().faults(parameters, prediction, channels)
        cut, merge = (parameters.get(key) for key in ("affinity_threshold", "merge_threshold"))
        if isinstance(cut, float | int) and isinstance(merge, float | int) and merge < cut:
            faults.append(
                f"merge_threshold: {merge!r} found, expected at least affinity_threshold "
                f"({cut!r}): below it, what edges over the threshold hold apart could join"
            )
        return faults

    @property
    def fragment(self) -> int:
        """An edge makes fragments where its value is above; not below `edge`."""
        return max(self.edge, int(255 * self.parameters["seed_threshold"]))

    @property
    def merge(self) -> int:
        """Fragments join while the mean of the edges between them is above."""
        return int(255 * self.parameters["merge_threshold"])

    def label_edges(self, edges: Edges, raster: Raster, box: Box) -> BlockTable:
        """Components of a block, with the edges of those that may have several fragments."""
        runs, parent, cross = scan_edges(edges, box, raster, self.edge)
        pieces = LabelledComponents.of(runs, *number_roots(parent), box, raster)
        contacts = _count_contacts(edges, pieces, box, raster, self.fragment)
        small = small_at_once(pieces, self) & (contacts == 0)  # one fragment, one instance
        pieces, contacts = pieces.keep(~small), contacts[~small]
        keeps_values = pieces.touches_face | (contacts > 0)
        mine = pieces.runs.take(keeps_values[pieces.label])
        value = [values_of(mine, axis, box, raster) for axis in edges]
        own_mean = values_of(pieces.runs, confidence_of(edges), box, raster)
        table = plain_table(pieces, own_mean, raster, int(small.sum()))
        return table._replace(
            cross=cross,
            contacts=contacts,
            keeps_values=keeps_values,
            value=np.stack(value, axis=1).reshape(-1),
        )

    def decode(self, job: SegmentJob, k: int, batch: PieceBatch) -> None:
        """Agglomerate the fragments of components; leaves labelled runs by block."""
        split_pieces(job, k, batch, self.split, _mean_of_edges)

    def split(self, piece: Runs, value: NDArray[np.uint8], raster: Raster) -> NDArray[np.int32]:
        """Region of each voxel of a component, from 1 on."""
        fragment, contacts = find_fragments(piece, value.reshape(-1, 3), raster, self.fragment)
        region = agglomerate(contacts, int(fragment.max()) + 1, self.merge)
        return region.astype(np.int32)[fragment] + np.int32(1)

    def piece_bytes(self, extent: Extent) -> int:
        """Memory to agglomerate components."""
        return agglomeration_bytes(extent.voxels, extent.runs, extent.contacts)


def _mean_of_edges(value: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mean = value.reshape(-1, 3).sum(axis=1, dtype=np.uint16) // 3
    return np.asarray(mean, np.uint8)


def _count_contacts(
    edges: Edges, pieces: LabelledComponents, box: Box, raster: Raster, level: int
) -> NDArray[np.int64]:
    """For each piece, how many edges that end in it may lie between two fragments of it."""
    contacts = np.zeros(pieces.n, np.int64)
    earlier = np.array([start > 0 for start in box.start])
    names = (pieces.label, pieces.touches_face, earlier)
    corner = raster.voxel_index(*box.start)
    _count(edges, *pieces.runs, names, level, (corner, raster.plane, raster.row), contacts)
    return contacts


@njit(nogil=True, cache=True)
def _count(edges, start, length, names, level, raster, contacts):  # type: ignore[no-untyped-def]
    label, touches_face, earlier = names
    corner, plane, row = raster
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
                    maybe = other == own or other == -2 or (other >= 0 and touches_face[own])
                    contacts[own] += maybe and edges[axis, z, y, x] <= level


def find_fragments(
    piece: Runs, edges: NDArray[np.uint8], raster: Raster, level: int
) -> tuple[NDArray[np.int32], Contacts]:
    """Fragments of a component, and where they touch.

    Args:
        piece: Runs of the component in raster order.
        edges: (n, 3) value of the edges of its voxels to the voxels before them along z, y, x.
        raster: Numbering of the volume.
        level: Edges above make fragments.

    Returns:
        Fragment of each voxel, 0.. in raster order of the first voxel; and the contacts, in order
        of their first fragment, then of their second.
    """
    number = np.append(0, np.cumsum(piece.length, dtype=np.int64))
    sides = []
    for axis, shift in enumerate((raster.plane, raster.row, 1)):
        common, before, after = intersect(Runs(piece.start + shift, piece.length), piece)
        later = number[after] + common.start - piece.start[after]
        earlier = number[before] + common.start - shift - piece.start[before]
        sides.append((later, earlier, common.length, edges[:, axis]))
    parent = np.arange(number[-1], dtype=np.int32 if number[-1] < 1 << 31 else np.int64)
    for side in sides:
        _join_fragments(*side, level, parent)
    fragment, n = number_roots(parent)
    parts = [_contacts_of(*side, fragment, n) for side in sides]
    key, value = (np.concatenate(field) for field in zip(*parts, strict=True))
    key, which = np.unique(key, return_inverse=True)
    total = np.zeros(key.size, np.int64)
    np.add.at(total, which, value)
    count = np.bincount(which, minlength=key.size).astype(np.int64)
    return fragment.astype(np.int32, copy=False), (*np.divmod(key, max(n, 1)), total, count)


@njit(nogil=True, cache=True)
def _join_fragments(later, earlier, length, value, level, parent):  # type: ignore[no-untyped-def]
    for i in range(length.size):
        for k in range(length[i]):
            if value[later[i] + k] > level:
                unite(parent, later[i] + k, earlier[i] + k)


@njit(nogil=True, cache=True)
def _contacts_of(later, earlier, length, value, fragment, n):  # type: ignore[no-untyped-def]
    """(first fragment * n + second, value) of every edge between two fragments."""
    count = 0
    for i in range(length.size):
        for k in range(length[i]):
            count += fragment[later[i] + k] != fragment[earlier[i] + k]
    key, found = np.empty(count, np.int64), np.empty(count, np.uint8)
    count = 0
    for i in range(length.size):
        for k in range(length[i]):
            a, b = np.int64(fragment[later[i] + k]), np.int64(fragment[earlier[i] + k])
            if a != b:
                key[count] = min(a, b) * n + max(a, b)
                found[count] = value[later[i] + k]
                count += 1
    return key, found


def agglomerate(contacts: Contacts, fragments: int, level: int) -> Ints:
    """Region of each fragment, 0..n-1, once no two regions have a mean above the level.

    Args:
        contacts: Which fragments touch; a pair stands once.
        fragments: Number of fragments.
        level: Regions join while the mean of the edges between them is above.
    """
    u, v, total, count = contacts
    root = _agglomerate(u.copy(), v.copy(), total.copy(), count.copy(), fragments, level)
    _, region = np.unique(root, return_inverse=True)
    return region.astype(np.int64)


@njit(nogil=True, cache=True)
def _agglomerate(u, v, total, count, n, level):  # type: ignore[no-untyped-def]
    """Root region of each fragment; u, v, total and count are worked on.

    An edge of the graph keeps its number while its ends are renamed; two that come to join the
    same regions become one. Each region threads its edges' halves (2 e and 2 e + 1) on a list;
    the region with fewer edges joins the other.
    """
    m = u.size
    rank, stamp = np.arange(m), np.zeros(m, np.int64)  # a stamp below 0: no more
    first, last = np.full((2, n), -1, np.int64)
    degree, after = np.zeros(n, np.int64), np.full(2 * m, -1, np.int64)
    keys, edge_of, bits = _table_of(u, v, n)
    heap = [(0.0, 0, 0, 0) for _ in range(0)]  # -mean, rank, edge and its stamp
    for e in range(m):
        _hang(2 * e, u[e], first, last, after, degree)
        _hang(2 * e + 1, v[e], first, last, after, degree)
        if total[e] > level * count[e]:
            heap.append((-total[e] / count[e], e, e, 0))
    heapq.heapify(heap)
    parent = np.arange(n)
    while heap:
        _, _, e, then = heapq.heappop(heap)
        if stamp[e] != then:
            continue
        stays, goes = (u[e], v[e]) if degree[u[e]] >= degree[v[e]] else (v[e], u[e])
        parent[goes] = stays
        stamp[e] = -1
        degree[stays] -= 1
        _forget(keys, edge_of, bits, min(stays, goes) * n + max(stays, goes))
        half = first[goes]
        while half >= 0:
            f, following = half // 2, after[half]
            if stamp[f] >= 0:
                far = v[f] if u[f] == goes else u[f]
                _forget(keys, edge_of, bits, min(goes, far) * n + max(goes, far))
                key = min(stays, far) * n + max(stays, far)
                slot = _slot(keys, bits, key)
                if keys[slot] == key:
                    g = np.int64(edge_of[slot])
                    total[g] += total[f]
                    count[g] += count[f]
                    rank[g] = min(rank[g], rank[f])
                    stamp[f] = -1
                    stamp[g] += 1
                    degree[far] -= 1
                    if total[g] > level * count[g]:
                        entry = (-total[g] / count[g], rank[g], g, stamp[g])
                        heapq.heappush(heap, entry)  # type: ignore[misc]
                else:
                    u[f], v[f] = stays, far
                    keys[slot], edge_of[slot] = key, f
                    _hang(half, stays, first, last, after, degree)
            half = following
    for i in range(n):
        parent[i] = find_root(parent, i)
    return parent


@njit(nogil=True, cache=True)
def _table_of(u, v, n):  # type: ignore[no-untyped-def]
    """Open addresses of the edge between two regions a < b, whose key is a * n + b."""
    bits = 3
    while 1 << bits < 2 * u.size:
        bits += 1
    keys, edge_of = np.full(1 << bits, -1, np.int64), np.empty(1 << bits, np.int32)
    for e in range(u.size):
        key = min(u[e], v[e]) * n + max(u[e], v[e])
        slot = _slot(keys, bits, key)
        keys[slot], edge_of[slot] = key, e
    return keys, edge_of, bits


@njit(nogil=True, cache=True, inline="always")
def _home(key, bits):  # type: ignore[no-untyped-def]
    return np.int64((np.uint64(key) * SCATTER) >> np.uint64(64 - bits))


@njit(nogil=True, cache=True)
def _slot(keys, bits, key):  # type: ignore[no-untyped-def]
    """Where a key stands in a table of open addresses, or the free slot where it belongs."""
    last = keys.size - 1
    slot = _home(key, bits)
    while keys[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & last
    return slot


@njit(nogil=True, cache=True)
def _forget(keys, edge_of, bits, key):  # type: ignore[no-untyped-def]
    """Take a key out, and move those behind it that would not be found any more."""
    last = keys.size - 1
    hole = _slot(keys, bits, key)
    slot = hole
    while True:
        slot = (slot + 1) & last
        if keys[slot] < 0:
            break
        if (slot - _home(keys[slot], bits)) & last >= (slot - hole) & last:
            keys[hole], edge_of[hole] = keys[slot], edge_of[slot]
            hole = slot
    keys[hole] = -1


@njit(nogil=True, cache=True)
def _hang(half, region, first, last, after, degree):  # type: ignore[no-untyped-def]
    """Put half an edge on the list of a region."""
    after[half] = -1
    if last[region] < 0:
        first[region] = half
    else:
        after[last[region]] = half
    last[region] = half
    degree[region] += 1


DECODER = Decoder(Agglomeration, ("affinity_z", "affinity_y", "affinity_x"))
