"""Weighted sums of blended windows, in memory or in files, and the rows of shards they become."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cristae.grid import Box, Triple
from cristae.networks.windows import FLOOR, Axis, Floats, WindowRecipe, window_weight
from cristae.prediction.tile_inference import quantise
from cristae.volumes.volume import Array

Rows = list[tuple[Box, "SpillArray"]]
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
        tta: Passes of the network a window.
        folder: Where sums and shards wait; None for memory.
    """

    recipe: WindowRecipe
    axes: tuple[Axis, Axis, Axis]
    shape: Triple
    shard: Triple
    channels: int
    tta: int
    folder: Path | None

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(axis.starts) for axis in self.axes)

    @property
    def waste(self) -> float:
        """Voxels computed in the network over voxels written, test-time augmentation counted."""
        computed = self.count * math.prod(self.recipe.shape) * self.tta
        return computed / math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class SpillArray:
    """An array in memory, or in a file whose pages are given back when asked to."""

    array: Array
    file: Path | None = None
    pages: mmap.mmap | None = None

    @classmethod
    def zeros(cls, shape: tuple[int, ...], dtype: Any, file: Path | None) -> "SpillArray":
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
        self._held = SpillArray.zeros(
            shape, np.float32, None if folder is None else folder / "sums"
        )
        self._along = [axis.sums(0, n) for axis, n in zip(sweep.axes, sweep.shape, strict=True)]
        self._wanted = {shard.start[0] // sweep.shard[0] for shard in missing}
        self._rows: dict[int, SpillArray] = {}

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
            mean = torch.from_numpy(sums / weight.astype(np.float32))
            levels[:, lines] = quantise(mean, self._truncate)

    def _row_box(self, number: int) -> Box:
        z, y, x = self.sweep.shape
        depth = self.sweep.shard[0]
        return Box((number * depth, 0, 0), (min((number + 1) * depth, z), y, x))

    def _row(self, number: int, box: Box) -> SpillArray:
        if number not in self._rows:
            folder = self.sweep.folder
            file = None if folder is None else folder / f"row{number}"
            self._rows[number] = SpillArray.zeros((self.sweep.channels, *box.shape), np.uint8, file)
        return self._rows[number]
