"""Volume: a lazily read ([c,] z, y, x) array with voxel size and origin in nm.

Boxes are in voxels of the volume, whatever part of a source it is. Physical units travel: the
voxel size is (z, y, x) in nm or None where unknown, the origin is the centre of voxel 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cristae.engine.identity import Identity, InMemory
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import InputError
from cristae.grid import Box, Triple

Nanometres = tuple[float, float, float]
Kind = Literal["image", "labels", "prediction"]
Array = NDArray[Any]


class Reader(Protocol):
    """Reads boxes of a source; picklable, and safe from several threads and processes."""

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box that lies inside the source."""


@runtime_checkable
class Writer(Reader, Protocol):
    """A reader that can write, too."""

    def write(self, box: Box, array: Array) -> None:
        """Put a box on disk; returns when it is there."""


MOST_VOXELS = 1 << 53
"""More than that in one array is a mistake: 9 million Gvoxel."""

UNKNOWN = Identity()
"""The identity of a volume that no record may name."""


@dataclass(frozen=True)
class Volume:
    """A lazily read ([c,] z, y, x) array in physical space.

    Attributes:
        name: The source as the user wrote it.
        reader: Reads boxes of the whole source.
        shape: Extent (z, y, x) in voxels.
        dtype: Type of the voxels.
        channels: Names of the channels, or None where the array has no channel axis.
        voxel_size_nm: Voxel size (z, y, x) in nm, or None where it is unknown.
        origin_nm: Centre of voxel 0 (z, y, x) in nm.
        kind: ``image``, ``labels`` or ``prediction``, or None where the source does not say.
        chunk_shape: Smallest unit of reading (z, y, x) in voxels.
        shard_shape: Unit of writing (z, y, x) in voxels; the chunk shape where there is no other.
        attributes: What the source says of itself, under cristae's keys.
        size_on_disk: Bytes on disk, or None where it is unknown.
        identity: What the content is, for records; looked up when it is asked for.
        found: Where ``voxel_size``, ``origin`` and ``axes`` were found, in words.
        corner: Voxel of the source that is voxel 0 here; not zero after `crop`.
        form: What the source is called (``HDF5``); empty for what is computed.
    """

    name: str
    reader: Reader
    shape: Triple
    dtype: np.dtype[Any]
    channels: tuple[str, ...] | None = None
    voxel_size_nm: Nanometres | None = None
    origin_nm: Nanometres = (0.0, 0.0, 0.0)
    kind: Kind | None = None
    chunk_shape: Triple = (64, 64, 64)
    shard_shape: Triple | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    size_on_disk: int | None = None
    identity: Identity = UNKNOWN
    found: Mapping[str, str] = field(default_factory=dict)
    corner: Triple = (0, 0, 0)
    form: str = ""

    @property
    def fingerprint(self) -> str:
        """A short digest of the identity; equal ones mean the same voxels, read the same way."""
        return self.identity.fingerprint

    @property
    def box(self) -> Box:
        """The whole volume, from voxel 0."""
        return Box.of(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels of one channel."""
        return self.box.size

    def read(self, box: Box | None = None) -> Array:
        """Read a box.

        Args:
            box: Voxels of this volume; all of it by default.

        Returns:
            A new (z, y, x) array, or (c, z, y, x) where the volume has channels.

        Raises:
            InputError: The box reaches outside the volume.
        """
        box = self.box if box is None else box
        self._check(box)
        return self.reader.read(box.shift(self.corner))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All voxels, as `numpy.asarray` asks for them; they are always read anew.

        Raises:
            ValueError: ``copy=False``.
        """
        if copy is False:
            raise ValueError(f"{self.name}: voxels are read, which makes a copy")
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)

    def write(self, box: Box, array: Array) -> None:
        """Write a box; it is on disk when this returns.

        Raises:
            InputError: The volume cannot be written, the box reaches outside, or shapes differ.
        """
        self._check(box)
        if not isinstance(self.reader, Writer):
            raise InputError(f"{self.name}: cannot be written")
        expected = box.shape if self.channels is None else (len(self.channels), *box.shape)
        if array.shape != expected or array.dtype != self.dtype:
            raise InputError(
                f"{self.name}: {array.dtype} array of shape {array.shape} for box {box}, "
                f"expected {self.dtype} of shape {expected}"
            )
        self.reader.write(box.shift(self.corner), array)

    def crop(self, box: Box) -> "Volume":
        """The part in a box, which keeps its place in physical space.

        Raises:
            InputError: The box is empty or reaches outside the volume.
        """
        if box.empty:
            raise InputError(f"{self.name}: box {box} is empty")
        self._check(box)
        z, y, x = box.start
        dz, dy, dx = self.voxel_size_nm or (1.0, 1.0, 1.0)
        oz, oy, ox = self.origin_nm
        return replace(
            self,
            shape=box.shape,
            corner=box.shift(self.corner).start,
            origin_nm=(oz + z * dz, oy + y * dy, ox + x * dx),
            identity=self.identity if box == self.box else self.identity.read_as(str(box)),
        )

    def with_(self, **changes: Any) -> "Volume":
        """The same voxels, described otherwise."""
        return replace(self, **changes)

    def _check(self, box: Box) -> None:
        if not self.box.contains(box):
            raise InputError(f"{self.name}: box {box} reaches outside {self.box}")


