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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count, product

import numpy as np
from numpy.typing import NDArray

from cristae.engine.ledger import Ledger
from cristae.engine.memory import GIB
from cristae.engine.progress import log
from cristae.engine.tasks import OverlappedTask, Task, run_step
from cristae.grid import Box, Triple, tile
from cristae.networks.runner import Runner
from cristae.networks.windows import Combine, Floats, Tta, WindowRecipe, window_axes
from cristae.prediction.blending import Rows, Sums, Sweep
from cristae.prediction.lanes import Numbered, lanes_of
from cristae.prediction.plan import FIXED_BYTES, STEP, Done, PredictionPlan, write_shards
from cristae.prediction.regions import Occupancy, inside_all, region_bytes
from cristae.prediction.tile_inference import ImageInput, tile_probabilities
from cristae.volumes.intensity import normalise
from cristae.volumes.volume import Array, Volume, read_reflected, reflect


@dataclass(frozen=True)
class WindowRow:
    """The windows of a layer that lie beside one another along x.

    Attributes:
        box: The voxels they read, from the first to the last; may reach outside the volume.
        columns: First voxel of each window along x.
        finished: Sections that no later window reaches, where this is the last row of its layer.
    """

    box: Box
    columns: tuple[int, ...]
    finished: range


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a row, which begins in a column; None where the row has none to compute."""

    row: WindowRow
    column: int | None

    @property
    def ends(self) -> bool:
        """Whether it is the last of its row."""
        return self.column is None or self.column == self.row.columns[-1]


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


def plan_windows(plan: PredictionPlan, recipe: WindowRecipe, ledger: Ledger) -> Sweep:
    """Where windows lie, and whether their sums wait in memory or on disk."""
    axes = window_axes(recipe, plan.shape)
    channels, shape = len(plan.contract.channels), plan.shape
    sweep = Sweep(recipe, axes, shape, plan.shard, channels, plan.recipe.tta, None)
    fits = sweep_bytes(sweep, plan) <= plan.memory_limit
    sweep = sweep if fits else replace(sweep, folder=ledger.scratch)
    plan.check_room(_window_bytes(plan, recipe.shape))
    share, kept = 1.0, ""
    if plan.occupied is not None:
        rows = _rows_to_do(sweep, tile(Box.of(shape), sweep.shard), plan.occupied)
        wanted = sum(len(row.columns) for row in rows)
        share, kept = wanted / sweep.count, f", {wanted} of them with something to predict"
    log.info(
        "predict: %d windows of %dx%dx%d, stride %dx%dx%d, %s blending, %d variants%s; %.1f voxels "
        "computed a voxel written; sums wait %s (%.1f GiB allowed)",
        sweep.count,
        *recipe.shape,
        *recipe.stride,
        recipe.blending,
        plan.recipe.tta,
        kept,
        share * sweep.waste,
        "in memory" if fits else f"on disk, {scratch_bytes(sweep) / GIB:.1f} GiB",
        plan.memory_limit / GIB,
    )
    return sweep


def run_windows(
    sweep: Sweep,
    image: ImageInput,
    runners: tuple[Runner, ...],
    plan: PredictionPlan,
    prediction: Volume,
    ledger: Ledger,
) -> Done:
    """Read, compute and write the windows."""
    done = ledger.done(STEP)
    missing = [s for s in tile(Box.of(sweep.shape), sweep.shard) if str(s) not in done]
    rows = _rows_to_do(sweep, missing, plan.occupied)
    windows = sum(len(row.columns) for row in rows)
    strips = lru_cache(maxsize=1)(Strips(image, keep=sweep.folder is None).read)
    sums, turn = Sums(sweep, missing, plan.truncate), count()

    def read(window: Window) -> Numbered:
        if window.column is None:
            return 0, None
        first = window.column - window.row.box.start[2]
        return next(turn), strips(window.row.box)[:, :, first : first + sweep.recipe.shape[2]]

    def gather(window: Window, found: Floats | None) -> Rows | None:
        if found is not None and window.column is not None:
            z, y, _ = window.row.box.start
            sums.add((z, y, window.column), found)
        if not window.ends:
            return None
        sums.release()
        return sums.finish(window.row.finished) or None

    tasks = [task for row in rows for task in _tasks_of(row, image.source.box)]
    # a strip is read while the row before it is computed
    ahead = max((len(row.columns) for row in rows), default=1)
    compute = lanes_of(partial(_lane, plan, sweep.recipe.shape), runners, plan)
    write = partial(_write_finished, plan, prediction, missing)
    parts = OverlappedTask(compute, read, gather, write, ahead)
    run_step(
        STEP,
        tasks,
        parts,
        record=ledger,
        resources=plan.lanes,
        unit="windows",
        before=sweep.count - windows,
    )
    what = f"{windows} windows"
    if plan.regions:
        what += f" (of {sweep.count}; those without a voxel in the mask are not computed)"
    computed = windows * math.prod(sweep.recipe.shape) * sweep.tta
    return Done(parts.profile, sum(shard.size for shard in missing), computed, what)


def _write_finished(
    plan: PredictionPlan, prediction: Volume, missing: Sequence[Box], finished: Rows
) -> Iterator[Box]:
    """Write the missing shards of rows that no later window reaches; gives each once it is."""
    for box, held in finished:
        for shard in missing:
            if box.contains(shard):
                _clear_outside(plan, shard, held.array[_place(shard, box)])
                yield from write_shards(prediction, (shard,), (box, held.array))
                held.release()
        held.remove()


def _lane(plan: PredictionPlan, extent: Triple, runner: Runner) -> "partial[Floats]":
    """What computes on a device; picklable."""
    return partial(_probabilities, runner, Box.of(extent), plan.recipe.tta, plan.recipe.combine)


def _probabilities(
    runner: Runner, whole: Box, tta: Tta, combine: Combine, window: Floats
) -> Floats:
    found: Floats = tile_probabilities(runner, window, whole, tta, combine).cpu().numpy()
    return found


def sweep_bytes(sweep: Sweep, plan: PredictionPlan) -> int:
    """Upper bound of the memory of a run, imports and what devices have of their own apart.

    Two strips are read (one of them waits or is computed), one window a device is computed, two
    rows of shards are held.
    """
    (wz, wy, wx), (_, y, x) = sweep.recipe.shape, sweep.shape
    depth = min(wz, sweep.shape[0])
    grey = plan.source.dtype.itemsize
    along_x = sweep.axes[2]
    strip = wz * wy * (along_x.starts[-1] + wx - along_x.starts[0])
    window = math.prod(sweep.recipe.shape)
    total = strip * (2 * 4 + 2 * grey)
    devices = len(plan.devices)
    total += devices * (plan.room is None) * plan.network_bytes(*[sweep.recipe.shape] * 2)
    total += region_bytes(plan.regions, sweep.shard)
    total += devices * 4 * window * (1 + 2 * (plan.recipe.tta > 1)) * (1 + sweep.channels)
    total += sweep.channels * 2 * math.prod(sweep.shard)
    if sweep.folder is None:
        total += 4 * sweep.channels * depth * y * x
        total += 2 * sweep.channels * sweep.shard[0] * y * x
        total += (depth + min(sweep.recipe.stride[0], sweep.shape[0])) * y * x * grey
    else:
        total += 4 * sweep.channels * max(depth * min(wy, y) * x, y * x)
        total += 2 * sweep.channels * y * x
    return int(1.1 * total) + FIXED_BYTES


def _window_bytes(plan: PredictionPlan, window: Triple) -> int:
    """Upper bound of what a window takes of the memory of a device with its own."""
    outputs = (1 + 2 * (plan.recipe.tta > 1)) * len(plan.contract.channels)
    return plan.network_bytes(window, window) + 4 * math.prod(window) * (2 + 2 * outputs)


def scratch_bytes(sweep: Sweep) -> int:
    """Bytes that files of the work folder take at most."""
    if sweep.folder is None:
        return 0
    z, y, x = sweep.shape
    depth = min(sweep.recipe.shape[0], z)
    return sweep.channels * y * x * (4 * depth + 2 * sweep.shard[0])


def _place(shard: Box, box: Box) -> tuple[slice, ...]:
    """Where a shard lies in the levels (channels, z, y, x) of a box."""
    return (slice(None), *shard.relative_to(box.start).slices())


def _clear_outside(plan: PredictionPlan, shard: Box, levels: NDArray[np.uint8]) -> None:
    """Set what is in no region to 0, in place."""
    inside = inside_all(plan.regions, shard)
    if inside is not None:
        levels *= inside


def _rows_to_do(sweep: Sweep, missing: list[Box], occupied: Occupancy | None) -> list[WindowRow]:
    """The rows of windows that missing shards need, in raster order.

    Windows over nothing but voxels outside the mask are left out; a row without any still says
    which sections are finished.
    """
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
        if columns and occupied is not None:
            corner = (sweep.axes[0].starts[iz], sweep.axes[1].starts[iy])
            kept = tuple(x for x in columns if occupied.reaches(_window(sweep, (*corner, x))))
            layers.setdefault(iz, []).append((iy, kept))
        elif columns:
            layers.setdefault(iz, []).append((iy, columns))
    return list(_rows(sweep, layers))


def _window(sweep: Sweep, corner: Triple) -> Box:
    return Box(corner, corner).grow((0, 0, 0), sweep.recipe.shape)


def _rows(
    sweep: Sweep, layers: dict[int, list[tuple[int, tuple[int, ...]]]]
) -> Iterator[WindowRow]:
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
            x0, x1 = (columns[0], columns[-1] + along_x.extent) if columns else (0, 0)
            box = Box((z, y, x0), (z + along_z.extent, y + along_y.extent, x1))
            ends = number == len(layers[iz]) - 1
            yield WindowRow(box, columns, finished if ends else range(0))


def _tasks_of(row: WindowRow, whole: Box) -> Iterator[Task]:
    """A row's windows, which read one strip; there may be a million of them in a volume."""
    strip = row.box.clip(whole)
    for column in row.columns or (None,):
        yield Task(Window(row, column), (), strip, int(column is not None))


def _shards_under(start: int, extent: int, length: int, shard: int) -> slice:
    first, stop = max(start, 0), min(start + extent, length)
    return slice(first // shard, -(-stop // shard)) if stop > first else slice(0)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as half-open intervals without gaps."""
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    for a, b in zip([0, *breaks], [*breaks, len(numbers)], strict=True):
        if b > a:
            yield numbers[a], numbers[b - 1] + 1
