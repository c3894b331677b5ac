"""Prediction in blended windows, for networks whose answer depends on the window.

Windows are computed once each, in raster order, layer by layer along z. Only as many sections as a
window is deep wait for more windows; those that no later layer reaches are finished::

    layer n      [=================]
    layer n + 1            [=================]
    finished      ........|                        divided by the weights, gathered into shards
    sums                  |=======--------|        weighted sums, a ring of sections

Every voxel's sum is taken in the windows' order, so it is the same whatever is held where. Sums and
shards wait in memory, or in files of the work folder where memory is too small. After an
interruption the windows over the shards that are missing are computed again.
"""

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.blockwise import GIB
from cristae.engine.ledger import Ledger
from cristae.engine.progress import Advance, log, track
from cristae.grid import Box, Triple, tile
from cristae.networks.runner import Runner, runner_bytes
from cristae.networks.windows import FLOOR, Axis, Floats, WindowRecipe, window_axes, window_weight
from cristae.prediction.passes import ImageInput, quantise, tile_probabilities
from cristae.prediction.request import FIXED_BYTES, STEP, Request, write_shards
from cristae.prediction.stream import Profile, stream
from cristae.volumes.intensity import normalise
from cristae.volumes.volume import Array, Volume, read_reflected, reflect

Rows = list[tuple[Box, "Held"]]
"""Finished rows of shards: their box and their levels (channels, z, y, x)."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """How a volume is swept.

    Attributes:
        recipe: The windows.
        axes: Where they lie along z, y and x.
        shape: Extent (z, y, x) of the volume.
        shard: Extent of the output's write unit.
        channels: Number of outputs.
        variants: Passes of the network a window.
        folder: Where sums and shards wait; None for memory.
    """

    recipe: WindowRecipe
    axes: tuple[Axis, Axis, Axis]
    shape: Triple
    shard: Triple
    channels: int
    variants: int
    folder: Path | None

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(axis.starts) for axis in self.axes)

    @property
    def waste(self) -> float:
        """Voxels computed in the network over voxels written, variants counted."""
        computed = self.count * math.prod(self.recipe.shape) * self.variants
        return computed / math.prod(self.shape)


@dataclass(frozen=True)
class Row:
    """The windows of a layer that lie beside one another along x.

    Attributes:
        box: The voxels they read, from the first to the last; may reach outside the volume.
        columns: First voxel of each window along x.
        finished: Sections that no later window reaches, where this is the last row of its layer.
    """

    box: Box
    columns: tuple[int, ...]
    finished: range


@dataclass(frozen=True, eq=False)
class Held:
    """An array in memory, or in a file whose pages are given back when asked to."""

    array: Array
    file: Path | None = None
    pages: mmap.mmap | None = None

    @classmethod
    def zeros(cls, shape: tuple[int, ...], dtype: Any, file: Path | None) -> "Held":
        """An array of zeros."""
        if file is None:
            return cls(np.zeros(shape, dtype))
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with file.open("wb+") as opened:
            opened.truncate(size)
            pages = mmap.mmap(opened.fileno(), size)
        return cls(np.frombuffer(pages, dtype).reshape(shape), file, pages)

    def release(self) -> None:
        """Let go of the memory of a file's pages; their content stays in the file."""
        if self.pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


