"""Zarr arrays and OME-Zarr images (0.1 to 0.5) that cristae did not make, Zarr v2 and v3.

An OME-Zarr image is read at its first, full-size level. Axes of one element are dropped, a longer
channel axis stays; a longer time axis needs an index. A plain group must hold exactly one array or
image. Voxel sizes count where all three axes have a unit. Fingerprint: names, sizes and times of
change of all files of the array.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from cristae.engine.files import read_json
from cristae.engine.identity import Folder, Identity
from cristae.errors import InputError
from cristae.volumes.sources.axes import OpenOptions, arrange
from cristae.volumes.sources.ome_zarr import ZarrReader, stamp_of
from cristae.volumes.sources.pages import plain_dtype
from cristae.volumes.sources.units import known, size_from_attributes, to_nm
from cristae.volumes.volume import Nanometres, Volume

MARKERS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_DEPTH = 5


@dataclass(frozen=True)
class Node:
    """A Zarr array or group: its folder, its attributes, and how it is opened."""

    path: Path
    metadata: Path
    attributes: Mapping[str, Any]
    is_array: bool
    driver: str

    @property
    def multiscale(self) -> Mapping[str, Any] | None:
        """The first OME multiscale, if there is one."""
        ome = self.attributes.get("ome", self.attributes)
        scales = ome.get("multiscales") if isinstance(ome, Mapping) else None
        return scales[0] if scales else None


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((folder / marker).is_file() for marker in MARKERS)


def open_foreign_zarr(path: str | Path, options: OpenOptions | None = None) -> Volume:
    """Open a Zarr array, an OME-Zarr image, or a group that holds exactly one of them.

    Args:
        path: Folder of the array, image or group.
        options: How it is to be read.

    Raises:
        InputError: Metadata that cannot be used, no array or several (those there are listed), or
            axes that cannot be arranged as ([c,] z, y, x).
    """
    options = options or OpenOptions(str(path))
    node = read_node(Path(path))
    if node is None:
        raise InputError(f"{path}: not a Zarr array or group")
    if not node.is_array and node.multiscale is None:
        node = _only_one(node, str(path))
    if node.is_array:
        return _open_array(node, None, options)
    return _open_image(node, options)


def read_node(folder: Path) -> Node | None:
    """The Zarr node of a folder, None where it is none.

    Raises:
        InputError: Metadata that is no JSON.
    """
    try:
        v3 = read_json(folder / "zarr.json")
        if v3 is not None:
            is_array = v3.get("node_type") == "array"
            return Node(folder, folder / "zarr.json", v3.get("attributes") or {}, is_array, "zarr3")
        for marker in (".zarray", ".zgroup", ".zattrs"):
            if (folder / marker).is_file():
                attributes = read_json(folder / ".zattrs") or {}
                return Node(folder, folder / marker, attributes, marker == ".zarray", "zarr")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder}: metadata cannot be read: {error}") from error
    return None


def folder_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of change of every file below a folder."""
    for parent, _, names in os.walk(folder):
        for file in names:
            full = os.path.join(parent, file)
            status = os.stat(full)
            yield os.path.relpath(full, folder), status.st_size, status.st_mtime_ns


def _only_one(group: Node, source: str) -> Node:
    found = list(_candidates(group.path, _DEPTH))
    if len(found) != 1:
        names = [str(node.path.relative_to(group.path)) for node in found]
        listed = "".join(f"\n  - {source}/{name}" for name in names[:20])
        raise InputError(
            f"{source}: found {len(found)} arrays or images, expected exactly one (or the path of "
            f"one){':' if found else ''}{listed}"
        )
    return found[0]


def _candidates(folder: Path, depth: int) -> Iterator[Node]:
    """Images, and arrays of 3 or more dimensions outside of images, below a group."""
    for entry in sorted(folder.iterdir()):
        node = read_node(entry) if entry.is_dir() else None
        if node is None:
            continue
        if node.multiscale is not None or (node.is_array and len(_open(node).shape) >= 3):
            yield node
        elif not node.is_array and depth:
            yield from _candidates(entry, depth - 1)


