"""Outputs before they are made: what a stage will leave, as far as the next ones need to know it.

Every check of every stage comes before the first one works, so that nothing is late.
"""

from dataclasses import dataclass
from typing import Any

from cristae.engine.identity import Identity
from cristae.engine.ledger import State
from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.volume import Array, Volume


@dataclass(frozen=True)
class Expected:
    """What a stage will do, and leave.

    Attributes:
        state: What its record says: ``new``, ``resume`` or ``done``.
        volume: The output, or what it will be; None of stages that make no volume.
        disk_bytes: Upper estimate of what is still to be written.
    """

    state: State
    volume: Volume | None = None
    disk_bytes: int = 0


@dataclass(frozen=True)
class NotMadeYet:
    """Reads nothing: the voxels are not there yet."""

    name: str

    def read(self, box: Box) -> Array:
        """Refused."""
        raise InputError(f"{self.name}: {box} asked for, it is not made yet")


def expected_volume(like: Volume, name: str, **changes: Any) -> Volume:
    """A volume that will be like another one, but for some attributes."""
    return like.with_(name=name, reader=NotMadeYet(name), corner=(0, 0, 0), **changes)


def is_made(volume: Volume) -> bool:
    """Whether its voxels can be read."""
    return not isinstance(volume.reader, NotMadeYet)


def known_identity(volume: Volume) -> Identity | None:
    """What `check_output` is told of an input: None where it is not made yet."""
    return volume.identity if is_made(volume) else None
