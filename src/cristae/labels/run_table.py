"""Tables inside a segmentation: its runs and its instances, as one-dimensional Zarr arrays.

::

    OUT.zarr/runs/{z, y, x0, x1, id}                        runs in raster order, x1 exclusive
    OUT.zarr/runs/plane_start                               first run of each plane z, and the end
    OUT.zarr/instances/{id, box, voxels, confidence_sum, cut, approximate}

Runs are as long as they can be, so the tables, like the labels, do not depend on the blocks.
``box`` is (z0, y0, x0, z1, y1, x1), stops exclusive; ``confidence_sum`` the sum of the mask
channel's 256 levels over the instance; ``cut`` whether it touches the border of the volume;
``approximate`` whether its component was too large for memory and cut.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from cristae.engine.files import remove_tree, write_json
from cristae.engine.manifest import check_there, manifest_stamp
from cristae.engine.paths import SINGLE_WRITER, file_store
from cristae.errors import InputError
from cristae.volumes.formats.image_metadata import read_metadata
from cristae.volumes.formats.ome_zarr_levels import is_current
from cristae.volumes.formats.store_errors import read_fault
from cristae.volumes.volume import Array

VERSION = 1
ROWS_PER_CHUNK = 1 << 18
RUN_COLUMNS = ("z", "y", "x0", "x1", "id")
INSTANCE_COLUMNS = ("id", "box", "voxels", "confidence_sum", "cut", "approximate")


def write_instances_table(path: Path, columns: Mapping[str, Array]) -> None:
    """Write ``PATH/instances``; columns of equal length, by name."""
    _start(path / "instances", INSTANCE_COLUMNS)
    folder = path / "instances"
    described = {name: (columns[name].shape, columns[name].dtype) for name in INSTANCE_COLUMNS}
    stores = _create_all(folder, described)
    _write_all([(stores[name][:], columns[name]) for name in INSTANCE_COLUMNS])


def write_runs_table(
    path: Path, layers: Iterable[Mapping[str, Array]], plane_start: Array, dtype: np.dtype[Any]
) -> None:
    """Write ``PATH/runs`` layer by layer.

    Args:
        path: The segmentation.
        layers: Columns of consecutive layers of planes, the runs of each in raster order.
        plane_start: First run of each plane, and the number of runs.
        dtype: Type of the labels.
    """
    folder = path / "runs"
    _start(folder, (*RUN_COLUMNS, "plane_start"))
    total = int(plane_start[-1])
    types = {name: np.dtype(np.int32) for name in RUN_COLUMNS} | {"id": dtype}
    starts = plane_start.astype(np.int64)
    described = {name: ((total,), types[name]) for name in RUN_COLUMNS}
    stores = _create_all(folder, described | {"plane_start": (starts.shape, starts.dtype)})
    for first, chunk in _chunks(layers, types):
        stop = first + chunk["z"].size
        _write_all([(stores[name][first:stop], chunk[name]) for name in RUN_COLUMNS])
    _write_all([(stores["plane_start"], starts)])


def read_instances_table(path: str | Path) -> dict[str, Array]:
    """The instances of a segmentation.

    Args:
        path: Folder of the segmentation.

    Returns:
        ``id`` (n,), ``box`` (n, 6) in voxels, ``voxels`` (n,), ``confidence_sum`` (n,), and bool
        ``cut`` and ``approximate`` (n,), in order of the id.

    Raises:
        InputError: No such table, a damaged one, or one of labels that were edited since.
    """
    _check_current(Path(path))
    folder = _check(Path(path), "instances")
    there = [name for name in INSTANCE_COLUMNS if (folder / name).is_dir()]
    table = {name: _read(Path(path), f"instances/{name}") for name in there}
    exact = np.zeros(table["id"].size, bool)  # older tables know nothing else
    flags = {name: table.get(name, exact).astype(bool) for name in ("cut", "approximate")}
    return table | flags


def read_runs(path: str | Path, planes: tuple[int, int] | None = None) -> dict[str, Array]:
    """The runs of a segmentation, in raster order.

    Args:
        path: Folder of the segmentation.
        planes: Only those with z in planes[0]..planes[1]-1; all by default.

    Returns:
        ``z``, ``y``, ``x0``, ``x1`` (int32, voxels, x1 exclusive) and ``id`` of each run.

    Raises:
        InputError: No such table, a damaged one, one of labels that were edited since, or planes
            outside the volume.
    """
    _check_current(Path(path))
    return runs_of_planes(Path(path), planes)


def runs_of_planes(path: Path, planes: tuple[int, int] | None = None) -> dict[str, Array]:
    """`read_runs`, of labels that are known to be those that the table describes."""
    _check(path, "runs")
    starts = _read(path, "runs/plane_start")
    low, high = planes or (0, starts.size - 1)
    if not 0 <= low <= high < starts.size:
        raise InputError(f"{path}: planes {low}:{high} asked for, found 0:{starts.size - 1}")
    rows = int(starts[low]), int(starts[high])
    return {name: _read(path, f"runs/{name}", rows) for name in RUN_COLUMNS}


def most_runs(path: Path, planes: int) -> int:
    """Most runs that so many planes on end have."""
    starts = _read(path, "runs/plane_start")
    last = np.minimum(np.arange(starts.size) + planes, starts.size - 1)
    return int((starts[last] - starts).max(initial=0))


def _start(folder: Path, columns: Iterable[str]) -> None:
    if folder.exists():  # of an interrupted run
        remove_tree(folder)
    attributes = {"cristae": {"version": VERSION, "columns": list(columns)}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_json(folder / "zarr.json", group)


def _create_all(
    folder: Path, described: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> dict[str, Any]:
    """Make arrays by name, all at once: each waits for the disk."""
    made = {name: _create(folder / name, *like) for name, like in described.items()}
    return {name: store.result() for name, store in made.items()}


def _write_all(parts: Iterable[tuple[Any, Array]]) -> None:
    """Write arrays to their places, all at once."""
    for write in [place.write(array) for place, array in parts if array.size]:
        write.result()


def _create(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    chunk = [ROWS_PER_CHUNK, *shape[1:]]
    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        {"name": "crc32c"},
    ]
    metadata = {
        "shape": list(shape),
        "data_type": dtype.name,
        "fill_value": False if dtype.kind == "b" else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": codecs if dtype.itemsize > 1 else [{"name": "bytes"}, *codecs[1:]],
    }
    spec = {
        "driver": "zarr3",
        "kvstore": file_store(path),
        "context": SINGLE_WRITER,
        "metadata": metadata,
    }
    return tensorstore.open(spec, create=True)


def _read(path: Path, name: str, rows: tuple[int, int] | None = None) -> Array:
    """Some rows of a column, all by default; none of them from a chunk that is gone."""
    spec = {"driver": "zarr3", "kvstore": file_store(path / name)}
    stamp = manifest_stamp(path)
    try:
        column = tensorstore.open(spec, open=True).result()
        first, stop = rows or (0, column.shape[0])
        found = np.asarray(column[first:stop].read().result())
    except (ValueError, OSError) as error:
        raise read_fault(str(path / name), f"rows {rows or 'all'}", error) from error
    if stop > first:
        check_there(path, name, stamp, (first,), (stop,))
    return found


def _check(path: Path, table: str) -> Path:
    """The folder of a table that can be read."""
    folder = path / table
    attributes = (read_metadata(folder / "zarr.json") or {}).get("attributes") or {}
    ours = attributes.get("cristae") if isinstance(attributes, dict) else None
    found = ours.get("version") if isinstance(ours, dict) else None
    if found is None:
        raise InputError(f"{folder}: no such table; only a finished segmentation of ours has one")
    if not isinstance(found, int) or found > VERSION:
        raise InputError(f"{folder}: version {found} found, up to {VERSION} can be read")
    return folder


def _check_current(path: Path) -> None:
    """Refuse tables of labels that were edited after they were written."""
    if (path / "zarr.json").is_file() and not is_current(path):
        raise InputError(
            f"{path}: its labels were edited after it was finished, so its tables of runs and "
            "instances describe others; evaluate and measure look at the labels themselves"
        )


def _chunks(
    layers: Iterable[Mapping[str, Array]], types: Mapping[str, np.dtype[Any]]
) -> Iterable[tuple[int, dict[str, Array]]]:
    """Rows of the layers, re-cut to whole chunks: (first row, columns)."""
    first = 0
    waiting = {name: np.zeros(0, dtype) for name, dtype in types.items()}
    for layer in layers:
        waiting = {
            name: np.concatenate([held, layer[name].astype(types[name])])
            for name, held in waiting.items()
        }
        whole = waiting["z"].size // ROWS_PER_CHUNK * ROWS_PER_CHUNK
        if whole:
            yield first, {name: held[:whole] for name, held in waiting.items()}
            first += whole
            waiting = {name: held[whole:] for name, held in waiting.items()}
    if waiting["z"].size:
        yield first, waiting
