"""Describe a source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cristae.engine.executors import Resources
from cristae.engine.records import is_unfinished
from cristae.grid import Box, Triple
from cristae.volumes.finite import inner_reader, is_checked, voxel_fault
from cristae.volumes.formats.foreign_zarr import folder_files
from cristae.volumes.formats.ome_zarr import ZarrReader
from cristae.volumes.intensity import IntensityStatistics, sample_intensity
from cristae.volumes.volume import Kind, Nanometres, Volume

LOOK_VOXELS = 1 << 26
"""Voxels of floats that are looked at for NaN, all or a section."""


@dataclass(frozen=True)
class VolumeInfo:
    """What `describe` found.

    Attributes:
        name: The source as the user wrote it.
        form: What it is (``multi-page TIFF``).
        shape: Extent (z, y, x) in voxels.
        dtype: Name of the voxels' type.
        channels: Names of the channels, or None.
        chunk_shape: Unit of reading (z, y, x) in voxels.
        shard_shape: Unit of writing, where it is another.
        voxel_size_nm: Voxel size (z, y, x) in nm, or None where unknown.
        origin_nm: Centre of voxel 0 (z, y, x) in nm.
        kind: What the voxels are, or None where the source does not say.
        size_on_disk: Bytes, or None where unknown.
        intensity: Statistics of the sample.
        unfinished: Whether it is an output that an interrupted stage left.
        found: Where voxel size, origin and axes were found, see `Volume.found`.
        finite: Of floats: whether there are NaN or infinite ones.
    """

    name: str
    form: str
    shape: Triple
    dtype: str
    channels: tuple[str, ...] | None
    chunk_shape: Triple
    shard_shape: Triple | None
    voxel_size_nm: Nanometres | None
    origin_nm: Nanometres
    kind: Kind | None
    size_on_disk: int | None
    intensity: IntensityStatistics
    unfinished: bool
    found: Mapping[str, str] = field(default_factory=dict)
    finite: str | None = None

    @property
    def text(self) -> str:
        """The whole as aligned lines."""
        lines = {"source": self.name, "form": self.form, "kind": self.kind or "not stated"}
        lines["shape"] = f"{_times(self.shape)} voxels (z, y, x), {_voxels(self.shape)}"
        lines |= self._axes()
        lines["dtype"] = self.dtype
        if self.channels is not None:
            lines["channels"] = f"{len(self.channels)} ({', '.join(self.channels)})"
        lines["chunks"] = _times(self.chunk_shape)
        if self.shard_shape is not None and self.shard_shape != self.chunk_shape:
            lines["chunks"] += f" in shards of {_times(self.shard_shape)}"
        lines |= self._place()
        lines["size on disk"] = _bytes(self.size_on_disk)
        lines |= self._values()
        if self.unfinished:
            lines["state"] = "unfinished: the command that made it resumes it"
        width = max(len(key) for key in lines)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in lines.items())

    def _axes(self) -> dict[str, str]:
        """The stored axes, where they are not those of the shape."""
        source, _, names = self.found.get("axes", "").rpartition(": ")
        plain = names in ("", "z, y, x", "c, z, y, x")
        return {} if plain else {"axes": f"{names} as stored{_where(source)}"}

    def _place(self) -> dict[str, str]:
        sized, placed = (_where(self.found.get(key)) for key in ("voxel_size", "origin"))
        lines = {"voxel size": f"unknown (give it with --voxel-size Z,Y,X){sized}"}
        if self.voxel_size_nm is not None:
            extent = [n * s / 1000 for n, s in zip(self.shape, self.voxel_size_nm, strict=True)]
            lines = {
                "voxel size": f"{_times(self.voxel_size_nm)} nm{sized}",
                "extent": f"{' x '.join(f'{e:.4g}' for e in extent)} um",
            }
        if any(self.origin_nm):
            lines["origin"] = f"{', '.join(f'{o:g}' for o in self.origin_nm)} nm{placed}"
        elif " says " in placed:  # of which nothing can be made
            lines["origin"] = f"0, 0, 0 nm{placed}"
        return lines

    def _values(self) -> dict[str, str]:
        found = self.intensity
        reach = f"{found.minimum:g} to {found.maximum:g}"
        if self.kind == "labels":
            return {"ids": f"{reach} in a sample of {found.sample.split(',')[0]}"}
        lines = {
            "intensity": f"{reach}, mean {found.mean:.4g}, deviation {found.std:.4g}",
            "window": f"{found.low:g} to {found.high:g} (0.5 to 99.5 %)",
            "sample": found.sample,
        }
        if self.finite is not None:
            lines["finite"] = self.finite
        if found.inverted_suspected:
            lines["contrast"] = "membranes look bright: consider --invert"
        return lines


def describe(volume: Volume) -> VolumeInfo:
    """Look at a volume: its metadata, and the fixed sample of its voxels.

    Args:
        volume: Any volume, as `open_volume` gives it.

    Returns:
        What was found; its ``text`` is what ``cristae info`` prints.

    Raises:
        InputError: Data that cannot be read.
    """
    reader, size = inner_reader(volume.reader), volume.size_on_disk
    unfinished = False
    if isinstance(reader, ZarrReader):
        folder = Path(reader.path)
        size = sum(n for _, n, _ in folder_files(folder)) if size is None else size
        unfinished = is_unfinished(folder.parent) if folder.parent.suffix == ".zarr" else False
    return VolumeInfo(
        name=volume.name,
        form=volume.form or "computed",
        shape=volume.shape,
        dtype=volume.dtype.name,
        channels=volume.channels,
        chunk_shape=volume.chunk_shape,
        shard_shape=volume.shard_shape,
        voxel_size_nm=volume.voxel_size_nm,
        origin_nm=volume.origin_nm,
        kind=volume.kind,
        size_on_disk=size,
        intensity=sample_intensity(volume),
        unfinished=unfinished,
        found=volume.found,
        finite=None if is_checked(volume) else _finite(volume),
    )


def _finite(volume: Volume) -> str:
    """Whether all voxels are finite: of a large volume, those of (rows of) its middle section."""
    seen, middle = volume, volume.shape[0] // 2
    if volume.size > LOOK_VOXELS:
        rows, width = volume.shape[1:]
        looked = min(rows, max(1, LOOK_VOXELS // width))
        seen = volume.crop(Box((middle, 0, 0), (middle + 1, looked, min(width, LOOK_VOXELS))))
    fault = voxel_fault(seen, Resources())
    part = "" if seen.shape[1:] == volume.shape[1:] else f"the first {seen.shape[1]} rows of "
    where = f" in {part}section {middle}; all are looked at before any work"
    where = "" if seen is volume else where
    return (f"no: {fault}" if fault else "yes") + where


def _where(found: str | None) -> str:
    return f" ({found})" if found else ""


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" if value < 1e5 else f"{value:.0f}" for value in values)


def _voxels(shape: Triple) -> str:
    return _scaled(shape[0] * shape[1] * shape[2], "voxels")


def _bytes(size: int | None) -> str:
    return "unknown" if size is None else _scaled(size, "B")


def _scaled(amount: float, unit: str) -> str:
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= scale:
            return f"{amount / scale:.3g} {prefix}{unit}"
    return f"{amount:g} {unit}"
