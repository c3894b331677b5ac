"""The metadata of our OME-Zarr images, checked: what is absurd is named at once, all faults of it.

``OUT.zarr/zarr.json`` describes the image (attributes ``cristae`` and ``ome``), ``OUT.zarr/N/
zarr.json`` the array of level N. Everything in them is a person's to change, so nothing is taken
for granted.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cristae.engine.files import read_json
from cristae.errors import InputError, raise_faults
from cristae.grid import Triple
from cristae.volumes.intensity import INTENSITY_ATTRIBUTE, IntensityStatistics
from cristae.volumes.padding import PADDING_ATTRIBUTE, Padding
from cristae.volumes.volume import MOST_VOXELS, Kind, Nanometres

AXES = ("z", "y", "x")
_NUMBERS = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
DTYPES = (*_NUMBERS, "bool", "float16", "float32", "float64")


@dataclass(frozen=True)
class ArrayMetadata:
    """What an array of ours says of itself.

    Attributes:
        lead: Elements of the axis before z, y, x; None where there is none.
        shape: Extent (z, y, x) in voxels.
        dtype: Type of the voxels.
        chunk: Read unit (z, y, x).
        shard: Write unit (z, y, x).
    """

    lead: int | None
    shape: Triple
    dtype: np.dtype[Any]
    chunk: Triple
    shard: Triple


@dataclass(frozen=True)
class ImageMetadata:
    """What an image of ours says of itself.

    Attributes:
        attributes: All under ``cristae``.
        channels: Their names, or None.
        voxel_size_nm: Voxel size (z, y, x), or None where it is unknown.
        origin_nm: Centre of voxel 0 (z, y, x).
        kind: What the voxels are.
        record: Of the stage that finished it; None where none did.
    """

    attributes: Mapping[str, Any]
    channels: tuple[str, ...] | None
    voxel_size_nm: Nanometres | None
    origin_nm: Nanometres
    kind: Kind | None
    record: Mapping[str, Any] | None


def read_metadata(path: Path) -> Mapping[str, Any] | None:
    """A file of metadata; None where there is none.

    Raises:
        InputError: It cannot be read, is no JSON, or holds something else than names and values.
    """
    try:
        tree = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise InputError(f"{path}: found {_shown(tree)}, expected names and values")
    return tree


def is_ours(folder: Path) -> bool:
    """Whether a folder is an image that cristae made."""
    attributes = (read_metadata(folder / "zarr.json") or {}).get("attributes") or {}
    return isinstance(attributes, dict) and "cristae" in attributes


def image_metadata(path: Path) -> ImageMetadata:
    """What an image says of itself.

    Args:
        path: Its folder.

    Raises:
        InputError: No image of ours, or values that cannot be; all at once.
    """
    tree = read_metadata(path / "zarr.json")
    if tree is None:
        raise InputError(f"{path}: not an OME-Zarr image (no zarr.json)")
    attributes = tree.get("attributes") or {}
    ours = attributes.get("cristae") if isinstance(attributes, dict) else None
    if ours is None:
        raise InputError(f"{path}: not made by cristae")
    where = f"{path / 'zarr.json'}, attribute cristae"
    if not isinstance(ours, dict):
        raise InputError(f"{where}: found {_shown(ours)}, expected names and values")
    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "channels": (_is_names, "null or a list of different names"),
        "voxel_size_nm": (_is_size, "null or three positive numbers"),
        "origin_nm": (_is_place, "three numbers"),
        "kind": (_is_kind, f"null or one of {', '.join(get_args(Kind))}"),
        "record": (_is_record, "stage, inputs and settings"),
    }
    faults = [
        f"{key}: found {_shown(ours.get(key))}, expected {what}"
        for key, (fits, what) in expected.items()
        if not fits(ours.get(key))
    ]
    carried: dict[str, Callable[[Any], object]] = {
        INTENSITY_ATTRIBUTE: IntensityStatistics.from_dict,
        PADDING_ATTRIBUTE: Padding.from_dict,
    }
    for key, read in carried.items():
        try:
            _ = None if ours.get(key) is None else read(ours[key])
        except InputError as error:
            faults.append(f"{key}: {error}")
    raise_faults(where, faults)
    channels, size, origin = ours["channels"], ours["voxel_size_nm"], ours["origin_nm"]
    return ImageMetadata(
        attributes=ours,
        channels=tuple(channels) if channels else None,
        voxel_size_nm=(size[0], size[1], size[2]) if size else None,
        origin_nm=(origin[0], origin[1], origin[2]),
        kind=ours["kind"],
        record=ours.get("record"),
    )


def array_metadata(path: Path, channels: tuple[str, ...] | None) -> ArrayMetadata:
    """What an array of ours says of itself.

    Args:
        path: Its folder.
        channels: Of the image it belongs to.

    Raises:
        InputError: No array, or values that cannot be; all at once.
    """
    where, tree = str(path / "zarr.json"), read_metadata(path / "zarr.json")
    if tree is None:
        raise InputError(f"{path}: no array (zarr.json)")
    axes = 3 if channels is None else 4
    shape: Any = tree.get("shape")
    dtype: Any = tree.get("data_type")
    shard: Any = _inside(tree, "chunk_grid", "configuration", "chunk_shape")
    codecs = tree.get("codecs")
    first = codecs[0] if isinstance(codecs, list) and codecs else None
    sharded = isinstance(first, dict) and first.get("name") == "sharding_indexed"
    chunk: Any = _inside(first, "configuration", "chunk_shape") if sharded else shard
    faults = [
        f"{key}: found {_shown(found)}, expected {axes} positive whole numbers"
        for key, found in (("shape", shape), ("chunk_grid", shard), ("codecs, chunk_shape", chunk))
        if not _is_extent(found, axes)
    ]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        faults.append(f"data_type: found {_shown(dtype)}, expected real numbers")
    if not faults:
        if math.prod(shape) > MOST_VOXELS:
            faults.append(f"shape: found {_shown(shape)}, expected 2**53 voxels at most")
        if channels is not None and shape[0] != len(channels):
            faults.append(f"shape: found {_shown(shape)} with {len(channels)} names of channels")
        if any(s % c for s, c in zip(shard, chunk, strict=True)):
            faults.append(f"chunk_grid: found {_shown(shard)}, expected multiples of {chunk}")
    raise_faults(where, faults)
    return ArrayMetadata(
        lead=None if channels is None else shape[0],
        shape=(shape[-3], shape[-2], shape[-1]),
        dtype=np.dtype(dtype),
        chunk=(chunk[-3], chunk[-2], chunk[-1]),
        shard=(shard[-3], shard[-2], shard[-1]),
    )


def level_steps(path: Path) -> list[tuple[str, Triple]]:
    """The smaller levels of an image: the name of each, and its voxels of level 0 along z, y, x.

    Raises:
        InputError: Metadata of levels that cannot be read.
    """
    tree = read_metadata(path / "zarr.json") or {}
    try:
        first, *others = tree["attributes"]["ome"]["multiscales"][0]["datasets"]
        steps = []
        for dataset in others:
            sides = zip(_scale_of(dataset), _scale_of(first), strict=True)
            z, y, x = (round(a / b) for a, b in sides)
            name = dataset["path"]
            if min(z, y, x) < 1 or not isinstance(name, str) or Path(name).name != name:
                raise InputError(f"level {_shown(name)} is {z} x {y} x {x} voxels of level 0")
            steps.append((name, (z, y, x)))
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, StopIteration) as error:
        raise InputError(
            f"{path / 'zarr.json'}, attribute ome: levels that cannot be read: {error!r}"
        ) from error
    return steps


def ome_metadata(
    name: str,
    levels: list[tuple[str, Nanometres, Nanometres]],
    voxel_size_nm: Nanometres | None,
    channels: tuple[str, ...] | None,
    kind: Kind | None = None,
) -> dict[str, Any]:
    """The ``ome`` attribute (0.5): one multiscale with a scale and a translation a level.

    Labels say that they are labels, so that viewers give each a colour of its own.

    Args:
        name: Name of the image.
        levels: Path, voxel size and origin (centre of voxel 0) of each level, in nm where known.
        voxel_size_nm: None where the size is unknown: axes then carry no unit.
        channels: Names of the channels, or None.
        kind: What the voxels are.
    """
    unit = {} if voxel_size_nm is None else {"unit": "nanometer"}
    axes: list[dict[str, str]] = [{"name": a, "type": "space", **unit} for a in AXES]
    ones, zeros = ([], []) if channels is None else ([1.0], [0.0])
    if channels is not None:
        axes.insert(0, {"name": "c", "type": "channel"})
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [*ones, *(float(v) for v in scale)]},
                {"type": "translation", "translation": [*zeros, *(float(v) for v in origin)]},
            ],
        }
        for path, scale, origin in levels
    ]
    multiscale = {"name": name, "axes": axes, "datasets": datasets}
    marks: dict[str, Any] = {"image-label": {}} if kind == "labels" else {}
    return {"version": "0.5", "multiscales": [multiscale], **marks}


def _scale_of(dataset: Mapping[str, Any]) -> list[float]:
    """Voxel size (z, y, x) that a level's metadata names."""
    transforms = dataset["coordinateTransformations"]
    return next(list(t["scale"]) for t in transforms if t["type"] == "scale")[-3:]


def _inside(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) < 1e300 and math.isfinite(value)


def _is_extent(value: Any, axes: int) -> bool:
    """As many positive whole numbers as there are axes."""
    numbers = value if isinstance(value, list) and len(value) == axes else [None]
    return all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)


def _is_names(value: Any) -> bool:
    names = [] if value is None else value
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names)
    )


def _is_place(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
    return value is None or (_is_place(value) and min(value) > 0)


def _is_kind(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in get_args(Kind))


def _is_record(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("stage"), str)
        and all(isinstance(value.get(key), dict) for key in ("inputs", "settings"))
    )
