import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.volumes.formats import open_volume, prediction_chunks
from cristae.volumes.volume import read_reflected


def write_chunk(
    folder: Path, box: Box, values: np.ndarray, name: str = "result", suffix: str = ""
) -> Path:
    bounds = "-".join(f"{a}-{b}" for a, b in zip(box.start, box.stop, strict=True))
    path = folder / f"{name}_{bounds}{suffix}.h5"
    with h5py.File(path, "w") as file:
        file["vol0"] = values
    return path


def box_of(z: Triple | tuple[int, int], y: tuple[int, int], x: tuple[int, int]) -> Box:
    return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


@pytest.mark.parametrize("folder", ["chunks", "chunks_xy"])
def test_merged_as_the_reference_merges(shared: Path, folder: str) -> None:
    tiles = shared / "golden" / "tiles"
    merged = np.load(tiles / "chunks_merged.npy")
    volume = open_volume(tiles / folder)
    assert (volume.kind, volume.shape, volume.dtype) == ("prediction", merged.shape[1:], np.uint8)
    assert np.array_equal(volume.read(), merged)
    padded = read_reflected(volume, Box((-2, -3, -4), (12, 44, 50)))
    widths = [(0, 0), (2, 2), (3, 4), (4, 2)]
    assert np.array_equal(padded, np.pad(merged, widths, "reflect"))


@given(data=st.data())
def test_boxes_equal_the_merged_array(shared: Path, data: st.DataObject) -> None:
    merged = np.load(shared / "golden" / "tiles" / "chunks_merged.npy")
    start = [data.draw(st.integers(0, n - 1)) for n in merged.shape[1:]]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, merged.shape[1:], strict=True)]
    box = Box(tuple(start), tuple(stop))
    volume = pickle.loads(pickle.dumps(open_volume(shared / "golden" / "tiles" / "chunks")))
    assert np.array_equal(volume.read(box), merged[(..., *box.slices())])


