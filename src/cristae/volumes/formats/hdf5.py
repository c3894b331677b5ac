"""HDF5: ``file.h5`` with one dataset of 3 to 5 dimensions, or ``file.h5:dataset``.

Axes and voxel size are read from the attributes and dimensions of the dataset, and from the
attributes of the groups it lies in. Links are followed; a dataset has its name in the file that is
opened. The identity covers every file that its voxels lie in.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cristae.engine.identity import Identity, SourceFiles
from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.formats.attributes import axis_names, place_of
from cristae.volumes.formats.axes import Axes, OpenOptions, arrange
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.hdf5_links import SHOWN, Listing, files_of, link_target, list_datasets
from cristae.volumes.formats.pages import plain_dtype
from cristae.volumes.volume import Array, Volume

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")

_DIMENSIONS = range(2, 6)
_LESSER_LEVEL = re.compile(r"/t\d+/s\d+/[1-9]\d*/cells")
"""BigDataViewer's datasets of a smaller size."""

_SETUP = re.compile(r"/t\d+/s\d+/\d+/cells")
_EOF = re.compile(r"eof = (\d+).*stored_eof = (\d+)")
_FILTERS = {32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd"}


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads boxes of one dataset; one open handle a process, which h5py itself locks.

    Attributes:
        path: The file.
        dataset: Name of the dataset in it.
        stamp: The file's time of change, so that no stale handle is used.
        axes: How its axes are read.
        others: Further files that voxels lie in, which HDF5 would fill with zeros when they go.
        dtype: Type of the voxels, where the file states another one of the same size.
    """

    path: str
    dataset: str
    stamp: int
    axes: Axes
    others: tuple[str, ...] = ()
    dtype: str | None = None

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: Data that cannot be read, with file, dataset and box.
        """
        gone = [file for file in self.others if not os.path.exists(file)]
        if gone:
            raise InputError(f"{self.path}:{self.dataset}, box {box}: {gone[0]} is missing")
        try:
            place = (self.path, self.stamp, os.getpid())
            # what other files hold may change unseen by the stamp: never kept open
            dataset = (
                open_file(*place)[self.dataset]
                if self.others
                else open_dataset(*place, self.dataset)
            )
            array = self.axes.turn(np.asarray(dataset[self.axes.select(box)]))
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(f"{self.path}:{self.dataset}, box {box}: {_reason(error)}") from error
        array = array if self.dtype is None else array.view(self.dtype)
        return array.astype(plain_dtype(array.dtype), copy=False)


@dataclass(frozen=True)
class Dataset:
    """What a dataset says of itself, after its file is closed.

    Attributes:
        name: In the file that was opened, from its root.
        shape: Extents in stored order; none for a dataset without values.
        dtype: Type of its elements.
        chunks: Its chunks, None where it has none.
        levels: Its attributes, then those of the groups it lies in, each with where that is.
        dimensions: Names of its axes by HDF5's own dimension labels and scales; none without.
        files: Every file that its voxels lie in.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    levels: tuple[tuple[str, Mapping[str, Any]], ...]
    dimensions: tuple[str, ...]
    files: tuple[str, ...]


@lru_cache(maxsize=64)
def open_file(path: str, stamp: int, process: int) -> Any:
    """An open file, one a process; a file changed since is opened anew.

    Raises:
        OSError: The file cannot be opened.
    """
    return h5py.File(path, "r", locking="best-effort")


@lru_cache(maxsize=64)
def open_dataset(path: str, stamp: int, process: int, name: str) -> Any:
    """An open dataset, which keeps the chunks that it has just decoded.

    Raises:
        OSError: The file cannot be opened.
        KeyError: There is no such dataset.
    """
    return open_file(path, stamp, process)[name]


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, whatever its name."""
    return path.is_file() and bool(h5py.is_hdf5(os.fspath(path)))


def open_hdf5(path: str | Path, options: OpenOptions | None = None) -> Volume:
    """Open one dataset of an HDF5 file.

    Args:
        path: The file.
        options: How it is to be read. Its dataset may be a group with one, and is none where the
            file has exactly one of 3 or more dimensions; a series is one of these, by number or
            name.

    Returns:
        A volume with channels where the dataset has a longer channel axis.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not an HDF5 file, cut off, being written, not exactly one dataset (those there
            are listed), or one whose files are missing or whose filter is unknown.
    """
    path, options = Path(path), options or OpenOptions(str(path))
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    status = path.stat()
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            found = find_dataset(file, options.dataset, str(path), options.series)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5: {_reason(error)}") from error
    full_name = f"{path}:{found.name}"
    _check(found, full_name)
    names, source = axis_names(found.levels[0][1])
    if names is None and found.dimensions:
        names, source = list(found.dimensions), "dimensions"
    axes = arrange(names, found.shape, replace(options, name=full_name), source)
    place = place_of(found.levels, axes)
    main = str(path.absolute())
    others = tuple(file for file in found.files if not os.path.samefile(file, path))
    is_setup = _SETUP.fullmatch(found.name) is not None and found.dtype == np.int16
    dtype = np.dtype(np.uint16) if is_setup else found.dtype  # as BigDataViewer means them
    contents = SourceFiles(options.name, os.path.dirname(main), _names(main, others))
    return Volume(
        name=options.name,
        reader=Hdf5Reader(
            main, found.name, status.st_mtime_ns, axes, others, dtype.str if is_setup else None
        ),
        shape=axes.shape,
        dtype=plain_dtype(dtype),
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        voxel_size_nm=place.voxel_size_nm,
        origin_nm=place.origin_nm,
        chunk_shape=axes.spatial(found.chunks or _contiguous_chunk(found.shape)),
        size_on_disk=status.st_size + sum(os.stat(file).st_size for file in others),
        identity=Identity((contents,)).read_as(found.name, *options.reading),
        found={"axes": axes.told, **place.found},
    )


def _names(main: str, others: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all files from the main one's folder; of those that lie elsewhere, their paths."""
    folder = os.path.dirname(main) + os.sep
    return tuple(path.removeprefix(folder) for path in (main, *others))


def find_dataset(file: Any, dataset: str | None, path: str, series: str | None = None) -> Dataset:
    """The dataset named, or the only one of 3 or more dimensions, of an open file.

    A file with none of those may have one of two dimensions.

    Args:
        file: An open file.
        dataset: A dataset, or a group with exactly one.
        path: For messages.
        series: Number of one of those of 3 or more dimensions, from 0, or its name.

    Raises:
        InputError: Not exactly one; the datasets there are listed with shape and dtype.
    """
    inside, begin = file, ""
    if dataset is not None:
        name = "/" + dataset.strip("/")
        node = _get(file, name)
        if isinstance(node, h5py.Dataset):
            if series is not None:
                raise InputError(f"{path}:{dataset}: one dataset, there is no series {series}")
            return _described(file, name, node, path)
        if not isinstance(node, h5py.Group):
            raise InputError(f"{path}: no dataset {dataset!r}; {_missing(file, name)}")
        inside, begin = node, name
    listing = list_datasets(inside, begin.rstrip("/"))
    volumes = _volumes(listing)
    if series is not None:
        volumes = _in_series(volumes, series, path)
    if len(volumes) == 1:
        name = volumes[0]
        return _described(file, name, listing.datasets[name], path)
    raise InputError(
        f"{path}: found {len(volumes)} datasets of 3 or 4 (or 5) dimensions, expected exactly one "
        f"(name one as {path}:DATASET); found {_listed(listing)}"
    )


def _get(file: Any, name: str) -> Any:
    try:
        return file.get(name)
    except (ValueError, RuntimeError, OSError):  # a name or a link that HDF5 cannot take
        return None


def _missing(file: Any, name: str) -> str:
    target = link_target(file, name)
    link = "" if target is None else f"it is a link to {target}, which is missing; "
    return f"{link}found {_listed(list_datasets(file))}"


def _volumes(listing: Listing) -> list[str]:
    """Names of the datasets that may be meant where none is named."""
    full = {n: d for n, d in listing.datasets.items() if not _LESSER_LEVEL.fullmatch(n)}
    numbers = {n: len(d.shape or ()) for n, d in full.items() if d.dtype.kind in "uifb"}
    volumes = [name for name, count in numbers.items() if 3 <= count < _DIMENSIONS.stop]
    return volumes or [name for name, count in numbers.items() if count == _DIMENSIONS.start]


def _in_series(volumes: list[str], series: str, path: str) -> list[str]:
    names = [name.lstrip("/") for name in volumes]
    wanted = series.strip("/")
    if wanted in names:
        return [volumes[names.index(wanted)]]
    if wanted.isdecimal() and int(wanted) < len(volumes):
        return [volumes[int(wanted)]]
    listed = "".join(f"\n  - {i}  {name}" for i, name in enumerate(names[:SHOWN]))
    raise InputError(f"{path}: no series {series}; found {len(names)}:{listed}")


def _listed(listing: Listing) -> str:
    rows = [
        f"{name.lstrip('/')}  {tuple(node.shape or ())}  {node.dtype}"
        for name, node in listing.datasets.items()
    ]
    rows += [f"{n.lstrip('/')}  link to {to}, missing" for n, to in listing.broken.items()]
    if len(rows) > SHOWN:
        rows[SHOWN:] = [f"and {len(rows) - SHOWN} more"]
    return "these datasets:" + "".join(f"\n  - {row}" for row in rows) if rows else "no dataset"


def _described(file: Any, name: str, node: Any, path: str) -> Dataset:
    full_name = f"{path}:{name}"
    _check_filters(node, full_name)
    parts = name.strip("/").split("/")[:-1]
    parents = ["/".join(parts[:i]) for i in range(len(parts), -1, -1)]
    groups = [(f" of group /{parent}", _attributes(file["/" + parent])) for parent in parents]
    return Dataset(
        name=name,
        shape=tuple(int(n) for n in node.shape or ()),
        dtype=node.dtype,
        chunks=node.chunks,
        levels=(("", _attributes(node)), *groups),
        dimensions=_dimensions(node),
        files=files_of(node, full_name),
    )


def _attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node; those of a type that h5py does not know say nothing."""
    found = {}
    for key in node.attrs:
        try:
            found[key] = node.attrs[key]
        except (OSError, TypeError, ValueError, RuntimeError):
            continue
    return found


def _dimensions(node: Any) -> tuple[str, ...]:
    """Names of the axes by their labels, or by the names of their scales, as netCDF has them."""
    try:
        labels = [dim.label for dim in node.dims]
        scales = [dim[0].name.rsplit("/", 1)[-1] if len(dim) else "" for dim in node.dims]
    except (KeyError, RuntimeError, OSError, ValueError):
        return ()
    names = [label or scale for label, scale in zip(labels, scales, strict=True)]
    return tuple(names) if all(names) else ()


def _check_filters(node: Any, name: str) -> None:
    plan = node.id.get_create_plist()
    filters = [plan.get_filter(i) for i in range(plan.get_nfilters())] if node.chunks else []
    for number, _, _, told in filters:
        if not h5py.h5z.filter_avail(number):
            known = _FILTERS.get(number) or told.decode(errors="replace") or "unknown"
            raise InputError(
                f"{name}: compressed by HDF5 filter {number} ({known}), which is not installed; "
                "expected gzip, lzf or none (h5repack -f GZIP=1 writes it so)"
            )


def _check(dataset: Dataset, name: str) -> None:
    if len(dataset.shape) not in _DIMENSIONS or not np.prod(dataset.shape):
        raise InputError(
            f"{name}: found shape {dataset.shape}, expected ([t, c,] z, y, x) with voxels"
        )
    if dataset.dtype.kind not in "uifb":
        raise InputError(f"{name}: found dtype {dataset.dtype}, expected real numbers")


def _reason(error: Exception) -> str:
    """What h5py says, in words of what may be done about it."""
    text = str(error)
    if ends := _EOF.search(text):
        return f"cut off ({int(ends[1]):,} bytes found, {int(ends[2]):,} expected)"
    if "unable to lock file" in text or "already open for write" in text:
        return "another program is writing it, or ended before it had closed it (h5clear -s)"
    if "signature not found" in text:
        return "it is not HDF5, or its beginning is damaged"
    if "Fletcher32" in text or "filter returned failure" in text:
        return "a chunk is damaged: its checksum or compression does not fit"
    return text


def _contiguous_chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1 for _ in shape[:-2]), min(256, shape[-2]), shape[-1])


FORMAT = Format(
    "HDF5", "file.h5[:dataset]", open_hdf5, SUFFIXES, is_hdf5, reads=("axes", "dataset")
)
