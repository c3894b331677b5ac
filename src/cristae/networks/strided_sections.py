"""Sections nearer than a network expects them, seen with a stride along z.

A network that learned from sections 30 nm apart sees little of an organelle in its few sections of
5 nm, and on tissue it never saw takes more for mitochondria. So of such sections it is given every
k-th one, k times over, each time from another section on::

    section     0   1   2   3   4   5   6   7   8
    offset 0     x           x           x            k = 3
    offset 1         x           x           x
    offset 2             x           x           x

The output for each offset is interpolated linearly on all sections, and the k are averaged: a
section's output is the mean of those of the sections around it, weighted 1, 2, ..., k, ..., 2, 1.
Every section goes through the network once. Offsets are counted from the volume's first section, so
nothing depends on the tile.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cristae.grid import Box, Triple
from cristae.networks.context import Context
from cristae.networks.precision import Precision
from cristae.networks.runner import Runner


def strided_context(context: Context, step: int) -> Context:
    """What a network needs around a core, and where its tiles start, if it sees every k-th section.

    Args:
        context: The network's own.
        step: k.
    """
    (halo, *in_plane), (lattice, y, x) = context.halo_vx, context.lattice
    return Context((step * halo + step - 1, in_plane[0], in_plane[1]), (step * lattice, y, x))


def strided_shape(extent: Triple, step: int) -> Triple:
    """The most sections of a box that the network sees at once."""
    return -(-extent[0] // step), extent[1], extent[2]


def strided_bytes(channels: int, core: Triple, step: int) -> int:
    """What a tile takes besides the memory of one offset."""
    z, y, x = core
    return 0 if step == 1 else 4 * channels * (2 * z + 2 * (step - 1)) * y * x


class StridedSectionRunner:
    """A runner that sees every k-th section.

    Args:
        runner: Its tiles have a k-th of the sections.
        step: k.
    """

    def __init__(self, runner: Runner, step: int) -> None:
        self._runner = runner
        self._step = step

    @property
    def precision(self) -> Precision:
        """Of the runner's arithmetic."""
        return self._runner.precision

    def probabilities(self, image: NDArray[np.float32], core: Box) -> Tensor:
        """Outputs of the core of a tile that starts with turn 0; see `Runner.probabilities`."""
        step, (z0, y0, x0), (z1, y1, x1) = self._step, core.start, core.stop
        low, high = max(0, z0 - step + 1), min(image.shape[0], z1 + step - 1)
        parts: Tensor | None = None
        for offset in range(step):
            first, stop = -((offset - low) // step), -((offset - high) // step)
            if first == stop:
                continue
            part = Box((first, y0, x0), (stop, y1, x1))
            found = self._runner.probabilities(np.ascontiguousarray(image[offset::step]), part)
            if parts is None:
                parts = found.new_empty((found.shape[0], high - low, *found.shape[2:]))
            parts[:, first * step + offset - low :: step] = found
        if parts is None:
            raise ValueError("a core without sections")
        return _blend(parts, (z0 - low, z1 - low), step)


def _blend(parts: Tensor, core: tuple[int, int], step: int) -> Tensor:
    """Each section of the core as the weighted mean of what there is around it."""
    first, stop = core
    total = parts.new_zeros((parts.shape[0], stop - first, *parts.shape[2:]))
    weights = torch.zeros(stop - first)
    for shift in range(1 - step, step):
        weight = float(step - abs(shift))
        a, b = max(first + shift, 0), min(stop + shift, parts.shape[1])
        if a >= b:  # beyond the tile
            continue
        into = slice(a - shift - first, b - shift - first)
        total[:, into].add_(parts[:, a:b], alpha=weight)
        weights[into] += weight
    return total.div_(weights.to(total.device)[:, None, None])
