"""Voxel size and origin of a TIFF file, from every place where they are written.

Known are OME-XML, ImageJ's description (``unit``, ``spacing``, origins in pixels, resolution tags),
what tifffile writes in the same words, LSM, STK, and the resolution tags. Each axis has its own
unit. What is no number, no length or not there leaves the size unknown, and the reason is kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from cristae.volumes.formats.axes import Axes
from cristae.volumes.formats.tiff_stack import TiffSeries
from cristae.volumes.formats.units import to_nm
from cristae.volumes.volume import Nanometres

_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
_NM_PER_INCH = 2.54e7


@dataclass(frozen=True)
class TiffPlacement:
    """Where a file says that its voxels lie.

    Attributes:
        size_nm: Voxel size (z, y, x), or None where any of the three is unknown.
        origin_nm: Centre of voxel 0 (z, y, x).
        found: Where ``voxel_size`` and ``origin`` were found, or why there is none, in words.
    """

    size_nm: Nanometres | None = None
    origin_nm: Nanometres = (0.0, 0.0, 0.0)
    found: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Length:
    """A length as a file has it: in nm, or why it is not known."""

    where: str
    nm: float | None = None
    fault: str = ""


def find_place(stack: TiffSeries, axes: Axes) -> TiffPlacement:
    """Voxel size and origin of a series.

    Lengths belong to the axes that the file calls z, y and x; where a person calls another axis so
    (``--axes``), its length is what the file says of its own.
    """
    lengths = _ome(stack) or _lsm(stack) or _stk(stack) or _described(stack) or _tags(stack)
    if lengths is None:
        return TiffPlacement()
    if axes.source == "--axes":
        lengths = _as_named(lengths, stack, axes)
    sizes = {axis: lengths.get(axis, _Length("", None, f"no size of {axis}")) for axis in "zyx"}
    faults = [one.fault for one in sizes.values() if one.nm is None]
    known = [f"{axis} {one.nm:g} nm" for axis, one in sizes.items() if one.nm is not None]
    if faults:
        told = "; ".join(dict.fromkeys(faults))
        return TiffPlacement(
            found={"voxel_size": told + (f" ({', '.join(known)})" if known else "")}
        )
    z, y, x = (one.nm or 0.0 for one in sizes.values())
    found = {"voxel_size": ", ".join(dict.fromkeys(one.where for one in sizes.values()))}
    origin, where = _origin(stack, (z, y, x))
    return TiffPlacement((z, y, x), origin, found | ({"origin": where} if where else {}))


def _as_named(lengths: Mapping[str, _Length], stack: TiffSeries, axes: Axes) -> dict[str, _Length]:
    """Lengths by the names that a person gave the axes."""
    stored = {name: letter for name, letter in zip(axes.names, stack.axes.lower(), strict=True)}
    # sections that the file calls otherwise are as far apart as what it says of z
    return {
        name: lengths.get(letter if letter in "zyx" else name, lengths.get(name, _Length("")))
        for name, letter in stored.items()
        if name in "zyx" and (letter in lengths or name in lengths)
    }


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _length(where: str, value: Any, unit: Any) -> _Length:
    """A length above 0; the unit must be one."""
    number = _number(value)
    if number is None or not number > 0:
        return _Length(where, None, f"{where} is {value!r}, expected a number above 0")
    if unit is None or not str(unit).strip():
        return _Length(where, None, f"{where} is {value!r} without a unit")
    nm = number * _NM_PER_INCH if unit in ("inch", "in") else to_nm(number, str(unit))
    if nm is None:
        return _Length(where, None, f"{where} is {value!r} in {str(unit)!r}, which is no length")
    return _Length(where, float(f"{nm:.9g}"))


def _pixels(stack: TiffSeries) -> ElementTree.Element | None:
    """The description of the series in the OME-XML."""
    if stack.ome is None:
        return None
    images = _children(stack.ome, "Image")
    named = [e for e in images if stack.name and e.get("Name") == stack.name]
    chosen = (named or images[stack.number :] or images)[:1]
    return next(
        (e for image in chosen for e in image if e.tag.rpartition("}")[2] == "Pixels"), None
    )


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def _ome(stack: TiffSeries) -> dict[str, _Length] | None:
    pixels = _pixels(stack)
    if pixels is None:
        return None
    found = {}
    for axis in "zyx":
        name = f"PhysicalSize{axis.upper()}"
        value = pixels.get(name)
        where = f"OME-XML {name}"
        found[axis] = (
            _Length(where, None, f"no {name} in the OME-XML")
            if value is None
            else _length(where, value, pixels.get(f"{name}Unit", "µm"))
        )
    return found if any(one.nm or "no Phys" not in one.fault for one in found.values()) else None


def _lsm(stack: TiffSeries) -> dict[str, _Length] | None:
    if stack.kind != "lsm":
        return None
    said = stack.metadata
    keys = {axis: f"VoxelSize{axis.upper()}" for axis in "zyx"}
    return {axis: _length(f"LSM {key}", said.get(key), "m") for axis, key in keys.items()}


def _stk(stack: TiffSeries) -> dict[str, _Length] | None:
    if stack.kind != "stk":
        return None
    said = stack.metadata
    unit = said.get("CalibrationUnits")
    distances = said.get("ZDistance")
    distance = None if distances is None or not len(distances) else float(distances[0])
    return {
        "z": _length("STK ZDistance", distance, unit),
        "y": _length("STK YCalibration", said.get("YCalibration"), unit),
        "x": _length("STK XCalibration", said.get("XCalibration"), unit),
    }


def _described(stack: TiffSeries) -> dict[str, _Length] | None:
    """What ImageJ writes: spacing and unit in the description, y and x in the tags."""
    said = stack.metadata
    if "spacing" not in said:
        return None
    who = "ImageJ" if stack.kind == "imagej" else "TIFF description"
    unit = said.get("unit") or _RESOLUTION_UNITS.get(_resolution_unit(stack))
    found = {"z": _length(f"{who} spacing", said["spacing"], said.get("zunit", unit))}
    for axis in "yx":
        where = f"{axis.upper()}Resolution"
        if _is_default(stack, where):
            found[axis] = _Length(where, None, f"{where} is the default, 1 pixel per no unit")
            continue
        found[axis] = _length(where, _per_pixel(stack, where), said.get(f"{axis}unit", unit))
    return found


def _tags(stack: TiffSeries) -> dict[str, _Length] | None:
    """The resolution tags; None where they hold no length."""
    unit = _RESOLUTION_UNITS.get(_resolution_unit(stack))
    if unit is None:
        return None
    found = {"z": _Length("", None, "TIFF resolution tags say nothing of z")}
    for axis in "yx":
        where = f"{axis.upper()}Resolution"
        found[axis] = _length(where, _per_pixel(stack, where), unit)
    return found


def _resolution_unit(stack: TiffSeries) -> int:
    unit = stack.resolution["ResolutionUnit"]
    return int(unit) if isinstance(unit, int) else 1


def _is_default(stack: TiffSeries, tag: str) -> bool:
    """Whether a resolution tag holds what programs write that know no resolution."""
    return stack.resolution[tag] == (1, 1) and _resolution_unit(stack) == 1


def _per_pixel(stack: TiffSeries, tag: str) -> float | None:
    """Length of a pixel by a resolution tag, which holds pixels a unit as a fraction."""
    value = stack.resolution[tag]
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    if not all(isinstance(n, int | float) for n in value) or not value[0]:
        return None
    return float(value[1] / value[0])


def _origin(stack: TiffSeries, size: Nanometres) -> tuple[Nanometres, str]:
    """Centre of voxel 0, and where it was found; nowhere: 0."""
    pixels = _pixels(stack)
    plane = None if pixels is None else _first_plane(pixels)
    if plane is not None:
        names = [f"Position{axis}" for axis in "ZYX"]
        values = [_number(plane.get(name)) for name in names]
        units = [plane.get(f"{name}Unit", "reference frame") for name in names]
        nm = [None if v is None else to_nm(v, u) for v, u in zip(values, units, strict=True)]
        if any(one is not None for one in nm):
            z, y, x = (one or 0.0 for one in nm)
            return (z, y, x), "OME-XML " + ", ".join(
                name for name, one in zip(names, nm, strict=True) if one is not None
            )
    # ImageJ counts in voxels where the coordinate is 0
    given = {a: _number(stack.metadata.get(f"{a}origin")) for a in "zyx"}
    if stack.kind == "imagej" and any(given.values()):
        z, y, x = (
            float(f"{-(given[axis] or 0.0) * nm:.9g}") + 0.0
            for axis, nm in zip("zyx", size, strict=True)
        )
        return (z, y, x), "ImageJ " + ", ".join(f"{a}origin" for a in "xyz" if given[a])
    return (0.0, 0.0, 0.0), ""


def _first_plane(pixels: ElementTree.Element) -> ElementTree.Element | None:
    first = [
        p for p in _children(pixels, "Plane") if all(p.get(f"The{a}", "0") == "0" for a in "ZCT")
    ]
    return first[0] if first else None
