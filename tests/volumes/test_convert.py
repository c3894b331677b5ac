import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import Image

from cristae.engine.executors import Resources
from cristae.errors import DiskSpaceError, InputError, MemoryLimitError, OutputExistsError
from cristae.grid import Box
from cristae.volumes import copying
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.info import describe
from cristae.volumes.intensity import sample_intensity
from cristae.volumes.volume import Volume

SHAPE = (70, 530, 600)
SERIAL = Resources(workers=1, executor="serial")


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 230, (7, 54, 61)).astype(np.uint8)
    return np.repeat(np.repeat(np.repeat(coarse, 10, 0), 10, 1), 10, 2)[:70, :530, :600]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("slices") / "s"
    path.mkdir()
    for z, plane in enumerate(array):
        (path / f"im{z}.png").write_bytes(imagecodecs.png_encode(plane, level=1))
    return path


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of an output, metadata included."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    out = tmp_path_factory.mktemp("converted") / "volume.zarr"
    source = open_volume(folder, voxel_size_nm=(30, 8, 8))
    convert_volume(source, out, resources=Resources(workers=2))
    return out


def test_the_copy_is_exact_and_keeps_what_is_known(converted: Path, array: np.ndarray) -> None:
    volume = open_volume(converted)
    assert np.array_equal(volume.read(), array)
    assert (volume.kind, volume.dtype) == ("image", np.uint8)
    assert volume.voxel_size_nm == (30, 8, 8)
    assert volume.attributes["intensity"] == sample_intensity(volume).to_dict()
    assert volume.attributes["record"]["finished"]


def test_other_programs_read_it(converted: Path, array: np.ndarray) -> None:
    group = zarr.open_group(converted, mode="r")
    image = Image.from_zarr(group)
    multiscale = image.ome_attributes.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["z", "y", "x"]
    assert {axis.unit for axis in multiscale.axes} == {"nanometer"}
    assert [dataset.path for dataset in multiscale.datasets] == ["0", "1", "2"]
    assert np.array_equal(group["0"][:], array)
    assert group["1"].shape == (70, 265, 300)


@pytest.mark.parametrize(("workers", "group_bytes"), [(1, 1 << 30), (3, 1 << 24), (2, 1)])
def test_bytes_do_not_depend_on_workers_and_groups(
    converted: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    group_bytes: int,
) -> None:
    monkeypatch.setattr(copying, "_GROUP_BYTES", group_bytes)
    out, source = tmp_path / "volume.zarr", open_volume(folder, voxel_size_nm=(30, 8, 8))
    convert_volume(source, out, resources=Resources(workers=workers))
    assert tree_bytes(out) == tree_bytes(converted)


