"""OME-Zarr: ours is Zarr v3, sharded, version 0.5 metadata, level 0 at ``PATH/0``.

The write unit is the shard, which one call writes whole, so a killed writer leaves no half of it.
Shards of zeros only are not stored. Inside a shard lie chunks, the read unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from cristae.engine.files import merge_attributes, read_json, write_json
from cristae.engine.identity import Facts, Folder, Identity, Place
from cristae.engine.manifest import check_manifest, check_there, manifest_stamp
from cristae.engine.paths import SINGLE_WRITER, file_store, user_path
from cristae.engine.records import is_unfinished, record_fingerprint
from cristae.engine.stored import array_state
from cristae.errors import InputError, OutputExistsError
from cristae.grid import Box, Triple
from cristae.volumes.formats.axes import Axes
from cristae.volumes.formats.image_metadata import (
    AXES,
    array_metadata,
    image_metadata,
    is_ours,
    ome_metadata,
)
from cristae.volumes.formats.pages import plain_dtype
from cristae.volumes.formats.store_errors import plain_text, read_fault, system_error
from cristae.volumes.padding import PADDING_ATTRIBUTE
from cristae.volumes.volume import Array, Kind, Nanometres, Volume

CHUNK: Triple = (32, 128, 128)
SHARD: Triple = (64, 512, 512)
ZSTD_LEVEL = 1
OURS = "cristae's attributes"
"""Where cristae keeps the place of what it wrote, in words."""


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
        manifest: Stamp of the manifest of the finished output that it is a part of; 0: none.
    """

    path: str
    driver: str
    stamp: int
    axes: Axes | None = None
    manifest: int = 0

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        What is not stored is 0, so afterwards it is asked whether all that should be there is.

        Raises:
            InputError: Data that cannot be read or decoded, or are gone, with file and box.
        """
        axes = self.axes
        select = (..., *box.slices()) if axes is None else axes.select(box)
        try:
            array = np.asarray(self._store()[select].read().result())
        except (ValueError, OSError) as error:
            raise read_fault(self.path, f"box {box}", error) from error
        self.check_there(box)
        array = array if axes is None else axes.turn(array)
        return array.astype(plain_dtype(array.dtype), copy=False)

    def check_there(self, box: Box) -> None:
        """Check, after a box was read, that its array and all files of it are still there.

        Raises:
            InputError: They are gone, so what was read of them is 0.
        """
        path = Path(self.path)
        if not (path / ("zarr.json" if self.driver == "zarr3" else ".zarray")).is_file():
            raise InputError(f"{self.path}, box {box}: gone while it was read")
        check_there(path.parent, path.name, self.manifest, box.start, box.stop)

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
            if found := system_error(error, self.path):
                raise found from error
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

    def places(self) -> list[Place]:
        """The image."""
        return [(self.path, True)]

    def facts(self) -> Facts:
        """Both, whatever the path."""
        return {"id": self.id, "state": array_state(self.path)}


@lru_cache(maxsize=64)
def _open_store(path: str, driver: str, stamp: int) -> Any:
    spec = {"driver": driver, "kvstore": file_store(path), "context": SINGLE_WRITER}
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
    """Make a sharded, zstd-compressed Zarr v3 array, or keep the same one already there.

    Raises:
        OutputExistsError: Another array is there.
    """
    lead = () if channels is None else (len(channels),)
    ones = () if channels is None else (1,)
    names = AXES if channels is None else ("c", *AXES)
    sharding = {
        "chunk_shape": [*ones, *layout.chunk],
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
            {"name": "crc32c"},
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
        "context": SINGLE_WRITER,
        "metadata": {
            "shape": [*lead, *shape],
            "data_type": dtype.name,
            "fill_value": 0,
            "chunk_grid": grid,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": list(names),
        },
    }
    try:
        tensorstore.open(spec, create=True, open=True).result()
    except ValueError as error:
        if found := system_error(error, str(path)):
            raise found from error
        if not (path / "zarr.json").exists():
            raise
        raise OutputExistsError(
            f"{path}: an array of another shape, type or layout is there, as of an output begun "
            "by another release of cristae; --overwrite begins anew"
        ) from error


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
    image = image_metadata(path)
    array = array_metadata(path / "0", image.channels)
    padded = (image.attributes.get(PADDING_ATTRIBUTE) or {}).get("shape")
    if padded is not None and image.record and tuple(padded) != array.shape:
        raise InputError(f"{path}: padding: found of a volume of {padded}, expected {array.shape}")
    return Volume(
        name=name or str(path),
        reader=_reader(path / "0", _finished(path, image.record)),
        shape=array.shape,
        dtype=array.dtype,
        channels=image.channels,
        voxel_size_nm=image.voxel_size_nm,
        origin_nm=image.origin_nm,
        kind=image.kind,
        chunk_shape=array.chunk,
        shard_shape=array.shard,
        attributes=image.attributes,
        found={"voxel_size": OURS, "origin": OURS},
        identity=Identity((Written(str(path), record_fingerprint(image.record)),))
        if image.record
        else Identity((Folder(name or str(path), str(path)),)),
        form="Zarr",
    )


def as_level(volume: Volume) -> Volume:
    """An array opened as any other, looked after as a level of the image of ours it may belong to.

    Raises:
        InputError: Files of the image are gone.
    """
    reader = volume.reader
    if not isinstance(reader, ZarrReader) or not is_ours(folder := Path(reader.path).parent):
        return volume
    manifest = _finished(folder, image_metadata(folder).record)
    return volume.with_(reader=replace(reader, manifest=manifest))


def _finished(folder: Path, record: Mapping[str, Any] | None) -> int:
    """The stamp of the manifest of an image that is finished and whole; 0 where there is none."""
    if record is None or is_unfinished(folder):
        return 0
    check_manifest(folder)
    return manifest_stamp(folder)


def _reader(path: Path, manifest: int) -> ZarrReader:
    """The reader of an array, which can be opened."""
    reader = ZarrReader(str(path), "zarr3", stamp_of(path / "zarr.json"), manifest=manifest)
    try:
        reader._store()
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be opened: {plain_text(error)[:200]}") from error
    return reader


def update_attributes(path: str | Path, **changes: Any) -> None:
    """Set keys of the ``cristae`` attributes of an image, atomically."""
    merge_attributes(user_path(path), changes)


def stamp_of(metadata: Path) -> int:
    """What changes when an array is made anew: its metadata's time of change."""
    return metadata.stat().st_mtime_ns
