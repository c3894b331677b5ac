"""Lengths as files write them, in nm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cristae.volumes.volume import Nanometres

NM_PER_UNIT = {
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "\\u00b5m": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "millimetre": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
    "angstrom": 0.1,
    "å": 0.1,
    "pm": 1e-3,
    "picometer": 1e-3,
}


def to_nm(value: float, unit: str | None) -> float | None:
    """A length in nm, rounded to 9 digits; None for a unit that is missing or no length."""
    factor = NM_PER_UNIT.get((unit or "").strip().lower())
    return None if factor is None else float(f"{value * factor:.9g}")


def known(sizes: Sequence[float | None]) -> Nanometres | None:
    """Three positive sizes, or None where any of them is unknown."""
    if len(sizes) != 3 or any(size is None or not size > 0 for size in sizes):
        return None
    z, y, x = (float(size) for size in sizes if size is not None)
    return z, y, x


def size_from_attributes(attributes: Mapping[str, Any]) -> Nanometres | None:
    """Voxel size (z, y, x) in nm from the attributes of an HDF5 dataset or a plain Zarr array.

    Known are ``element_size_um`` (z, y, x), and ``voxel_size`` or ``resolution`` (z, y, x) with
    ``units`` or ``unit``; a size without a unit stays unknown.
    """
    if "element_size_um" in attributes:
        numbers = _three(attributes["element_size_um"])
        return known([to_nm(value, "um") for value in numbers])
    for name in ("voxel_size", "resolution"):
        if name in attributes:
            units = _units(attributes.get("units", attributes.get("unit")))
            values = _three(attributes[name])
            return known([to_nm(v, unit) for v, unit in zip(values, units, strict=False)])
    return None


def _three(values: Any) -> list[float]:
    try:
        return [float(value) for value in np.ravel(np.asarray(values))][-3:]
    except (TypeError, ValueError):
        return []


def _units(units: Any) -> list[str]:
    if units is None:
        return []
    if isinstance(units, str | bytes):
        return [_text(units)] * 3
    return [_text(unit) for unit in np.ravel(np.asarray(units))][-3:]


def _text(unit: Any) -> str:
    return unit.decode() if isinstance(unit, bytes) else str(unit)