def test_processes_give_the_same_bytes(tmp_path: Path, array: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = array[:, :, :200]
    source = open_volume(tmp_path / "a.h5")
    for executor in ("serial", "processes"):
        resources = Resources(workers=2, executor=executor)  # type: ignore[arg-type]
        convert_volume(source, tmp_path / executor / "v.zarr", pyramid=False, resources=resources)
    assert tree_bytes(tmp_path / "serial") == tree_bytes(tmp_path / "processes")


def test_every_plane_is_decoded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cristae.volumes.formats import slices
    from cristae.volumes.formats.pages import PlaneCache

    decoded: list[str] = []
    decode = slices.decode_plane
    monkeypatch.setattr(slices, "PLANES", PlaneCache(1))
    monkeypatch.setattr(
        slices, "decode_plane", lambda p, s: (decoded.append(p.name), decode(p, s))[1]
    )
    convert_volume(open_volume(folder), tmp_path / "v.zarr", resources=SERIAL)
    assert sorted(decoded) == sorted(f"im{z}.png" for z in range(70))


def test_a_done_output_is_left_alone_and_another_is_refused(
    converted: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = tree_bytes(converted)
    with caplog.at_level(logging.INFO, "cristae"):
        convert_volume(open_volume(folder, voxel_size_nm=(30, 8, 8)), converted)
    assert "already done" in caplog.text
    with pytest.raises(OutputExistsError, match="voxel_size_nm"):
        convert_volume(open_volume(folder, voxel_size_nm=(40, 8, 8)), converted)
    assert tree_bytes(converted) == before


KILLED = """
import sys, time
from cristae.engine.executors import Resources
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import ZarrReader
from cristae.volumes.convert import convert_volume

write = ZarrReader.write
def slow(self, box, array):
    time.sleep(0.1)
    write(self, box, array)
ZarrReader.write = slow
source = open_volume(sys.argv[1], voxel_size_nm=(30, 8, 8))
convert_volume(source, sys.argv[2], resources=Resources(workers=1))
"""


def test_killed_and_run_again_gives_the_same_bytes(
    converted: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "volume.zarr"
    arguments = [sys.executable, "-c", KILLED, str(folder), str(out)]
    for pieces in (3, 9):  # while level 0 is copied, and while the pyramid is built
        process = subprocess.Popen(arguments)
        done, patience = out / ".cristae" / "done.jsonl", time.monotonic() + 60
        while not done.is_file() or len(done.read_bytes().splitlines()) < pieces:
            assert process.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not open_volume(out).attributes.get("record")
        assert "unfinished" in describe(open_volume(out)).text
    convert_volume(open_volume(folder, voxel_size_nm=(30, 8, 8)), out, resources=SERIAL)
    assert tree_bytes(out) == tree_bytes(converted)


def test_what_was_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.zarr"
    written: list[Box] = []
    write = Volume.write

    def stop_after_three(self: Volume, box: Box, data: np.ndarray) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(box)
        write(self, box, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Volume, "write", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            convert_volume(open_volume(folder), out, pyramid=False, resources=SERIAL)
    again: list[Box] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Volume, "write", lambda s, b, d: (again.append(b), write(s, b, d))[1])
        convert_volume(open_volume(folder), out, pyramid=False, resources=SERIAL)
    assert len(written) + len(again) == 8
    assert not set(written) & set(again)


MEASURED = """
import logging, sys, threading, time
import numpy as np
import psutil
from cristae.engine.executors import Resources
from cristae.volumes.convert import convert_volume
from cristae.volumes.pyramid import downsample
from cristae.volumes.formats import open_volume

downsample(np.zeros((2, 2, 2), np.uint8), (2, 2, 2), False)
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
rss = lambda: psutil.Process().memory_info().rss
seen = [rss()]

def watch():
    while True:
        seen.append(rss())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
convert_volume(open_volume(sys.argv[1]), sys.argv[2], resources=Resources(workers=2))
print("peak", (max(seen) - seen[0]) / 2**30)
"""


def test_memory_is_promised_and_kept(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 30, (1024, 1024)).astype(np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", (192, 1024, 1024), "u1", chunks=(32, 128, 128))
        for z in range(0, 192, 32):
            data[z : z + 32] = np.roll(plane, z, 0)
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "a.h5"), str(tmp_path / "a.zarr")]
    lines = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    promised = float(lines.split("needs up to ")[1].split()[0])
    peak = float(lines.split("peak ")[1])
    assert peak <= promised <= 2 * peak + 0.1, lines


def test_labels_become_unsigned_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((3, 8, 9), np.float64)
    labels[1, 2, 3] = 70000
    out = convert_volume(open_volume(labels, kind="labels"), tmp_path / "a.zarr", resources=SERIAL)
    assert (out.kind, out.dtype) == ("labels", np.uint64)
    assert np.array_equal(out.read(), labels)
    assert "intensity" not in out.attributes
    labels[2, 7, 8] = 0.5
    with pytest.raises(InputError, match=r"value 0\.5 .*expected whole numbers"):
        convert_volume(open_volume(labels, kind="labels"), tmp_path / "b.zarr", resources=SERIAL)
    signed = -np.ones((2, 3, 4), np.int16)
    with pytest.raises(InputError, match="value -1"):
        convert_volume(open_volume(signed), tmp_path / "c.zarr", kind="labels", resources=SERIAL)


def test_the_kind_is_the_sources_own_then_given_then_image(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = shared / "golden" / "tiles"
    caplog.set_level(logging.INFO, "cristae")

    def kind_of(source: Volume, kind: str | None = None) -> tuple[str | None, str]:
        caplog.clear()
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        volume = convert_volume(source, out, kind=kind, resources=SERIAL)  # type: ignore[arg-type]
        return volume.kind, caplog.records[-1].message.split("; ")[-1]

    assert kind_of(open_volume(tiles / "seg.json")) == (
        "labels",
        "kind labels (tile index: ndim 1, dtype uint32)",
    )
    assert kind_of(open_volume(tiles / "im.json"))[0] == "image"
    assert kind_of(open_volume(tiles / "im.json"), "labels")[0] == "labels"
    plain = open_volume(np.ones((2, 8, 8), np.uint8))
    assert kind_of(plain) == ("image", "--kind does)")
    assert kind_of(plain, "labels")[0] == "labels"
    prediction = open_volume(tiles / "chunks")
    assert kind_of(prediction) == ("prediction", "kind prediction (as the source is opened)")
    with pytest.raises(InputError, match="says it is prediction, expected labels"):
        kind_of(prediction, "labels")


def test_predictions_keep_channels_and_place(shared: Path, tmp_path: Path) -> None:
    source = open_volume(
        shared / "golden" / "tiles" / "chunks", voxel_size_nm=(30, 8, 8), roi="2:9,5:30,:"
    )
    volume = convert_volume(source, tmp_path / "p.zarr", resources=SERIAL)
    merged = np.load(shared / "golden" / "tiles" / "chunks_merged.npy")
    assert np.array_equal(volume.read(), merged[:, 2:9, 5:30])
    assert volume.origin_nm == (60, 40, 0)
    assert volume.channels == ("channel_0", "channel_1")


def test_a_source_is_never_its_own_output(converted: Path) -> None:
    for source in (converted, converted / "0"):
        with pytest.raises(InputError, match="is the source itself"):
            convert_volume(open_volume(source), converted, overwrite=True)
    assert open_volume(converted).kind == "image"


@pytest.mark.parametrize("kind", ["prediction", "labels"])
def test_metadata_of_every_kind_is_valid(tmp_path: Path, kind: str) -> None:
    channels = kind == "prediction"
    array = np.ones((2, 4, 300, 20) if channels else (4, 300, 20), np.uint16)
    source = open_volume(array, kind=kind)  # type: ignore[arg-type]
    convert_volume(source, tmp_path / "a.zarr", resources=SERIAL)
    image = Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    axes = image.ome_attributes.multiscales[0].axes
    assert "".join(axis.name for axis in axes) == ("czyx" if channels else "zyx")
    assert {axis.unit for axis in axes} == {None}


def test_refusals_before_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_volume(folder)
    with pytest.raises(InputError, match=r"found suffix '\.h5', expected \.zarr"):
        convert_volume(source, tmp_path / "a.h5")
    with pytest.raises(MemoryLimitError, match=r"0\.01 GiB are allowed"):
        convert_volume(source, tmp_path / "a.zarr", resources=Resources(memory_gib=0.01))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 1000})())
    with pytest.raises(DiskSpaceError, match="GB are free"):
        convert_volume(source, tmp_path / "b.zarr", resources=SERIAL)
    assert list(tmp_path.iterdir()) == []


