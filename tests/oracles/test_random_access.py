"""16 threads, 2,000 reads each, from every form of TIFF and HDF5 that many threads share."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from tests.volumes.test_tiff import ome_set

from cristae.grid import Box
from cristae.volumes.formats import open_volume, pages
from cristae.volumes.volume import Volume

pytestmark = pytest.mark.long

THREADS, READS = 16, 2000
ARRAY = np.random.default_rng(0).integers(1, 255, (24, 40, 48)).astype(np.uint8)


def plain(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", ARRAY, photometric="minisblack")
    return folder / "a.tif"


def strips(folder: Path) -> Path:
    options = {"rowsperstrip": 7, "compression": "lzw", "predictor": True}
    tifffile.imwrite(folder / "a.tif", ARRAY, photometric="minisblack", **options)
    return folder / "a.tif"


def tiles(folder: Path) -> Path:
    options = {"tile": (16, 16), "compression": "deflate"}
    tifffile.imwrite(folder / "a.tif", ARRAY, photometric="minisblack", **options)
    return folder / "a.tif"


def in_files(folder: Path) -> Path:
    return ome_set(folder, ARRAY, 3)[0]


def in_many_files(folder: Path) -> Path:
    return ome_set(folder, ARRAY, len(ARRAY), companion=True)[5]


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("raw", data=ARRAY, chunks=(5, 16, 16), compression="gzip")
    return folder / "a.h5"


FORMS: list[Callable[[Path], Path]] = [plain, strips, tiles, in_files, in_many_files, hdf5]


def wrong(volume: Volume, seed: int) -> int:
    rng = np.random.default_rng(seed)
    sides = (2, 6, 7)
    count = 0
    for _ in range(READS):
        start = tuple(map(int, rng.integers(0, np.subtract(ARRAY.shape, sides) + 1)))
        box = Box(start, tuple(a + n for a, n in zip(start, sides, strict=True)))
        count += not np.array_equal(volume.read(box), ARRAY[box.slices()])
    return count


@pytest.mark.parametrize("form", FORMS)
def test_every_read_of_every_thread_is_right(
    form: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a cache of a few planes: most reads decode
    monkeypatch.setattr(pages.PLANES, "_most", 3 * ARRAY[0].nbytes)
    volume = open_volume(form(tmp_path))
    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(lambda seed: wrong(volume, seed), range(THREADS))) == 0
