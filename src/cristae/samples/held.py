"""Samples held ready: in memory where they fit, as Zarr where they cost much to read."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.progress import log
from cristae.errors import DiskSpaceError
from cristae.grid import tile
from cristae.samples.dataset import OpenedSample
from cristae.volumes.convert import convert_volume
from cristae.volumes.negative import SCAN_SHAPE
from cristae.volumes.volume import Array, Kind, Volume, array_volume

PLANE_VOXELS = 1 << 18
"""Voxels of a plane from which on a volume stored in planes costs much to read in boxes."""


def keep_on_disk(
    opened: Sequence[OpenedSample], folder: Path, resources: Resources, memory_bytes: int
) -> list[OpenedSample]:
    """Samples that cost much to read, made or decoded once and kept as Zarr.

    Simulated ones are; and, of those that `load_samples` will not hold in memory, volumes that
    are decoded in whole planes (slices, tiles, pages), because each of their boxes costs all the
    planes it lies in. Where the disk has no room for these, they are read as they are.

    Args:
        opened: Open samples.
        folder: Where their arrays are kept; what is there of an interrupted call is taken up.
        resources: Workers that make them.
        memory_bytes: Room that `load_samples` will have.

    Returns:
        The samples, with such volumes read from ``folder``.
    """
    fitting = fit_in_memory(opened, memory_bytes)
    return [_kept(one, folder, resources, fits) for one, fits in zip(opened, fitting, strict=True)]


def _kept(one: OpenedSample, folder: Path, resources: Resources, fits: bool) -> OpenedSample:
    kept: dict[str, Volume] = {}
    for role in ("image", "labels", "mask"):
        volume: Volume | None = getattr(one, role)
        simulated = one.sample.simulate is not None
        if volume is None or not (simulated or (is_by_planes(volume) and not fits)):
            continue
        if role == "mask" and volume.dtype.kind == "f":  # Zarr holds ids or grey values
            continue
        kind: Kind = "image" if role == "image" else "labels"
        out = folder / f"{one.sample.name}_{role}.zarr"
        try:
            kept[role] = convert_volume(
                volume.with_(kind=kind), out, pyramid=False, resources=resources
            )
        except DiskSpaceError as error:
            if simulated:
                raise
            log.warning("%s: read as it is, which is slow: %s", volume.name, error)
    return replace(
        one,
        image=kept.get("image", one.image),
        labels=kept.get("labels", one.labels),
        mask=kept.get("mask", one.mask),
    )


def is_by_planes(volume: Volume) -> bool:
    """Whether a small box costs decoding planes much larger than it."""
    return volume.chunk_shape[0] == 1 and math.prod(volume.chunk_shape) > PLANE_VOXELS


def fit_in_memory(opened: Sequence[OpenedSample], memory_bytes: int) -> list[bool]:
    """Which samples `load_samples` will hold, as far as their ids are few enough for 16 bits."""
    room, fitting = memory_bytes, []
    for one in opened:
        fits = _stored_bytes(one) <= room
        fitting.append(fits)
        room -= held_bytes(one) if fits else 0
    return fitting


def held_bytes(one: OpenedSample) -> int:
    """Memory of a sample held, with ids of 16 bits at most."""
    labels = one.labels.size * one.labels.dtype.itemsize
    return _stored_bytes(one) - labels + one.labels.size * min(2, one.labels.dtype.itemsize)


def _stored_bytes(one: OpenedSample) -> int:
    volumes = [one.image, one.labels, *([one.mask] if one.mask else [])]
    return sum(volume.size * volume.dtype.itemsize for volume in volumes)


def load_samples(opened: Sequence[OpenedSample], memory_bytes: int) -> list[OpenedSample]:
    """Hold samples in memory, in the order given, as long as the room lasts.

    Args:
        opened: Open samples.
        memory_bytes: Room for all of them together; a sample that does not fit stays on disk.

    Returns:
        The samples, each in memory as a whole or not at all. Labels are held as `compact_ids`.
    """
    room, result = memory_bytes, []
    for one in opened:
        if _stored_bytes(one) > room:
            result.append(one)
            continue
        volumes = [one.image, one.labels, *([one.mask] if one.mask else [])]
        held = [_load(volume, compact=volume is one.labels) for volume in volumes]
        room -= sum(volume.size * volume.dtype.itemsize for volume in held)
        mask = held[2] if one.mask is not None else None
        result.append(OpenedSample(one.sample, held[0], held[1], mask))
    return result


def _load(volume: Volume, compact: bool = False) -> Volume:
    array = np.empty(volume.shape, volume.dtype)
    for box in tile(volume.box, SCAN_SHAPE):
        array[box.slices()] = volume.read(box)
    if compact:
        array = compact_ids(array)
    held = array_volume(
        array, name=volume.name, voxel_size_nm=volume.voxel_size_nm, kind=volume.kind
    )
    return held.with_(identity=volume.identity, attributes=volume.attributes)


def compact_ids(labels: Array) -> Array:
    """Labels in the smallest unsigned type that fits; ids over 65535 are renumbered in order.

    Args:
        labels: Whole numbers of any dtype, none negative.

    Returns:
        uint8 or uint16 (uint32 with more than 65535 different ids) of the same shape.
    """
    if int(labels.max()) > np.iinfo(np.uint16).max:
        flat = labels.reshape(-1)
        # an id is new only where a run of equal voxels begins
        begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        ids = np.unique(np.append(flat[begins], flat[:1]))
        ids = ids[ids > 0]
        inside = np.flatnonzero(flat)
        compact = np.zeros(labels.size, np.uint32)
        compact[inside] = np.searchsorted(ids, flat[inside]) + 1
        labels = compact.reshape(labels.shape)
    highest = int(labels.max())
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if highest <= np.iinfo(t).max)
    return labels.astype(dtype, copy=False)
