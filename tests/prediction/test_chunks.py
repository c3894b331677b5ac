"""Chunk files: streamed, each whole or not there, room checked first."""

import errno
import fcntl
import os
import resource
from collections import namedtuple

import h5py
import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.errors import BusyError, DiskSpaceError
from cristae.grid import Box
from cristae.prediction import chunks as chunks_module
from cristae.prediction.chunks import plan_chunks, write_chunks
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import array_volume

SHAPE = (40, 160, 150)


@pytest.fixture
def prediction():
    """Two channels of noise, which gzip cannot make smaller."""
    array = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    return array_volume(array, channels=("mask", "contour"), kind="prediction")


@pytest.fixture
def plan(tmp_path):
    """Chunks 2 along z, 1 along y, 2 along x, of which so many are there."""

    def call(there=0):
        found = plan_chunks(tmp_path / "chunks", SHAPE, (2, 1, 2), "ours")
        assert len(found.missing) == 4 - there
        return found

    return call


@pytest.mark.parametrize("most", [1 << 16, 1 << 19, 1 << 26])
def test_no_more_than_a_piece_is_read_at_a_time(prediction, plan, monkeypatch, most):
    monkeypatch.setattr(chunks_module, "PIECE_BYTES", most)
    sizes, read = [], type(prediction).read

    def counted(self, box):
        sizes.append(2 * box.size)
        return read(self, box)

    monkeypatch.setattr(type(prediction), "read", counted)
    write_chunks(prediction, plan())
    assert max(sizes) <= max(most, 2 * 20 * 128 * 75)  # a chunk of each channel at least
    assert sum(sizes) == 2 * np.prod(SHAPE)
    monkeypatch.undo()
    folder = plan(4).folder
    assert np.array_equal(open_volume(folder).read(), prediction.read())


def test_an_interrupted_file_counts_for_nothing(prediction, plan, monkeypatch):
    """Stopped in the second file; a killed run, which cannot tidy up, left half a third one."""
    monkeypatch.setattr(chunks_module, "PIECE_BYTES", 1 << 16)
    boxes, read = list(plan().boxes.values()), type(prediction).read

    def stop(self, box):
        if boxes[1].contains(box) and box.stop[1] == boxes[1].stop[1]:
            raise KeyboardInterrupt
        return read(self, box)

    monkeypatch.setattr(type(prediction), "read", stop)
    with pytest.raises(KeyboardInterrupt):
        write_chunks(prediction, plan())
    monkeypatch.setattr(type(prediction), "read", read)
    left = plan(1)
    names = list(left.boxes)
    assert [path.name for path in left.folder.iterdir()] == names[:1]
    (left.folder / f".{names[2]}.tmp").write_bytes(b"half of it")
    before = (left.folder / names[0]).stat().st_mtime_ns
    write_chunks(prediction, left)
    assert sorted(path.name for path in left.folder.iterdir()) == sorted(names)
    assert (left.folder / names[0]).stat().st_mtime_ns == before
    assert np.array_equal(open_volume(left.folder).read(), prediction.read())


def test_a_file_that_cannot_grow_is_told_and_left_out(prediction, plan, tmp_path):
    """HDF5 would end the process at its end, were it not allowed to think all was written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_chunks(prediction, plan())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert not (tmp_path / "chunks").exists()
    write_chunks(prediction, plan())
    plan(4)


def test_a_full_disk_is_told_plainly(prediction, plan, monkeypatch):
    def full(self, data):
        self.error = OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    monkeypatch.setattr(chunks_module._KeptError, "write", full)
    with pytest.raises(DiskSpaceError, match="chunks: the disk is full; the same command goes on"):
        write_chunks(prediction, plan())


def test_a_folder_has_one_writer(prediction, plan, tmp_path):
    (tmp_path / "chunks").mkdir()
    held = os.open(tmp_path / "chunks", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(BusyError, match="chunks: another process is writing it"):
        write_chunks(prediction, plan())
    os.close(held)
    write_chunks(prediction, plan())


def test_room_is_checked_for_both_before_work(make_model, texture, tmp_path, monkeypatch):
    """4 x 50 x 60 voxels of two channels, once as Zarr and once as chunks, on one disk."""
    volume, model, size = open_volume(texture((4, 50, 60))), make_model(), 2 * 4 * 50 * 60
    usage = namedtuple("usage", "free")
    ask = {
        "config": PredictConfig(precision="float32"),
        "resources": Resources(workers=1),
        "chunks": tmp_path / "chunks",
    }
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2 * size - 1))
    with pytest.raises(DiskSpaceError, match=r"p\.zarr and .*chunks: needs up to"):
        predict_volume(volume, model, tmp_path / "p.zarr", **ask)
    assert not (tmp_path / "chunks").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2 * size))
    found = predict_volume(volume, model, tmp_path / "p.zarr", **ask)
    (name,) = (tmp_path / "chunks").iterdir()
    with h5py.File(name) as file:
        assert np.array_equal(file["vol0"], found.read(Box.of(volume.shape)))
    name.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(size - 1))
    with pytest.raises(DiskSpaceError, match="chunks: needs up to"):  # the prediction is there
        predict_volume(volume, model, tmp_path / "p.zarr", **ask)
