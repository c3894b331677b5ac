import subprocess
import sys

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.engine.files import check_disk
from cristae.engine.memory import peak_memory, promise_memory
from cristae.errors import DiskSpaceError, MemoryLimitError


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
    code = "from cristae.engine.memory import peak_memory; print(peak_memory())"
    child = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    assert held.nbytes < peak_memory()
    assert child < peak_memory()
