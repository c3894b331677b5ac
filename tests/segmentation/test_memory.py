"""Memory is promised before the run and again after labelling, and the promises are measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.segmentation.helpers import noise

from cristae.volumes.formats.ome_zarr import create_ome_zarr

SCRIPT = """
import ctypes, json, logging, sys
from pathlib import Path
from cristae.engine.executors import Resources
from cristae.segmentation import segment as stage
from cristae.segmentation.decoders import SegmentConfig
from cristae.volumes.formats.ome_zarr import open_ome_zarr

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

small, large, out, config = sys.argv[1:]
promises, labelling, resolve = [], [], stage.resolve_pieces

def note(*arguments):  # called when all blocks are labelled
    labelling.append(status("VmHWM"))
    return resolve(*arguments)

class Promises(logging.Handler):
    def emit(self, record):
        if "memory" in record.msg and "needs up to" in record.msg:
            promises.append(record.args[1] * 2**30)

stage.resolve_pieces = note
logging.getLogger("cristae").setLevel(logging.INFO)
logging.getLogger("cristae").addHandler(Promises())
run = dict(config=SegmentConfig(**json.loads(config)), pyramid=False,
           resources=Resources(1, "serial"))
stage.segment_volume(open_ome_zarr(small), out.replace(".zarr", "-small.zarr"), **run)
promises.clear()
ctypes.CDLL(None).malloc_trim(0)  # else what the first run freed hides what the second takes
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
labels = stage.segment_volume(open_ome_zarr(large), out, **run)
print(json.dumps({
    "promises": promises, "peak": status("VmHWM") - before, "labelling": labelling[-1] - before,
    "summary": labels.attributes["record"]["summary"]}))
"""


def balls(shape):
    """Balls that touch: few long runs, few instances."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    wave = np.sin(z / 5) + np.sin(y / 9) + np.sin(x / 9)
    mask = np.clip(140 + 60 * wave, 0, 255).astype(np.uint8)
    return np.stack([mask, 255 - mask])


def slab(shape):
    """All in one component with two seeds."""
    mask = np.full(shape, 220, np.uint8)
    mask[2:6, 5:20, 5:8] = mask[2:6, 30:50, 50:55] = 255
    return np.stack([mask, np.zeros_like(mask)])


def grains(shape):
    """Many short runs and small instances; the distance is left out."""
    mask = noise(shape, 0, levels=255)[0]
    return np.stack([mask, 255 - mask])


def edges(shape):
    """The same as affinities."""
    mask, _ = grains(shape)
    return np.stack([np.minimum(mask, np.roll(mask, 1, axis)) for axis in range(3)])


VOLUMES = {"balls": (balls, (64, 512, 512)), "grains": (grains, (48, 320, 320))}
VOLUMES["slab"] = (slab, (64, 384, 512))
VOLUMES["edges"] = (edges, (40, 256, 288))
VOLUMES["many edges"] = (edges, (64, 384, 448))


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """A small and a large prediction of each kind, made when they are asked for."""
    folder = tmp_path_factory.mktemp("predictions")

    def make(kind, size):
        path = folder / f"{kind}-{size}.zarr"
        if not path.exists():
            function, shape = VOLUMES[kind]
            array = function((8, 60, 60) if size == "small" else shape)
            volume = create_ome_zarr(
                path,
                shape=array.shape[1:],
                dtype=np.uint8,
                kind="prediction",
                voxel_size_nm=None,
                channels=tuple(f"channel_{i}" for i in range(len(array))),
            )
            volume.write(volume.box, array)
        return str(path)

    return make


SEEDS = {"seed_threshold": 0.6, "contour_threshold": 0.45, "min_seed_size": 2}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's counters")
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("balls", {"decoder": "bc_watershed", "min_size": 1}),
        ("slab", {"decoder": "bc_watershed"}),
        ("grains", {"decoder": "stack_2d", "foreground_threshold": 0.55, **SEEDS}),
        ("grains", {"decoder": "bc_connected", "foreground_threshold": 0.65, "small": "neighbor"}),
        ("many edges", {"decoder": "affinity_connected", "affinity_threshold": 0.6}),
        (
            "edges",
            {
                "decoder": "affinity_agglomeration",
                "affinity_threshold": 0.55,
                "seed_threshold": 0.65,
                "merge_threshold": 0.6,
                "small": "neighbor",
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value["decoder"],
)
def test_peak_is_at_most_the_promise_and_at_least_half_of_it(predictions, tmp_path, kind, config):
    places = [predictions(kind, size) for size in ("small", "large")]
    config = {"min_size": 60, **config}
    command = [sys.executable, "-c", SCRIPT, *places, str(tmp_path / "a.zarr"), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(found)
    assert found["summary"]["instances"] > (1 if kind == "slab" else 100)
    assert found["labelling"] <= found["promises"][0], found
    assert found["peak"] <= max(found["promises"]) <= 2 * found["peak"], found
