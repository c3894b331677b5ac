"""The names PyTorch Connectomics v1 users know, on arrays.

A script runs with its imports changed to ``from cristae.pytc import readvol, bc_watershed``.
The numbered thresholds are PyTorch Connectomics' own::

                       thres1      thres2      thres3      thres4         thres5
    bc_watershed       seed        contour     foreground
    bcd_watershed      seed        contour     foreground  distance seed  distance foreground
    binary_watershed   seed        foreground
    bc_connected       foreground  contour
    binary_connected   foreground (``thres``)

Instances are numbered 1..n in (z, y, x) order of their first voxel, and come in the smallest
unsigned type that holds n. An argument that is not supported is refused, never ignored. A volume
too large for memory is segmented by `cristae.segmentation.segment.segment_volume`.

With ``remove_small_mode="neighbor"`` small instances, one after the other, join the instance with
most contact in plane (`cristae.segmentation.small`). Other than in PyTorch Connectomics, one that
has grown large enough until its turn stays.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cristae.errors import InputError, raise_faults
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decode import decode
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import Array

UNSCALED = (1.0, 1.0, 1.0)
REMOVE_SMALL = ("background", "neighbor", "none")


def readvol(filename: str | Path, dataset: str | None = None, drop_channel: bool = False) -> Array:
    """Read a volume whole.

    Args:
        filename: HDF5, TIFF, a glob or folder of slices, a folder of prediction chunks, or any
            other source `cristae.volumes.formats.open_volume` knows.
        dataset: Name of the dataset in an HDF5 file; not needed where there is one only.
        drop_channel: Average the channels, in the type of the voxels.

    Returns:
        (z, y, x) or (c, z, y, x) array.

    Raises:
        SourceNotFoundError: No such file.
        InputError: A file that cannot be read, or an HDF5 file with several datasets.
    """
    name = str(filename) if dataset is None else f"{filename}:{dataset}"
    array = open_volume(name).read()
    if drop_channel and array.ndim == 4:
        return np.mean(array, axis=0).astype(array.dtype)  # type: ignore[no-any-return]
    return array


def binary_connected(
    volume: Array,
    thres: float = 0.8,
    thres_small: int = 128,
    scale_factors: Sequence[float] = UNSCALED,
    remove_small_mode: str = "background",
) -> Array:
    """Connected components of the foreground.

    Args:
        volume: (c, z, y, x) probabilities, the mask first: uint8 255 p, uint16, or float in [0, 1].
        thres: Foreground threshold.
        thres_small: Instances of fewer voxels are dropped.
        scale_factors: Only (1, 1, 1).
        remove_small_mode: ``background`` drops small instances, ``neighbor`` joins them to their
            neighbours, ``none`` keeps them.

    Returns:
        Labels (z, y, x).

    Raises:
        InputError: An argument that is not supported or out of range.
    """
    _refuse("binary_connected", scale_factors, remove_small_mode)
    config = SegmentConfig(
        decoder="binary_connected",
        foreground_threshold=thres,
        **_small(thres_small, remove_small_mode),
    )
    return _decode(volume, config)


def binary_watershed(
    volume: Array,
    thres1: float = 0.98,
    thres2: float = 0.85,
    thres_small: int = 128,
    scale_factors: Sequence[float] = UNSCALED,
    remove_small_mode: str = "background",
    seed_thres: int = 32,
) -> Array:
    """Watershed of the mask from its brightest parts.

    Args:
        volume: (c, z, y, x) probabilities, the mask first.
        thres1: Seed threshold.
        thres2: Foreground threshold.
        thres_small: Instances of fewer voxels are dropped.
        scale_factors: Only (1, 1, 1).
        remove_small_mode: ``background`` drops small instances, ``neighbor`` joins them to their
            neighbours, ``none`` keeps them.
        seed_thres: Seeds of fewer voxels are dropped.

    Returns:
        Labels (z, y, x).

    Raises:
        InputError: An argument that is not supported or out of range.
    """
    _refuse("binary_watershed", scale_factors, remove_small_mode)
    config = SegmentConfig(
        decoder="binary_watershed",
        seed_threshold=thres1,
        foreground_threshold=thres2,
        min_seed_size=seed_thres,
        **_small(thres_small, remove_small_mode),
    )
    return _decode(volume, config)


def bc_connected(
    volume: Array,
    thres1: float = 0.8,
    thres2: float = 0.5,
    thres_small: int = 128,
    scale_factors: Sequence[float] = UNSCALED,
    dilation_struct: tuple[int, int, int] = (1, 5, 5),
    remove_small_mode: str = "background",
) -> Array:
    """Connected components of the foreground without contours, dilated in plane.

    Args:
        volume: (c, z, y, x) probabilities: mask, contour.
        thres1: Foreground threshold.
        thres2: Contour threshold.
        thres_small: Instances of fewer voxels are dropped, counted after dilation.
        scale_factors: Only (1, 1, 1).
        dilation_struct: Extent (z, y, x) of the box that dilates instances; odd, z = 1.
        remove_small_mode: ``background`` drops small instances, ``neighbor`` joins them to their
            neighbours, ``none`` keeps them.

    Returns:
        Labels (z, y, x).

    Raises:
        InputError: An argument that is not supported or out of range.
    """
    _refuse("bc_connected", scale_factors, remove_small_mode)
    config = SegmentConfig(
        decoder="bc_connected",
        foreground_threshold=thres1,
        contour_threshold=thres2,
        dilation=dilation_struct,
        **_small(thres_small, remove_small_mode),
    )
    return _decode(volume, config)


def bc_watershed(  # noqa: PLR0913 - the reference's signature
    volume: Array,
    thres1: float = 0.9,
    thres2: float = 0.8,
    thres3: float = 0.85,
    thres_small: int = 128,
    scale_factors: Sequence[float] = UNSCALED,
    remove_small_mode: str = "background",
    seed_thres: int = 32,
    return_seed: bool = False,
    precomputed_seed: Array | None = None,
) -> Array:
    """Watershed of the mask from seeds inside the contours.

    Args:
        volume: (c, z, y, x) probabilities: mask, contour.
        thres1: Seed threshold.
        thres2: Contour threshold of seeds.
        thres3: Foreground threshold.
        thres_small: Instances of fewer voxels are dropped.
        scale_factors: Only (1, 1, 1).
        remove_small_mode: ``background`` drops small instances, ``neighbor`` joins them to their
            neighbours, ``none`` keeps them.
        seed_thres: Seeds of fewer voxels are dropped.
        return_seed: Only False.
        precomputed_seed: Only None.

    Returns:
        Labels (z, y, x).

    Raises:
        InputError: An argument that is not supported or out of range.
    """
    _refuse("bc_watershed", scale_factors, remove_small_mode, return_seed, precomputed_seed)
    config = SegmentConfig(
        decoder="bc_watershed",
        seed_threshold=thres1,
        contour_threshold=thres2,
        foreground_threshold=thres3,
        min_seed_size=seed_thres,
        **_small(thres_small, remove_small_mode),
    )
    return _decode(volume, config)


def bcd_watershed(  # noqa: PLR0913 - the reference's signature
    volume: Array,
    thres1: float = 0.9,
    thres2: float = 0.8,
    thres3: float = 0.85,
    thres4: float = 0.5,
    thres5: float = 0.0,
    thres_small: int = 128,
    scale_factors: Sequence[float] = UNSCALED,
    remove_small_mode: str = "background",
    seed_thres: int = 32,
    return_seed: bool = False,
    precomputed_seed: Array | None = None,
) -> Array:
    """Watershed of the mask from seeds inside the contours and far from the border.

    Args:
        volume: (c, z, y, x) probabilities: mask, contour, distance (255 is 1, 0 is -1).
        thres1: Seed threshold.
        thres2: Contour threshold of seeds.
        thres3: Foreground threshold.
        thres4: Distance threshold of seeds, in [-1, 1].
        thres5: Distance threshold of the foreground, in [-1, 1].
        thres_small: Instances of fewer voxels are dropped.
        scale_factors: Only (1, 1, 1).
        remove_small_mode: ``background`` drops small instances, ``neighbor`` joins them to their
            neighbours, ``none`` keeps them.
        seed_thres: Seeds of fewer voxels are dropped.
        return_seed: Only False.
        precomputed_seed: Only None.

    Returns:
        Labels (z, y, x).

    Raises:
        InputError: An argument that is not supported or out of range.
    """
    _refuse("bcd_watershed", scale_factors, remove_small_mode, return_seed, precomputed_seed)
    config = SegmentConfig(
        decoder="bcd_watershed",
        seed_threshold=thres1,
        contour_threshold=thres2,
        foreground_threshold=thres3,
        distance_seed_threshold=thres4,
        distance_foreground_threshold=thres5,
        min_seed_size=seed_thres,
        **_small(thres_small, remove_small_mode),
    )
    return _decode(volume, config)


def _refuse(
    function: str,
    scale_factors: Sequence[float],
    remove_small_mode: str,
    return_seed: bool = False,
    precomputed_seed: Any = None,
) -> None:
    faults = []
    if tuple(scale_factors) != UNSCALED:
        faults.append(f"scale_factors: {tuple(scale_factors)} found, expected (1, 1, 1)")
    if remove_small_mode not in REMOVE_SMALL:
        known = ", ".join(map(repr, REMOVE_SMALL))
        faults.append(f"remove_small_mode: {remove_small_mode!r} found, expected {known}")
    if return_seed:
        faults.append("return_seed: True found, expected False (seeds are not returned)")
    if precomputed_seed is not None:
        faults.append("precomputed_seed: an array found, expected None (seeds are computed)")
    raise_faults(function, faults, InputError)


def _small(thres_small: int, remove_small_mode: str) -> dict[str, Any]:
    if remove_small_mode == "none":
        return {"min_size": 0}
    return {"min_size": int(thres_small), "small": remove_small_mode}


def _decode(volume: Array, config: SegmentConfig) -> Array:
    if volume.ndim != 4:
        raise InputError(f"{config.decoder}: array of shape {volume.shape}, expected (c, z, y, x)")
    labels = decode(volume, config)
    return labels.astype(np.min_scalar_type(int(labels.max())))
