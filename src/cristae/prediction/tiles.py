"""Tiles: which boxes are computed, and how large, so that the halo wastes little.

A tile is a core that is written and a halo that is read. All tiles of a run read boxes of one shape
that start on the network's lattice; what reaches outside the volume is reflected::

      read box      |.....halo.....|=======core=======|.....halo.....|
    lattice   |   |   |   |   |   |   |   |   |   |   |   |   |   |   |   |

Cores lie on the output's grid, read boxes on the network's working grid, which is the same one
unless the image is resampled. Tiles are gathered in groups of whole shards, because a shard is
written once, whole: a group is as large as a core or a shard, whichever is larger.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from cristae.errors import InputError
from cristae.grid import Box, Triple, snap, tile
from cristae.networks.context import Context
from cristae.prediction.regions import Spans
from cristae.prediction.resample import Factors, Interval, source_taps

HALVINGS = 6
"""A core along an axis is not made smaller than a shard halved so often."""


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut for a network.

    Attributes:
        shape: Extent (z, y, x) of the volume in voxels of the output.
        shard: Extent of the output's write unit.
        context: Halo and lattice of the network, in working voxels.
        factors: Working voxel size over the output's voxel size, along each axis.
        core: Extent of a whole core in voxels of the output.
        read: Extent of every read box in working voxels, multiples of the lattice.
    """

    shape: Triple
    shard: Triple
    context: Context
    factors: Factors
    core: Triple
    read: Triple

    @property
    def group(self) -> Triple:
        """Extent of a group: a core or a shard, whichever is larger."""
        z, y, x = (max(pair) for pair in zip(self.core, self.shard, strict=True))
        return z, y, x

    def groups(self) -> list[Box]:
        """Boxes written at a time, in raster order."""
        return tile(Box.of(self.shape), self.group)

    def shards(self, group: Box) -> list[Box]:
        """The write units of a group, in raster order."""
        return tile(group, self.shard)

    def cores(self, group: Box) -> list[Box]:
        """The cores of a group, in raster order."""
        return tile(group, self.core)

    def working_core(self, core: Box) -> Box:
        """What must be computed for a core, in working voxels."""
        intervals = (
            _working_interval(a, b, factor)
            for a, b, factor in zip(core.start, core.stop, self.factors, strict=True)
        )
        (z0, z1), (y0, y1), (x0, x1) = intervals
        return Box((z0, y0, x0), (z1, y1, x1))

    def read_box(self, core: Box) -> Box:
        """The box read for a core, in working voxels; it may reach outside the volume."""
        start = self.part_box(core).start
        return Box(start, start).grow((0, 0, 0), self.read)

    def part_box(self, part: Box) -> Box:
        """The box read where no more than a part of a core is wanted, no larger than it must be."""
        return snap(self.working_core(part).grow(self.context.halo_vx), self.context.lattice)

    @property
    def spans(self) -> tuple[Spans, Spans, Spans]:
        """The cores' extents along z, y and x; each combination is a core."""
        z, y, x = (
            tuple(zip(starts, [*starts[1:], n], strict=True))
            for n, starts in zip(
                self.shape, map(_starts, self.shape, self.shard, self.core), strict=True
            )
        )
        return z, y, x

    def count(self) -> int:
        """Number of cores."""
        return math.prod(map(len, self.spans))

    @property
    def waste(self) -> float:
        """Voxels read into the network over voxels written, both counted on the working grid."""
        computed = self.count() * math.prod(self.read)
        written = math.prod(n / f for n, f in zip(self.shape, self.factors, strict=True))
        return computed / written


def make_tiling(
    shape: Triple, shard: Triple, context: Context, factors: Factors, core: Triple
) -> Tiling:
    """A tiling with cores of (about) a given extent.

    Args:
        shape: Extent (z, y, x) of the volume.
        shard: Extent of the output's write unit.
        context: Of the network.
        factors: From `working_factors`.
        core: Extent of a core; one larger than a shard is raised to whole shards, one larger than
            the volume is cut to it.

    Raises:
        InputError: An extent under 1.
    """
    if min(core) < 1:
        raise InputError(f"block shape {core}: expected three extents of at least 1")
    empty = Tiling(shape, shard, context, factors, shape, shape)
    return _with_axes(empty, [_fit_axis(empty, axis, core[axis]) for axis in range(3)])


