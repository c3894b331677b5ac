"""Memory is promised before the run, and the promise is measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, logging, sys
from pathlib import Path
import numpy as np
from cristae.engine.executors import Resources
from cristae.segmentation.decoders import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.sources.ome_zarr import create_ome_zarr

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def make(path, shape):
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    wave = np.sin(z / 5) + np.sin(y / 9) + np.sin(x / 9)  # balls that touch
    mask = np.clip(140 + 60 * wave, 0, 255).astype(np.uint8)
    array = np.stack([mask, 255 - mask])
    volume = create_ome_zarr(path, shape=shape, dtype=np.uint8, kind="prediction",
                             voxel_size_nm=None, channels=("mask", "contour"))
    volume.write(volume.box, array)
    return volume

folder, promises = Path(sys.argv[1]), []
class Promises(logging.Handler):
    def emit(self, record):
        if "memory" in record.msg and "needs up to" in record.msg:
            promises.append(record.args[1])
logging.getLogger("cristae").setLevel(logging.INFO)
logging.getLogger("cristae").addHandler(Promises())
run = dict(config=SegmentConfig(decoder="bc_watershed", min_size=1), pyramid=False,
           resources=Resources(1, "serial"))
segment_volume(make(folder / "warm.zarr", (8, 60, 60)), folder / "warm-labels.zarr", **run)
volume = make(folder / "large.zarr", (64, 512, 512))
promises.clear()
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
labels = segment_volume(volume, folder / "labels.zarr", **run)
peak = status("VmHWM") - before
count = labels.attributes["record"]["summary"]["instances"]
print(json.dumps({"promised": max(promises) * 2**30, "peak": peak, "instances": count}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's counters")
def test_peak_is_at_most_the_promise_and_at_least_half_of_it(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["instances"] > 100
    assert found["peak"] <= found["promised"] <= 2 * found["peak"], found
