"""Whether all of a finished image can be read, and making anew only what cannot.

An image is refused when files of it are gone or cut off, and a changed bit is an error when it is
read (`cristae.engine.manifest`, the checksums of chunks). Here every shard of every level is read,
and all that is wrong is said at once. Repairing takes the record back to what it was before the
damaged shards were written, so that the command that made the image makes these and no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.ledger import Ledger
from cristae.engine.manifest import listed_files
from cristae.engine.ownership import find_record
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, takes_progress, track
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import InputError
from cristae.grid import Box, tile
from cristae.volumes.formats.image_metadata import array_metadata, image_metadata
from cristae.volumes.formats.ome_zarr import ZarrReader, stamp_of

WRITES = {"convert": "copy", "predict": "predict", "segment": "write"}
"""The step of each stage that writes level 0."""


@dataclass(frozen=True)
class Damage:
    """A shard that cannot be read, or is gone.

    Attributes:
        file: Its file, which may be gone.
        level: Of the pyramid, 0 is the image.
        box: What it holds, in voxels of the level.
        fault: What is wrong with it.
    """

    file: Path
    level: int
    box: Box
    fault: str


@dataclass(frozen=True)
class _Level:
    """A level of an image, and how its shards are named."""

    number: int
    reader: ZarrReader
    lead: tuple[str, ...]
    shards: tuple[Box, ...]
    listed: frozenset[str]

    def file(self, box: Box) -> Path:
        extent = self.shards[0].shape
        cell = (str(a // n) for a, n in zip(box.start, extent, strict=True))
        return Path(self.reader.path, "c", *self.lead, *cell)


@takes_progress
def check_image(
    path: str | Path,
    *,
    resources: Resources | None = None,
    progress: ProgressCallback | None = None,
) -> list[Damage]:
    """Read all of a finished image that cristae made, every level.

    Args:
        path: The ``.zarr`` folder.
        resources: Workers. All cores by default.
        progress: Called with a `Progress` as work is done.

    Returns:
        The shards that cannot be read, in order of level and place; none where all is well.

    Raises:
        InputError: No image of cristae's, or one that is not finished.
    """
    folder = user_path(path)
    _finished_record(folder)
    found, levels = list[Damage](), _levels(folder)
    voxels = sum(box.size for level in levels for box in level.shards)
    with track("check", voxels, "voxels") as advance:
        for level in levels:
            look = partial(_fault_of, level)
            for box, fault in run_tasks(look, level.shards, resources or Resources()):
                if fault:
                    found.append(Damage(level.file(box), level.number, box, fault))
                advance(box.size)
    return sorted(found, key=lambda damage: (damage.level, damage.box.start))


def repair_image(path: str | Path, damages: Sequence[Damage]) -> None:
    """Remove damaged shards and take the image for unfinished, these alone being left to do.

    The command that made the image, given again, makes them.

    Args:
        path: The ``.zarr`` folder.
        damages: From `check_image`.

    Raises:
        InputError: See `check_image`.
        BusyError: Another process writes the image.
    """
    folder, bad = user_path(path), {damage.file for damage in damages}
    record = _finished_record(folder)
    identity = {key: record[key] for key in ("stage", "inputs", "settings")}
    with Ledger(folder, identity, True) as ledger:
        ledger.reopen()
        for level in _levels(folder):
            step = f"pyramid {level.number}" if level.number else WRITES[record["stage"]]
            for box in level.shards:
                if level.file(box) not in bad:
                    ledger.mark(step, str(box))
        for file in bad:
            file.unlink(missing_ok=True)


def _finished_record(folder: Path) -> dict[str, Any]:
    refuse_unfinished(folder)
    record, finished = find_record(folder, True) if folder.is_dir() else (None, False)
    if record is None or not finished or record["stage"] not in WRITES:
        expected = f"a finished image of cristae's ({', '.join(WRITES)})"
        raise InputError(f"{folder}: found none, expected {expected}")
    return record


def _levels(folder: Path) -> list[_Level]:
    image = image_metadata(folder)
    numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())
    lead = () if image.channels is None else ("0",)
    found = []
    for number in numbers:
        path = folder / str(number)
        array = array_metadata(path, image.channels)
        shards = tuple(tile(Box.of(array.shape), array.shard))
        reader = ZarrReader(str(path), "zarr3", stamp_of(path / "zarr.json"))
        found.append(_Level(number, reader, lead, shards, listed_files(folder, str(number))))
    return found


def _fault_of(level: _Level, box: Box) -> str:
    """What is wrong with a shard; empty where nothing is."""
    file = level.file(box)
    if not file.exists():
        return "gone" if file.relative_to(level.reader.path).as_posix() in level.listed else ""
    try:
        level.reader.read(box)
    except InputError as error:
        return str(error)
    return ""
