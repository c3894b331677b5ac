"""Zarr arrays and OME-Zarr images (0.1 to 0.5) that cristae did not make, Zarr v2 and v3.

An OME-Zarr image is read at its first, full-size level. Axes of one element are dropped, a longer
channel axis stays; a longer time axis needs an index. Of a group with several images or arrays, a
series picks one. Chunks that are not there hold the fill value, as Zarr has it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from cristae.engine.files import read_json
from cristae.engine.identity import Folder, Identity
from cristae.engine.paths import file_store
from cristae.errors import InputError, raise_faults
from cristae.volumes.formats.attributes import axis_names, place_of
from cristae.volumes.formats.axes import Axes, OpenOptions, arrange, is_unnamed
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.image_metadata import DTYPES, is_ours
from cristae.volumes.formats.multiscale import (
    Level,
    full_level,
    multiscales_of,
    place_of_level,
)
from cristae.volumes.formats.ome_zarr import ZarrReader, as_level, open_ome_zarr, stamp_of
from cristae.volumes.formats.pages import plain_dtype
from cristae.volumes.formats.slices import natural_key
from cristae.volumes.formats.zarr_chunks import ChunkReader, load_stored
from cristae.volumes.volume import Reader, Volume

MARKERS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_DEPTH = 5
_SHOWN = 20
_LONG = 200
_V2_DTYPE = re.compile(r"[<>|=]?(?:[uif][1248]|b1)")


@dataclass(frozen=True)
class Node:
    """A Zarr array or group: its folder, its attributes, and how it is opened."""

    path: Path
    metadata: Path
    attributes: Mapping[str, Any]
    is_array: bool
    driver: str

    @property
    def is_image(self) -> bool:
        """Whether it is a group with a multiscale."""
        return not self.is_array and bool(multiscales_of(self.attributes))


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((folder / marker).is_file() for marker in MARKERS)


def open_zarr(path: Path, options: OpenOptions) -> Volume:
    """Open what cristae wrote, or any other Zarr (`open_foreign_zarr`)."""
    if is_ours(path) and not options.index:  # cristae knows the axes of what it wrote
        return open_ome_zarr(path, options.name)
    return as_level(open_foreign_zarr(path, options))


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
    node = read_node(Path(path).absolute())
    if node is None:
        raise InputError(f"{options.name}: not a Zarr array or group")
    if node.is_array:
        if options.series is not None:
            raise InputError(f"{options.name}: an array, there is no series {options.series}")
        return _open_array(node, None, options)
    if not node.is_image:
        node = _one_of(node, options)
        return _open_array(node, None, options) if node.is_array else _open_image(node, 0, options)
    return _open_image(node, _multiscale_meant(node, options), options)


def read_node(folder: Path) -> Node | None:
    """The Zarr node of a folder, None where it is none.

    Raises:
        InputError: Metadata that is no JSON.
    """
    try:
        v3 = read_json(folder / "zarr.json")
        if v3 is not None:
            is_array = v3.get("node_type") == "array"
            attributes = _mapping(v3.get("attributes"))
            return Node(folder, folder / "zarr.json", attributes, is_array, "zarr3")
        for marker in (".zarray", ".zgroup", ".zattrs"):
            if (folder / marker).is_file():
                attributes = _mapping(read_json(folder / ".zattrs"))
                return Node(folder, folder / marker, attributes, marker == ".zarray", "zarr")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder}: metadata cannot be read: {error}") from error
    return None


def _mapping(attributes: Any) -> Mapping[str, Any]:
    if attributes is not None and not isinstance(attributes, Mapping):
        raise ValueError(f"attributes are {str(attributes)[:40]!r}, expected keys and values")
    return attributes or {}


def folder_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of change of every file below a folder."""
    for parent, _, names in os.walk(folder):
        for file in names:
            full = os.path.join(parent, file)
            status = os.stat(full)
            yield os.path.relpath(full, folder), status.st_size, status.st_mtime_ns


def _one_of(group: Node, options: OpenOptions) -> Node:
    """The only image or array of a group, or the one that the options pick."""
    found = list(_candidates(group.path, 3, _DEPTH)) or list(_candidates(group.path, 2, _DEPTH))
    names = [str(node.path.relative_to(group.path)) for node in found]
    if options.series is not None:
        number = _numbered(names, [_title(node) for node in found], options)
        return found[number]
    if len(found) != 1:
        listed = "".join(f"\n  - {options.name.rstrip('/')}/{name}" for name in names[:_SHOWN])
        more = f"\n  - and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise InputError(
            f"{options.name}: found {len(found)} arrays or images, expected exactly one (or the "
            f"path of one, or --series N){':' if found else ''}{listed}{more}"
        )
    return found[0]


def _multiscale_meant(node: Node, options: OpenOptions) -> int:
    """Number of the multiscale of an image: the first, unless the options pick another."""
    scales = multiscales_of(node.attributes)
    if options.series is None:
        return 0
    names = [str(scale.get("name", i)) for i, scale in enumerate(scales)]
    return _numbered(names, names, options)


def _numbered(names: list[str], titles: list[str], options: OpenOptions) -> int:
    """Number of the series that the options pick: by its path or name, or counted from 0."""
    wanted = str(options.series)
    for known in (names, titles):
        if wanted.strip("/") in known:
            return known.index(wanted.strip("/"))
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    listed = "".join(f"\n  - {i}  {name}" for i, name in enumerate(names[:_SHOWN]))
    raise InputError(f"{options.name}: no series {wanted}; found {len(names)}:{listed}")


def _title(node: Node) -> str:
    scales = multiscales_of(node.attributes)
    return str(scales[0].get("name", "")) if scales else ""