def test_bright_membranes_are_warned_of(
    tmp_path: Path, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plane = tifffile.imread(shared / "data" / "vnc_stack1" / "raw.tif", key=0)
    with caplog.at_level(logging.WARNING, "cristae"):
        convert_volume(open_volume(plane[None]), tmp_path / "a.zarr", resources=SERIAL)
        assert "invert" not in caplog.text
        convert_volume(open_volume(255 - plane[None]), tmp_path / "b.zarr", resources=SERIAL)
    assert "consider --invert" in caplog.text
    assert "membranes look bright" in describe(open_volume(tmp_path / "b.zarr")).text


def test_info_tells_what_is_known_and_what_is_not(converted: Path, folder: Path) -> None:
    ours = describe(open_volume(converted)).text
    for line in (
        "70 x 530 x 600 voxels (z, y, x), 22.3 Mvoxels",
        "uint8",
        "32 x 128 x 128 in shards of 64 x 512 x 512",
        "30 x 8 x 8 nm",
        "2.1 x 4.24 x 4.8 um",
        "image",
        "Zarr",
        "deviation",
    ):
        assert line in ours
    assert "unfinished" not in ours
    theirs = describe(open_volume(folder))
    assert theirs.voxel_size_nm is None
    assert "unknown (give it with --voxel-size" in theirs.text
    assert "image slices" in theirs.text
    assert theirs.size_on_disk == sum(file.stat().st_size for file in folder.iterdir())
    assert "not stated" in theirs.text


def test_info_of_labels_and_predictions(shared: Path, tmp_path: Path) -> None:
    tiles = shared / "golden" / "tiles"
    assert "ids" in describe(open_volume(tiles / "seg.json")).text
    text = describe(open_volume(tiles / "chunks_xy")).text
    assert "2 (channel_0, channel_1)" in text
    assert "folder of prediction chunks" in text
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.zeros((2, 3, 4), np.float32)
    assert "HDF5" in describe(open_volume(tmp_path / "a.h5", roi="1:2,:,:")).text
