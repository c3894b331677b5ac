"""Memory promised against memory taken, by labels that are dense, sparse, giant and tiny."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 1 << 30
LITTLE = 0.1 * GIB
"""Of which a promise may be too large whatever is taken."""

PEAKS = Path(__file__).with_name("peaks.py")

SHAPES = {
    "convert": [128, 1024, 1024],
    "convert_by_two": [128, 1024, 1024],
    "predict": [32, 256, 256],
    "measure_by_two": [48, 384, 384],
    "segment_by_two": [128, 512, 512],
    "evaluate": [32, 256, 256],
    "measure": [48, 384, 384],
    "cable": [16, 128, 256],
    "submit": [64, 1024, 1024],
    "check": [64, 512, 1024],
    "segment": [128, 512, 512],
    "seeded": [128, 512, 512],
    "small": [24, 256, 256],
    "tune": [64, 384, 384],
    "judge": [48, 384, 384],
}
"""Of the labels, each for less than a minute; tiny ones are up to four million instances."""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's counters")
@pytest.mark.parametrize("kind", ["dense", "sparse", "giant", "tiny"])
@pytest.mark.parametrize("stage", SHAPES)
def test_a_promise_is_kept_and_near(tmp_path, stage, kind):
    command = [sys.executable, str(PEAKS), stage, kind, json.dumps(SHAPES[stage]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    promise, peak = found["promise"], found["peak"]
    print(f"{stage} {kind}: promised {promise / GIB:.3f}, took {peak / GIB:.3f} GiB")
    assert peak <= 1.05 * promise + 0.01 * GIB
    assert promise <= max(2 * peak, LITTLE)
