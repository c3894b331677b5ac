import subprocess
import sys

import numpy as np
import pytest

from cristae.engine.blockwise import peak_memory, promise_memory, run_blocks
from cristae.engine.executors import Resources
from cristae.engine.files import check_disk
from cristae.engine.ledger import open_ledger
from cristae.errors import DiskSpaceError, MemoryLimitError, WorkerError
from cristae.grid import Box, tile

BLOCKS = tile(Box.of((4, 5, 6)), (2, 2, 4))


@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_only_missing_blocks_are_done_and_all_results_come_back(tmp_path, stop_after):
    seen = []

    def work(block):
        if len(seen) == stop_after and stop_after:
            raise OSError("pulled the plug")
        seen.append(block)
        return {"voxels": block.size}

    def go():
        ledger = open_ledger(tmp_path / "out.zarr", stage="try", inputs={}, settings={})
        with ledger:
            return run_blocks("step", BLOCKS, work, ledger=ledger, resources=Resources(1, "serial"))

    if stop_after:
        with pytest.raises(WorkerError, match="pulled the plug"):
            go()
        stop_after = 0
    results = go()
    assert sorted(seen) == BLOCKS
    assert [results[b]["voxels"] for b in BLOCKS] == [b.size for b in BLOCKS]


def test_memory_that_cannot_fit_is_refused_with_both_numbers():
    promise_memory("predict", 1 << 20, Resources(memory_gib=1.0))
    with pytest.raises(MemoryLimitError, match=r"predict: needs 3.00 GiB .* 2.00 GiB"):
        promise_memory("predict", 3 << 30, Resources(memory_gib=2.0))


def test_a_disk_without_room_is_refused(tmp_path):
    check_disk(tmp_path / "a" / "b", 1)
    with pytest.raises(DiskSpaceError, match="GB are free"):
        check_disk(tmp_path / "a" / "b", 10**18)


def test_peak_memory_is_of_this_program_alone():
    held = np.ones(60 << 20, np.uint8)
    code = "from cristae.engine.blockwise import peak_memory; print(peak_memory())"
    child = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    assert held.nbytes < peak_memory()
    assert child < peak_memory()
