"""Full disks and refused files, for real: one message, exit 2, and the same command goes on."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from tests.programs import ROOT, cristae, environment

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk"),
]


@pytest.fixture
def disk(tmp_path):
    """A disk with so many bytes; the rest is filled, and free again when the file goes."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def labels(tmp_path):
    array = np.zeros((8, 64, 64), "u2")
    array[2:6, 5:20, 5:20] = 1
    tifffile.imwrite(tmp_path / "l.tif", array, photometric="minisblack")
    return tmp_path / "l.tif"


def fill(disk):
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


def commands(labels, disk):
    size = ["--voxel-size", "30,8,8"]
    return {
        "measure": ["measure", labels, disk / "m.csv", *size],
        "evaluate": ["evaluate", labels, labels, "--categories", "none", "--json", disk / "s.json"],
        "simulate": ["simulate", disk / "sim", "--set", "shape=[8,64,64]"],
        "convert": ["convert", labels, disk / "v.zarr", *size],
        "segment": ["segment", labels, disk / "i.zarr", "--decoder", "binary_connected"],
    }


@pytest.mark.parametrize("name", ["measure", "evaluate", "simulate", "convert", "segment"])
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(labels, disk, name):
    fill(disk)
    command = commands(labels, disk)[name]
    done = cristae(*command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("cristae: ")
    assert "disk is full" in done.stderr or "GB are free there" in done.stderr
    (disk / "fill").unlink()
    again = cristae(*command)
    assert again.returncode == 0, again.stderr


REFUSING = """
import runpy
import sys
from tests.failing_calls import obey_permissions
obey_permissions()
sys.argv = ["cristae", *sys.argv[1:]]
runpy.run_module("cristae", run_name="__main__")
"""


def as_ordinary(*arguments):
    command = [sys.executable, "-c", REFUSING, *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment()
    )


@pytest.mark.parametrize("name", ["measure", "evaluate", "simulate", "convert", "segment"])
def test_a_place_without_leave_is_one_message(labels, tmp_path, name):
    place = tmp_path / "ro"
    place.mkdir()
    place.chmod(0o555)
    done = as_ordinary(*commands(labels, place)[name])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "leave to write" in done.stderr or "permission denied" in done.stderr
    assert list(place.iterdir()) == []


def test_a_source_without_leave_is_one_message(labels, tmp_path):
    labels.chmod(0)
    done = as_ordinary("info", labels)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "l.tif" in done.stderr


@pytest.mark.parametrize("name", ["measure", "evaluate", "convert", "segment"])
def test_a_folder_or_file_in_the_way_is_one_message(labels, tmp_path, name):
    command = commands(labels, tmp_path)[name]
    index = command.index("--json") + 1 if "--json" in command else 2
    out = command[index]
    if out.suffix == ".zarr":
        out.write_text("of a person")
    else:
        out.mkdir()
    for extra in ([], ["--overwrite"]):
        done = cristae(*command, *extra)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert out.name in done.stderr
    assert out.exists()
    command[index] = out.parent / ("x" * 300 + out.suffix)
    done = cristae(*command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "longer than the file system allows" in done.stderr
