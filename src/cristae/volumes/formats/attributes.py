"""What the attributes beside an array say of its axes, voxel size and origin: Zarr, N5 and HDF5.

=====================================  =======================================================
``_ARRAY_DIMENSIONS``, ``axis_names``,  names of the axes, in stored order
``axes``, ``axistags``
``element_size_um``                    a size in um
``voxel_size``, ``resolution``, ...    a size; ``units`` or ``unit`` say of what
``offset``, ``translate``, ...         an origin, in the same units
``pixelResolution``                    N5: x, y, z and one unit
``transform``                          axes, scale, translate and units by name
=====================================  =======================================================

Values stand in the order in which the axes are stored, those of N5 in the order x, y, z.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cristae.engine.files import parse_json
from cristae.volumes.formats.axes import SPACE, Axes
from cristae.volumes.formats.units import Placement, lengths, listed_values, spread

Attributes = Mapping[str, Any]

_NAMES = ("_ARRAY_DIMENSIONS", "axis_names", "axes", "axis_order", "dimension_names")
_SIZES = ("voxel_size", "resolution", "pixel_size", "spacing", "element_size")
_ORIGINS = ("offset", "translate", "translation", "origin")
_SUFFIXES = ("nm", "um")
_OF_N5 = ("painteraData", "multiScale", "downsamplingFactors", "dataType", "blockSize")
"""Attributes beside which a resolution is in the order x, y, z."""


def axis_names(attributes: Attributes) -> tuple[list[str] | None, str]:
    """Names of an array's axes in stored order, None where there are none; and where they are."""
    for key in _NAMES:
        if key in attributes:
            names = _names(attributes[key])
            if names:
                return names, f"attribute {key}"
    tags = _axistags(attributes.get("axistags"))
    if tags:
        return [str(tag.get("key", "")) for tag in tags], "attribute axistags"
    transform = attributes.get("transform")
    if isinstance(transform, Mapping) and _names(transform.get("axes")):
        names = _names(transform["axes"])
        backward = transform.get("ordering") == "F"
        return names[::-1] if backward else names, "attribute transform"
    return None, ""


def place_of(levels: Sequence[tuple[str, Attributes]], axes: Axes) -> Placement:
    """Voxel size and origin as the attributes beside an array state them.

    Args:
        levels: What to look through: the array's own attributes, then those of the groups it lies
            in, each with words for where it is.
        axes: How the array is stored.

    Returns:
        The first that states a size in a unit; else why the first that states one does not count.
    """
    found = [place for where, attributes in levels for place in _places(where, attributes, axes)]
    sized = [place for place in found if place.voxel_size_nm is not None]
    return next(iter(sized or found), Placement(found={"voxel_size": "nothing states it"}))


def _places(where: str, attributes: Attributes, axes: Axes) -> list[Placement]:
    """All that one set of attributes says, the surest first."""
    places = []
    transform = attributes.get("transform")
    if isinstance(transform, Mapping) and "scale" in transform:
        places.append(_by_name(f"attribute transform{where}", transform))
    if isinstance(attributes.get("pixelResolution"), Mapping):
        pixel = attributes["pixelResolution"]
        values, unit = pixel.get("dimensions"), pixel.get("unit")
        told = (f"attribute pixelResolution{where} (x, y, z)", values, [unit] * 3)
        places.append(_stated(told, attributes, axes, where, backward=True))
    for name in _SIZES:
        for suffix in _SUFFIXES:
            if f"{name}_{suffix}" in attributes:
                values = attributes[f"{name}_{suffix}"]
                told = (f"attribute {name}_{suffix}{where}", values, [suffix])
                places.append(_stated(told, attributes, axes, where))
    units = attributes.get("units", attributes.get("unit"))
    for name in _SIZES:
        if name in attributes:
            backward = any(key in attributes for key in _OF_N5)
            order = " (x, y, z)" if backward else ""
            told = (f"attribute {name}{where}{order}", attributes[name], listed_values(units))
            places.append(_stated(told, attributes, axes, where, backward=backward))
    tags = _axistags(attributes.get("axistags"))
    if any(tag.get("resolution") for tag in tags):
        values = [tag.get("resolution") for tag in tags]
        told = (f"attribute axistags{where}", values, [tag.get("unit") for tag in tags])
        places.append(_stated(told, attributes, axes, where))
    return places


