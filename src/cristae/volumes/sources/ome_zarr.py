"""OME-Zarr: ours is Zarr v3, sharded, version 0.5 metadata, level 0 at ``PATH/0``.

The write unit is the shard, which one call writes whole, so a killed writer leaves no half of it.
Shards of zeros only are not stored. Inside a shard lie chunks, the read unit.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from cristae.engine.files import merge_attributes, read_json, write_json
from cristae.engine.identity import Facts, Folder, Identity
from cristae.engine.ledger import record_fingerprint
from cristae.engine.paths import file_store, user_path
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.sources.axes import Axes
from cristae.volumes.sources.pages import plain_dtype
from cristae.volumes.volume import Array, Kind, Nanometres, Volume

CHUNK: Triple = (32, 128, 128)
SHARD: Triple = (64, 512, 512)
ZSTD_LEVEL = 1
AXES = ("z", "y", "x")
OURS = "cristae's attributes"
"""Where cristae keeps the place of what it wrote, in words."""

_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
"""How tensorstore says which error of the system a write met."""


@dataclass(frozen=True)
class Layout:
    """How an array lies on disk.

    Attributes:
        chunk: Read unit (z, y, x) in voxels.
        shard: Write unit (z, y, x) in voxels, whole multiples of the chunk.
    """

    chunk: Triple = CHUNK
    shard: Triple = SHARD

    def fitted(self, shape: Triple) -> "Layout":
        """The layout with nothing larger than an array of this shape needs."""
        chunk = tuple(min(c, n) for c, n in zip(self.chunk, shape, strict=True))
        shard = tuple(
            min(s // c0 * c, -(-n // c) * c)
            for s, c0, c, n in zip(self.shard, self.chunk, chunk, shape, strict=True)
        )
        return Layout((chunk[0], chunk[1], chunk[2]), (shard[0], shard[1], shard[2]))


@dataclass(frozen=True)
class ZarrReader:
    """Reads and writes boxes of one Zarr array through tensorstore.

    Attributes:
        path: Folder of the array.
        driver: tensorstore's driver: ``zarr3`` or ``zarr`` (v2).
        stamp: Changes when the array is made anew, so that no stale handle is used.
        axes: How its axes are read; None where they are stored as they are read.
    """

    path: str
    driver: str
    stamp: int
    axes: Axes | None = None

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: Data that cannot be read or decoded, with array and box.
        """
        axes = self.axes
        select = (..., *box.slices()) if axes is None else axes.select(box)
        try:
            array = np.asarray(self._store()[select].read().result())
        except (ValueError, OSError) as error:
            raise InputError(f"{self.path}, box {box}: {error}") from error
        array = array if axes is None else axes.turn(array)
        return array.astype(plain_dtype(array.dtype), copy=False)

    def write(self, box: Box, array: Array) -> None:
        """Put a box on disk.

        Raises:
            OSError: The system refuses, as where the disk is full.
        """
        # not copied: with the result nothing refers to the array any more
        store = self._store()[(..., *box.slices())]
        try:
            store.write(array, can_reference_source_data_indefinitely=True).result()
        except ValueError as error:
            if found := _SYSTEM_ERROR.search(str(error)):
                code = int(found[1])
                raise OSError(code, os.strerror(code), self.path) from error
            raise

    def _store(self) -> Any:
        return _open_store(self.path, self.driver, self.stamp)


@dataclass(frozen=True)
class Written:
    """A finished output of cristae: the id of its record, and the state of its array.

    Attributes:
        path: Folder of the image.
        id: Of its record.
    """

    path: str
    id: str

    def facts(self) -> Facts:
        """Both, whatever the path."""
        return {"id": self.id}


@lru_cache(maxsize=64)
def _open_store(path: str, driver: str, stamp: int) -> Any:
    spec = {"driver": driver, "kvstore": file_store(path)}
    return tensorstore.open(spec, open=True).result()


