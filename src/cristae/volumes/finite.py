"""Voxels that are not a number: found before the work, with their place, or replaced.

A source of floats is read once in whole before a stage begins. What was found clean is known by the
record of what the stage makes, by the attribute `FINITE` of what it writes, and in memory by the
same attribute of the volume that `checked_voxels` gives back.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.progress import log, track
from cristae.engine.records import Input, settings_recorded
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.intensity import sample_boxes
from cristae.volumes.values import ROUNDING, look_boxes
from cristae.volumes.volume import Array, Reader, Volume

Nan = float | Literal["fill"]
"""What goes in the place of voxels that are not finite: a number, or the volume's median."""

FINITE, PROBABLE = "finite", "probable"
"""Attributes of a volume all of whose voxels were looked at: all finite; all in [0, 1]."""

ADVICE = "--nan fill (`nan: fill` of a sample) puts {} in their place, --nan VALUE a number"


def checked_voxels(
    volume: Volume,
    resources: Resources,
    *,
    probabilities: bool = False,
    out: str | Path | None = None,
    inputs: Mapping[str, Input] | None = None,
) -> Volume:
    """A volume without a voxel that is NaN or infinite; integers are not looked at.

    Args:
        volume: ([c,] z, y, x).
        resources: Workers and executor of the reading.
        probabilities: Refuse what lies outside [0, 1] by more than rounding, too.
        out: What the stage writes: begun or finished with ``inputs``, its record says that they
            were looked at.
        inputs: What it is made from, by role.

    Returns:
        The volume, which says that it was looked at.

    Raises:
        InputError: How many voxels there are, and the place of the first.
    """
    if is_checked(volume, probabilities):
        return volume
    if out is None or settings_recorded(out, inputs or {}) is None:
        fault = voxel_fault(volume, resources, probabilities=probabilities)
        if fault is not None:
            raise InputError(f"{volume.name}: {fault}")
    said = {FINITE: True} | ({PROBABLE: True} if probabilities else {})
    return volume.with_(attributes={**volume.attributes, **said})


def is_checked(volume: Volume, probabilities: bool = False) -> bool:
    """Whether nothing has to be looked at."""
    said = volume.attributes.get(PROBABLE if probabilities else FINITE)
    return volume.dtype.kind != "f" or bool(said)


def voxel_fault(volume: Volume, resources: Resources, *, probabilities: bool = False) -> str | None:
    """What `checked_voxels` refuses, in words; None where there is nothing.

    Args:
        volume: Floats ([c,] z, y, x); read as a whole.
        resources: Workers and executor.
        probabilities: Whether values outside [0, 1] are refused, too.
    """
    count, first = 0, None
    with track("looking for NaN", volume.size, "voxels") as advance:
        for box, found in run_tasks(_Looking(volume, probabilities), look_boxes(volume), resources):
            advance(box.size)
            if found is not None:
                count += found[0]
                first = found[1:] if first is None else min(first, found[1:])
    if first is None:
        return None
    (z, y, x), value = first
    place = f"{'NaN' if math.isnan(value) else f'{value:.9g}'} at voxel {z}, {y}, {x}"
    voxels = "1 voxel is" if count == 1 else f"{count} voxels are"
    if math.isfinite(value):
        return f"{voxels} outside [0, 1], the first {place}; expected probabilities"
    advice = ADVICE.format("0" if probabilities else "the median")
    return f"{voxels} not finite, the first {place}; {advice}"


@dataclass(frozen=True)
class _Looking:
    """Number of bad voxels of a box, the first, and its value; None where there is none."""

    volume: Volume
    probabilities: bool

    def __call__(self, box: Box) -> tuple[int, Triple, float] | None:
        array = self.volume.read(box)
        if self.probabilities:
            slack = ROUNDING + float(np.finfo(array.dtype).eps)
            good = (array >= -slack) & (array <= 1 + slack)
        else:
            good = np.isfinite(array)
        if good.all():
            return None
        bad = ~good if array.ndim == 3 else ~good.all(axis=0)
        place = np.unravel_index(int(np.argmax(bad)), bad.shape)
        z, y, x = (int(at) for at in place)
        values, fine = array[..., z, y, x].reshape(-1), good[..., z, y, x].reshape(-1)
        start = box.shift(self.volume.corner).start
        at = (z + start[0], y + start[1], x + start[2])
        return int(np.count_nonzero(bad)), at, float(values[~fine][0])


def without_nan(volume: Volume, nan: Nan) -> Volume:
    """A volume with a number in the place of NaN and infinity.

    Args:
        volume: Any; integers stay as they are.
        nan: The number, or ``fill``: the median of the volume's sample, and 0 for labels,
            predictions and volumes with channels.

    Returns:
        The volume; the number is part of its identity.

    Raises:
        InputError: A number that is not finite or not of the volume's type; nothing to fill with.
    """
    number = isinstance(nan, int | float) and -sys.float_info.max <= nan <= sys.float_info.max
    if nan != "fill" and not number:
        raise InputError(f"{volume.name}: nan {nan}, expected fill or a finite number")
    if volume.dtype.kind != "f":
        log.info("%s: %s voxels, none of which can be NaN", volume.name, volume.dtype)
        return volume
    if volume.attributes.get(FINITE):
        return volume
    value = _median(volume) if nan == "fill" else float(nan)
    with np.errstate(over="ignore"):
        stored = float(volume.dtype.type(value))
    if not math.isfinite(stored):
        raise InputError(f"{volume.name}: nan {value:g} is too large for {volume.dtype}")
    return volume.with_(
        reader=FiniteReader(volume.reader, stored),
        attributes={**volume.attributes, FINITE: True},
        identity=volume.identity.read_as(f"nan={stored!r}"),
    )


def _median(volume: Volume) -> float:
    if volume.channels is not None or volume.kind in ("labels", "prediction"):
        return 0.0
    windows = [volume.read(box) for box in sample_boxes(volume.shape)]
    values = np.concatenate([window[np.isfinite(window)] for window in windows])
    if not values.size:
        raise InputError(f"{volume.name}: no finite voxel in the sample, expected nan: a number")
    return float(np.median(values))


@dataclass(frozen=True)
class FiniteReader:
    """Reads a source with a number in the place of what is not finite.

    Attributes:
        inner: Reads the source.
        value: The number.
    """

    inner: Reader
    value: float

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box."""
        array = self.inner.read(box)
        bad = ~np.isfinite(array)
        if bad.any():
            array[bad] = self.value
        return array


def inner_reader(reader: Any) -> Any:
    """What reads a source itself."""
    return inner_reader(reader.inner) if isinstance(reader, FiniteReader) else reader
