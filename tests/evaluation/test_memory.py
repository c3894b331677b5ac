"""What a pass promises to need against what it takes."""

import logging
import re
import tracemalloc

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.errors import MemoryLimitError
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.placement import Compared
from cristae.volumes.volume import Volume

GIB = 1 << 30


class Bars:
    """Labels of a volume that is never in memory: bars along x of 64 voxels."""

    def __init__(self, shift):
        self.shift = shift

    def read(self, box):
        x = np.arange(box.start[2] + self.shift, box.stop[2] + self.shift) // 64 % 5
        return np.broadcast_to(x, box.shape).astype(np.uint32, order="C")


def bars(name, shift):
    shape = (48, 1024, 1024)
    return Volume(name, Bars(shift), shape, np.dtype(np.uint32), chunk_shape=(16, 128, 128))


def test_peak_and_promise(caplog):
    resources = Resources(workers=1, executor="serial")
    volumes = Compared(bars("found", 0), bars("true", 3))
    overlap_table(Compared(bars("found", 0).crop(BOX), bars("true", 3).crop(BOX)))  # compiles
    caplog.clear()  # what another test made louder may have told
    tracemalloc.start()
    with caplog.at_level(logging.INFO, logger="cristae"):
        overlap_table(volumes, resources=resources)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (promised,) = re.findall(r"needs up to ([\d.]+) GiB", caplog.text)
    promise = float(promised) * GIB
    assert peak <= promise <= 2 * peak
    assert promise < GIB


BOX = bars("any", 0).box.clip(bars("any", 0).box.grow((-1, -500, -500)))


def test_a_limit_that_is_too_low_is_refused():
    resources = Resources(workers=2, memory_gib=0.04)
    with pytest.raises(MemoryLimitError, match=r"evaluate: needs 0\.\d+ GiB.*0\.04 GiB"):
        overlap_table(Compared(bars("found", 0), bars("true", 3)), resources=resources)