def create_ome_zarr(  # noqa: PLR0913 - the description of one array
    path: str | Path,
    *,
    shape: Triple,
    dtype: np.dtype[Any] | type | str,
    kind: Kind,
    voxel_size_nm: Nanometres | None,
    origin_nm: Nanometres = (0.0, 0.0, 0.0),
    channels: tuple[str, ...] | None = None,
    attributes: Mapping[str, Any] | None = None,
    layout: Layout | None = None,
) -> Volume:
    """Make an OME-Zarr image to be written block by block; an array already there is kept.

    Args:
        path: Folder of the image; the array is ``path/0``.
        shape: Extent (z, y, x) in voxels.
        dtype: Type of the voxels.
        kind: What the voxels are; stands in the attributes.
        voxel_size_nm: Voxel size (z, y, x) in nm, or None where unknown.
        origin_nm: Centre of voxel 0 (z, y, x) in nm.
        channels: Names of the channels for a (c, z, y, x) array; all lie in one shard.
        attributes: More to keep under the ``cristae`` attributes.
        layout: Chunk and shard shapes; clipped to the array.

    Returns:
        A volume that can be written; write whole shards (`Volume.shard_shape`).
    """
    path = user_path(path)
    layout = (layout or Layout()).fitted(shape)
    create_array(path / "0", shape=shape, dtype=np.dtype(dtype), channels=channels, layout=layout)
    size = voxel_size_nm and [float(v) for v in voxel_size_nm]
    origin = [float(v) for v in origin_nm]
    tree = read_json(path / "zarr.json") or {"zarr_format": 3, "node_type": "group"}
    ours = tree.setdefault("attributes", {}).setdefault("cristae", {})
    ours.update(kind=kind, voxel_size_nm=size, origin_nm=origin, **dict(attributes or {}))
    ours["channels"] = None if channels is None else list(channels)
    levels = [("0", voxel_size_nm or (1.0, 1.0, 1.0), origin_nm)]
    tree["attributes"]["ome"] = ome_metadata(path.stem, levels, voxel_size_nm, channels, kind)
    write_json(path / "zarr.json", tree)
    return open_ome_zarr(path)


def create_array(
    path: Path,
    *,
    shape: Triple,
    dtype: np.dtype[Any],
    channels: tuple[str, ...] | None = None,
    layout: Layout,
) -> None:
    """Make a sharded, zstd-compressed Zarr v3 array, or keep the same one already there."""
    lead = () if channels is None else (len(channels),)
    ones = () if channels is None else (1,)
    names = AXES if channels is None else ("c", *AXES)
    sharding = {
        "chunk_shape": [*ones, *layout.chunk],
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        ],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "index_location": "end",
    }
    grid = {"name": "regular", "configuration": {"chunk_shape": [*lead, *layout.shard]}}
    spec = {
        "driver": "zarr3",
        "kvstore": file_store(path),
        "metadata": {
            "shape": [*lead, *shape],
            "data_type": dtype.name,
            "fill_value": 0,
            "chunk_grid": grid,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": list(names),
        },
    }
    tensorstore.open(spec, create=True, open=True).result()


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


def open_ome_zarr(path: str | Path, name: str | None = None) -> Volume:
    """Open level 0 of an OME-Zarr image made by cristae.

    Args:
        path: Folder of the image.
        name: The source as the user wrote it; the path by default.

    Returns:
        The volume; it can be written, too.

    Raises:
        InputError: No such image, or metadata that cannot be used.
    """
    path = user_path(path)
    tree = read_json(path / "zarr.json")
    array = read_json(path / "0" / "zarr.json")
    if tree is None or array is None:
        raise InputError(f"{path}: not an OME-Zarr image (no zarr.json and 0/zarr.json)")
    ours = tree.get("attributes", {}).get("cristae")
    if ours is None:
        raise InputError(f"{path}: not made by cristae")
    channels = ours["channels"] and tuple(ours["channels"])
    z, y, x = array["shape"][-3:]
    chunk, shard = _chunks_of(array)
    record = ours.get("record")
    return Volume(
        name=name or str(path),
        reader=ZarrReader(str(path / "0"), "zarr3", stamp_of(path / "0" / "zarr.json")),
        shape=(z, y, x),
        dtype=np.dtype(array["data_type"]),
        channels=channels,
        voxel_size_nm=ours["voxel_size_nm"] and tuple(ours["voxel_size_nm"]),
        origin_nm=tuple(ours["origin_nm"]),
        kind=ours["kind"],
        chunk_shape=chunk,
        shard_shape=shard,
        attributes=ours,
        found={"voxel_size": OURS, "origin": OURS},
        identity=Identity((Written(str(path), record_fingerprint(record)),))
        if record
        else Identity((Folder(name or str(path), str(path)),)),
    )


