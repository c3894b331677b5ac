"""A damaged image: every shard that cannot be read is named, and these alone are made again."""

from pathlib import Path

import numpy as np
import pytest
from tests.programs import cristae

from cristae.engine.manifest import check_manifest
from cristae.errors import InputError
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.check import check_image, repair_image
from cristae.volumes.convert import convert_volume
from cristae.volumes.volume import array_volume


def image(shape=(70, 600, 700)):
    array = np.random.default_rng(0).integers(1, 255, shape, np.uint8)
    return array_volume(array, kind="image", voxel_size_nm=(30.0, 8.0, 8.0))


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


@pytest.fixture
def damaged(tmp_path):
    """An image with a flipped bit, a shard cut off, one that is gone, and a level's damaged."""
    out = tmp_path / "v.zarr"
    convert_volume(image(), out)
    assert check_image(out) == []
    flip_bit(out / "0/c/0/0/0")
    cut = out / "0/c/1/1/1"
    cut.write_bytes(cut.read_bytes()[:-7])
    (out / "0/c/0/1/0").unlink()
    flip_bit(out / "1/c/0/0/0")
    return out


def test_each_damaged_shard_is_named_with_its_box(damaged):
    found = check_image(damaged)
    assert [(d.level, str(d.box)) for d in found] == [
        (0, "0:64,0:512,0:512"),
        (0, "0:64,512:600,0:512"),
        (0, "64:70,512:600,512:700"),
        (1, "0:64,0:300,0:350"),
    ]
    assert [d.fault == "gone" for d in found] == [False, True, False, False]
    assert all(str(damaged) in str(d.file) for d in found)


def test_only_the_damaged_shards_are_made_again(damaged):
    whole = [p for p in damaged.glob("?/c/*/*/*") if p.stat().st_size]
    times = {path: path.stat().st_mtime_ns for path in whole}
    repair_image(damaged, found := check_image(damaged))
    with pytest.raises(InputError, match="unfinished"):
        check_image(damaged)
    made = convert_volume(image(), damaged)
    np.testing.assert_array_equal(made.read(), image().read())
    assert check_image(damaged) == []
    check_manifest(damaged)
    lost = {damage.file for damage in found}
    assert {p for p in times if p.exists() and p.stat().st_mtime_ns != times[p]} == lost & set(
        times
    )


def test_a_segmentation_is_mended(tmp_path):
    levels = np.kron(np.random.default_rng(1).integers(0, 2, (1, 9, 30, 40)), np.ones((1, 8, 8, 8)))
    prediction = array_volume(
        (255 * levels).astype(np.uint8), channels=("mask",), voxel_size_nm=(30.0, 8.0, 8.0)
    )
    out, config = tmp_path / "s.zarr", SegmentConfig(decoder="binary_connected", min_size=1)
    labels = segment_volume(prediction, out, config=config).read()
    flip_bit(out / "0/c/1/0/0")
    repair_image(out, check_image(out))
    made = segment_volume(prediction, out, config=config)
    np.testing.assert_array_equal(made.read(), labels)
    assert check_image(out) == []


def test_the_command(damaged, tmp_path):
    done = cristae("check", damaged)
    assert done.returncode == 2
    assert "4 shards are damaged" in done.stderr
    assert "level 1, box 0:64,0:300,0:350" in done.stderr
    assert cristae("check", damaged, "--repair").returncode == 0
    done = cristae("check", damaged)
    assert (done.returncode, "unfinished" in done.stderr) == (2, True)
    done = cristae("check", tmp_path / "none.zarr")
    assert (done.returncode, "expected a finished image" in done.stderr) == (2, True)
