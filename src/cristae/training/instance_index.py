"""Where the instances of a volume lie, so that patches are drawn around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.grid import Box, tile
from cristae.volumes.volume import Volume

Array = NDArray[Any]


INDEX_SHAPE = (32, 1024, 1024)


INDEX_BLOCKS = 64


PLENTY = 0.01
"""Share of a section above which one without labels beside it is suspect."""


POINTS_PER_INSTANCE = 64


@dataclass(frozen=True)
class InstanceIndex:
    """Where the instances of a volume are.

    Attributes:
        voxels: Number of voxels of each instance seen.
        first: Start of each instance's points in ``points``; one more entry than instances.
        points: Some voxels (z, y, x) of each instance.
        first_contact: As ``first``, for ``contacts``.
        contacts: Some voxels of each instance that have a voxel of another beside them.
        blank: Sections without any instance between sections that hold plenty.
    """

    voxels: NDArray[np.int64]
    first: NDArray[np.int64]
    points: NDArray[np.int64]
    first_contact: NDArray[np.int64]
    contacts: NDArray[np.int64]
    blank: NDArray[np.int64]


def index_instances(labels: Volume, mask: Volume | None = None) -> InstanceIndex:
    """Find the instances of a volume and some voxels of each.

    At most 64 blocks, spread evenly over the volume, are looked at (all of them below 2 Gvoxel),
    and of each instance at most 64 voxels, spread evenly over its raster order, are kept; so are 64
    that touch another instance within a block. Where a mask is 0 there are none.
    """
    blocks = tile(labels.box, INDEX_SHAPE)
    chosen = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), INDEX_BLOCKS)).astype(int))
    counts: dict[int, int] = {}
    points: dict[int, list[Array]] = {}
    contacts: dict[int, list[Array]] = {}
    labelled, usable = np.zeros((2, labels.shape[0]))
    for block in (blocks[i] for i in chosen):
        array = labels.read(block)
        sections = slice(block.start[0], block.stop[0])
        usable[sections] += array[0].size
        if mask is not None:
            outside = mask.read(block) == 0
            array[outside] = 0
            usable[sections] -= np.count_nonzero(outside, (1, 2))
        labelled[sections] += np.count_nonzero(array, (1, 2))
        for one, positions in _by_instance(array, array > 0):
            counts[one] = counts.get(one, 0) + len(positions)
            points.setdefault(one, []).append(_places(positions, block))
        for one, positions in _by_instance(array, _beside_another(array)):
            contacts.setdefault(one, []).append(_places(positions, block))
    ids = sorted(counts)
    return InstanceIndex(
        np.array([counts[i] for i in ids], np.int64),
        *_join_places([points[i] for i in ids]),
        *_join_places([contacts.get(i, []) for i in ids]),
        _blank_sections(labelled, usable),
    )


def _blank_sections(labelled: Array, usable: Array) -> NDArray[np.int64]:
    """Sections without labels whose nearest labelled sections, one on either side, hold plenty.

    One of which the mask leaves less than half of what it leaves beside it proves nothing.

    Args:
        labelled: Voxels of instances in each section.
        usable: Voxels in each section that could be labelled.
    """
    share = labelled / np.maximum(usable, 1)
    held = np.flatnonzero(labelled)
    blank = np.flatnonzero(labelled == 0)
    after = np.searchsorted(held, blank)
    inner = (after > 0) & (after < held.size)
    blank, before, after = blank[inner], held[after[inner] - 1], held[after[inner]]
    plenty = np.minimum(share[before], share[after]) > PLENTY
    alike = 2 * usable[blank] >= np.minimum(usable[before], usable[after])
    found: NDArray[np.int64] = blank[plenty & alike]
    return found


def _by_instance(array: Array, where: Array) -> list[tuple[int, Array]]:
    """Each id found at the places given, and its flat positions there."""
    flat = np.flatnonzero(where)
    ids = array.reshape(-1)[flat]
    if not len(ids):
        return []
    order = np.argsort(ids, kind="stable")
    found, starts = np.unique(ids[order], return_index=True)
    return list(zip(found.tolist(), np.split(flat[order], starts[1:]), strict=True))


def _beside_another(array: Array) -> Array:
    """Whether a voxel of an instance has a face in common with one of another instance."""
    touching = np.zeros(array.shape, bool)
    for axis in range(3):
        here, there = (np.moveaxis(array, axis, 0)[k] for k in (slice(1, None), slice(-1)))
        meet = (here != there) & (here > 0) & (there > 0)
        along = np.moveaxis(touching, axis, 0)
        along[1:] |= meet
        along[:-1] |= meet
    return touching


def _places(positions: Array, block: Box) -> Array:
    """Some of the flat positions in a block, as voxels (z, y, x) of the volume."""
    inside = np.stack(np.unravel_index(_thin(positions), block.shape), axis=1)
    places: Array = inside + np.array(block.start)
    return places


def _join_places(parts: Sequence[list[Array]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each instance's places start, and the places of all, at most 64 each."""
    nothing = np.zeros((0, 3), np.int64)
    thinned = [_thin(np.concatenate([nothing, *part])) for part in parts]
    first = np.concatenate([[0], np.cumsum([len(places) for places in thinned], dtype=np.int64)])
    return first.astype(np.int64), np.concatenate([nothing, *thinned])


def _thin(values: Array) -> Array:
    """At most 64 entries, spread evenly."""
    if len(values) <= POINTS_PER_INSTANCE:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS_PER_INSTANCE).astype(np.int64)]
