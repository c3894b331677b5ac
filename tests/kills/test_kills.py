"""Every stage killed at a random moment and given again: the same bytes, nothing left over."""

import random
import time

import numpy as np
import pytest
import tifffile
from tests.programs import start

pytestmark = pytest.mark.long

STAGE = """
import sys
from pathlib import Path
import cristae
from cristae.evaluation.evaluate import EvaluateConfig, ScoreFiles, evaluate_volume
from cristae.segmentation.segment import SegmentConfig
place, name = Path(sys.argv[1]), sys.argv[2]
one = cristae.Resources(workers=2, executor=sys.argv[3])
image = cristae.open_volume(place / "x.tif", voxel_size_nm=(30, 8, 8))
labels = cristae.open_volume(place / "l.tif", voxel_size_nm=(30, 8, 8))
decoder = SegmentConfig(decoder="binary_connected")
print("ready", flush=True)
if name == "convert":
    cristae.convert_volume(image, place / "out" / "v.zarr", resources=one)
if name == "segment":
    cristae.segment_volume(
        image, place / "out" / "i.zarr", config=decoder, block_shape=(16, 64, 64), resources=one
    )
if name == "measure":
    cristae.measure_instances(labels, place / "out" / "m.csv", resources=one)
if name == "evaluate":
    shape = tuple(map(int, sys.argv[4].split(",")))
    evaluate_volume(
        labels,
        labels,
        ScoreFiles(place / "out" / "s.json", place / "out" / "tables"),
        config=EvaluateConfig(categories="none"),
        block_shape=shape,
        resources=one,
    )
"""

SHAPES = ("16,64,64", "20,60,90", "9,100,33")


def tree_bytes(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    place = tmp_path_factory.mktemp("volumes")
    chance = np.random.default_rng(3)
    image = (chance.random((60, 200, 300)) > 0.6).astype("u1") * 255
    tifffile.imwrite(place / "x.tif", image, photometric="minisblack")
    labels = np.kron(np.arange(1, 2001).reshape(5, 20, 20), np.ones((12, 10, 15), int))
    tifffile.imwrite(place / "l.tif", labels.astype("u2"), photometric="minisblack")
    return place


@pytest.mark.parametrize("executor", ["threads", "processes"])
@pytest.mark.parametrize("name", ["convert", "segment", "measure", "evaluate"])
def test_killed_again_and_again_the_bytes_are_the_same(volumes, name, executor):
    chance = random.Random(f"{name} {executor}")
    out = volumes / "out"

    def remove():
        for path in sorted(out.rglob("*"), reverse=True) if out.is_dir() else ():
            path.rmdir() if path.is_dir() else path.unlink()

    remove()
    begun = time.monotonic()
    program = start(STAGE, volumes, name, executor, SHAPES[0])
    assert program.stdout.readline() == "ready\n"
    ready = time.monotonic()
    assert program.communicate()[1].count("Traceback") == 0
    assert program.returncode == 0
    expected, seconds = tree_bytes(out), time.monotonic() - ready
    assert ready > begun
    remove()
    for attempt in range(6):
        program = start(STAGE, volumes, name, executor, SHAPES[attempt % len(SHAPES)])
        assert program.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, seconds))
        program.kill()
        program.communicate()
    program = start(STAGE, volumes, name, executor, SHAPES[1])
    err = program.communicate()[1]
    assert program.returncode == 0, err
    found = tree_bytes(out)
    assert list(found) == list(expected)
    for file, content in found.items():
        if not file.endswith(("zarr.json", ".cristae.json")):  # records name blocks and seconds
            assert content == expected[file], file