def _stated(
    told: tuple[str, Any, list[Any]],
    attributes: Attributes,
    axes: Axes,
    where: str,
    backward: bool = False,
) -> Placement:
    """A size, its units, and the origin that stands beside it."""
    words, values, units = told
    sizes = _of_space(values, axes, backward)
    of_axes = _of_space(units, axes, backward) or (None, None, None)
    if sizes is None:
        count = len(listed_values(values))
        return Placement(found={"voxel_size": f"{words} has {count} values for {_axes_text(axes)}"})
    named = [None if unit is None else str(unit) for unit in of_axes]
    size, found = lengths(words, sizes, named, positive=True)
    place = Placement(size, found={"voxel_size": found})
    key = next((name for name in _ORIGINS if name in attributes), None)
    if key is None:
        return place
    corner = _of_space(attributes[key], axes, backward) or (None, None, None)
    origin, found_origin = lengths(f"attribute {key}{where}", corner, named, positive=False)
    words_of = {"voxel_size": found, "origin": found_origin}
    return Placement(size, origin or (0.0, 0.0, 0.0), words_of)


def _by_name(words: str, transform: Attributes) -> Placement:
    """A size and an origin whose axes have names."""
    names = [name.lower() for name in _names(transform.get("axes"))] or list(SPACE)
    units = listed_values(transform.get("units"))
    units = units * len(names) if len(units) == 1 else units

    def of_space(values: Any) -> list[Any]:
        by_name = dict(zip(names, listed_values(values), strict=False))
        return [by_name.get(name) for name in SPACE]

    named = [None if unit is None else str(unit) for unit in of_space(units)]
    size, found = lengths(words, of_space(transform["scale"]), named, positive=True)
    if "translate" not in transform:
        return Placement(size, found={"voxel_size": found})
    origin, at = lengths(words, of_space(transform["translate"]), named, positive=False)
    return Placement(size, origin or (0.0, 0.0, 0.0), {"voxel_size": found, "origin": at})


def _of_space(values: Any, axes: Axes, backward: bool) -> tuple[Any, Any, Any] | None:
    listed = listed_values(values)
    if backward and len(listed) >= len(SPACE):
        x, y, z = listed[:3]
        return z, y, x
    return spread(listed, axes)


def _names(value: Any) -> list[str]:
    """Axis names out of a text (``zyx``), a list of texts, or a list of descriptions."""
    if value is None:
        return []
    if isinstance(value, str | bytes):
        text = str(listed_values(value)[0])
        return text.split(",") if "," in text else list(text)
    if not isinstance(value, Sequence) and not hasattr(value, "__array__"):
        return []
    names = []
    for axis in list(value):
        name = axis.get("name", "") if isinstance(axis, Mapping) else listed_values(axis)[0]
        names.append(str(name).rstrip("^"))  # funlib marks channels so
    return names


def _axistags(value: Any) -> list[Mapping[str, Any]]:
    """The axes of vigra's ``axistags``, as ilastik writes them."""
    try:
        text = listed_values(value)[0] if isinstance(value, str | bytes) else value
        tree = parse_json(text, "axistags") if isinstance(text, str) else text
        axes = tree["axes"]
        return [tag for tag in axes if isinstance(tag, Mapping)]
    except (TypeError, ValueError, KeyError, IndexError):
        return []


def _axes_text(axes: Axes) -> str:
    return f"axes {', '.join(axes.names)}"
