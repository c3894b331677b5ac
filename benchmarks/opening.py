"""How long a source of thousands of files takes to be opened and known, beside the least to do.

Printed are the seconds of opening a folder of 4,096 slices, and a tile index of 1,000 sections of
16x16 tiles, and of looking up the identity of each; and the ratio to the floor: naming all files
and reading the size and time of each.

    python benchmarks/opening.py [--small]
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from cristae.volumes.formats import open_volume


def write_slices(folder: Path, count: int) -> Path:
    """A folder of sections."""
    section = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for z in range(count):
        tifffile.imwrite(folder / f"s{z}.tif", section, compression="deflate")
    return folder


def write_tiles(folder: Path, depth: int, side: int) -> Path:
    """A tile index; its files are links to a few, as only their names and headers are looked at."""
    tiles = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        tifffile.imwrite(folder / f"{i}.tif", tile, compression="deflate")
    for z in range(depth):
        section = folder / f"{z:04d}"
        section.mkdir()
        for i in range(side * side):
            os.link(folder / f"{(z + i) % 4}.tif", section / f"{i // side}_{i % side}.tif")
    index = {
        "depth": depth,
        "height": 64 * side,
        "width": 64 * side,
        "tile_size": 64,
        "tile_ratio": 1,
        "tile_st": [0, 0],
        "ndim": 1,
        "dtype": "uint8",
        "image": [f"{z:04d}/{{row}}_{{column}}.tif" for z in range(depth)],
    }
    path = folder / "index.json"
    path.write_text(json.dumps(index))
    return path


def list_files(folder: Path) -> float:
    """Seconds of naming all files and reading the size and time of each."""
    begun = time.perf_counter()
    for place, _, names in os.walk(folder):
        for name in names:
            os.stat(os.path.join(place, name))
    return time.perf_counter() - begun


def measure(source: Path, folder: Path) -> None:
    """Open a source and look up its identity, twice; prints the seconds."""
    open_volume(source).identity.tree()  # what is compiled and cached
    for _ in range(2):
        floor = list_files(folder)
        begun = time.perf_counter()
        volume = open_volume(source)
        opened = time.perf_counter() - begun
        volume.identity.tree()
        known = time.perf_counter() - begun - opened
        print(
            f"  opened in {opened:.2f} s, known in {known:.2f} s, "
            f"{(opened + known) / floor:.1f} times listing them ({floor:.2f} s)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a sixteenth of the files")
    part = 16 if parser.parse_args().small else 1
    with tempfile.TemporaryDirectory() as folder:
        print(f"{4096 // part:,} slices")
        measure(write_slices(Path(folder), 4096 // part), Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        print(f"{1000 // part:,} x 256 tiles")
        measure(write_tiles(Path(folder), 1000 // part, 16), Path(folder))


if __name__ == "__main__":
    main()
