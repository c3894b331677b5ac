"""Any source into a sharded OME-Zarr with a pyramid, at any size in bounded memory.

Every shard is written once. Sources whose own chunks are larger than a shard (whole slices, say)
are read a group of shards at a time::

    source planes  |---------------------------|   each decoded once a group
    group          |======|======|======|======|   in memory, as many shards as fit the budget
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.files import check_disk, folder_bytes
from cristae.engine.ledger import Ledger, check_output, open_ledger
from cristae.engine.memory import (
    Stopwatch,
    check_memory,
    promise_memory,
)
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, log, rate_text, takes_progress
from cristae.errors import InputError, raise_faults
from cristae.volumes.copying import ConvertJob, copy_voxels, group_shape, task_bytes, voxel_bytes
from cristae.volumes.expected import Expected, expected_volume
from cristae.volumes.finite import checked_voxels, inner_reader
from cristae.volumes.formats import Source, open_volume
from cristae.volumes.formats.ome_zarr import (
    Layout,
    create_ome_zarr,
    open_ome_zarr,
    update_attributes,
)
from cristae.volumes.formats.pages import CACHE_BYTES, is_cached
from cristae.volumes.formats.tile_index import taken_as
from cristae.volumes.intensity import INTENSITY_ATTRIBUTE, sample_boxes, sample_intensity
from cristae.volumes.negative import label_faults
from cristae.volumes.padding import PADDING_ATTRIBUTE, find_padding
from cristae.volumes.plausible import warn_of_size
from cristae.volumes.pyramid import build_pyramid, plan_levels, pyramid_memory
from cristae.volumes.restate import adopt_size
from cristae.volumes.volume import Kind, Volume

WORKS = (".zarr",)
"""Suffixes an output may have."""

_LABELS_SHRINK = 4
"""Labels take at most this part of their raw size on disk (1 to 3 % is usual)."""

_OWN_BYTES = 48 << 20
"""What the array library's threads and buffers take, measured."""

_SAMPLE_BYTES = 20
"""A sampled voxel and its copies in double precision, while statistics are taken."""

_STRUCTURE = ("kind", "kind_from", "voxel_size_nm", "origin_nm", "channels", "record")


