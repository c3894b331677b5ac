"""What a submission to the MitoEM challenge takes: two volumes of 500x4096x4096, time and memory.

The volumes are those of ``evaluate.py``, part 3 (one pattern of ellipsoids, 6 % foreground). The
zip is written and checked by the command line, each in a process of its own; printed are seconds,
the size of the zip and the peak memory of both, imports included. It has to hold as many
instances as went in.

    python benchmarks/submit.py [--keep DIR] [--workers 2]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cristae.challenge import SHAPE
from cristae.grid import Box, tile
from evaluate import SHARD, SHIFTS, pattern, write_labels


def command(*arguments):
    """(seconds, peak bytes, output) of one call of cristae."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "cristae", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return time.perf_counter() - start, usage.ru_maxrss * 1024, said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder of the volumes, as for evaluate.py")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.keep) as scratch:
        folder, out = options.keep or Path(scratch), Path(scratch) / "submission.zip"
        paths = [folder / f"{name}.zarr" for name in SHIFTS]
        for path, shift in zip(paths, SHIFTS.values(), strict=True):
            if not path.exists():
                write_labels(path, SHAPE, pattern(shift))
        workers = ("--workers", options.workers)
        sources = ("--human", paths[0], "--rat", paths[1])
        seconds, peak, _ = command("submit", out, *sources, *workers, "--quiet")
        print(f"two volumes of {SHAPE}: written in {seconds:.0f} s, "
              f"{out.stat().st_size / 1e6:.0f} MB, peak {peak / 2**30:.2f} GiB")  # fmt: skip
        seconds, peak, said = command("submit", "--check", out, *workers, "--quiet")
        print(f"checked in {seconds:.0f} s, peak {peak / 2**30:.2f} GiB\n{said.strip()}")
    for (name, shift), line in zip(SHIFTS.items(), said.splitlines(), strict=True):
        ids = int(pattern(shift).max()) * len(tile(Box.of(SHAPE), SHARD))
        assert f"  uint16  {ids} instances" in line, f"{name}: {ids} instances went in"


if __name__ == "__main__":
    main()
