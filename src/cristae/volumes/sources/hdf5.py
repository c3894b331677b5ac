"""HDF5: ``file.h5`` with one 3D or 4D dataset, or ``file.h5:dataset``.

A 4D dataset is (c, z, y, x). Fingerprint: the file's size and time of change, and the dataset.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cristae.engine.identity import file_identity
from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.sources.axes import Axes, OpenOptions, arrange
from cristae.volumes.sources.pages import plain_dtype
from cristae.volumes.sources.units import size_from_attributes
from cristae.volumes.volume import Array, Volume

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads boxes of one dataset; one open handle a process, which h5py itself locks.

    Attributes:
        path: The file.
        dataset: Name of the dataset in it.
        stamp: The file's time of change, so that no stale handle is used.
        axes: How its axes are read.
    """

    path: str
    dataset: str
    stamp: int
    axes: Axes

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: Data that cannot be read, with file, dataset and box.
        """
        try:
            dataset = open_file(self.path, self.stamp, os.getpid())[self.dataset]
            array = self.axes.turn(np.asarray(dataset[self.axes.select(box)]))
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(f"{self.path}:{self.dataset}, box {box}: {error}") from error
        return array.astype(plain_dtype(array.dtype), copy=False)


@dataclass(frozen=True)
class Dataset:
    """What a dataset says of itself, after its file is closed."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    attributes: Mapping[str, Any]


@lru_cache(maxsize=64)
def open_file(path: str, stamp: int, process: int) -> Any:
    """An open file, one a process; a file changed since is opened anew.

    Raises:
        OSError: The file cannot be opened.
    """
    return h5py.File(path, "r", locking="best-effort")


def open_hdf5(
    path: str | Path,
    dataset: str | None = None,
    options: OpenOptions | None = None,
) -> Volume:
    """Open one dataset of an HDF5 file.

    Args:
        path: The file.
        dataset: The dataset; None where the file has exactly one of 3 or 4 dimensions.
        options: How it is to be read.

    Returns:
        A volume with channels for a 4D dataset, an axis of one channel dropped.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not an HDF5 file, cut off, or not exactly one dataset (those there are listed).
    """
    path = Path(path)
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    status = path.stat()
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            found = find_dataset(file, dataset, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5: {error}") from error
    full_name = f"{path}:{found.name}"
    _check(found, full_name)
    options = options or OpenOptions(str(path))
    axes = arrange(None, found.shape, replace(options, name=full_name))
    return Volume(
        name=options.name,
        reader=Hdf5Reader(str(path), found.name, status.st_mtime_ns, axes),
        shape=axes.shape,
        dtype=plain_dtype(found.dtype),
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        voxel_size_nm=size_from_attributes(found.attributes),
        chunk_shape=axes.spatial(found.chunks or _contiguous_chunk(found.shape)),
        size_on_disk=status.st_size,
        identity=file_identity(path).read_as(found.name, *options.reading),
    )


def find_dataset(file: Any, dataset: str | None, path: str) -> Dataset:
    """The dataset named, or the only one of 3 or 4 dimensions, of an open file.

    Raises:
        InputError: Not exactly one; the datasets there are listed with shape and dtype.
    """
    found = {node.name: node for node in _datasets(file)}
    volumes = [node for node in found.values() if len(node.shape) in (3, 4)]
    if dataset is None and len(volumes) == 1:
        return volumes[0]
    wanted = found.get("/" + dataset.strip("/")) if dataset is not None else None
    if wanted is not None:
        return wanted
    listed = "".join(f"\n  - {n.name.lstrip('/')}  {n.shape}  {n.dtype}" for n in found.values())
    what = "no dataset" if not found else f"these datasets:{listed}"
    if dataset is not None:
        raise InputError(f"{path}: no dataset {dataset!r}; found {what}")
    raise InputError(
        f"{path}: found {len(volumes)} datasets of 3 or 4 dimensions, expected exactly one "
        f"(name one as {path}:DATASET); found {what}"
    )


def _datasets(group: Any) -> Iterator[Dataset]:
    for key in sorted(group):
        node = group.get(key)
        if isinstance(node, h5py.Dataset):
            shape = tuple(int(n) for n in node.shape or ())
            yield Dataset(node.name, shape, node.dtype, node.chunks, dict(node.attrs))
        elif isinstance(node, h5py.Group):
            yield from _datasets(node)


def _check(dataset: Dataset, name: str) -> None:
    if len(dataset.shape) not in (3, 4) or not np.prod(dataset.shape):
        raise InputError(
            f"{name}: found shape {dataset.shape}, expected ([c,] z, y, x) with voxels"
        )
    if dataset.dtype.kind not in "uifb":
        raise InputError(f"{name}: found dtype {dataset.dtype}, expected real numbers")


def _contiguous_chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1 for _ in shape[:-2]), min(256, shape[-2]), shape[-1])
