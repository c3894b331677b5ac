"""Lengths as files write them, in nm; and why one that stands there says nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cristae.volumes.formats.axes import SPACE, Axes
from cristae.volumes.volume import Nanometres

NM_PER_UNIT = {
    "nm": 1.0,
    "um": 1e3,
    "µm": 1e3,  # micro sign
    "μm": 1e3,  # Greek mu
    "\\u00b5m": 1e3,
    "micron": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "dm": 1e8,
    "m": 1e9,
    "km": 1e12,
    "pm": 1e-3,
    "angstrom": 0.1,
    "ångström": 0.1,
    "å": 0.1,
    "ang": 0.1,
    "inch": 2.54e7,
    "inches": 2.54e7,
    "in": 2.54e7,
}
"""Nanometres of a unit, in lower case; `to_nm` knows long names and plurals, too."""

_PREFIXES = {
    "": 1e9,
    "deci": 1e8,
    "centi": 1e7,
    "milli": 1e6,
    "micro": 1e3,
    "nano": 1.0,
    "pico": 1e-3,
    "femto": 1e-6,
    "kilo": 1e12,
}
NM_PER_UNIT |= {
    f"{prefix}{name}": factor for prefix, factor in _PREFIXES.items() for name in ("meter", "metre")
}


@dataclass(frozen=True)
class Placement:
    """Voxel size and origin (z, y, x) in nm that a source states.

    Attributes:
        voxel_size_nm: None where it is unknown.
        origin_nm: Centre of voxel 0.
        found: Where ``voxel_size`` and ``origin`` were found, or why they are unknown.
    """

    voxel_size_nm: Nanometres | None = None
    origin_nm: Nanometres = (0.0, 0.0, 0.0)
    found: Mapping[str, str] = field(default_factory=dict)


def to_nm(value: float, unit: str | None) -> float | None:
    """A length in nm, rounded to 9 digits; None for a unit that is missing or no length."""
    name = (unit or "").strip().lower()
    one = name.removesuffix("s") if len(name) > 4 else name  # microns, but not ms
    factor = NM_PER_UNIT.get(name, NM_PER_UNIT.get(one))
    return None if factor is None else float(f"{value * factor:.9g}")


def known(sizes: Sequence[float | None]) -> Nanometres | None:
    """Three positive sizes, or None where any of them is unknown."""
    if len(sizes) != 3 or any(size is None or not 0 < size < math.inf for size in sizes):
        return None
    z, y, x = (float(size) for size in sizes if size is not None)
    return z, y, x


def lengths(
    where: str, values: Sequence[Any], units: Sequence[str | None], *, positive: bool
) -> tuple[Nanometres | None, str]:
    """Three lengths in nm, each in its own unit.

    Args:
        where: What says so, in words.
        values: Of z, y and x, as they stand there; None where nothing does.
        units: The unit of each.
        positive: Whether they are sizes; places may be 0 or negative.

    Returns:
        The lengths (z, y, x) and where they were found; None and why where one says nothing.
    """
    faults = [_fault(v, u, positive) for v, u in zip(values, units, strict=True)]
    told = [fault for fault in dict.fromkeys(faults) if fault]
    if told:
        listed = ", ".join("nothing" if value is None else _text(value) for value in values)
        return None, f"{where} says {listed}: {', '.join(told)}"
    z, y, x = (to_nm(float(_plain(v)), u) for v, u in zip(values, units, strict=True))
    return (z or 0.0, y or 0.0, x or 0.0), where


def spread(values: Any, axes: Axes) -> tuple[Any, Any, Any] | None:
    """Values of z, y and x out of those that stand beside an array, in stored order.

    Args:
        values: One value an axis, one a spatial axis, or one for all.
        axes: How the array is stored.

    Returns:
        (z, y, x), None for an axis that is not stored; or None where the count fits nothing.
    """
    listed = listed_values(values)
    stored = [name for name in axes.names if name in SPACE]
    if len(listed) == len(axes.names):
        return axes.spatial(listed, None)
    if len(listed) == 1:
        return listed[0], listed[0], listed[0]
    if len(listed) == len(stored):
        by_name = dict(zip(stored, listed, strict=True))
    elif len(listed) == len(SPACE):
        by_name = dict(zip(SPACE, listed, strict=True))
    else:
        return None
    z, y, x = (by_name.get(name) for name in SPACE)
    return z, y, x


def listed_values(values: Any) -> list[Any]:
    """The values of an attribute: a list, an array, or one alone; texts as texts."""
    if isinstance(values, str | bytes):
        return [_plain(values)]
    if isinstance(values, Sequence | np.ndarray):
        flat = np.ravel(np.asarray(values, dtype=object))
        return [_plain(value) for value in flat]
    return [_plain(values)]


def _fault(value: Any, unit: str | None, positive: bool) -> str:
    try:
        number = float(_plain(value))
    except (TypeError, ValueError):
        return "no number" if value is None else f"{_text(value)} is no number"
    if not math.isfinite(number) or (positive and number <= 0):
        return f"{_text(value)} is no {'size' if positive else 'place'}"
    if not (unit or "").strip():
        return "without a unit"
    return "" if to_nm(number, unit) is not None else f"{unit} is no unit of length"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> str:
    value = _plain(value)
    return f"{value:g}" if isinstance(value, int | float) else repr(value)[:40]
