"""Sources: every form a volume comes in, opened by one function.

============================  ====================================================
OME-Zarr, Zarr v2 and v3      folder of an image, an array, or a group with one of them
``file.h5[:dataset]``         HDF5
``file.tif``                  multi-page TIFF
folder or glob                PNG or TIFF slices in natural order
``index.json``                tile index of PyTorch Connectomics
folder                        prediction chunks ``result_z0-z1-y0-y1-x0-x1[_suffix].h5``
============================  ====================================================
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cristae.engine.paths import user_path
from cristae.errors import CristaeError, InputError, SourceNotFoundError
from cristae.grid import Box, parse_roi
from cristae.volumes.finite import Nan, without_nan
from cristae.volumes.plausible import GIVEN
from cristae.volumes.sources import foreign_zarr, hdf5, prediction_chunks, slices, tiff, tile_index
from cristae.volumes.sources.axes import OpenOptions, arrange, check_axes
from cristae.volumes.sources.image_metadata import is_ours
from cristae.volumes.sources.ome_zarr import as_level, open_ome_zarr
from cristae.volumes.sources.turned import turned
from cristae.volumes.volume import Array, Kind, Nanometres, Volume, array_volume, check_voxels

Source = str | Path | Array | Volume

_LONGEST_NM = 1e12

FORMS = (
    "a Zarr folder, file.h5[:dataset], file.tif, a folder or glob of PNG or TIFF slices, "
    "a tile index .json, or a folder of prediction chunks NAME_z0-z1-y0-y1-x0-x1.h5"
)


def open_volume(  # noqa: PLR0913 - one parameter an option
    source: Source,
    *,
    voxel_size_nm: Nanometres | None = None,
    roi: str | None = None,
    kind: Kind | None = None,
    root: str | Path | None = None,
    index: Mapping[str, int] | None = None,
    axes: str | None = None,
    series: str | int | None = None,
    same_source: bool = False,
    nan: Nan | None = None,
) -> Volume:
    """Open any source as a lazily read volume.

    Args:
        source: A path as the user writes it, an array in memory, or a volume.
        voxel_size_nm: Voxel size (z, y, x) in nm; replaces what the source says.
        roi: ``z0:z1,y0:y1,x0:x1``: only this part, which keeps its place in space.
        kind: What the voxels are; replaces what the source says.
        root: Folder that relative paths of a tile index count from, and below which absolute ones
            are looked for.
        index: Element to take of a time or channel axis (``{"t": 0, "c": 1}``).
        axes: What the axes are, where the source does not say or is wrong: all in the order in
            which they are stored (``zyx``, ``xyz``), or what some are (``c=z``). Not for what
            cristae wrote.
        series: Number or name of the series of a file that holds several.
        same_source: It is the source that a record names, although time or content differ.
        nan: What goes in the place of voxels that are NaN or infinite (`without_nan`): a number,
            or ``fill``.

    Returns:
        The volume.

    Raises:
        SourceNotFoundError: No such path.
        InputError: A source that cannot be used; all faults at once.
    """
    size_nm = None if voxel_size_nm is None else _size_given(voxel_size_nm)
    if kind not in (None, *get_args(Kind)):
        raise InputError(f"kind {kind!r}: expected one of {', '.join(get_args(Kind))}")
    check_axes(axes)
    options = OpenOptions(
        _name(source), kind, root, dict(index or {}), axes, None if series is None else str(series)
    )
    volume = _open(source, options)
    check_voxels(options.name, (len(volume.channels or "1"), *volume.shape), volume.dtype)
    if same_source:
        volume = volume.with_(identity=replace(volume.identity, trusted=True))
    if size_nm is not None:
        found = {**volume.found, "voxel_size": GIVEN}
        volume = volume.with_(voxel_size_nm=size_nm, found=found)
    if kind is not None:
        volume = tile_index.taken_as(volume, kind)
    if nan is not None:
        volume = without_nan(volume, nan)
    return volume.crop(parse_roi(roi, volume.shape)) if roi is not None else volume


def open_labels(source: Source) -> Volume:
    """Open a source whose voxels are ids; a volume is taken as it is."""
    return source if isinstance(source, Volume) else open_volume(source, kind="labels")


def _size_given(size: Any) -> Nanometres:
    """Three positive numbers.

    Raises:
        InputError: They are something else.
    """
    try:
        z, y, x = (float(side) for side in size)
        fits = all(0 < side <= _LONGEST_NM for side in (z, y, x)) and not isinstance(size, str)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise InputError(f"voxel size {size}: expected three positive numbers in nm, up to 1e12")
    return z, y, x


def _name(source: Source) -> str:
    if isinstance(source, Volume):
        return source.name
    return "array" if isinstance(source, np.ndarray) else str(source)


def _open(source: Source, options: OpenOptions) -> Volume:
    is_index = isinstance(source, str | Path) and Path(source).suffix.lower() == ".json"
    if options.root is not None and not is_index:
        raise InputError(
            f"{options.name}: a root ({options.root}) is for tile indices (.json) only"
        )
    if isinstance(source, Volume):
        _refuse_reading(options)
        return source
    if isinstance(source, np.ndarray):
        return _open_array(source.astype(np.uint8) if source.dtype == bool else source, options)
    if is_index:
        volume = tile_index.open_tile_index(
            source, kind=options.kind, root=options.root, name=options.name
        )
        return turned(volume, options)
    return _open_path(options)


def _open_array(array: Array, options: OpenOptions) -> Volume:
    if not options.reading:
        return array_volume(array)
    if options.series is not None:
        raise InputError(f"{options.name}: an array, there is no series {options.series}")
    axes = arrange(None, array.shape, options)
    whole = axes.select(Box.of(axes.shape))
    return array_volume(axes.turn(array[whole]))


def _open_path(options: OpenOptions) -> Volume:
    name = options.name
    try:
        path, dataset = _split(name)
        return _open_there(path, dataset, options)
    except CristaeError:
        raise
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise InputError(f"{name!r}: found a NUL, expected a path: {FORMS}") from error


def _open_there(path: Path, dataset: str | None, options: OpenOptions) -> Volume:
    name = options.name
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, dataset, options)
    if path.is_file():
        if suffix in tiff.SUFFIXES:
            return tiff.open_tiff(path, options)
        if suffix in hdf5.SUFFIXES or hdf5.is_hdf5(path):
            return hdf5.open_hdf5(path, dataset, options)
        raise InputError(f"{name}: not a known form of volume, expected {FORMS}")
    if any(letter in name for letter in "*?["):
        return turned(slices.open_slices(os.path.expanduser(name), options.kind), options)
    if "://" in name:
        raise InputError(f"{name}: found a URL, expected a path: {FORMS}")
    if not path.exists():
        raise SourceNotFoundError(f"{name}: no such file or folder")
    raise InputError(f"{name}: not a known form of volume, expected {FORMS}")


def _split(name: str) -> tuple[Path, str | None]:
    """Path and dataset of ``path[:dataset]``, either of which may hold more colons."""
    path = user_path(name)
    if path.exists():
        return path, None
    for colon in [i for i, letter in enumerate(name) if letter == ":" and name[i + 1 :]][::-1]:
        before = user_path(name[:colon])
        is_file = before.suffix.lower() in hdf5.SUFFIXES and before.is_file()
        if name[:colon] and (is_file or before.is_dir() or hdf5.is_hdf5(before)):
            return before, name[colon + 1 :]
    return path, None


def _open_folder(path: Path, dataset: str | None, options: OpenOptions) -> Volume:
    name = options.name
    if foreign_zarr.is_zarr(path):
        if dataset is not None:
            raise InputError(f"{name}: write the path of an array as {path}/{dataset}")
        if is_ours(path) and not options.index:  # cristae knows the axes of what it wrote
            return open_ome_zarr(path, name)
        return as_level(foreign_zarr.open_foreign_zarr(path, options))
    if prediction_chunks.is_chunk_folder(path):
        return turned(prediction_chunks.open_prediction_chunks(path, dataset, name), options)
    if slices.has_slices(path) and dataset is None:
        return turned(slices.open_slices(str(path), options.kind).with_(name=name), options)
    there = sorted(entry.name for entry in path.iterdir())
    found = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    raise InputError(f"{name}: found {found or 'an empty folder'}, expected {FORMS}")


def _refuse_reading(options: OpenOptions) -> None:
    """Refuse what chooses among axes and series, where there is nothing to choose."""
    if options.reading:
        raise InputError(f"{options.name}: there is no axis or series for {options.reading[0]}")