def _open_image(node: Node, options: OpenOptions) -> Volume:
    name = options.name
    multiscale = node.multiscale or {}
    try:
        level = multiscale["datasets"][0]
        array = read_node(node.path / level["path"])
        axes = [_axis(axis) for axis in multiscale.get("axes", list("tczyx"))]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{name}: OME-Zarr metadata without {error}") from error
    if array is None or not array.is_array:
        raise InputError(f"{name}: no array {level['path']!r}, which the metadata names")
    volume = _open_array(array, [axis for axis, _ in axes], options)
    size, origin = _place(multiscale, level, axes)
    ome = node.attributes.get("ome", node.attributes)
    return volume.with_(
        voxel_size_nm=size,
        origin_nm=origin,
        channels=_channel_names(node.attributes, volume.channels),
        kind="labels" if "image-label" in ome else None,
    )


def _open_array(node: Node, names: list[str] | None, options: OpenOptions) -> Volume:
    name = options.name
    store = _open(node)
    shape = tuple(int(n) for n in store.shape)
    labels = [str(label).lower() for label in store.domain.labels]
    names = labels if names is None else names
    if len(names) != len(shape) or not 2 <= len(shape) <= 5:
        raise InputError(f"{name}: found shape {shape}, expected {len(names) or 3} axes, 2 to 5")
    axes = arrange(names, shape, options)
    turned = None if axes.plain else axes
    dtype = np.dtype(store.dtype.numpy_dtype)
    if dtype.kind not in "uifb":
        raise InputError(f"{name}: found dtype {store.dtype.name}, expected real numbers")
    chunk = store.chunk_layout.read_chunk.shape or shape
    shard = store.chunk_layout.write_chunk.shape or chunk
    files = list(folder_files(node.path))
    return Volume(
        name=name,
        reader=ZarrReader(str(node.path), node.driver, stamp_of(node.metadata), turned),
        shape=axes.shape,
        dtype=plain_dtype(dtype),
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        voxel_size_nm=size_from_attributes(node.attributes),
        chunk_shape=axes.spatial([int(n) for n in chunk]),
        shard_shape=axes.spatial([int(n) for n in shard]),
        size_on_disk=sum(size for _, size, _ in files),
        identity=Identity((Folder(name, str(node.path)),)).read_as(*options.reading),
    )


def _open(node: Node) -> Any:
    spec = {"driver": node.driver, "kvstore": {"driver": "file", "path": str(node.path)}}
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise InputError(f"{node.path}: Zarr array cannot be opened: {error}") from error


def _axis(axis: Any) -> tuple[str, str | None]:
    """Name and unit of an axis, which old versions give by name only."""
    if isinstance(axis, str):
        return axis.lower(), None
    return str(axis["name"]).lower(), axis.get("unit")


def _place(
    multiscale: Mapping[str, Any], level: Mapping[str, Any], axes: list[tuple[str, str | None]]
) -> tuple[Nanometres | None, Nanometres]:
    """Voxel size and origin (z, y, x) in nm; no size and a zero origin where a unit is missing."""
    # a level without a scale of its own has no known size
    inner = _transform(level.get("coordinateTransformations"), len(axes), 0.0)
    outer = _transform(multiscale.get("coordinateTransformations"), len(axes), 1.0)
    sizes: list[float | None] = []
    origin: list[float | None] = []
    for i, (name, unit) in enumerate(axes):
        if name in ("z", "y", "x"):
            sizes.append(to_nm(inner[0][i] * outer[0][i], unit))
            origin.append(to_nm(inner[1][i] * outer[0][i] + outer[1][i], unit))
    size = known(sizes)
    if size is None or any(value is None for value in origin):
        return None, (0.0, 0.0, 0.0)
    z, y, x = (float(value) for value in origin if value is not None)
    return size, (z, y, x)


def _transform(
    parts: list[Mapping[str, Any]] | None, count: int, default: float
) -> tuple[list[float], list[float]]:
    """Scale (the default where there is none) and translation of coordinate transformations."""
    scale, translation = [default] * count, [0.0] * count
    for part in parts or []:
        if part.get("type") == "scale" and len(part.get("scale", ())) == count:
            scale = [float(value) for value in part["scale"]]
        if part.get("type") == "translation" and len(part.get("translation", ())) == count:
            translation = [float(value) for value in part["translation"]]
    return scale, translation


def _channel_names(
    attributes: Mapping[str, Any], channels: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    omero = attributes.get("ome", attributes).get("omero") or {}
    names = tuple(str(channel.get("label", "")) for channel in omero.get("channels", ()))
    if channels is None or len(names) != len(channels) or len(set(names)) != len(names):
        return channels
    return names if all(names) else channels