def test_only_the_chunks_of_a_box_are_opened(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = open_volume(shared / "golden" / "tiles" / "chunks")
    opened: list[str] = []
    original = prediction_chunks.open_file

    def counted(path: str, *rest: int) -> object:
        opened.append(Path(path).name)
        return original(path, *rest)

    monkeypatch.setattr(prediction_chunks, "open_file", counted)
    volume.read(Box((4, 0, 0), (6, 20, 16)))
    assert opened == ["result_0-5-0-20-0-16.h5", "result_5-10-0-20-0-16.h5"]


def test_chunk_bounds_of_the_reference_fill_an_axis(shared: Path, tmp_path: Path) -> None:
    """Files named by the reference's own bounds, without overlap, are one volume."""
    bounds = json.loads((shared / "golden" / "tiles" / "chunk_bounds.json").read_text())
    for index, (name, limits) in enumerate(bounds.items()):
        folder = tmp_path / str(index)
        folder.mkdir()
        for a, b in limits:
            box = box_of((a, b), (0, 2), (0, 2))
            write_chunk(folder, box, np.zeros((2, *box.shape), np.uint8))
        if "overlap" in name:
            with pytest.raises(InputError, match="overlap in"):
                open_volume(folder)
        else:
            assert open_volume(folder).shape == (limits[-1][1], 2, 2)


def grid(folder: Path) -> dict[Box, Path]:
    """Chunks of 2 x 2 x 2, each 3 voxels wide, of a (6, 6, 6) volume with 2 channels."""
    edges = [(0, 3), (3, 6)]
    boxes = [box_of(z, y, x) for z in edges for y in edges for x in edges]
    return {box: write_chunk(folder, box, np.ones((2, 3, 3, 3), np.uint8)) for box in boxes}


def test_missing_chunks_are_all_told(tmp_path: Path) -> None:
    files = grid(tmp_path)
    for corner in ((0, 0, 0), (3, 0, 3)):
        files[Box(corner, tuple(c + 3 for c in corner))].unlink()  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert "no chunk holds 0:3,0:3,0:3" in str(caught.value)
    assert "no chunk holds 3:6,0:3,3:6" in str(caught.value)
    assert "2 faults" in str(caught.value)


def test_overlapping_chunks_are_all_told(tmp_path: Path) -> None:
    grid(tmp_path)
    extra = box_of((2, 4), (0, 3), (0, 3))
    write_chunk(tmp_path, extra, np.ones((2, 2, 3, 3), np.uint8))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 2
    assert "overlap in 2:3,0:3,0:3" in lines[0]
    assert "overlap in 3:4,0:3,0:3" in lines[1]


def test_all_faulty_chunks_are_told_at_once(tmp_path: Path) -> None:
    files = list(grid(tmp_path).values())
    boxes = list(grid(tmp_path))
    files[0].write_bytes(files[0].read_bytes()[:200])
    write_chunk(tmp_path, boxes[1], np.ones((2, 3, 3, 2), np.uint8))
    write_chunk(tmp_path, boxes[2], np.ones((3, 3, 3, 3), np.uint8))
    write_chunk(tmp_path, boxes[3], np.ones((2, 3, 3, 3), np.uint16))
    with h5py.File(files[4], "a") as file:
        file["vol1"] = np.ones((2, 3, 3, 3), np.uint8)
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    text = str(caught.value)
    for i, fault in enumerate(
        (
            "cannot be read as HDF5",
            "found shape (2, 3, 3, 2), expected (c, 3, 3, 3)",
            "found 3 channels",
            "channels of uint16",
            "found 2 datasets",
        )
    ):
        assert any(files[i].name in line and fault in line for line in text.splitlines()), fault
    with pytest.raises(InputError, match="no dataset 'vol1'"):
        open_volume(f"{tmp_path}:vol1")


def test_chunks_of_two_runs_are_not_mixed(tmp_path: Path) -> None:
    boxes = list(grid(tmp_path))
    write_chunk(tmp_path, boxes[0], np.ones((2, 3, 3, 3), np.uint8), suffix="_xy")
    with pytest.raises(InputError, match="chunks of 2 runs"):
        open_volume(tmp_path)


def test_damage_inside_a_chunk_is_an_error_when_read(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chunks"
    shutil.copytree(shared / "golden" / "tiles" / "chunks", folder)
    path = folder / "result_0-5-0-20-0-16.h5"
    path.chmod(0o644)
    with h5py.File(path) as file:
        dataset = file["vol0"]
        part = dataset.id.get_chunk_info(0) if dataset.chunks else None
    if part is None:
        pytest.skip("the chunk file is not compressed")
    data = bytearray(path.read_bytes())
    middle = part.byte_offset + part.size // 2
    data[middle : middle + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="result_0-5-0-20-0-16"):
        open_volume(folder).read()


def test_changed_chunks_change_the_fingerprint(tmp_path: Path) -> None:
    boxes = list(grid(tmp_path))
    before = open_volume(tmp_path).fingerprint
    assert open_volume(tmp_path).fingerprint == before
    write_chunk(tmp_path, boxes[0], np.zeros((2, 3, 3, 3), np.uint8))
    assert open_volume(tmp_path).fingerprint != before


def test_names_that_nearly_are_those_of_chunks(tmp_path: Path) -> None:
    files = list(grid(tmp_path).values())
    (tmp_path / "._result_0-3-0-3-0-3.h5").write_bytes(b"of a Mac")
    assert open_volume(tmp_path).shape == (6, 6, 6)
    shutil.copy(files[0], tmp_path / "result_0-3-0-3-0-3 (1).h5")
    shutil.copy(files[0], tmp_path / "result_0-3-0-3.h5")
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert "result_0-3-0-3-0-3 (1).h5: expected a name that ends in" in str(caught.value)
    assert "result_0-3-0-3.h5: expected a name that ends in" in str(caught.value)


def test_a_chunk_that_changes_is_one_error(tmp_path: Path) -> None:
    files = grid(tmp_path)
    boxes = list(files)
    volume = open_volume(tmp_path)
    volume.read()
    files[boxes[5]].unlink()
    write_chunk(tmp_path, boxes[5], np.zeros((2, 3, 3, 3), np.uint8))
    assert volume.read(boxes[0]).all()
    with pytest.raises(InputError, match="changed since it was opened"):
        volume.read(boxes[5])
    fingerprint = open_volume(tmp_path).fingerprint
    files[boxes[7]].unlink()
    write_chunk(tmp_path, boxes[7], np.full((2, 3, 3, 3), 9, np.uint8))
    assert open_volume(tmp_path).fingerprint != fingerprint