class Sums:
    """Weighted sums of the sections that windows still come to, and the rows that are finished.

    Args:
        sweep: How the volume is swept.
        missing: Shards to be written.
        truncate: How probabilities become levels.
    """

    def __init__(self, sweep: Sweep, missing: list[Box], truncate: bool) -> None:
        z, y, x = sweep.shape
        self.sweep = sweep
        self._truncate = truncate
        self._depth = min(z, sweep.recipe.shape[0])
        self._weight = window_weight(sweep.recipe)
        shape = (sweep.channels, self._depth, y, x)
        folder = sweep.folder
        self._held = Held.zeros(shape, np.float32, None if folder is None else folder / "sums")
        self._along = [axis.sums(0, n) for axis, n in zip(sweep.axes, sweep.shape, strict=True)]
        self._wanted = {shard.start[0] // sweep.shard[0] for shard in missing}
        self._rows: dict[int, Held] = {}

    def add(self, corner: Triple, probabilities: Floats) -> None:
        """Add a window's probabilities (channels, z, y, x), which are overwritten."""
        window = Box(corner, corner).grow((0, 0, 0), self.sweep.recipe.shape)
        part = window.clip(Box.of(self.sweep.shape))
        inside = part.relative_to(corner)
        weighted = np.multiply(probabilities, self._weight, out=probabilities)
        weighted = weighted[(slice(None), *inside.slices())]
        _, y, x = part.slices()
        for number, section in enumerate(range(part.start[0], part.stop[0])):
            self._held.array[:, section % self._depth, y, x] += weighted[:, number]

    def release(self) -> None:
        """Let go of memory that files stand behind."""
        self._held.release()

    def finish(self, sections: range) -> Rows:
        """Finish sections; the rows of shards that end with one of them."""
        done: Rows = []
        depth = self.sweep.shard[0]
        for section in sections:
            number = section // depth
            if number in self._wanted:
                box = self._row_box(number)
                row = self._row(number, box)
                self._divide(section, row.array[:, section - box.start[0]])
                row.release()
                if section == box.stop[0] - 1:
                    done.append((box, self._rows.pop(number)))
            self._held.array[:, section % self._depth] = 0
            self._held.release()
        return done

    def _divide(self, section: int, levels: NDArray[np.uint8]) -> None:
        """One section's levels (channels, y, x) from its sums."""
        (gz, nz), (gy, ny), (gx, nx) = self._along
        step = self.sweep.shard[1]
        for first in range(0, len(gy), step):
            lines = slice(first, first + step)
            weight = gz[section] * np.multiply.outer(gy[lines], gx)
            weight += FLOOR * nz[section] * np.multiply.outer(ny[lines], nx)
            sums = self._held.array[:, section % self._depth, lines]
            levels[:, lines] = quantise(sums / weight.astype(np.float32), self._truncate)

    def _row_box(self, number: int) -> Box:
        z, y, x = self.sweep.shape
        depth = self.sweep.shard[0]
        return Box((number * depth, 0, 0), (min((number + 1) * depth, z), y, x))

    def _row(self, number: int, box: Box) -> Held:
        if number not in self._rows:
            folder = self.sweep.folder
            file = None if folder is None else folder / f"row{number}"
            self._rows[number] = Held.zeros((self.sweep.channels, *box.shape), np.uint8, file)
        return self._rows[number]


class Strips:
    """What rows of windows read; each section of the source is read once where memory allows.

    Args:
        image: The image and how it is normalised.
        keep: Whether whole sections are kept for the next rows and layers.
    """

    def __init__(self, image: ImageInput, keep: bool) -> None:
        self._image = image
        self._keep = keep
        self._sections: dict[int, Array] = {}

    def read(self, box: Box) -> Floats:
        """The image in a box, normalised; what lies outside is reflected.

        Args:
            box: Any box; boxes come in the order of z.

        Returns:
            (z, y, x) float32, contiguous.
        """
        source, image = self._image.source, self._image
        grey = self._cut(box) if self._keep else read_reflected(source, box)
        found: Floats = normalise(grey, image.statistics, image.rule, image.invert)
        return found

    def _cut(self, box: Box) -> Array:
        source = self._image.source
        z, y, x = (
            reflect(np.arange(a, b), n)
            for a, b, n in zip(box.start, box.stop, source.shape, strict=True)
        )
        first, stop = int(z.min()), int(z.max()) + 1
        self._sections = {n: plane for n, plane in self._sections.items() if first <= n < stop}
        for a, b in _runs([n for n in range(first, stop) if n not in self._sections]):
            box = Box((a, 0, 0), (b, *source.shape[1:]))
            self._sections |= dict(zip(range(a, b), source.read(box), strict=True))
        at = np.ix_(y, x)
        return np.stack([self._sections[int(section)][at] for section in z])


def plan_windows(request: Request, recipe: WindowRecipe, ledger: Ledger) -> Sweep:
    """Where windows lie, and whether their sums wait in memory or on disk."""
    axes = window_axes(recipe, request.source.shape)
    channels, shape = len(request.contract.channels), request.source.shape
    sweep = Sweep(recipe, axes, shape, request.shard, channels, request.variants, None)
    fits = sweep_bytes(sweep, request) <= request.memory_limit
    sweep = sweep if fits else replace(sweep, folder=ledger.scratch)
    log.info(
        "predict: %d windows of %dx%dx%d, stride %dx%dx%d, %s blending, %d variants; %.1f voxels "
        "computed a voxel written; sums wait %s (%.1f GiB allowed)",
        sweep.count,
        *recipe.shape,
        *recipe.stride,
        recipe.blending,
        request.variants,
        sweep.waste,
        "in memory" if fits else f"on disk, {scratch_bytes(sweep) / GIB:.1f} GiB",
        request.memory_limit / GIB,
    )
    return sweep


def run_windows(
    sweep: Sweep,
    image: ImageInput,
    runner: Runner,
    request: Request,
    prediction: Volume,
    ledger: Ledger,
) -> tuple[Profile, int, str]:
    """Read, compute and write; how long that took, the voxels written, and a summary."""
    done = ledger.done(STEP)
    missing = [s for s in tile(Box.of(sweep.shape), sweep.shard) if str(s) not in done]
    rows = _rows_to_do(sweep, missing)
    windows = sum(len(row.columns) for row in rows)
    strips = Strips(image, keep=sweep.folder is None)
    sums = Sums(sweep, missing, request.truncate)
    with track("predict", sweep.count, "windows", sweep.count - windows) as advance:

        def write(finished: Rows) -> None:
            for box, held in finished:
                for shard in missing:
                    if box.contains(shard):
                        write_shards(prediction, (shard,), (box, held.array), ledger, _silent)
                        held.release()
                held.remove()

        compute = _computing(sweep, sums, runner, request, advance)
        profile = stream(rows, lambda row: strips.read(row.box), compute, write)
    return profile, sum(shard.size for shard in missing), f"{windows} windows"


def sweep_bytes(sweep: Sweep, request: Request) -> int:
    """Upper bound of the memory of a run, imports apart.

    Two strips are read (one of them waits or is computed), one window is computed, two rows of
    shards are held.
    """
    (wz, wy, wx), (_, y, x) = sweep.recipe.shape, sweep.shape
    depth = min(wz, sweep.shape[0])
    grey = request.source.dtype.itemsize
    along_x = sweep.axes[2]
    strip = wz * wy * (along_x.starts[-1] + wx - along_x.starts[0])
    window = math.prod(sweep.recipe.shape)
    total = strip * (2 * 4 + 2 * grey)
    total += runner_bytes(request.model, sweep.recipe.shape, sweep.recipe.shape, request.precision)
    total += 4 * window * (1 + 2 * (request.variants > 1)) * (1 + sweep.channels)
    total += sweep.channels * 2 * math.prod(sweep.shard)
    if sweep.folder is None:
        total += 4 * sweep.channels * depth * y * x
        total += 2 * sweep.channels * sweep.shard[0] * y * x
        total += (depth + min(sweep.recipe.stride[0], sweep.shape[0])) * y * x * grey
    else:
        total += 4 * sweep.channels * max(depth * min(wy, y) * x, y * x)
        total += 2 * sweep.channels * y * x
    return int(1.1 * total) + FIXED_BYTES


def scratch_bytes(sweep: Sweep) -> int:
    """Bytes that files of the work folder take at most."""
    if sweep.folder is None:
        return 0
    z, y, x = sweep.shape
    depth = min(sweep.recipe.shape[0], z)
    return sweep.channels * y * x * (4 * depth + 2 * sweep.shard[0])


def _computing(
    sweep: Sweep, sums: Sums, runner: Runner, request: Request, advance: Advance
) -> Callable[[Row, Floats], Rows | None]:
    """The function that takes a row of windows through the network and into the sums."""
    whole, extent = Box.of(sweep.recipe.shape), sweep.recipe.shape[2]

    def compute(row: Row, strip: Floats) -> Rows | None:
        z, y, x = row.box.start
        for column in row.columns:
            window = strip[:, :, column - x : column - x + extent]
            found = tile_probabilities(runner, window, whole, request.variants, request.combine)
            sums.add((z, y, column), found)
            advance(1)
        sums.release()
        return sums.finish(row.finished) or None

    return compute


def _rows_to_do(sweep: Sweep, missing: list[Box]) -> list[Row]:
    """The rows of windows that missing shards need, in raster order."""
    wanted = np.zeros([-(-n // s) for n, s in zip(sweep.shape, sweep.shard, strict=True)], bool)
    for shard in missing:
        z, y, x = (a // s for a, s in zip(shard.start, sweep.shard, strict=True))
        wanted[z, y, x] = True
    zs, ys, xs = (
        [_shards_under(start, axis.extent, n, s) for start in axis.starts]
        for axis, n, s in zip(sweep.axes, sweep.shape, sweep.shard, strict=True)
    )
    layers: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for (iz, a), (iy, b) in product(enumerate(zs), enumerate(ys)):
        columns = tuple(
            start
            for start, c in zip(sweep.axes[2].starts, xs, strict=True)
            if wanted[a, b, c].any()
        )
        if columns:
            layers.setdefault(iz, []).append((iy, columns))
    return list(_rows(sweep, layers))


def _rows(sweep: Sweep, layers: dict[int, list[tuple[int, tuple[int, ...]]]]) -> Iterator[Row]:
    along_z, along_y, along_x = sweep.axes
    numbers = list(layers)
    for place, iz in enumerate(numbers):
        z = along_z.starts[iz]
        last = z + along_z.extent
        if place + 1 < len(numbers):
            last = min(last, along_z.starts[numbers[place + 1]])
        finished = range(max(z, 0), min(last, sweep.shape[0]))
        for number, (iy, columns) in enumerate(layers[iz]):
            y = along_y.starts[iy]
            box = Box(
                (z, y, columns[0]),
                (z + along_z.extent, y + along_y.extent, columns[-1] + along_x.extent),
            )
            ends = number == len(layers[iz]) - 1
            yield Row(box, columns, finished if ends else range(0))


def _shards_under(start: int, extent: int, length: int, shard: int) -> slice:
    first, stop = max(start, 0), min(start + extent, length)
    return slice(first // shard, -(-stop // shard)) if stop > first else slice(0)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as half-open intervals without gaps."""
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    for a, b in zip([0, *breaks], [*breaks, len(numbers)], strict=True):
        if b > a:
            yield numbers[a], numbers[b - 1] + 1


def _silent(amount: float) -> None:
    """Progress is counted in windows, not in voxels written."""
