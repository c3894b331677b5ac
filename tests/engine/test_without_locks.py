"""The whole line on a file system without locks, where every lock that is asked for fails."""

from tests.failing_calls import linux_only
from tests.programs import run

LINE = """
import sys
from pathlib import Path
from tests.failing_calls import fail_locks
fail_locks()
import numpy as np
import cristae
from cristae.segmentation.segment import SegmentConfig
place = Path(sys.argv[1])
one = cristae.Resources(workers=1)
image = np.zeros((4, 40, 300), "u1")
image[1:3, 5:20, 5:200] = 255
source = cristae.open_volume(image, voxel_size_nm=(30, 8, 8))
volume = cristae.convert_volume(source, place / "v.zarr", resources=one)
config = SegmentConfig(decoder="binary_connected")
labels = cristae.segment_volume(volume, place / "i.zarr", config=config, resources=one)
print(len(cristae.measure_instances(labels, place / "i.csv", resources=one)))
"""


@linux_only
def test_convert_segment_and_measure_without_locks(tmp_path):
    done = run(LINE, tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "v.zarr",
        "i.zarr",
        "i.csv",
        "i.csv.cristae.json",
    }
