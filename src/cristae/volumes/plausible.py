"""Voxel sizes that can hardly be meant, with a guess at what is."""

from cristae.engine.progress import log
from cristae.volumes.volume import Nanometres, Volume

LEAST_NM, MOST_NM = 0.5, 500.0
"""Between which voxels of electron microscopy lie."""

GIVEN = "--voxel-size"
"""What a volume's ``found`` says of a voxel size that a person gave."""

FAR = 300.0
"""Times a model's voxel size from which on another unit is meant."""

_UNITS = {
    "micrometres": 1e3,
    "picometres": 1e-3,
    "angstroms": 0.1,
    "millimetres": 1e6,
    "metres": 1e9,
}
_SQUARE, _FLAT = 1.5, 3.0


def size_text(size: Nanometres) -> str:
    """A voxel size as people write it."""
    return " x ".join(f"{side:g}" for side in size) + " nm"


def doubt(size: Nanometres | None) -> str | None:
    """Why a voxel size (z, y, x) is implausible, and what may be meant; None where it is not."""
    if size is None:
        return None
    if not all(LEAST_NM <= side <= MOST_NM for side in size):
        return (
            f"voxel size {size_text(size)} is outside {LEAST_NM:g} to {MOST_NM:g} nm{guess(size)}"
        )
    z, y, x = size
    square = max(y, x) <= _SQUARE * min(y, x)
    if square and min(y, x) < _FLAT * z:
        return None
    found = "z is much smaller than y and x" if square else "y and x differ"
    turned = size_text((x, y, z))
    return f"voxel size {size_text(size)}: {found}; expected z, y, x: is it {turned}?"


def guess(size: Nanometres) -> str:
    """The unit in which a size would be plausible, as the end of a sentence."""
    for unit, factor in _UNITS.items():
        z, y, x = (float(f"{side * factor:.6g}") for side in size)
        if all(LEAST_NM <= side <= MOST_NM for side in (z, y, x)):
            return f": is it in {unit} ({size_text((z, y, x))})?"
    return ""


def warn_of_size(volume: Volume) -> None:
    """Warn once of a voxel size that can hardly be meant."""
    found = doubt(volume.voxel_size_nm)
    if found is not None:
        log.warning("%s: %s --voxel-size Z,Y,X gives it in nm", volume.name, found)


def far_from_model(
    volume: Volume, working: tuple[float | None, float | None, float | None]
) -> str | None:
    """Why a size is not the model's in another unit; None where a person gave it.

    Args:
        volume: The image.
        working: Working voxel size of the model; null on an axis that is never resampled.
    """
    size = volume.voxel_size_nm
    if size is None or volume.found.get("voxel_size") == GIVEN:
        return None
    ratios = [b / a for a, b in zip(size, working, strict=True) if b is not None]
    if all(1 / FAR < ratio < FAR for ratio in ratios):
        return None
    return (
        f"voxel size {size_text(size)}, the model works at {list(working)} nm, {max(ratios):.3g} "
        f"times as much{guess(size)} --voxel-size Z,Y,X says in nm what is meant"
    )
