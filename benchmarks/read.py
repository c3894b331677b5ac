"""Random reads from many threads: a TIFF set and HDF5, with 1, 4 and 16 of them.

Boxes lie anywhere in four stacks of the same voxels: an OME-TIFF set of several files, a single
TIFF compressed plane by plane, one in a single piece, and an HDF5 dataset in chunks. One line a
form and number of threads: boxes a second, and that by what the floor gives in the same run:
tifffile or h5py reading such boxes alone, from files that stay open. Every box is compared with the
array. The ratios of two versions can be compared, whatever else the machine does. `--small` takes
seconds.
"""

import argparse
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import tifffile

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.pages import PLANES

THREADS = (1, 4, 16)
Read = Callable[[Box], np.ndarray]


def write_set(folder: Path, array: np.ndarray, files: int) -> Path:
    """An OME-TIFF of several files, deflated."""
    ids = [str(uuid.UUID(int=i + 1)) for i in range(files)]
    each = len(array) // files
    data = "".join(
        f'<TiffData FirstC="0" FirstT="0" FirstZ="{each * i + j}" IFD="{j}" PlaneCount="1">'
        f'<UUID FileName="b{i}.ome.tif">urn:uuid:{ids[i]}</UUID></TiffData>'
        for i in range(files)
        for j in range(each)
    )
    _, height, width = array.shape
    for i in range(files):
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{ids[i]}"><Image ID="Image:0"><Pixels BigEndian="false" '
            f'DimensionOrder="XYZCT" ID="Pixels:0" Type="uint8" SizeX="{width}" SizeY="{height}" '
            f'SizeZ="{len(array)}" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" '
            f'SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(folder / f"b{i}.ome.tif") as file:
            for j, plane in enumerate(array[each * i : each * (i + 1)]):
                file.write(
                    plane,
                    description=None if j else xml,
                    metadata=None,
                    contiguous=False,
                    compression="deflate",
                )
    return folder / "b0.ome.tif"


def write_all(folder: Path, array: np.ndarray) -> dict[str, str]:
    """The forms, and where they lie."""
    planes, piece, h5 = (folder / name for name in ("planes.tif", "piece.tif", "a.h5"))
    tifffile.imwrite(planes, array, photometric="minisblack", compression="deflate")
    tifffile.imwrite(piece, array, photometric="minisblack")
    with h5py.File(h5, "w") as file:
        file.create_dataset("raw", data=array, chunks=(8, 128, 128), compression="gzip")
    ome = write_set(folder, array, 4)
    return {"TIFF set": str(ome), "TIFF": str(planes), "TIFF mapped": str(piece), "HDF5": str(h5)}


@contextmanager
def floor_of(form: str, path: str) -> Iterator[Read]:
    """What reads a box with the library alone."""
    if form == "HDF5":
        with h5py.File(path) as file:
            yield lambda box: file["raw"][box.slices()]
    elif form == "TIFF mapped":
        mapped = tifffile.memmap(path, mode="r")
        yield lambda box: np.array(mapped[box.slices()])
    else:
        folder, each = Path(path).parent, 0
        names = sorted(folder.glob("b*.ome.tif")) if form == "TIFF set" else [Path(path)]
        files = [tifffile.TiffFile(name, _multifile=False) for name in names]
        each = len(files[0].pages)

        def read(box: Box) -> np.ndarray:
            depth, rows, columns = box.slices()
            pages = (divmod(z, each) for z in range(depth.start, depth.stop))
            return np.array([files[i].pages[j].asarray()[rows, columns] for i, j in pages])

        yield read
        for file in files:
            file.close()


def boxes_in(shape: tuple[int, ...], side: int, count: int, seed: int) -> list[Box]:
    rng = np.random.default_rng(seed)
    sides = (2, side, side)
    reach = np.subtract(shape, sides) + 1
    starts = [tuple(map(int, rng.integers(0, reach))) for _ in range(count)]
    return [Box(a, tuple(x + s for x, s in zip(a, sides, strict=True))) for a in starts]


def rate(read: Read, boxes: list[Box], array: np.ndarray, threads: int) -> float:
    """Boxes a second; 0 where one is not right, or cannot be read."""

    def right(part: list[Box]) -> bool:
        try:
            return all(np.array_equal(read(box), array[box.slices()]) for box in part)
        except InputError as error:
            print(error)
            return False

    parts = [boxes[i::threads] for i in range(threads)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        every = all(pool.map(right, parts))
    return len(boxes) / (time.perf_counter() - begun) if every else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds instead of a minute")
    small = parser.parse_args().small
    shape, side, count = ((16, 256, 256), 64, 96) if small else ((32, 512, 512), 128, 320)
    noise = np.random.default_rng(0).integers(0, 24, shape).astype(np.uint8)
    array = noise + np.arange(shape[2], dtype=np.uint8) // 2
    # less than the planes, so that some are decoded again
    PLANES._most = array.nbytes // 4
    folder, faults = Path(tempfile.mkdtemp()), 0
    try:
        print(f"{'form':12}  threads  boxes/s  by the floor (one thread)")
        for form, path in write_all(folder, array).items():
            boxes = boxes_in(shape, side, count, seed=1)
            with floor_of(form, path) as floor:
                alone = max(rate(floor, boxes[: count // 4], array, 1) for _ in range(3))
            volume = open_volume(path)
            volume.read(boxes[0])
            for threads in THREADS:
                found = [rate(volume.read, boxes, array, threads) for _ in range(2)]
                told = f"{max(found):7.0f}  {max(found) / alone:.2f}" if min(found) else "  WRONG"
                print(f"{form:12}  {threads:7}  {told}", flush=True)
                faults += not min(found)
    finally:
        shutil.rmtree(folder)
    if faults:
        raise SystemExit(f"{faults} forms gave other voxels than the array's")


if __name__ == "__main__":
    main()
