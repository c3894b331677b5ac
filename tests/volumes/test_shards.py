"""Shards written chunk by chunk are those of the ordinary writer."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr
from cristae.volumes.formats.shards import chunks_of, encode_chunk, write_shard
from cristae.volumes.volume import array_volume

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
    folder = tmp_path / "a.zarr" / "0" / "c" / "0" / "0"
    folder.mkdir(parents=True)

    def killed(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", killed)
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # who is killed tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            write_shard(volume, volume.box, chunks)
    assert len(list(folder.iterdir())) == 1
    write_shard(volume, volume.box, chunks)
    assert [path.name for path in folder.iterdir()] == ["0"]
    np.testing.assert_array_equal(volume.read(), whole)


def some_labels(folder, dtype=np.uint32):
    """Labels of two shards and a chunk of others; the rest is not stored."""
    volume = empty_labels(folder, (11, 40, 60), dtype)
    expected = np.zeros(volume.shape, dtype)
    expected[:8, 3:16, 5:30] = np.random.default_rng(0).integers(1, 100, (8, 13, 25))
    expected[10, 39, 59] = 5
    volume.write(volume.box, expected)
    return volume, expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
@pytest.mark.parametrize(
    "part",
    [Box((0, 0, 0), (11, 40, 60)), Box((3, 5, 7), (11, 33, 50)), Box((9, 38, 2), (10, 40, 3))],
)
def test_chunks_are_what_the_reader_finds(tmp_path, dtype, part):
    stored, expected = some_labels(tmp_path, dtype)
    volume, expected = stored.crop(part), expected[part.slices()]
    found = np.full(expected.shape, 99, dtype)
    block = Box((0, 0, 0), part.shape)
    missing = 0
    for box, values in chunks_of(volume).read(block):
        found[box.slices()] = 0 if values is None else values
        missing += values is None
    np.testing.assert_array_equal(found, expected)
    assert missing or expected.any()


def test_other_arrays_have_no_chunks_of_ours(tmp_path):
    labels = np.ones((4, 8, 8), np.uint32)
    assert chunks_of(array_volume(labels)) is None
    assert chunks_of(some_labels(tmp_path)[0].with_(channels=("mask",))) is None
    array = zarr.create_array(
        tmp_path / "b.zarr", shape=labels.shape, chunks=(4, 8, 8), shards=(4, 8, 8), dtype="u4"
    )  # another level and checksum of zstd is read alike; a chain of other codecs is not
    array[:] = labels
    found = chunks_of(open_volume(tmp_path / "b.zarr", kind="labels"))
    assert found is not None
    assert next(iter(found.read(Box.of(labels.shape))))[1].all()
    zarr.create_array(
        tmp_path / "c.zarr", shape=labels.shape, chunks=(4, 8, 8), shards=(4, 8, 8), dtype="u4",
        compressors=zarr.codecs.GzipCodec(),
    )  # fmt: skip
    assert chunks_of(open_volume(tmp_path / "c.zarr", kind="labels")) is None


@pytest.mark.parametrize("damage", ["short", "index", "chunk"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    volume, _ = some_labels(tmp_path)
    path = tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0"
    whole = bytearray(path.read_bytes())
    if damage == "short":
        del whole[:-20]
    else:
        whole[-9 if damage == "index" else 1] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(InputError, match="c/0/0/0"):
        list(chunks_of(volume).read(Box.of(volume.shape)))
