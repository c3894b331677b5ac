"""Formats: every form a volume comes in, one file each, opened by one function.

============================  ====================================================
OME-Zarr, Zarr v2 and v3      folder of an image, an array, or a group with one of them
``file.h5[:dataset]``         HDF5
``file.tif``                  multi-page TIFF
folder or glob                PNG or TIFF slices in natural order
``index.json``                tile index of PyTorch Connectomics
folder                        prediction chunks ``result_z0-z1-y0-y1-x0-x1[_suffix].h5``
============================  ====================================================

The table is `cristae.volumes.formats.table.FORMATS`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cristae.engine.paths import user_path
from cristae.errors import CristaeError, InputError, SourceNotFoundError
from cristae.grid import Box, parse_roi
from cristae.volumes.finite import Nan, without_nan
from cristae.volumes.formats.axes import OpenOptions, arrange, check_axes
from cristae.volumes.formats.table import find_format, written_forms
from cristae.volumes.formats.tile_index import taken_as
from cristae.volumes.formats.turned import turned
from cristae.volumes.plausible import GIVEN
from cristae.volumes.volume import Array, Kind, Nanometres, Volume, array_volume, check_voxels

Source = str | Path | Array | Volume

_LONGEST_NM = 1e12


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
        volume = taken_as(volume, kind)
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
    if isinstance(source, Volume | np.ndarray):
        _refuse_root(options)
        if isinstance(source, Volume):
            _refuse_reading(options)
            return source
        return _open_array(source.astype(np.uint8) if source.dtype == bool else source, options)
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
        return _open_there(path, replace(options, dataset=dataset))
    except CristaeError:
        raise
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise InputError(f"{name!r}: found a NUL, expected a path: {written_forms()}") from error


def _split(name: str) -> tuple[Path, str | None]:
    """Path and dataset of ``path[:dataset]``, either of which may hold more colons."""
    path = user_path(name)
    if path.exists():
        return path, None
    for colon in [i for i, letter in enumerate(name) if letter == ":" and name[i + 1 :]][::-1]:
        before = user_path(name[:colon])
        if name[:colon] and (before.is_dir() or (before.is_file() and _has_datasets(before))):
            return before, name[colon + 1 :]
    return path, None


def _has_datasets(file: Path) -> bool:
    form = find_format(file)
    return form is not None and "dataset" in form.reads


def _open_there(path: Path, options: OpenOptions) -> Volume:
    form = find_format(path)
    if form is None:
        raise _unknown(path, options.name)
    if "root" not in form.reads:
        _refuse_root(options)
    if "dataset" not in form.reads and options.dataset is not None:
        raise InputError(
            f"{options.name}: {path} is of form {form.title}, which takes no name behind a colon; "
            f"the path of an array in it is {path}/{options.dataset}"
        )
    volume = form.open(path, options).with_(form=form.title)
    return volume if "axes" in form.reads else turned(volume, options)


def _unknown(path: Path, name: str) -> InputError:
    """The error for a path of no format."""
    if path.is_dir():
        there = sorted(entry.name for entry in path.iterdir())
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        found = ", ".join(there[:5]) + more or "an empty folder"
        return InputError(f"{name}: found {found}, expected {written_forms()}")
    if "://" in name:
        return InputError(f"{name}: found a URL, expected a path: {written_forms()}")
    if not path.exists():
        return SourceNotFoundError(f"{name}: no such file or folder")
    return InputError(f"{name}: not a known form of volume, expected {written_forms()}")


def _refuse_root(options: OpenOptions) -> None:
    if options.root is not None:
        raise InputError(
            f"{options.name}: a root ({options.root}) is for tile indices (.json) only"
        )


def _refuse_reading(options: OpenOptions) -> None:
    """Refuse what chooses among axes and series, where there is nothing to choose."""
    if options.reading:
        raise InputError(f"{options.name}: there is no axis or series for {options.reading[0]}")
