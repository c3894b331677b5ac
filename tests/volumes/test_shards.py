"""Shards written chunk by chunk are those of the ordinary writer."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.sources.ome_zarr import Layout, create_ome_zarr
from cristae.volumes.sources.shards import crc32c, encode_chunk, write_shard

LAYOUT = Layout((4, 8, 8), (8, 16, 24))


def empty_labels(folder, shape, dtype=np.uint32):
    return create_ome_zarr(
        folder / "a.zarr",
        shape=shape,
        dtype=dtype,
        kind="labels",
        voxel_size_nm=None,
        layout=LAYOUT,
    )


def test_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_readers_find_what_was_written(tmp_path, dtype):
    """In the last shard, which the volume's border cuts; other readers check the sum, too."""
    volume = empty_labels(tmp_path, (11, 20, 40), dtype)
    box = Box((8, 16, 24), (11, 20, 40))
    expected = np.zeros((11, 20, 40), dtype)
    expected[9, 17:19, 30:40] = np.iinfo(dtype).max
    expected[8, 16, 24] = 7
    whole = np.zeros((4, 8, 16), dtype)
    whole[:3, :4] = expected[box.slices()]
    chunks = {(0, 0, k): encode_chunk(whole[:, :, 8 * k : 8 * k + 8]) for k in range(2)}
    write_shard(volume, box, chunks)
    write_shard(volume, Box((0, 0, 0), (8, 16, 24)), {})
    np.testing.assert_array_equal(volume.read(), expected)
    np.testing.assert_array_equal(zarr.open(tmp_path / "a.zarr" / "0")[:], expected)
    files = [path for path in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if path.is_file()]
    assert [str(path)[-5:] for path in files] == ["1/1/1"]


def test_only_whole_shards_are_written(tmp_path):
    volume = empty_labels(tmp_path, (11, 20, 40))
    with pytest.raises(InputError, match="beginning of a shard"):
        write_shard(volume, Box((4, 0, 0), (8, 16, 24)), {})
    channels = volume.with_(channels=("mask",))
    with pytest.raises(InputError, match="without channels"):
        write_shard(channels, Box((0, 0, 0), (8, 16, 24)), {})


def test_nothing_is_left_of_a_killed_writer(tmp_path, monkeypatch):
    volume = empty_labels(tmp_path, (4, 8, 8))
    whole = np.ones(volume.chunk_shape, np.uint32)
    chunks = {(0, 0, 0): encode_chunk(whole)}

    def killed(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", killed)
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # who is killed tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            write_shard(volume, volume.box, chunks)
    folder = tmp_path / "a.zarr" / "0" / "c" / "0" / "0"
    assert len(list(folder.iterdir())) == 1
    write_shard(volume, volume.box, chunks)
    assert [path.name for path in folder.iterdir()] == ["0"]
    np.testing.assert_array_equal(volume.read(), whole)
