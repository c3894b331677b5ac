"""A submission: what was segmented is what is handed in, and faults are found before the server."""

import errno
import zipfile

import h5py
import numpy as np
import pytest

from cristae import challenge
from cristae.challenge import NAMES, check_submission, submission_text, submit_instances
from cristae.engine.executors import Resources
from cristae.engine.files import write_atomic
from cristae.engine.identity import Identity
from cristae.errors import DiskSpaceError, InputError, OutputExistsError, SourceNotFoundError
from cristae.volumes.volume import array_volume

SHAPE = (5, 20, 24)
SERIAL = Resources(1, "serial")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Volumes of a few chunks, none of which the extent is a multiple of."""
    monkeypatch.setattr(challenge, "SHAPE", SHAPE)
    monkeypatch.setattr(challenge, "CHUNK", (2, 8, 8))
    monkeypatch.setattr(challenge, "BLOCK", (2, 16, 16))


def labels(seed, largest, dtype=np.uint32):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random(SHAPE) < 0.3, rng.integers(1, largest, SHAPE), 0).astype(dtype)
    array[:, :8] = 0  # chunks without a label are not stored
    array[-1, -1, -1] = largest
    return array


def volumes(human, rat):
    pairs = (("human", human), ("rat", rat))
    return [array_volume(a, name=name).with_(identity=Identity.of(name)) for name, a in pairs]


def read(path, name):
    with (
        zipfile.ZipFile(path) as archive,
        archive.open(NAMES[name]) as file,
        h5py.File(file, "r") as hdf5,
    ):
        (dataset,) = hdf5.values()
        return dataset[...], dataset.chunks, dataset.compression


def test_what_is_handed_in(tmp_path):
    human, rat = labels(1, 255), labels(2, 256, np.int64)
    out = submit_instances(*volumes(human, rat), tmp_path / "out.zip", resources=SERIAL)
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == list(NAMES.values())
        assert archive.testzip() is None
    for name, array, dtype in (("human", human, np.uint8), ("rat", rat, np.uint16)):
        found, chunks, compression = read(out, name)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == dtype
        assert (chunks, compression) == ((2, 8, 8), "gzip")
    found = check_submission(out, SERIAL)
    assert [each.instances for each in found] == [len(np.unique(a)) - 1 for a in (human, rat)]
    assert [each.voxels for each in found] == [np.count_nonzero(a) for a in (human, rat)]
    assert "0_human_instance_seg_pred.h5  main  uint8" in submission_text(found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zip", "out.zip.cristae.json"]


def test_workers_and_interruptions_change_no_byte(tmp_path, monkeypatch):
    pair = volumes(labels(1, 300), labels(2, 300))
    whole = submit_instances(*pair, tmp_path / "a.zip", resources=Resources(3)).read_bytes()
    broken = tmp_path / "b.zip"

    class Interrupted(BaseException):
        pass

    class Stops:
        def read(self, box):
            raise Interrupted

    with pytest.raises(Interrupted):
        submit_instances(pair[0], pair[1].with_(reader=Stops()), broken, resources=SERIAL)
    assert not broken.exists()
    unread = pair[0].with_(reader=Stops())  # the first file is there
    assert submit_instances(unread, pair[1], broken, resources=SERIAL).read_bytes() == whole
    done = [each.with_(reader=Stops()) for each in pair]
    assert submit_instances(*done, broken, resources=SERIAL).read_bytes() == whole
    with pytest.raises(OutputExistsError, match="human"):
        submit_instances(
            pair[0].with_(identity=Identity.of("other")), pair[1], broken, resources=SERIAL
        )


def test_volumes_that_cannot_be_handed_in(tmp_path):
    wide = array_volume(np.zeros((6, 20, 24), np.uint8), name="wide")
    soft = array_volume(np.zeros((2, 5, 20, 24), np.float32), name="soft")
    with pytest.raises(InputError) as caught:
        submit_instances(wide, soft, tmp_path / "out.zip")
    assert "wide has shape (6, 20, 24), expected (5, 20, 24)" in str(caught.value)
    assert "--roi takes a part" in str(caught.value)
    assert "soft has 2 channels" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    negative = labels(1, 9, np.int16)
    negative[3, 19, 1] = -4
    for pair in ((labels(1, 9), negative), (negative, labels(1, 9))):
        with pytest.raises(InputError, match="label -4"):
            submit_instances(*volumes(*pair), tmp_path / "out.zip", resources=SERIAL)
        assert list(tmp_path.iterdir()) == []  # not even the volume that is right
    with pytest.raises(InputError, match=r"(?s)human: human: label -4.*rat: rat: label -4"):
        submit_instances(*volumes(negative, negative), tmp_path / "out.zip", resources=SERIAL)


def pack(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, arrays in files.items():
            file = path.parent / "part.h5"
            if isinstance(arrays, bytes):
                file.write_bytes(arrays)
            else:
                with h5py.File(file, "w") as hdf5:
                    for key, array in arrays.items():
                        hdf5[key] = array
            archive.write(file, NAMES.get(name, name))
            file.unlink()
    return path


@pytest.mark.parametrize(
    ("files", "says"),
    [
        pytest.param({"human": {"a": np.ones(SHAPE, int)}}, "1_rat.*not in the zip", id="missing"),
        pytest.param(
            {"human": {"a": np.ones((5, 20, 23), int)}, "rat": {"a": np.zeros(SHAPE, int)}},
            r"(?s)\(5, 20, 23\), expected.*1_rat.*every voxel is 0",
            id="both at once",
        ),
        pytest.param({"human": {"a": np.ones(SHAPE)}}, "float64, expected integer", id="floats"),
        pytest.param({"human": {"a": [1], "b": [2]}}, "datasets a, b, expected", id="datasets"),
        pytest.param({"human": b"nothing"}, "0_human.*not an HDF5 file", id="format"),
        pytest.param({"readme.txt": b"hello"}, "readme.txt: in the zip, not expected", id="extra"),
        pytest.param({"human": {"a": -np.ones(SHAPE, int)}}, "label -1", id="negative"),
    ],
)
def test_submissions_with_faults(tmp_path, files, says):
    with pytest.raises(InputError, match=says):
        check_submission(pack(tmp_path / "out.zip", **files), SERIAL)


def test_files_that_are_no_submission(tmp_path):
    with pytest.raises(SourceNotFoundError, match="no such file"):
        check_submission(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(InputError, match="not a zip file"):
        check_submission(tmp_path / "text.zip")


def test_a_disk_that_runs_full(tmp_path, monkeypatch):
    pair = volumes(labels(1, 9), labels(2, 9))

    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(challenge, "write_atomic", full)
    with pytest.raises(DiskSpaceError, match="the disk is full"):
        submit_instances(*pair, tmp_path / "out.zip", resources=SERIAL)
    assert not (tmp_path / "out.zip").exists()
    monkeypatch.setattr(challenge, "write_atomic", write_atomic)
    submit_instances(*pair, tmp_path / "out.zip", resources=SERIAL)
    assert len(check_submission(tmp_path / "out.zip", SERIAL)) == 2