@takes_progress
def convert_volume(
    source: Source,
    out: str | Path,
    *,
    kind: Kind | None = None,
    pyramid: bool = True,
    resources: Resources | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Volume:
    """Write a volume as sharded OME-Zarr.

    An output made without a voxel size is given it where nothing else differs.

    The kind is the source's own, else ``kind``, else ``image``; a tile index says by its ``ndim``
    and ``dtype`` what it is taken for. Labels are stored unsigned. An image's grey statistics are
    stored with it. Voxel size, origin and channels pass on.

    Args:
        source: A volume, an array, or the path of one.
        out: A path ending in ``.zarr``.
        kind: What the voxels are, where the source does not say.
        pyramid: Write smaller levels, too.
        resources: Workers, executor and memory; they change no byte. All cores by default.
        overwrite: Replace an existing output.
        progress: Called with a `Progress` as work is done.

    Returns:
        The new volume.

    Raises:
        InputError: Another suffix, the source itself as output, a kind that contradicts the
            source's, labels with negative or fractional values, NaN or infinity (with its place),
            or a source that cannot be read.
        OutputExistsError: The output exists with other inputs or settings.
        MemoryLimitError: It does not fit the memory allowed.
        DiskSpaceError: The disk has no room for it.
    """
    out, resources = user_path(out), resources or Resources()
    volume = open_volume(source)
    _check_place(volume, out)
    volume, reason = _settle_kind(volume, kind)
    inputs = {"source": volume.identity.now()}
    volume = checked_voxels(volume, resources, out=out, inputs=inputs)
    settings = _settings(volume, pyramid)
    identity: dict[str, Any] = {"stage": "convert", "inputs": inputs, "settings": settings}
    if not overwrite:
        adopt_size(out, **identity)
    with open_ledger(out, **identity, overwrite=overwrite) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
        else:
            _convert(volume, out, pyramid, resources, ledger, reason)
    return open_ome_zarr(out)


def check_convert(
    source: Volume,
    out: str | Path,
    *,
    kind: Kind | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
) -> Expected:
    """What `convert_volume` will make of its arguments, with its errors; nothing is written.

    Grey values are sampled, and labels that are signed or floats read, as far as they are not
    converted yet.
    """
    out, resources = user_path(out), resources or Resources()
    _check_place(source, out)
    source, _ = _settle_kind(source, kind)
    state = check_output(
        out,
        stage="convert",
        inputs={"source": source.identity},
        settings=_settings(source, True),
        overwrite=overwrite,
    )
    if state == "done":
        return Expected(state, open_ome_zarr(out))
    if source.kind == "labels":
        raise_faults("convert", label_faults(source, negative=None))
    job = _planned(source, resources)
    attributes = dict(job.target.attributes)
    if source.kind == "image":
        attributes[INTENSITY_ATTRIBUTE] = sample_intensity(source).to_dict()
    check_memory("convert", _memory(job, True, resources), resources)
    bytes_missing = max(0, _disk_bytes(job.target, True) - folder_bytes(out))
    return Expected(state, job.target.with_(attributes=attributes), bytes_missing)


def _planned(source: Volume, resources: Resources) -> ConvertJob:
    """The conversion with a target that is not made yet."""
    shown, layout = replace(source, dtype=_stored_dtype(source)), Layout().fitted(source.shape)
    target = expected_volume(
        shown,
        source.name,  # what a person knows it by, for messages
        chunk_shape=layout.chunk,
        shard_shape=layout.shard,
        attributes=_passed_on(source),
    )
    return ConvertJob(source, target, group_shape(source, target, resources))


def _check_place(source: Volume, out: Path) -> None:
    if out.suffix != ".zarr":
        raise InputError(f"{out}: found suffix {out.suffix!r}, expected {' or '.join(WORKS)}")
    if out.exists() and out.resolve() in (here := user_path(source.name).resolve(), *here.parents):
        raise InputError(f"{out}: is the source itself ({source.name}), expected another place")


def _settings(source: Volume, pyramid: bool) -> dict[str, Any]:
    return {
        "kind": source.kind,
        "voxel_size_nm": source.voxel_size_nm,
        "origin_nm": source.origin_nm,
        "pyramid": pyramid,
    }


def _passed_on(source: Volume) -> dict[str, Any]:
    """What of a source's attributes the output keeps."""
    return {k: v for k, v in source.attributes.items() if k not in _STRUCTURE}


def _convert(
    source: Volume, out: Path, pyramid: bool, resources: Resources, ledger: Ledger, reason: str
) -> None:
    warn_of_size(source)
    watch, job = Stopwatch(), _planned(source, resources)
    check_disk(out, _disk_bytes(job.target, pyramid) - folder_bytes(out))
    promise_memory("convert", _memory(job, pyramid, resources), resources)
    target = _create_target(job.target, out)
    copy_voxels(replace(job, target=target), ledger, resources)
    if source.kind == "image":
        _describe(source, target, out, resources)
    levels = build_pyramid(out, ledger=ledger, resources=resources) if pyramid else 1
    ledger.finish(levels=levels)
    log.info(
        "%s: %s %s %s, %d levels, %s in %.0f s; kind %s (%s)",
        out,
        " x ".join(str(n) for n in target.shape),
        target.dtype,
        target.kind,
        levels,
        rate_text(target.size, watch.seconds, "voxels"),
        watch.seconds,
        target.kind,
        reason,
    )


def _settle_kind(source: Volume, kind: Kind | None) -> tuple[Volume, str]:
    """The source with its kind, and where that comes from."""
    index_says = source.attributes.get("kind_from")
    if kind is not None and source.kind not in (None, kind) and index_says is None:
        raise InputError(f"{source.name}: says it is {source.kind}, expected {kind}")
    if kind is not None and source.kind != kind:
        return taken_as(source, kind), "given"
    if source.kind is not None:
        return source, str(index_says or "as the source is opened")
    return source.with_(kind="image"), "the source does not say; --kind does"


def _stored_dtype(source: Volume) -> np.dtype[Any]:
    """Unsigned, as wide as the source's, for labels; the source's own otherwise."""
    if source.kind != "labels" or source.dtype.kind == "u":
        return source.dtype
    least = 4 if source.dtype.kind == "f" else 1
    return np.dtype(f"u{max(least, source.dtype.itemsize)}")


def _create_target(source: Volume, out: Path) -> Volume:
    attributes = _passed_on(source)
    return create_ome_zarr(
        out,
        shape=source.shape,
        dtype=source.dtype,
        kind=source.kind or "image",
        voxel_size_nm=source.voxel_size_nm,
        origin_nm=source.origin_nm,
        channels=source.channels,
        attributes=attributes,
    )


def _describe(source: Volume, target: Volume, out: Path, resources: Resources) -> None:
    """Store an image's padding and grey statistics, those that the source carries or new ones."""
    bare = target.with_(attributes={})
    padding = find_padding(source if PADDING_ATTRIBUTE in source.attributes else bare, resources)
    carried = INTENSITY_ATTRIBUTE in source.attributes
    statistics = sample_intensity(source if carried else bare, padding)
    update_attributes(
        out,
        **{
            INTENSITY_ATTRIBUTE: statistics.to_dict(),
            PADDING_ATTRIBUTE: None if padding is None else padding.to_dict(),
        },
    )
    if statistics.inverted_suspected:
        log.warning("%s: membranes look brighter than the rest; consider --invert", source.name)


def _memory(job: ConvertJob, pyramid: bool, resources: Resources) -> int:
    """Upper bound of the bytes held at once."""
    cached = job.group != job.shard and is_cached(inner_reader(job.source.reader))
    cache = min(CACHE_BYTES, job.target.size * voxel_bytes(job.target)) if cached else 0
    if job.group == job.shard:
        copying = resources.workers * task_bytes(job)
    elif resources.executor == "processes":
        copying = resources.workers * (task_bytes(job) + cache)
    else:
        copying = task_bytes(job, resources.workers) + cache
    building = pyramid_memory(job.target, resources.workers) if pyramid else 0
    boxes = sample_boxes(job.source.shape) if job.source.kind == "image" else []
    sampled = sum(box.size for box in boxes)
    return int(_OWN_BYTES + _SAMPLE_BYTES * sampled + max(copying, building))


def _disk_bytes(source: Volume, pyramid: bool) -> int:
    """Upper estimate of the output's bytes on disk."""
    raw = source.size * voxel_bytes(source)
    total, part = float(raw), float(raw)
    for factors in plan_levels(source.shape, source.voxel_size_nm) if pyramid else []:
        part /= np.prod(factors)
        total += part
    return int(total / (_LABELS_SHRINK if source.kind == "labels" else 1))
