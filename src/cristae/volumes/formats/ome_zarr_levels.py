"""The smaller copies of a volume in OME-Zarr."""

from dataclasses import replace
from pathlib import Path

from cristae.engine.manifest import manifest_stamp
from cristae.engine.progress import log
from cristae.engine.stored import array_state
from cristae.errors import InputError
from cristae.grid import Triple
from cristae.volumes.formats.image_metadata import (
    array_metadata,
    image_metadata,
    is_ours,
    level_steps,
)
from cristae.volumes.formats.ome_zarr import ZarrReader, _reader
from cristae.volumes.volume import Volume


def pyramid_levels(volume: Volume) -> list[tuple[Volume, Triple]]:
    """The smaller levels of an image made by cristae, in the place of the volume.

    Args:
        volume: From `open_ome_zarr`, or a part of it.

    Returns:
        Each level with the voxels (z, y, x) of level 0 in one of its own; none for other sources,
        and no level whose voxels do not begin and end where the volume does.
    """
    reader = volume.reader
    if not isinstance(reader, ZarrReader) or reader.axes or Path(reader.path).name != "0":
        return []
    folder = Path(reader.path).parent
    if not is_ours(folder):
        return []
    steps = level_steps(folder)
    if steps and not is_current(folder):
        log.info("%s: edited after it was finished, so its smaller levels are not used", folder)
        return []
    whole = array_metadata(Path(reader.path), volume.channels).shape
    return [
        (_level(volume, folder / name, step, whole), step)
        for name, step in steps
        if _meets(volume, step, whole)
    ]


def is_current(folder: str | Path) -> bool:
    """Whether level 0 holds what it held when its image was finished.

    Where it does not, somebody edited it, and what was derived from it then (run and instance
    tables, smaller levels) describes another array. What release 0.1 finished is taken as it is.

    Raises:
        InputError: A file that cannot be read or is cut off.
    """
    record = image_metadata(Path(folder)).record
    state = (record or {}).get("state")
    return state is None or state == array_state(folder)


def _meets(volume: Volume, step: Triple, whole: Triple) -> bool:
    """Whether a volume begins and ends at voxel edges of a level."""
    return all(
        corner % n == 0 and ((corner + extent) % n == 0 or corner + extent == all_of_it)
        for corner, extent, n, all_of_it in zip(
            volume.corner, volume.shape, step, whole, strict=True
        )
    )


def _level(volume: Volume, path: Path, step: Triple, whole: Triple) -> Volume:
    """The volume in a level ``step`` times coarser than the whole image."""
    array = array_metadata(path, volume.channels)
    z, y, x = (-(-extent // n) for extent, n in zip(volume.shape, step, strict=True))
    cz, cy, cx = (corner // n for corner, n in zip(volume.corner, step, strict=True))
    expected = tuple(-(-extent // n) for extent, n in zip(whole, step, strict=True))
    if array.shape != expected:
        raise InputError(f"{path}: this level has shape {array.shape}, expected {expected}")
    return replace(
        volume,
        reader=_reader(path, manifest_stamp(path.parent)),
        shape=(z, y, x),
        corner=(cz, cy, cx),
        chunk_shape=array.chunk,
        shard_shape=array.shard,
    )