def _candidates(folder: Path, fewest: int, depth: int) -> Iterator[Node]:
    """Images, and arrays of that many dimensions outside of images, below a group."""
    for entry in sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name)):
        node = read_node(entry) if entry.is_dir() else None
        if node is None:
            continue
        if node.is_image or (node.is_array and _dimensions(node) >= fewest):
            yield node
        elif not node.is_array and depth:
            yield from _candidates(entry, fewest, depth - 1)


def _dimensions(node: Node) -> int:
    tree = read_json(node.metadata) or {}
    shape = tree.get("shape")
    return len(shape) if isinstance(shape, list) else 0


def _open_image(node: Node, number: int, options: OpenOptions) -> Volume:
    name = options.name
    level = full_level(multiscales_of(node.attributes)[number], name)
    array = read_node(node.path / level.path)
    if array is None or not array.is_array:
        raise InputError(f"{name}: no array {level.path!r}, which the metadata names")
    volume = _open_array(array, level, options)
    ome = node.attributes.get("ome", node.attributes)
    return volume.with_(
        channels=_channel_names(ome, volume.channels),
        kind="labels" if "image-label" in ome else None,
    )


def _open_array(node: Node, level: Level | None, options: OpenOptions) -> Volume:
    name = options.name
    stored = _stored(node)
    shape, dtype = stored.shape, stored.dtype
    if dtype.kind not in "uifb":
        raise InputError(f"{name}: found dtype {dtype}, expected real numbers")
    if not 2 <= len(shape) <= 5:
        raise InputError(f"{name}: found shape {shape}, expected 2 to 5 axes")
    names, source = _axis_names(node, level, stored.labels)
    axes = arrange(names, shape, options, source)
    place = (
        place_of([("", node.attributes)], axes) if level is None else place_of_level(level, axes)
    )
    return Volume(
        name=name,
        reader=_reader(node, stored, axes),
        shape=axes.shape,
        dtype=plain_dtype(dtype),
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        voxel_size_nm=place.voxel_size_nm,
        origin_nm=place.origin_nm,
        chunk_shape=axes.spatial(stored.chunk),
        shard_shape=axes.spatial(stored.shard),
        size_on_disk=sum(size for _, size, _ in folder_files(node.path)),
        identity=Identity((Folder(name, str(node.path)),)).read_as(*options.reading),
        found={"axes": axes.told, **place.found},
    )


def _axis_names(node: Node, level: Level | None, labels: list[str]) -> tuple[list[str] | None, str]:
    """Names of the axes and where they were found; the image's, the array's, or attributes."""
    if level is not None:
        return list(level.names), "OME axes"
    if not is_unnamed(labels):
        return labels, "dimension_names"
    return axis_names(node.attributes)


@dataclass(frozen=True)
class _Stored:
    """An array as it is stored; ``here`` where its chunks are not decoded by tensorstore."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    labels: list[str]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    here: bool = False


def _stored(node: Node) -> _Stored:
    """What an array says of itself.

    Raises:
        InputError: It cannot be read; a codec that is not known is named.
    """
    _check_metadata(node)
    spec = {"driver": node.driver, "kvstore": file_store(node.path)}
    try:
        store = tensorstore.open(spec, open=True, read=True).result()
    except (ValueError, OSError) as error:
        if any(word in str(error) for word in ("codec", "compressor", "filters")):
            array = load_stored(node.path)
            labels = [str(name or "") for name in array.names]
            return _Stored(array.shape, array.dtype, labels, array.chunk, array.chunk, here=True)
        raise InputError(f"{node.path}: Zarr array cannot be opened: {_short(error)}") from error
    shape = tuple(int(n) for n in store.shape)
    chunk = store.chunk_layout.read_chunk.shape or shape
    shard = store.chunk_layout.write_chunk.shape or chunk
    return _Stored(
        shape,
        np.dtype(store.dtype.numpy_dtype),
        list(store.domain.labels),
        tuple(int(n or 1) for n in chunk),
        tuple(int(n or 1) for n in shard),
    )


def _check_metadata(node: Node) -> None:
    """Refuse a shape or type that no array here has; tensorstore would not say which it is."""
    tree = read_json(node.metadata)
    if not isinstance(tree, dict):
        raise InputError(f"{node.metadata}: no Zarr metadata found")
    key = "data_type" if node.driver == "zarr3" else "dtype"
    shape, dtype = tree.get("shape"), tree.get(key)
    faults = []
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        faults.append(f"shape: found {str(shape)[:_LONG]}, expected whole numbers")
    if not isinstance(dtype, str) or not (dtype in DTYPES or _V2_DTYPE.fullmatch(dtype)):
        found = str(dtype)[:_LONG]
        faults.append(f"{key}: found {found}, expected real numbers of up to 64 bits")
    raise_faults(str(node.metadata), faults)


def _reader(node: Node, stored: _Stored, axes: Axes) -> Reader:
    path, stamp = str(node.path), stamp_of(node.metadata)
    if stored.here:
        return ChunkReader(path, stamp, axes)
    return ZarrReader(path, node.driver, stamp, None if axes.plain else axes)


def _short(error: Exception) -> str:
    """The last reason that tensorstore gives, without where in its own code it arose."""
    text = str(error).split(" [", 1)[0]
    return text.rsplit(": ", 1)[-1] if len(text) > _LONG else text


def _channel_names(
    ome: Mapping[str, Any], channels: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    omero = ome.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    found = listed if isinstance(listed, list) else []
    names = tuple(str(c.get("label", "")) if isinstance(c, Mapping) else "" for c in found)
    if channels is None or len(names) != len(channels) or len(set(names)) != len(names):
        return channels
    return names if all(names) else channels


FORMAT = Format("Zarr", "a Zarr folder", open_zarr, marker=is_zarr, reads=("axes",))
