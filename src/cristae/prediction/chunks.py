"""A prediction as the chunk files of PyTorch Connectomics: ``result_z0-z1-y0-y1-x0-x1.h5``.

Each file has one gzipped dataset ``vol0``, uint8 (channels, z, y, x). Names say which voxels of the
prediction it holds, half-open. A file also keeps the fingerprint of its prediction, so that
writing again leaves alone what is there and never replaces files of other origin unasked. It gets
its name when it is whole, and is written in pieces of at most `PIECE_BYTES`, whatever its size.
"""

import io
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Any

import h5py

from cristae.engine.executors import Resources
from cristae.engine.files import translate_os_errors, write_atomic
from cristae.engine.locks import locked_folder
from cristae.engine.progress import log
from cristae.engine.tasks import Task, run_step
from cristae.errors import OutputExistsError, raise_faults
from cristae.grid import Box, Triple, tile
from cristae.volumes.formats.prediction_chunks import PATTERN
from cristae.volumes.volume import Volume

DATASET = "vol0"
LARGEST: Triple = (128, 512, 512)
"""Extent that a chunk has at most where a model does not say how many there are."""

_FINGERPRINT = "cristae_prediction"
_CHUNK: Triple = (32, 128, 128)

PIECE_BYTES = 64 << 20
"""Of a prediction read at a time; one chunk of each channel at least."""


@dataclass(frozen=True)
class ChunkPlan:
    """Chunk files to be written.

    Attributes:
        folder: Where.
        boxes: What each holds, by its name.
        fingerprint: Identity of the prediction.
        missing: Names of those not there yet.
    """

    folder: Path
    boxes: dict[str, Box]
    fingerprint: str
    missing: tuple[str, ...]

    def done(self, step: str) -> dict[str, Any]:
        """The files that are there; see `cristae.engine.tasks.Record`."""
        return {name: None for name in self.boxes if name not in self.missing}

    def mark(self, step: str, key: str, value: Any = None) -> None:
        """Nothing: a file tells of itself."""

    def bytes_missing(self, channels: int) -> int:
        """Upper bound of the bytes to be written."""
        return channels * sum(self.boxes[name].size for name in self.missing)


def plan_chunks(
    folder: Path, shape: Triple, counts: Triple | None, fingerprint: str, overwrite: bool = False
) -> ChunkPlan:
    """Which chunk files a prediction becomes; to be called before it is made.

    Args:
        folder: Where they will lie.
        shape: Extent (z, y, x) of the prediction.
        counts: Number of chunks along each axis, cut as PyTorch Connectomics does: the bounds are
            floor(i / n x extent). None: as few as keep each at 128x512x512 voxels or under.
        fingerprint: Identity of the prediction.
        overwrite: Replace files of the same names that are of another prediction.

    Raises:
        OutputExistsError: Files of the same names of another origin (unless ``overwrite``), or
            other chunk files, which could not be told apart from these; all are named.
    """
    if counts is None:
        z, y, x = (math.ceil(n / most) for n, most in zip(shape, LARGEST, strict=True))
        counts = (z, y, x)
    axes = (
        [(i * n // min(count, n), (i + 1) * n // min(count, n)) for i in range(min(count, n))]
        for n, count in zip(shape, counts, strict=True)
    )
    boxes = {}
    for (z0, z1), (y0, y1), (x0, x1) in product(*axes):
        boxes[f"result_{z0}-{z1}-{y0}-{y1}-{x0}-{x1}.h5"] = Box((z0, y0, x0), (z1, y1, x1))
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    faults, done = [], set()
    for file in there:
        if file.name not in boxes and PATTERN.match(file.name):
            faults.append(f"{file.name}: chunk of another grid found, expected none beside ours")
        elif file.name in boxes and _fingerprint(file) == fingerprint:
            done.add(file.name)
        elif file.name in boxes and not overwrite:
            faults.append(f"{file.name}: of another prediction found; --overwrite replaces it")
    raise_faults(str(folder), faults, OutputExistsError)
    return ChunkPlan(folder, boxes, fingerprint, tuple(n for n in boxes if n not in done))


def write_chunks(prediction: Volume, plan: ChunkPlan) -> None:
    """Write the chunk files that are missing, each whole or not at all.

    Raises:
        BusyError: Another process writes into the folder.
        DiskSpaceError: The disk is full; the next call goes on with the file that did not fit.
    """

    def write(name: str) -> None:
        def fill(opened: IO[bytes]) -> None:
            with _KeptError(opened.name) as raw:
                _write_file(raw, prediction, plan.boxes[name], plan.fingerprint)
            raw.tell_error()

        write_atomic(plan.folder / name, fill, alone=True)

    tasks = [Task(name, (name,), box, box.size) for name, box in plan.boxes.items()]
    alone = Resources(1, "serial")  # HDF5 lets one thread in at a time
    with translate_os_errors(plan.folder), locked_folder(plan.folder):
        run_step("chunk files", tasks, write, record=plan, resources=alone)
    log.info("%s: %d chunk files, %d new", plan.folder, len(plan.boxes), len(plan.missing))


class _KeptError(io.FileIO):
    """A file for HDF5, which ends the process where it cannot write what it has yet to write.

    So after a first error nothing is written any more, and the error waits until HDF5 is done.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, "r+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the data, or, after an error, none."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while self.error is None and left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size, unless an error forbids it."""
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def tell_error(self) -> None:
        """Raise what was kept."""
        if self.error is not None:
            raise self.error


def _write_file(raw: _KeptError, prediction: Volume, box: Box, fingerprint: str) -> None:
    channels = len(prediction.channels or ())
    z, y, x = (min(n, most) for n, most in zip(box.shape, _CHUNK, strict=True))
    line = channels * z * y * box.shape[2] * prediction.dtype.itemsize
    rows = y * max(1, PIECE_BYTES // line)
    columns = box.shape[2] if line <= PIECE_BYTES else x
    with h5py.File(raw, "w") as file:
        dataset = file.create_dataset(
            DATASET,
            (channels, *box.shape),
            prediction.dtype,
            chunks=(1, z, y, x),
            compression="gzip",
        )
        for piece in tile(box, (z, rows, columns)):
            inside = piece.relative_to(box.start)
            dataset[(slice(None), *inside.slices())] = prediction.read(piece)
            if raw.error is not None:
                return
        file.attrs[_FINGERPRINT] = fingerprint


def _fingerprint(path: Path) -> str | None:
    """The prediction a chunk file says it is of; None where it says nothing."""
    try:
        with h5py.File(path) as file:
            found = file.attrs.get(_FINGERPRINT)
    except OSError:
        return None  # not a readable HDF5 file, so not one of ours: the caller refuses it
    return None if found is None else str(found)
