"""A voxel size that was unknown when an output was made, and is given later.

Voxels do not depend on it, so the output stays; its metadata and its record say the size from then
on. Smaller levels keep the factors they were made with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cristae.engine.files import read_json, write_json
from cristae.engine.progress import log
from cristae.engine.records import Input, adopt_settings
from cristae.volumes.formats.image_metadata import ome_metadata
from cristae.volumes.volume import Nanometres, Volume

SIZE_SETTINGS = ("voxel_size_nm", "origin_nm")


def adopt_size(
    out: Path, *, stage: str, inputs: Mapping[str, Input], settings: Mapping[str, Any]
) -> bool:
    """Give an output its voxel size where nothing else differs from what is asked for now.

    Args:
        out: The ``.zarr``, begun or finished.
        stage: Name of the stage.
        inputs: As for `open_ledger`.
        settings: As for `open_ledger`, with ``voxel_size_nm`` and ``origin_nm``.

    Returns:
        Whether there was one, made without a voxel size.
    """
    size = settings["voxel_size_nm"]
    if size is None:
        return False
    return adopt_settings(
        out,
        stage=stage,
        inputs=inputs,
        settings=settings,
        unknown=SIZE_SETTINGS,
        before=lambda: restate_size(out, size, settings["origin_nm"]),
    )


def restate_size(out: Path, size: Nanometres, origin: Nanometres) -> None:
    """Write voxel size and origin into the metadata of an image of ours; all at once."""
    tree = read_json(out / "zarr.json")
    if tree is None:  # begun, and nothing is written yet
        return
    ours, ome = tree["attributes"]["cristae"], tree["attributes"]["ome"]
    sets = ome["multiscales"][0]["datasets"]
    scales = [each["coordinateTransformations"][0]["scale"][-3:] for each in sets]
    levels = []
    for each, scale in zip(sets, scales, strict=True):
        factors = [a / b for a, b in zip(scale, scales[0], strict=True)]
        z, y, x = (f * s for f, s in zip(factors, size, strict=True))
        oz, oy, ox = (o + (f - 1) / 2 * s for f, s, o in zip(factors, size, origin, strict=True))
        levels.append((each["path"], (z, y, x), (oz, oy, ox)))
    channels = ours["channels"] and tuple(ours["channels"])
    ours |= {"voxel_size_nm": [float(v) for v in size], "origin_nm": [float(v) for v in origin]}
    tree["attributes"]["ome"] = ome_metadata(out.stem, levels, size, channels, ours["kind"])
    write_json(out / "zarr.json", tree)
    log.info("%s: was made without a voxel size, says %s nm now", out, list(size))


def follow_size(labels: Volume, out: Path, source: Volume) -> bool:
    """Give labels the size and origin of what they were made from, where they have none.

    Returns:
        Whether they were given one.
    """
    if labels.voxel_size_nm is not None or source.voxel_size_nm is None:
        return False
    restate_size(out, source.voxel_size_nm, source.origin_nm)
    return True
