"""How long a source of thousands of files takes to be opened and known, beside the least to do.

Printed are the seconds of opening a folder of 4,096 slices and of looking up its identity, and the
ratio to the floor: naming all files and reading the size and time of each.

    python benchmarks/opening.py [--small]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from cristae.volumes.sources import open_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="256 slices")
    count = 256 if parser.parse_args().small else 4096
    section = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for z in range(count):
            tifffile.imwrite(Path(folder, f"s{z}.tif"), section, compression="deflate")
        open_volume(folder).identity.tree()  # what is compiled and cached
        for _ in range(2):
            begun = time.perf_counter()
            floor_bytes = sum(entry.stat().st_size for entry in os.scandir(folder))
            floor = time.perf_counter() - begun
            volume = open_volume(folder)
            opened = time.perf_counter() - begun - floor
            volume.identity.tree()
            known = time.perf_counter() - begun - floor - opened
            print(
                f"{count:,} slices, {floor_bytes / 1e6:.1f} MB: opened in {opened:.2f} s, known in "
                f"{known:.2f} s, {(opened + known) / floor:.0f} times listing them"
            )


if __name__ == "__main__":
    main()
