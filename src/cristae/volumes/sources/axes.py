"""Axes of foreign arrays: which are z, y and x, and what becomes of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cristae.errors import raise_faults
from cristae.grid import Triple


@dataclass(frozen=True)
class Axes:
    """How an array of any axes is read as ([c,] z, y, x).

    Attributes:
        shape: Extent (z, y, x).
        channels: Number of channels, 0 where no channel axis is left.
        lead: For every axis before z, y, x: the element taken, or None for the channel axis.
        first: Number of the first plane (channel 0, z 0), planes counted in storage order.
        strides: Planes from one channel to the next, and from one z to the next.
    """

    shape: Triple
    channels: int
    lead: tuple[int | None, ...]
    first: int
    strides: tuple[int, int]

    @property
    def channel(self) -> int | None:
        """The one element of a single leading axis that is taken, if it is."""
        return self.lead[0] if self.lead else None


def arrange(
    names: Sequence[str], shape: Sequence[int], source: str, index: Mapping[str, int] | None
) -> Axes:
    """Arrange an array's axes as ([c,] z, y, x).

    Axes of one element are dropped. A longer channel axis (``c``) stays, unless ``index`` takes one
    of it; every other longer axis needs ``index``.

    Args:
        names: Name of every axis, lower case; ``y`` and ``x`` last, ``z`` anywhere before.
        shape: Its extents.
        source: For messages.
        index: Element to take, by axis name.

    Raises:
        InputError: No z, y, x in this order; axes left over; an index of no axis or outside it.
    """
    axes = dict(zip(names, shape, strict=True))
    index = dict(index or {})
    others = [name for name in names if name not in ("z", "y", "x")]
    faults = _faults(list(names), axes, others, index)
    raise_faults(f"{source} (axes {_text(names, shape)})", faults)
    lead = tuple(_element(name, axes[name], index) for name in others)
    channels = axes["c"] if "c" in others and lead[others.index("c")] is None else 0
    planes, steps = 1, {}
    for name in reversed(list(names)[:-2]):
        steps[name], planes = planes, planes * axes[name]
    first = sum((element or 0) * steps[n] for n, element in zip(others, lead, strict=True))
    return Axes(
        shape=(int(axes["z"]), int(axes["y"]), int(axes["x"])),
        channels=int(channels),
        lead=lead,
        first=int(first),
        strides=(int(steps.get("c", 0)), int(steps["z"])),
    )


def _faults(
    names: list[str], axes: Mapping[str, int], others: list[str], index: Mapping[str, int]
) -> list[str]:
    spatial = [name for name in names if name in ("z", "y", "x")]
    faults = []
    if spatial != ["z", "y", "x"] or names[-2:] != ["y", "x"] or len(axes) != len(names):
        faults.append("expected z, y, x in this order, with y and x last")
    if min(axes.values(), default=0) < 1:
        faults.append("expected at least one voxel along every axis")
    for name, element in index.items():
        if name not in others:
            faults.append(f"index {name}={element}: there is no such axis besides z, y, x")
        elif not 0 <= element < axes[name]:
            faults.append(f"index {name}={element}: expected 0 to {axes[name] - 1}")
    for name in others:
        if axes[name] > 1 and name != "c" and name not in index:
            faults.append(f"axis {name} has {axes[name]} elements: say which with --index {name}=0")
    return faults


def _element(name: str, length: int, index: Mapping[str, int]) -> int | None:
    if name in index:
        return index[name]
    return None if name == "c" and length > 1 else 0


def _text(names: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in zip(names, shape, strict=True))
