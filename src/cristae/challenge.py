"""What the MitoEM challenge takes: two label files in one zip, checked before they are handed in.

The page of 2023 asks for HDF5 files of slices 500-999 of both volumes, named as in `NAMES`, each
with one dataset of 500 x 4096 x 4096 voxels. Background is 0 and every other id an instance.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.files import check_disk, sync_file, temporary_folder, write_atomic
from cristae.engine.ledger import Ledger, check_output, open_ledger
from cristae.engine.memory import Promise
from cristae.engine.progress import log, track
from cristae.engine.tasks import OverlappedTask, Task, run_step
from cristae.errors import InputError, SourceNotFoundError, raise_faults
from cristae.grid import Box, Triple, tile
from cristae.labels.overlap_table import as_labels
from cristae.volumes.formats.hdf5 import open_hdf5
from cristae.volumes.volume import Array, Volume

SHAPE: Triple = (500, 4096, 4096)
"""Extent (z, y, x) of a test volume: slices 500-999."""

NAMES = {"human": "0_human_instance_seg_pred.h5", "rat": "1_rat_instance_seg_pred.h5"}
DATASET = "main"
CHUNK: Triple = (32, 256, 256)
BLOCK: Triple = (32, 512, 512)
BLOCK_COPIES, ID_BYTES, FIXED_BYTES = 2, 56, 24 << 20
"""Copies of a block that is read, memory of an id that is counted, and of HDF5 (measured)."""

LEVEL = 1
"""Of zlib: labels are mostly long stretches of one value."""

_DATE = (1980, 1, 1, 0, 0, 0)

Encoded = list[tuple[Triple, bytes]]
"""Corner and bytes of each chunk of a block that holds a label."""


@dataclass(frozen=True)
class Handed:
    """What one file of a submission holds.

    Attributes:
        name: File in the zip.
        dataset: Dataset in the file.
        dtype: Name of its type.
        instances: Number of ids other than 0.
        voxels: Voxels that are not 0.
    """

    name: str
    dataset: str
    dtype: str
    instances: int
    voxels: int

    @property
    def text(self) -> str:
        """One line."""
        share = 100 * self.voxels / math.prod(SHAPE)
        return (
            f"{self.name}  {self.dataset}  {self.dtype}  {self.instances} instances, "
            f"{share:.2f} % of the voxels"
        )


def submit_instances(
    human: Volume,
    rat: Volume,
    out: Path,
    *,
    resources: Resources | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a submission from the instances of both test volumes, streamed.

    Ids stay as they are; each file gets the smallest unsigned type that holds them. A volume that
    was written before an interruption is not written again.

    Args:
        human: Labels (z, y, x) of slices 500-999 of MitoEM-H.
        rat: Those of MitoEM-R.
        out: The zip.
        resources: Workers, executor and memory.
        overwrite: Replace an output of other inputs.

    Returns:
        The zip.

    Raises:
        InputError: Volumes of another shape, or that are no labels; all faults at once.
        OutputExistsError: The zip exists and was made of other volumes.
    """
    resources = resources or Resources()
    volumes = {"human": human, "rat": rat}
    raise_faults("submission", [f for name, v in volumes.items() for f in _faults(name, v)])
    record: dict[str, Any] = {
        "stage": "submit",
        "inputs": {name: volume.identity for name, volume in volumes.items()},
        "settings": {"version": 1},
        "overwrite": overwrite,
    }
    if check_output(out, **record) != "done":
        _check_signs(volumes, resources)
    with open_ledger(out, **record) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out)
            return out
        promise = _promised(list(volumes.values()), resources)
        check_disk(out, sum(volume.size // 16 for volume in volumes.values()))

        def write(name: str) -> None:
            file = ledger.scratch / NAMES[name]
            _write_hdf5(volumes[name], file, promise)
            sync_file(file)

        files = [Task(name, (NAMES[name],)) for name in volumes]
        alone = replace(resources, executor="serial")  # each shares its blocks out
        run_step("file", files, write, record=ledger, resources=alone, description="")
        check_disk(out, sum((ledger.scratch / name).stat().st_size for name in NAMES.values()))
        _write_zip(out, ledger)
        ledger.finish()
    return out


def _promised(volumes: list[Volume], resources: Resources, masks: int = 0) -> Promise:
    """Promises the blocks that are read; what else is found in them is promised as it is known."""
    promise = Promise(resources)
    widest = max(volume.dtype.itemsize for volume in volumes)
    blocks = max(1, resources.workers) * math.prod(BLOCK) * (BLOCK_COPIES * widest + masks)
    promise.held = FIXED_BYTES + blocks
    promise("submit", 0)
    return promise


def _faults(name: str, volume: Volume) -> list[str]:
    faults = []
    if volume.channels is not None:
        faults.append(f"{name}: {volume.name} has {len(volume.channels)} channels, expected labels")
    elif volume.dtype.kind not in "ui":
        faults.append(f"{name}: {volume.name} is {volume.dtype}, expected integer labels")
    if volume.shape != SHAPE:
        hint = (
            "; --roi takes a part"
            if all(a >= b for a, b in zip(volume.shape, SHAPE, strict=True))
            else ""
        )
        faults.append(
            f"{name}: {volume.name} has shape {volume.shape}, expected {SHAPE} "
            f"(slices 500-999){hint}"
        )
    return faults


def _check_signs(volumes: Mapping[str, Volume], resources: Resources) -> None:
    """Look for labels below 0 in every volume that can hold them, before the first is written."""
    faults = []
    for name, volume in volumes.items():
        if volume.dtype.kind == "i":
            try:
                _largest_id(volume, resources)
            except InputError as error:
                faults.append(f"{name}: {error}")
    raise_faults("submission", faults)


def _write_hdf5(volume: Volume, path: Path, promise: Promise) -> None:
    """Write a volume's blocks in their order, so that the file does not depend on the workers."""
    resources = promise.resources
    dtype = np.min_scalar_type(_largest_id(volume, resources))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            DATASET, volume.shape, dtype, chunks=CHUNK, compression=LEVEL, shuffle=True
        )

        def promised(block: Box, chunks: Encoded) -> Encoded:
            size = sum(len(data) for _, data in chunks)
            promise("submit, encoded", (resources.workers + 2) * size)
            return chunks

        def write(chunks: Encoded) -> tuple[()]:
            for corner, data in chunks:
                dataset.id.write_direct_chunk(corner, data)
            return ()

        encode = partial(_encode_block, volume, dtype, CHUNK)
        blocks = [Task(block, (), block, block.size) for block in tile(volume.box, BLOCK)]
        work = OverlappedTask(encode, gather=promised, write=write)
        run_step(path.name, blocks, work, record=None, resources=resources)


def _largest_id(volume: Volume, resources: Resources) -> int:
    largest = 0
    with track("largest id", volume.size, "voxels") as advance:
        for block, found in run_tasks(
            partial(_largest_in, volume), tile(volume.box, BLOCK), resources
        ):
            largest = max(largest, found)
            advance(block.size)
    return largest


def _largest_in(volume: Volume, block: Box) -> int:
    array = volume.read(block)
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise InputError(f"{volume.name}: label {array.min()} in box {block}, expected none < 0")
    return int(array.max())


def _encode_block(volume: Volume, dtype: np.dtype[Any], shape: Triple, block: Box) -> Encoded:
    """Corner and bytes of each chunk that holds a label, as HDF5 keeps them."""
    array = as_labels(volume.read(block), volume.name, block)
    encoded = []
    for chunk in tile(Box.of(block.shape), shape):
        part = array[chunk.slices()]
        if part.any():
            whole = np.zeros(shape, dtype)  # chunks at the end are stored whole
            whole[tuple(slice(n) for n in part.shape)] = part
            planes = whole.reshape(-1).view(np.uint8).reshape(-1, dtype.itemsize)
            shuffled = planes.T.tobytes()
            encoded.append((chunk.shift(block.start).start, zlib.compress(shuffled, LEVEL)))
    return encoded


def _write_zip(out: Path, ledger: Ledger) -> None:
    def write(stream: Any) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in NAMES.values():
                entry = zipfile.ZipInfo(name, _DATE)
                source = ledger.scratch / name
                entry.file_size = source.stat().st_size
                with source.open("rb") as file, archive.open(entry, "w") as target:
                    while part := file.read(1 << 22):
                        target.write(part)

    write_atomic(out, write)


def check_submission(path: Path, resources: Resources | None = None) -> list[Handed]:
    """Look at a submission as the challenge will: names, shapes, types, every voxel.

    Args:
        path: The zip.
        resources: Workers and executor.

    Returns:
        What each file holds.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not a submission; all faults of both files at once.
    """
    resources = resources or Resources()
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a zip file")
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        expected = set(NAMES.values())
        faults = [f"{name}: not in the zip" for name in sorted(expected - set(sizes))]
        faults += [f"{name}: in the zip, not expected" for name in sorted(set(sizes) - expected)]
        found = []
        with temporary_folder() as folder:
            check_disk(folder, max(sizes.values(), default=0))
            for name in sorted(expected & set(sizes)):
                try:
                    file = Path(archive.extract(name, folder))
                    found.append(_checked(file, resources))
                    file.unlink()
                except (InputError, zipfile.BadZipFile, zlib.error) as error:
                    faults.append(str(error).replace(f"{folder}/", ""))
    raise_faults(str(path), faults)
    return found


def _checked(path: Path, resources: Resources) -> Handed:
    if not h5py.is_hdf5(path):
        raise InputError(f"{path.name}: not an HDF5 file")
    with h5py.File(path, "r") as file:
        keys = list(file)
    if len(keys) != 1:
        raise InputError(f"{path.name}: datasets {', '.join(keys) or 'none'}, expected exactly one")
    volume = open_hdf5(path)
    raise_faults(path.name, _faults("the file", volume.with_(name=keys[0])))
    promise = _promised([volume], resources, masks=2)
    ids, fresh = np.zeros(0, np.uint64), [np.zeros(0, np.uint64)]
    voxels = waiting = 0
    with track(path.name, volume.size, "voxels") as advance:
        for block, (here, count) in run_tasks(
            partial(_ids_in, volume), tile(volume.box, BLOCK), resources
        ):
            fresh.append(here)
            waiting, voxels = waiting + here.size, voxels + count
            promise("submit, ids", ID_BYTES * (ids.size + waiting))
            if waiting > ids.size:
                ids = np.unique(np.concatenate([ids, *fresh]))
                fresh, waiting = [], 0
            advance(block.size)
    ids = np.unique(np.concatenate([ids, *fresh]))
    if not ids.size:
        raise InputError(f"{path.name}: every voxel is 0, expected instances")
    return Handed(path.name, keys[0], volume.dtype.name, ids.size, voxels)


def _ids_in(volume: Volume, block: Box) -> tuple[NDArray[np.uint64], int]:
    array: Array = volume.read(block)
    inside = array[array != 0]
    if array.dtype.kind == "i" and inside.size and int(inside.min()) < 0:
        raise InputError(f"{volume.name}: label {inside.min()} in box {block}, expected none < 0")
    return pd.unique(inside).astype(np.uint64), int(inside.size)


def submission_text(found: list[Handed]) -> str:
    """What `check_submission` found, as lines."""
    return "\n".join(each.text for each in found)
