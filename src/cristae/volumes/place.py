"""How two volumes lie on each other: the one answer that every stage uses.

A volume is a grid in space: voxel size, origin (the centre of voxel 0) and shape. Two grids lie on
each other where along each axis one voxel size is a whole number of times the other, and the edges
are a whole number of the finer voxels apart::

    base     |0|1|2|3|4|5|6|7|
    other        |0  |1  |          coarser 2, finer 1, shift 2: under base 2 to 5

A level made by the mean over f voxels begins at the edge where its source begins, so its origin is
(f - 1) / 2 voxels further in. Many programs write the source's origin instead; so volumes of one
origin begin at one edge, and where only that gives whole voxels it is taken for meant. Where a
voxel size is unknown, voxels are compared by their number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.volume import Array, Volume

Align = Literal["origin", "voxels", "corner"]
"""``origin``: by voxel size and origin. ``voxels``: voxel 0 lies on voxel 0, whatever they say;
``corner`` is the older name."""

SAME_SIZE = 1e-4
"""Relative difference from a whole factor up to which voxel sizes are taken for it."""

WHOLE_VX = 1e-2
"""Difference from a whole voxel up to which edges are taken for it."""

_ONES: Triple = (1, 1, 1)


@dataclass(frozen=True)
class Overlay:
    """Where the voxels of a volume lie on those of a base; along each axis (z, y, x).

    Attributes:
        shape: Of the base in voxels.
        other: Of the other volume in its voxels.
        coarser: Voxels of the base in one of the other; 1 where the other is not coarser.
        finer: Voxels of the other in one of the base; 1 where the other is not finer.
        shift: Edge of the other's voxel 0, from that of the base's, in voxels of the finer one.
    """

    shape: Triple
    other: Triple
    coarser: Triple = _ONES
    finer: Triple = _ONES
    shift: Triple = (0, 0, 0)

    @property
    def one_grid(self) -> bool:
        """Whether the voxels of both are of one size."""
        return self.coarser == self.finer == _ONES

    @property
    def same(self) -> bool:
        """Whether both cover the same place, up to less than one of the coarser voxels."""
        return all(
            abs(k) < max(c, g) and abs(k + m * c - n * g) < max(c, g)
            for n, m, c, g, k in self._axes()
        )

    @property
    def ends_beyond(self) -> bool:
        """Whether the other ends beyond the base, by one of the coarser voxels at least."""
        return any(k + m * c - n * g >= max(c, g) for n, m, c, g, k in self._axes())

    @property
    def box(self) -> Box:
        """The voxels of the base whose centre lies in a voxel of the other; may be empty."""
        spans = [
            (-((g // 2 - k) // g), (m * c - 1 + k - g // 2) // g + 1)
            for _, m, c, g, k in self._axes()
        ]
        (z, z1), (y, y1), (x, x1) = spans
        return Box((z, y, x), (z1, y1, x1)).clip(Box.of(self.shape))

    def indices(self, box: Box) -> list[NDArray[np.int64]]:
        """Voxels of the other under the centres of a box of the base: three arrays.

        What lies outside the other is under 0 or not under its shape. Where the base ends within
        a voxel that the other, a level rounded down, no longer has, its last voxel stands for it.
        """
        found = []
        spans = zip(box.start, box.stop, strict=True)
        for (a, b), (n, m, c, g, k) in zip(spans, self._axes(), strict=True):
            index = (np.arange(a, b, dtype=np.int64) * g + g // 2 - k) // c
            rounded = k <= 0 < n * g - (k + m * c) < max(c, g)
            found.append(np.minimum(index, m - 1) if rounded else index)
        return found

    def _axes(self) -> list[tuple[int, int, int, int, int]]:
        return list(zip(self.shape, self.other, self.coarser, self.finer, self.shift, strict=True))


def lay(base: Volume, other: Volume, align: Align = "origin", *, crop: bool = False) -> Overlay:
    """How one volume lies on another.

    Args:
        base: The volume whose voxels count.
        other: What is laid on it.
        align: ``origin``: by voxel size and origin; by voxel number where a voxel size is unknown.
            ``voxels``: voxel 0 on voxel 0, of volumes of one shape, or of voxel sizes and shapes
            that fit by a whole factor.
        crop: Whether volumes that are laid by voxel number may be of other shapes, too.

    Returns:
        The overlay; the volumes have at least one voxel in common.

    Raises:
        InputError: They do not lie on each other; the message names both places.
    """
    known = base.voxel_size_nm is not None and other.voxel_size_nm is not None
    plain = Overlay(base.shape, other.shape)
    by_voxels = align != "origin"
    if by_voxels:
        found = plain if base.shape == other.shape else _scaled(base, other) or plain
    elif known:
        found = _by_place(base, other)
    elif base.shape == other.shape or crop:
        found = _by_number(base, other)
    else:
        raise misplaced(base, other, f"voxel size unknown: expected {base.shape}")
    if found.box.empty:
        raise misplaced(base, other, "they do not meet, expected a common part")
    if (by_voxels or not known) and not found.same and not crop:
        reason = "laid by voxel number" if by_voxels else "voxel size unknown"
        raise misplaced(base, other, f"{reason}: expected {base.shape} at the same place")
    return found


def laid_on(base: Volume, other: Volume, overlay: Overlay) -> Volume:
    """A volume on the voxels of another, over the part common to both.

    Args:
        base: The volume whose voxels count.
        other: What is laid on it, with channels or without.
        overlay: From `lay`.

    Returns:
        ``other`` over ``overlay.box`` of the base. A coarser one has its voxels repeated, of a
        finer one the voxel under each centre is taken; read box by box.
    """
    box = overlay.box
    if overlay.one_grid:
        z, y, x = overlay.shift
        part = other.crop(box.shift((-z, -y, -x)))
    else:
        part = _regridded(other, overlay).crop(box)
    return _at(base.crop(box), part)


def spread_over(base: Volume, other: Volume, overlay: Overlay) -> Volume:
    """A volume on the voxels of another, over all of it; 0 where it has none."""
    whole = other if overlay.one_grid and overlay.same else _regridded(other, overlay)
    return _at(base, whole)


def part_under(
    base: Volume, other: Volume, box: Box, align: Align = "origin", *, crop: bool = False
) -> Volume:
    """The part of a volume under a box of another, on the voxels of that one.

    Raises:
        InputError: The volumes do not lie on each other, or no voxel lies under the box.
    """
    overlay = lay(base, other, align, crop=crop)
    part = overlay.box.clip(box)
    if part.empty:
        raise misplaced(base, other, f"nothing of it lies under {box}, expected a part")
    return laid_on(base, other, overlay).crop(part.relative_to(overlay.box.start))


def common_part(volumes: Sequence[Volume]) -> list[Volume]:
    """What several volumes have in common, all on the voxels of the first.

    Raises:
        InputError: Volumes that do not lie on the first, or have nothing in common with it.
    """
    first = volumes[0]
    overlays = [lay(first, volume) for volume in volumes]
    common = first.box
    for overlay, volume in zip(overlays, volumes, strict=True):
        common = common.clip(overlay.box)
        if common.empty:
            raise misplaced(first, volume, "nothing is common to all, expected a common part")
    return [
        laid_on(first, volume, overlay).crop(common.relative_to(overlay.box.start))
        for overlay, volume in zip(overlays, volumes, strict=True)
    ]


def recorded_places(volumes: Mapping[str, Volume]) -> dict[str, Any]:
    """Voxel size and origin of volumes, by role, for the record of what is made of them."""
    return {
        role: {"voxel_size_nm": volume.voxel_size_nm, "origin_nm": volume.origin_nm}
        for role, volume in volumes.items()
    }


def misplaced(base: Volume, other: Volume, reason: str) -> InputError:
    """The error that names both places, what was found, and what would have to be true."""
    if base.shape == other.shape or _scaled(base, other) is not None:
        reason += "; `--align voxels` (`align: voxels`) lays voxel 0 on voxel 0"
    return InputError(
        f"{other.name}: {place_text(other)}, does not fit {base.name}: {place_text(base)}; {reason}"
    )


def place_text(volume: Volume) -> str:
    """Shape, voxel size and origin in words."""
    size = volume.voxel_size_nm
    text = "unknown" if size is None else " x ".join(f"{v:g}" for v in size) + " nm"
    origin = _origin_text(volume.origin_nm, volume)
    return f"shape {volume.shape}, voxel size {text}, origin {origin}"


def _origin_text(origin: Sequence[float], volume: Volume) -> str:
    """An origin; a part of a volume of unknown voxel size has it in voxels."""
    unit = "voxels" if volume.voxel_size_nm is None else "nm"
    return f"{', '.join(f'{value:g}' for value in origin)} {unit}"


def _by_place(base: Volume, other: Volume) -> Overlay:
    factors = _factors(base, other)
    size, found = base.voxel_size_nm, other.voxel_size_nm
    if factors is None or size is None or found is None:
        raise misplaced(
            base, other, "expected equal voxel sizes, or a whole number of times along each axis"
        )
    units = np.array(size) / factors[1]
    apart = (np.array(other.origin_nm) - base.origin_nm) / units
    further_in = (np.array(found) - size) / (2 * units)
    # an origin is the centre of voxel 0; many programs leave the half voxel of a coarser level out
    ways = [apart - further_in, apart]
    begins = apart - (np.multiply(other.corner, found) - np.multiply(base.corner, size)) / units
    if (np.abs(begins) <= WHOLE_VX).all():  # the volumes that these are parts of have one origin
        ways.reverse()
    edges = next((way for way in ways if _is_whole(way)), apart - further_in)
    return Overlay(base.shape, other.shape, *factors, _whole(base, other, edges, units))


def _by_number(base: Volume, other: Volume) -> Overlay:
    """By voxel number; a part of a volume of unknown voxel size has its origin in voxels."""
    one_known = base.voxel_size_nm is not None or other.voxel_size_nm is not None
    if one_known and base.shape == other.shape:
        return Overlay(base.shape, other.shape)
    here, there = (np.divide(v.origin_nm, v.voxel_size_nm or _ONES) for v in (base, other))
    units = np.array(other.voxel_size_nm or _ONES)
    return Overlay(base.shape, other.shape, shift=_whole(base, other, there - here, units))


def _is_whole(edges: NDArray[np.float64]) -> bool:
    return bool((np.abs(edges - np.rint(edges)) <= WHOLE_VX).all())


def _whole(
    base: Volume, other: Volume, edges: NDArray[np.float64], units: NDArray[np.float64]
) -> Triple:
    """Edges in whole voxels, or the error that says which origin would do."""
    if not _is_whole(edges):
        apart = tuple(np.round(edges, 3).tolist())
        nearest = (np.array(other.origin_nm) + (np.rint(edges) - edges) * units).tolist()
        raise misplaced(
            base,
            other,
            f"its first edge lies {apart} voxels from {base.name}, expected whole voxels (an "
            f"origin of {_origin_text(nearest, other)})",
        )
    z, y, x = (int(edge) for edge in np.rint(edges))
    return z, y, x


def _factors(base: Volume, other: Volume) -> tuple[Triple, Triple] | None:
    """Voxels of the base in one of the other, and the reverse; None where none is whole."""
    if base.voxel_size_nm is None or other.voxel_size_nm is None:
        return None
    coarser, finer = [], []
    for a, b in zip(base.voxel_size_nm, other.voxel_size_nm, strict=True):
        if not (0 < a < math.inf and 0 < b < math.inf):
            return None
        ratio = max(a, b) / min(a, b)
        if abs(ratio / round(ratio) - 1) > SAME_SIZE:
            return None
        coarser.append(round(ratio) if b > a else 1)
        finer.append(round(ratio) if b < a else 1)
    return (coarser[0], coarser[1], coarser[2]), (finer[0], finer[1], finer[2])


def _scaled(base: Volume, other: Volume) -> Overlay | None:
    """Voxel edges at 0 on each other, where voxel sizes and shapes fit by a whole factor."""
    factors = _factors(base, other)
    if factors is None:
        return None
    found = Overlay(base.shape, other.shape, *factors)
    return found if found.same else None


def _at(base: Volume, other: Volume) -> Volume:
    """A volume with the place of one it covers; a voxel size that only it knows stays known."""
    if base.voxel_size_nm is None and other.voxel_size_nm is not None:
        return other
    return other.with_(voxel_size_nm=base.voxel_size_nm, origin_nm=base.origin_nm)


def _regridded(other: Volume, overlay: Overlay) -> Volume:
    """A volume on all voxels of the base, 0 outside."""
    z, y, x = (
        max(1, n * c // g)
        for n, c, g in zip(other.chunk_shape, overlay.coarser, overlay.finer, strict=True)
    )
    place = [overlay.shape, overlay.coarser, overlay.finer, overlay.shift]
    return other.with_(
        reader=OverlayReader(other, overlay),
        shape=overlay.shape,
        chunk_shape=(z, y, x),
        shard_shape=None,
        corner=(0, 0, 0),
        attributes={},
        size_on_disk=None,
        identity=other.identity.read_as(f"laid {place}"),
    )


@dataclass(frozen=True)
class OverlayReader:
    """Reads a volume on the voxels of the base it lies on; 0 where it has none."""

    volume: Volume
    overlay: Overlay

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box of the base."""
        channels = () if self.volume.channels is None else (len(self.volume.channels),)
        out = np.zeros((*channels, *box.shape), self.volume.dtype)
        indices = self.overlay.indices(box)
        spans = [
            np.flatnonzero((index >= 0) & (index < n))
            for index, n in zip(indices, self.volume.shape, strict=True)
        ]
        if any(span.size == 0 for span in spans):
            return out
        ends = [(int(span[0]), int(span[-1]) + 1) for span in spans]
        kept = [index[a:b] for index, (a, b) in zip(indices, ends, strict=True)]
        low, high = ([int(index[end]) for index in kept] for end in (0, -1))
        start, stop = (low[0], low[1], low[2]), (high[0] + 1, high[1] + 1, high[2] + 1)
        part = self.volume.read(Box(start, stop))
        for axis, (index, first) in enumerate(zip(kept, low, strict=True), start=len(channels)):
            if len(index) != part.shape[axis] or index[-1] - first != len(index) - 1:
                part = np.take(part, index - first, axis=axis)
        z, y, x = (slice(a, b) for a, b in ends)
        out[..., z, y, x] = part
        return out
