"""OME-Zarr metadata (0.1 to 0.5): axes, levels, and where an image lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cristae.errors import InputError
from cristae.volumes.formats.attributes import place_of
from cristae.volumes.formats.axes import SPACE, Axes
from cristae.volumes.formats.units import Placement, lengths

Tree = Mapping[str, Any]

_USUAL = "tczyx"
"""Axes of an image that names none, of version 0.1 and 0.2."""


@dataclass(frozen=True)
class Level:
    """The full-size level of a multiscale.

    Attributes:
        path: Of its array, below the image.
        names: Names of its axes in stored order.
        units: Their units, None where there is none.
        transforms: Of the level, then of the multiscale, in the order in which they are applied.
        own: The level's entry in the metadata.
    """

    path: str
    names: tuple[str, ...]
    units: tuple[str | None, ...]
    transforms: tuple[Any, ...]
    own: Tree


def multiscales_of(attributes: Tree) -> list[Tree]:
    """The multiscales that a group's attributes list; none where they are none."""
    ome = attributes.get("ome", attributes)
    scales = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return [s for s in scales if isinstance(s, Mapping)] if isinstance(scales, list) else []


def full_level(multiscale: Tree, name: str) -> Level:
    """The first level of a multiscale.

    Raises:
        InputError: Metadata that names no level, or no axes; ``name`` is for the message.
    """
    try:
        own = multiscale["datasets"][0]
        axes = [_axis(axis) for axis in multiscale.get("axes", list(_USUAL))]
        path = str(own["path"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: OME-Zarr metadata without {error}") from error
    transforms = []
    for tree in (own, multiscale):
        told = tree.get("coordinateTransformations") or []
        transforms += list(told) if isinstance(told, list) else [told]
    return Level(path, tuple(n for n, _ in axes), tuple(u for _, u in axes), tuple(transforms), own)


def place_of_level(level: Level, axes: Axes) -> Placement:
    """Voxel size and origin of a level, each axis in its own unit.

    The transformations are applied in their order: voxel index times scale plus shift. A level
    without a scale, and one that is turned or sheared, has no known size.
    """
    where = "OME coordinateTransformations"
    scaled = [t for t in level.transforms if not _shifts_only(t)]
    if not scaled and isinstance(level.own.get("transform"), Mapping):
        return place_of([("", {"transform": level.own["transform"]})], axes)
    if not scaled:
        return Placement(found={"voxel_size": "the OME metadata states no scale"})
    count = len(level.names)
    scale, shift = [1.0] * count, [0.0] * count
    for transform in level.transforms:
        try:
            step, by = _scale_and_shift(transform, count)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            return Placement(found={"voxel_size": f"{where}: {error}"})
        scale = [a * b for a, b in zip(scale, step, strict=True)]
        shift = [a * b + c for a, b, c in zip(shift, step, by, strict=True)]
    units = axes.spatial(level.units, None)
    size, found = lengths(where, axes.spatial(scale, None), units, positive=True)
    if size is None:
        return Placement(found={"voxel_size": found})
    origin, at = lengths(where, axes.spatial(shift, None), units, positive=False)
    return Placement(size, origin or (0.0, 0.0, 0.0), {"voxel_size": found, "origin": at})


def _shifts_only(transform: Any) -> bool:
    kind = transform.get("type") if isinstance(transform, Mapping) else None
    if kind == "sequence":
        return all(_shifts_only(part) for part in transform.get("transformations") or [])
    return kind in ("identity", "translation")


def _scale_and_shift(transform: Any, count: int) -> tuple[list[float], list[float]]:
    """What a transformation does to each axis.

    Raises:
        ValueError: It is of a kind that turns axes, is kept elsewhere, or has other numbers.
    """
    if not isinstance(transform, Mapping):
        raise ValueError(f"{transform!r} is no transformation")
    kind = transform.get("type")
    ones, zeros = [1.0] * count, [0.0] * count
    if kind == "identity":
        return ones, zeros
    if kind == "scale":
        return _numbers(transform, "scale", count), zeros
    if kind == "translation":
        return ones, _numbers(transform, "translation", count)
    if kind == "sequence":
        scale, shift = ones, zeros
        for part in transform["transformations"]:
            step, by = _scale_and_shift(part, count)
            scale = [a * b for a, b in zip(scale, step, strict=True)]
            shift = [a * b + c for a, b, c in zip(shift, step, by, strict=True)]
        return scale, shift
    if kind == "affine":
        return _diagonal(transform["affine"], count)
    raise ValueError(f"a transformation of type {kind!r} is not known")


def _diagonal(matrix: Any, count: int) -> tuple[list[float], list[float]]:
    if matrix and not isinstance(matrix[0], Sequence):  # one row after the other, as 0.5-dev has it
        matrix = [matrix[i : i + count + 1] for i in range(0, len(matrix), count + 1)]
    rows = [[float(value) for value in row] for row in matrix][:count]
    if len(rows) != count or any(len(row) != count + 1 for row in rows):
        raise ValueError(f"an affine matrix of another size than {count} x {count + 1}")
    if any(row[j] for i, row in enumerate(rows) for j in range(count) if i != j):
        raise ValueError("the affine transformation turns or shears the axes")
    return [row[i] for i, row in enumerate(rows)], [row[count] for row in rows]


def _numbers(transform: Tree, key: str, count: int) -> list[float]:
    if key not in transform:
        raise ValueError(f"a {key} kept elsewhere ({transform.get('path', 'nowhere')})")
    values = transform[key]
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{key} {values!r} for {count} axes")
    return [float(value) for value in values]


def _axis(axis: Any) -> tuple[str, str | None]:
    """Name and unit of an axis, which old versions give by name only."""
    if isinstance(axis, str):
        return axis.lower(), None
    name, kind = str(axis["name"]).lower(), axis.get("type")
    if name not in (*SPACE, "c", "t") and kind in ("channel", "time"):
        name = kind[0]
    unit = axis.get("unit")
    return name, None if unit is None else str(unit)