def refuse_unfinished_volume(volume: Volume) -> None:
    """Refuse a volume that lies in an output which its stage has not finished.

    Raises:
        InputError: What is missing.
    """
    for place, is_whole in volume.identity.places():
        if is_whole:
            refuse_unfinished(place)


def check_voxels(name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Refuse voxels that are no real numbers of up to 64 bits, and more of them than there can be.

    Raises:
        InputError: What was found.
    """
    if dtype.kind not in "uifb" or dtype.itemsize > 8 or dtype.isbuiltin > 1:
        raise InputError(f"{name}: found dtype {dtype}, expected real numbers of up to 64 bits")
    if math.prod(int(n) for n in shape) > MOST_VOXELS:
        raise InputError(f"{name}: found shape {tuple(shape)}, expected 2**53 voxels at most")


def array_volume(
    array: Array,
    *,
    name: str = "array",
    voxel_size_nm: Nanometres | None = None,
    channels: tuple[str, ...] | None = None,
    kind: Kind | None = None,
) -> Volume:
    """An array in memory as a volume, not copied.

    Args:
        array: (z, y, x), or (c, z, y, x).
        name: What messages call it.
        voxel_size_nm: Voxel size (z, y, x) in nm, if known.
        channels: Names of the channels of a 4D array; ``channel_0``, ... by default.
        kind: What the voxels are, if known.

    Raises:
        InputError: Neither 3D nor 4D, an empty array, no real numbers, or names that do not match
            the channels.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name}: a masked array found, expected a plain one: array.filled(VALUE)")
    check_voxels(name, array.shape, array.dtype)
    if array.ndim not in (3, 4) or array.size == 0:
        raise InputError(
            f"{name}: array of shape {array.shape}, expected (z, y, x) or (c, z, y, x) with voxels"
        )
    if array.ndim == 4 and channels is None:
        channels = tuple(f"channel_{i}" for i in range(array.shape[0]))
    found = array.shape[0] if array.ndim == 4 else 0
    if len(channels or ()) != found:
        raise InputError(f"{name}: {found} channels in the array, {len(channels or ())} names")
    z, y, x = array.shape[-3:]
    return Volume(
        name=name,
        reader=ArrayReader(array),
        shape=(z, y, x),
        dtype=array.dtype,
        channels=channels,
        voxel_size_nm=voxel_size_nm,
        kind=kind,
        size_on_disk=None,
        identity=Identity((InMemory(name, array),)),
        found={"voxel_size": "given with the array" if voxel_size_nm else "an array states none"},
        form="array in memory",
    )


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Reads, and writes, boxes of an array in memory."""

    array: Array

    def read(self, box: Box) -> Array:
        """A copy of the box."""
        return self.array[(..., *box.slices())].copy()

    def write(self, box: Box, array: Array) -> None:
        """Put the box into the array."""
        self.array[(..., *box.slices())] = array


def read_reflected(volume: Volume, box: Box) -> Array:
    """Read a box that may reach outside; what lies outside is mirrored at the border voxels.

    The border voxel itself is not repeated (NumPy's ``reflect``); a volume thinner than the reach
    is mirrored again and again, and one voxel thin it is repeated.

    Args:
        volume: What to read.
        box: Any box that is not empty.

    Returns:
        ([c,] z, y, x) array of the box's shape.
    """
    if volume.box.contains(box):
        return volume.read(box)
    indices = [
        reflect(np.arange(a, b), n)
        for a, b, n in zip(box.start, box.stop, volume.shape, strict=True)
    ]
    low = tuple(int(i.min()) for i in indices)
    high = tuple(int(i.max()) + 1 for i in indices)
    inner = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    array = volume.read(inner)
    for axis, (index, start) in enumerate(zip(indices, low, strict=True), start=array.ndim - 3):
        if not np.array_equal(index, np.arange(index[0], index[0] + len(index))):
            array = np.take(array, index - start, axis=axis)
    return np.ascontiguousarray(array)


def reflect(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Fold indices outside 0..length-1 back inside, mirrored at the first and last."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.mod(index, period)
    mirrored: NDArray[np.intp] = np.minimum(folded, period - folded)
    return mirrored
