"""Axes of arrays: which are z, y, x and channels, in any stored order, and what becomes of others.

A file names its axes, or a person does (``--axes``): ``zyx`` or ``xyz`` names all in the order in
which they are stored, ``c=z`` says that what the file calls c is z.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cristae.errors import ConfigError, InputError, raise_faults
from cristae.grid import Box, Triple
from cristae.volumes.volume import Array, Kind

SPACE = ("z", "y", "x")
KNOWN = (*SPACE, "c", "t")

_SAME = {
    "c": ("channel", "channels", "ch"),
    "t": ("time", "frame", "frames"),
    "z": ("depth", "section", "sections", "slice", "slices", "plane"),
    "y": ("height", "row", "rows"),
    "x": ("width", "column", "columns", "col"),
}
_NAMES = {other: name for name, others in _SAME.items() for other in others}
_NO_NAME = re.compile(r"(phony_|)(dim|axis)_?\d*|")
_SPEC = re.compile(r"[a-z]+|[a-z]+=[a-z](,[a-z]+=[a-z])*")


@dataclass(frozen=True)
class OpenOptions:
    """How a source is to be read, as a person says.

    Attributes:
        name: The source as it was written, for messages.
        kind: What the voxels are.
        root: Folder that relative paths of a tile index count from.
        index: Element to take, by name of axis.
        axes: Names of the axes, see this module; None as the source says.
        series: Number or name of the series (image) of a file that holds several.
        dataset: What of a file or folder is meant, as named behind a colon.
    """

    name: str
    kind: Kind | None = None
    root: str | Path | None = None
    index: Mapping[str, int] = field(default_factory=dict)
    axes: str | None = None
    series: str | None = None
    dataset: str | None = None

    @property
    def reading(self) -> tuple[str, ...]:
        """What of it changes the voxels that are read, for identities."""
        index = [f"index {axis}={number}" for axis, number in sorted(self.index.items())]
        return (
            *([f"axes {self.axes}"] if self.axes else []),
            *([f"series {self.series}"] if self.series else []),
            *index,
        )


@dataclass(frozen=True)
class Axes:
    """How a stored array is read as ([c,] z, y, x).

    Attributes:
        names: Name of every stored axis.
        take: For every stored axis the one element taken, or None where it is kept.
        shape: Extent (z, y, x); an axis that is not stored has one element.
        channels: Number of channels, 0 where no channel axis is kept.
        source: Where the names come from, in words.
    """

    names: tuple[str, ...]
    take: tuple[int | None, ...]
    shape: Triple
    channels: int
    source: str = ""

    @property
    def plain(self) -> bool:
        """Whether the whole array is read, as it is stored."""
        return self.names == (("c", *SPACE) if self.channels else SPACE)

    @property
    def told(self) -> str:
        """Where the names come from, and the names as they are stored."""
        return f"{self.source}: {', '.join(self.names)}"

    def select(self, box: Box) -> tuple[int | slice, ...]:
        """An index of the stored array that reads a box, its axes still in stored order."""
        if self.plain:
            return (slice(None), *box.slices()) if self.channels else box.slices()
        sides = dict(zip(SPACE, box.slices(), strict=True))
        return tuple(
            taken if taken is not None else sides.get(name, slice(None))
            for name, taken in zip(self.names, self.take, strict=True)
        )

    def turn(self, array: Array) -> Array:
        """What `select` read, as ([c,] z, y, x)."""
        if self.plain:
            return array
        kept = [name for name, taken in zip(self.names, self.take, strict=True) if taken is None]
        wanted = ["c", *SPACE] if self.channels else [*SPACE]
        turned = array.transpose([kept.index(name) for name in wanted if name in kept])
        missing = tuple(i for i, name in enumerate(wanted) if name not in kept)
        return np.expand_dims(turned, missing) if missing else turned

    def spatial(self, values: Sequence[Any], missing: Any = 1) -> tuple[Any, Any, Any]:
        """Of one value a stored axis, those of z, y and x."""
        by_name = dict(zip(self.names, values, strict=True))
        z, y, x = (by_name.get(name, missing) for name in SPACE)
        return z, y, x


def arrange(
    names: Sequence[str] | None,
    shape: Sequence[int],
    options: OpenOptions,
    source: str = "the file",
) -> Axes:
    """Arrange an array's axes as ([c,] z, y, x).

    Axes of one element are dropped. A longer channel axis (``c``) stays, unless an index takes one
    of it; every other longer axis needs an index.

    Args:
        names: Name of every axis in stored order, as the file says; None where it says nothing:
            then the last ones are z, y and x, before them c and t.
        shape: Its extents.
        options: What a person says: names and elements.
        source: Where the names were found, in words.

    Raises:
        ConfigError: ``options.axes`` is no such text.
        InputError: No y and x; names given twice; axes left over; an index of no axis or outside
            it; all faults at once.
    """
    said = [_plain_name(name) for name in names or ()]
    if said and len(said) != len(shape) and not is_unnamed(said):
        if options.axes is None or "=" in options.axes:
            raise InputError(
                f"{options.name}: {source} names {len(said)} axes ({', '.join(said)}), the array "
                f"has shape {tuple(shape)}; --axes names them"
            )
        said = []
    if is_unnamed(said):
        said, source = _usual(shape), "the usual order"
    found = said if options.axes is None else _named(options.axes, said, shape, options.name)
    if options.axes is not None:
        source = "--axes"
    raise_faults(
        f"{options.name} (axes {_text(found, shape)}, by {source})",
        _faults(found, shape, options.index),
    )
    take = tuple(
        None if name in SPACE else _element(name, n, options.index)
        for name, n in zip(found, shape, strict=True)
    )
    extent = dict(zip(found, shape, strict=True))
    kept = [name for name, taken in zip(found, take, strict=True) if taken is None]
    z, y, x = (int(extent.get(name, 1)) for name in SPACE)
    return Axes(
        names=tuple(found),
        take=take,
        shape=(z, y, x),
        channels=int(extent["c"]) if "c" in kept else 0,
        source=source,
    )


def is_unnamed(names: Sequence[str]) -> bool:
    """Whether names tell nothing: none, empty ones, or ``dim_0`` and its kind."""
    return not names or any(_NO_NAME.fullmatch(name.strip().lower()) for name in names)


def check_axes(text: str | None) -> None:
    """Refuse a text that `arrange` cannot take.

    Raises:
        ConfigError: It is none of ``zyx``, ``xyz``, ``czyx``, ``c=z``, ``z=t,c=z`` and their kind.
    """
    if text is not None and not isinstance(text, str):
        raise ConfigError(f"axes {text!r}: expected a text, such as zyx")
    whole = text is not None and "=" not in text
    named = [] if text is None else list(text) if whole else re.findall(r"=([a-z])", text)
    fits = text is None or _SPEC.fullmatch(text)
    if text is not None and not (fits and set(named) <= set(KNOWN) and _once(named)):
        raise ConfigError(
            f"axes {text!r}: expected the names of all axes as they are stored (zyx, czyx, xyz), "
            "or what some are (c=z), of z, y, x, c and t, each once"
        )


def _once(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _plain_name(name: str) -> str:
    lower = name.strip().lower()
    return _NAMES.get(lower, lower)


def _usual(shape: Sequence[int]) -> list[str]:
    """Names of axes that have none."""
    count = len(shape)
    return list("tczyx"[-count:]) if count <= 5 else [f"axis{i}" for i in range(count)]


def _named(text: str, said: list[str], shape: Sequence[int], source: str) -> list[str]:
    """The axes as a person names them."""
    check_axes(text)
    if "=" in text:
        pairs = dict(part.split("=") for part in text.split(","))
        pairs = {_plain_name(old): new for old, new in pairs.items()}
        unknown = [old for old in pairs if old not in said]
        raise_faults(
            source,
            [f"--axes {text}: there is no axis {o} among {_text(said, shape)}" for o in unknown],
        )
        # an axis whose name goes to another one changes places with it
        back = {new: old for old, new in pairs.items() if new in said and new not in pairs}
        return [pairs.get(name, back.get(name, name)) for name in said]
    longer = [i for i, n in enumerate(shape) if n > 1]
    if len(text) == len(shape):
        return list(text)
    if len(text) == len(longer):  # axes of one element need no name
        named = dict(zip(longer, text, strict=True))
        return [named.get(i, f"axis{i}") for i in range(len(shape))]
    raise_faults(
        source, [f"--axes {text}: {len(text)} names for {len(shape)} axes, {_text(said, shape)}"]
    )
    return said


def _faults(names: Sequence[str], shape: Sequence[int], index: Mapping[str, int]) -> list[str]:
    axes = dict(zip(names, shape, strict=True))
    faults = []
    if not {"y", "x"} <= set(names) or not _once(names):
        faults.append("expected y and x, and z, c or t besides, each once; --axes names them")
    if min(shape, default=0) < 1:
        faults.append("expected at least one voxel along every axis")
    others = {name: n for name, n in axes.items() if name not in SPACE}
    for name, element in index.items():
        if name not in others:
            faults.append(f"index {name}={element}: there is no such axis besides z, y, x")
        elif not 0 <= element < others[name]:
            faults.append(f"index {name}={element}: expected 0 to {others[name] - 1}")
    faults += [
        f"axis {name} has {n} elements: say which with --index {name}=0, or what it is with "
        f"--axes {name}=z"
        for name, n in others.items()
        if n > 1 and name != "c" and name not in index
    ]
    return faults


def _element(name: str, length: int, index: Mapping[str, int]) -> int | None:
    if name in index:
        return index[name]
    return None if name == "c" and length > 1 else 0


def _text(names: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in zip(names, shape, strict=True))