def pyramid_levels(volume: Volume) -> list[tuple[Volume, Triple]]:
    """The smaller levels of an image made by cristae, in the place of the volume.

    Args:
        volume: From `open_ome_zarr`, or a part of it.

    Returns:
        Each level with the voxels (z, y, x) of level 0 in one of its own; none for other sources,
        and no level whose voxels do not begin and end where the volume does.
    """
    reader = volume.reader
    if (
        not isinstance(reader, ZarrReader)
        or reader.axes is not None
        or Path(reader.path).name != "0"
    ):
        return []
    folder = Path(reader.path).parent
    attributes = (read_json(folder / "zarr.json") or {}).get("attributes", {})
    if "cristae" not in attributes:
        return []
    whole = read_json(Path(reader.path) / "zarr.json")["shape"][-3:]
    first, *others = attributes["ome"]["multiscales"][0]["datasets"]
    levels = []
    for dataset in others:
        z, y, x = (round(a / b) for a, b in zip(_scale_of(dataset), _scale_of(first), strict=True))
        if _meets(volume, (z, y, x), whole):
            levels.append((_level(volume, folder / dataset["path"], (z, y, x)), (z, y, x)))
    return levels


def _scale_of(dataset: Mapping[str, Any]) -> list[float]:
    """Voxel size (z, y, x) that a level's metadata names."""
    transforms = dataset["coordinateTransformations"]
    return next(list(t["scale"]) for t in transforms if t["type"] == "scale")[-3:]


def _meets(volume: Volume, step: Triple, whole: Sequence[int]) -> bool:
    """Whether a volume begins and ends at voxel edges of a level."""
    return all(
        corner % n == 0 and ((corner + extent) % n == 0 or corner + extent == all_of_it)
        for corner, extent, n, all_of_it in zip(
            volume.corner, volume.shape, step, whole, strict=True
        )
    )


def _level(volume: Volume, path: Path, step: Triple) -> Volume:
    """The volume in a level ``step`` times coarser."""
    metadata = path / "zarr.json"
    chunk, shard = _chunks_of(read_json(metadata))
    z, y, x = (-(-extent // n) for extent, n in zip(volume.shape, step, strict=True))
    cz, cy, cx = (corner // n for corner, n in zip(volume.corner, step, strict=True))
    return replace(
        volume,
        reader=ZarrReader(str(path), "zarr3", stamp_of(metadata)),
        shape=(z, y, x),
        corner=(cz, cy, cx),
        chunk_shape=chunk,
        shard_shape=shard,
    )


def update_attributes(path: str | Path, **changes: Any) -> None:
    """Set keys of the ``cristae`` attributes of an image, atomically."""
    merge_attributes(user_path(path), changes)


def stamp_of(metadata: Path) -> int:
    """What changes when an array is made anew: its metadata's time of change."""
    return metadata.stat().st_mtime_ns


def _chunks_of(array: Mapping[str, Any]) -> tuple[Triple, Triple]:
    shard = array["chunk_grid"]["configuration"]["chunk_shape"]
    codec = array["codecs"][0]
    sharded = codec["name"] == "sharding_indexed"
    chunk = codec["configuration"]["chunk_shape"] if sharded else shard
    return tuple(chunk[-3:]), tuple(shard[-3:])