def choose_tiling(
    shape: Triple,
    shard: Triple,
    context: Context,
    factors: Factors,
    fits: Callable[[Tiling], bool],
    work: Callable[[Tiling], float],
    smallest: Triple = (1, 1, 1),
) -> Tiling:
    """The tiling with the least work among those that fit the memory.

    Cores of whole shards, of the whole extent, or of shards halved a few times are compared along
    each axis; of equally good ones the smallest is taken.

    Args:
        shape: Extent (z, y, x) of the volume.
        shard: Extent of the output's write unit.
        context: Of the network.
        factors: From `working_factors`.
        fits: Whether a tiling can be afforded.
        work: What a tiling takes.
        smallest: Cores of less are compared only where no others fit, and by their `waste`.

    Returns:
        The best one, or the smallest of all where none fits.
    """
    empty = Tiling(shape, shard, context, factors, shape, shape)
    options = [
        [_fit_axis(empty, axis, core) for core in _core_options(shape[axis], shard[axis])]
        for axis in range(3)
    ]
    tilings = [_with_axes(empty, list(axes)) for axes in product(*options)]
    fitting = [tiling for tiling in tilings if fits(tiling)]
    if not fitting:
        return min(tilings, key=lambda tiling: math.prod(tiling.read))
    large = [t for t in fitting if all(map(int.__ge__, t.core, map(min, smallest, shape)))]
    if not large:
        return min(fitting, key=lambda tiling: (tiling.waste, math.prod(tiling.read)))
    return min(large, key=lambda tiling: (work(tiling), math.prod(tiling.read)))


def _with_axes(tiling: Tiling, axes: Sequence[tuple[int, int]]) -> Tiling:
    (z, read_z), (y, read_y), (x, read_x) = axes
    return replace(tiling, core=(z, y, x), read=(read_z, read_y, read_x))


def _fit_axis(tiling: Tiling, axis: int, core: int) -> tuple[int, int]:
    """Extent of a core near ``core`` along an axis, and the read extent that serves all of them."""
    context = tiling.context
    spacing = (context.halo_vx[axis], context.lattice[axis])
    return _fit(tiling.shape[axis], tiling.shard[axis], tiling.factors[axis], spacing, core)


@lru_cache(maxsize=1024)
def _fit(
    extent: int, shard: int, factor: float, spacing: tuple[int, int], core: int
) -> tuple[int, int]:
    core = min(core if core <= shard else -(-core // shard) * shard, extent)
    (halo, step), read = spacing, 0
    for start in _starts(extent, shard, core):
        low, high = _working_interval(start, min(start + core, extent), factor)
        begin = (low - halo) // step * step
        read = max(read, -(-(high + halo - begin) // step) * step)
    return core, read


def _core_options(extent: int, shard: int) -> Iterator[int]:
    """Extents of a core worth comparing along an axis; at most 8 beyond a shard."""
    whole = -(-extent // shard)
    for halving in range(HALVINGS, 0, -1):
        if shard >> halving >= 1 and shard >> halving < extent:
            yield shard >> halving
    counts = sorted({-(-whole // parts) for parts in range(1, whole + 1)})
    yield from (count * shard for count in counts[:8])
    if len(counts) > 8:
        yield whole * shard


def _starts(extent: int, shard: int, core: int) -> list[int]:
    """First voxels of the cores along an axis."""
    group = max(core, shard)
    return [b for a in range(0, extent, group) for b in range(a, min(a + group, extent), core)]


def _working_interval(first: int, stop: int, factor: float) -> Interval:
    return (first, stop) if factor == 1 else source_taps(first, stop, factor).reach
