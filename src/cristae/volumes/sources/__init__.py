"""Sources: every form a volume comes in, opened by one function."""

from pathlib import Path

import numpy as np

from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import parse_roi
from cristae.volumes.sources.ome_zarr import open_ome_zarr
from cristae.volumes.volume import Array, Kind, Nanometres, Volume, array_volume

Source = str | Path | Array | Volume


def open_volume(
    source: Source,
    *,
    voxel_size_nm: Nanometres | None = None,
    roi: str | None = None,
    kind: Kind | None = None,
    root: str | Path | None = None,
) -> Volume:
    """Open any source as a lazily read volume.

    Args:
        source: A path as the user writes it, an array in memory, or a volume.
        voxel_size_nm: Voxel size (z, y, x) in nm; replaces what the source says.
        roi: ``z0:z1,y0:y1,x0:x1``: only this part, which keeps its place in space.
        kind: What the voxels are; replaces what the source says.
        root: Folder that relative paths of a tile index count from.

    Returns:
        The volume.

    Raises:
        SourceNotFoundError: No such path.
        InputError: A source that cannot be used; all faults at once.
    """
    volume = _open(source, root)
    if voxel_size_nm is not None:
        volume = volume.with_(voxel_size_nm=voxel_size_nm)
    if kind is not None:
        volume = volume.with_(kind=kind)
    return volume.crop(parse_roi(roi, volume.shape)) if roi is not None else volume


def _open(source: Source, root: str | Path | None) -> Volume:
    if isinstance(source, Volume):
        return source
    if isinstance(source, np.ndarray):
        return array_volume(source)
    path = Path(source)
    if not path.exists():
        raise SourceNotFoundError(f"{source}: no such file or folder")
    if (path / "zarr.json").is_file():
        return open_ome_zarr(path, str(source))
    raise InputError(f"{source}: not a known form of volume")
