"""Axes that a person names (``--axes``, ``--index``), over any source of ([c,] z, y, x)."""

from dataclasses import dataclass

from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.formats.axes import SPACE, Axes, OpenOptions, arrange
from cristae.volumes.formats.pages import is_cached
from cristae.volumes.volume import Array, Reader, Volume


@dataclass(frozen=True)
class TurnedReader:
    """Reads boxes of another reader's array, its axes named otherwise.

    Attributes:
        inner: Reads the array as it is stored.
        axes: What its axes are.
        stored: Extent (z, y, x) of the array as the inner reader has it.
    """

    inner: Reader
    axes: Axes
    stored: Triple

    @property
    def cached(self) -> bool:
        """Whether decoded planes are kept for a while."""
        return is_cached(self.inner)

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: What the inner reader cannot read.
        """
        select = self.axes.select(box)
        sides = [
            range(n)[part if isinstance(part, slice) else slice(part, part + 1)]
            for part, n in zip(select[-3:], self.stored, strict=True)
        ]
        low, high = [side.start for side in sides], [side.stop for side in sides]
        array = self.inner.read(Box((low[0], low[1], low[2]), (high[0], high[1], high[2])))
        kept = tuple(slice(None) if isinstance(part, slice) else 0 for part in select[-3:])
        return self.axes.turn(array[(*select[:-3], *kept)])


def turned(volume: Volume, options: OpenOptions) -> Volume:
    """A volume with its axes as a person names them; the same one where nobody does.

    Args:
        volume: As the source has it.
        options: Names of the axes, and elements to take.

    Raises:
        InputError: Axes that cannot be arranged as ([c,] z, y, x), or a series, of which there is
            none.
    """
    if options.series is not None:
        raise InputError(f"{options.name}: there is no series for {options.reading[0]}")
    if not options.reading:
        return volume
    lead = () if volume.channels is None else (len(volume.channels),)
    names = [*(["c"] if lead else []), *SPACE]
    axes = arrange(names, (*lead, *volume.shape), options)
    z, y, x = axes.spatial((*(1 for _ in lead), *volume.chunk_shape))
    return volume.with_(
        reader=TurnedReader(volume.reader, axes, volume.shape),
        shape=axes.shape,
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        chunk_shape=(int(z), int(y), int(x)),
        shard_shape=None,
        found={**volume.found, "axes": f"{axes.source}: {', '.join(axes.names)}"},
        identity=volume.identity.read_as(*options.reading),
    )
