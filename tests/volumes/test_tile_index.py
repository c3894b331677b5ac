import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.formats import open_volume, pages, tile_index
from cristae.volumes.formats.tile_index import nearest_indices
from cristae.volumes.volume import read_reflected

INDICES = ("im", "seg", "tiled", "rgb_half")


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("box", ["inside", "padded", "whole"])
def test_equal_to_the_reference(shared: Path, index: str, box: str) -> None:
    folder = shared / "golden" / "tiles"
    expected = np.load(folder / "expected.npz")
    z0, z1, y0, y1, x0, x1 = (int(n) for n in expected[f"coords__{box}"])
    volume = open_volume(folder / f"{index}.json")
    found = read_reflected(volume, Box((z0, y0, x0), (z1, y1, x1)))
    assert found.dtype == expected[f"{index}__{box}"].dtype
    assert np.array_equal(found, expected[f"{index}__{box}"])


@pytest.mark.parametrize(
    ("index", "kind"),
    [("im", "image"), ("seg", "labels"), ("tiled", "image"), ("rgb_half", "labels")],
)
def test_kind_is_taken_from_ndim_and_dtype(shared: Path, index: str, kind: str) -> None:
    volume = open_volume(shared / "golden" / "tiles" / f"{index}.json")
    assert volume.kind == kind
    assert "ndim" in volume.attributes["kind_from"]


def make_index(folder: Path, array: np.ndarray, side: int, **changes: Any) -> Path:
    """Tiles of an array (z, y, x) at ratio 1, and their index."""
    folder.mkdir(exist_ok=True)
    depth, height, width = array.shape
    for z in range(depth):
        (folder / f"{z}").mkdir(exist_ok=True)
        for y in range(0, height, side):
            for x in range(0, width, side):
                tile = np.ascontiguousarray(array[z, y : y + side, x : x + side])
                path = folder / f"{z}" / f"{y // side}_{x // side}.png"
                path.write_bytes(imagecodecs.png_encode(tile))
    index = {
        "ndim": 1,
        "dtype": array.dtype.name,
        "image": [f"{z}/{{row}}_{{column}}.png" for z in range(depth)],
        "height": height,
        "width": width,
        "depth": depth,
        "tile_size": side,
        "tile_ratio": 1,
        "tile_st": [0, 0],
        **changes,
    }
    path = folder / "index.json"
    path.write_text(json.dumps(index))
    return path


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    array = np.random.default_rng(0).integers(0, 255, (3, 50, 43)).astype(np.uint8)
    return array, make_index(tmp_path_factory.mktemp("tiled") / "t", array, 16)


@given(data=st.data())
def test_boxes_equal_the_array(tiled: tuple[np.ndarray, Path], data: st.DataObject) -> None:
    array, path = tiled
    start = [data.draw(st.integers(0, n - 1)) for n in array.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, array.shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    assert np.array_equal(open_volume(path).read(box), array[box.slices()])


def test_only_the_tiles_of_a_box_are_decoded(
    tiled: tuple[np.ndarray, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counted(path: Path, state: pages.State) -> np.ndarray:
        decoded.append(f"{path.parent.name}/{path.name}")
        return pages.decode_plane(path, state)

    monkeypatch.setattr(tile_index, "decode_plane", counted)
    monkeypatch.setattr(tile_index, "PLANES", pages.PlaneCache(1 << 20))
    volume = open_volume(tiled[1])
    assert decoded == []
    volume.read(Box((1, 14, 17), (2, 20, 31)))
    assert decoded == ["1/0_1.png", "1/1_1.png"]
    volume.read(Box((1, 0, 16), (2, 32, 32)))
    assert len(decoded) == 2


def test_zoomed_images_are_linear_and_zoomed_labels_nearest(tmp_path: Path) -> None:
    small = np.random.default_rng(1).integers(0, 255, (2, 20, 24)).astype(np.uint8)
    path = make_index(
        tmp_path / "t", small, 32, height=40, width=48, tile_size=[40, 48], tile_ratio=2
    )
    for kind, order in (("image", 1), ("labels", 0)):
        volume = open_volume(path, kind=kind)
        expected = [ndimage.zoom(plane, 2, order=order) for plane in small]
        assert np.array_equal(volume.read(), expected)
        assert volume.kind == kind
    as_image = open_volume(path)
    assert as_image.kind == "image"
    assert np.array_equal(open_volume(as_image, kind="labels").read(), volume.read())
    assert open_volume(as_image, kind="labels").fingerprint == volume.fingerprint
    assert as_image.fingerprint != volume.fingerprint


@pytest.mark.parametrize("ratio", [0.5, 2, 2.5, 3])
@pytest.mark.parametrize("length", [4, 17, 28, 64, 75])
def test_nearest_indices_are_those_of_a_2d_zoom(length: int, ratio: float) -> None:
    plane = np.arange(length * length).reshape(length, length)
    rows = nearest_indices(length, ratio)
    found, zoomed = plane[np.ix_(rows, rows)], ndimage.zoom(plane, ratio, order=0)
    assert np.array_equal(found[:-1, :-1], zoomed[:-1, :-1])
    assert found[-1, -1] == plane[-1, -1]


def test_a_root_replaces_the_folder_of_the_index(
    tiled: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    array, path = tiled
    moved = Path(shutil.copy(path, tmp_path / "moved.json"))
    with pytest.raises(InputError, match="no such file"):
        open_volume(moved)
    assert np.array_equal(open_volume(moved, root=path.parent).read(), array)
    with pytest.raises(InputError, match="root"):
        open_volume(np.zeros((1, 2, 2)), root=path.parent)


@pytest.mark.parametrize("above", [0, 1])
def test_a_root_stands_for_the_folders_of_another_machine(
    tiled: tuple[np.ndarray, Path], tmp_path: Path, above: int
) -> None:
    array, path = tiled
    index = json.loads(path.read_text())
    base = f"/path/to/{path.parent.name}" if above else "/path/to/MitoEM-R"
    index["image"] = [f"{base}/{pattern}" for pattern in index["image"]]
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(index))
    root = path.parents[above]
    assert np.array_equal(open_volume(moved, root=root).read(), array)
    with pytest.raises(InputError, match="--root FOLDER"):
        open_volume(moved)
    with pytest.raises(InputError, match="no trailing part"):
        open_volume(moved, root=tmp_path)


def test_readers_travel_and_notice_changes(tiled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    array, path = tiled
    volume = pickle.loads(pickle.dumps(open_volume(path)))
    assert np.array_equal(volume.read(), array)
    copy = tmp_path / "t"
    shutil.copytree(path.parent, copy)
    before = open_volume(copy / "index.json").fingerprint
    assert before == open_volume(copy / "index.json").fingerprint
    tile = copy / "0" / "0_0.png"
    tile.write_bytes(imagecodecs.png_encode(np.zeros((16, 16), np.uint8)))
    after = open_volume(copy / "index.json")
    assert after.fingerprint != before
    assert not after.read(Box((0, 0, 0), (1, 16, 16))).any()


def test_all_faulty_tiles_are_told_at_once(tiled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(tiled[1].parent, folder)
    (folder / "0" / "0_0.png").unlink()
    whole = (folder / "1" / "1_1.png").read_bytes()
    (folder / "1" / "1_1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "1" / "1_2.png").write_bytes(b"")
    encode = imagecodecs.png_encode
    (folder / "2" / "0_0.png").write_bytes(encode(np.zeros((16, 15), np.uint8)))
    (folder / "2" / "0_1.png").write_bytes(encode(np.zeros((16, 16), np.uint16)))
    (folder / "2" / "0_2.png").write_bytes(encode(np.zeros((16, 11, 3), np.uint8)))
    with pytest.raises(InputError) as caught:
        open_volume(folder / "index.json")
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 6
    for line, (tile, fault) in zip(
        lines,
        [
            ("0/0_0.png", "no such file"),
            ("1/1_1.png", "cut off"),
            ("1/1_2.png", "empty"),
            ("2/0_0.png", "(16, 15) pixels, expected (16, 16)"),
            ("2/0_1.png", "uint16, expected values that fit uint8"),
            ("2/0_2.png", "3 samples"),
        ],
        strict=True,
    ):
        assert tile in line
        assert fault in line


def test_a_long_list_of_faults_is_cut_with_a_count(tmp_path: Path) -> None:
    path = make_index(tmp_path / "t", np.zeros((30, 8, 8), np.uint8), 8)
    for z in range(25):
        (tmp_path / "t" / f"{z}" / "0_0.png").unlink()
    with pytest.raises(InputError, match="and 5 more"):
        open_volume(path)


def test_data_damaged_inside_is_an_error_when_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 64, 64)).astype(np.uint8)
    path = make_index(tmp_path / "t", noise, 64)
    tile = tmp_path / "t" / "0" / "0_0.png"
    data = bytearray(tile.read_bytes())
    data[len(data) // 2] ^= 255
    tile.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"0_0\.png: cannot be decoded"):
        open_volume(path).read()


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[0, 0] = (1, 0, 0)
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    index = {
        "ndim": 3,
        "dtype": "uint16",
        "image": ["a.tif"],
        "height": 8,
        "width": 8,
        "depth": 1,
        "tile_size": 8,
    }
    (tmp_path / "i.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="id 65536"):
        open_volume(tmp_path / "i.json").read()


def test_all_faults_of_an_index_are_told_at_once(tmp_path: Path) -> None:
    index = {
        "ndim": 2,
        "dtype": "float32",
        "image": ["a", "b"],
        "height": 0,
        "depth": 3,
        "tile_size": "x",
        "tile_ratio": 0,
        "tile_st": 5,
    }
    (tmp_path / "i.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "i.json")
    text = str(caught.value)
    for key in (
        "'width'",
        "ndim",
        "dtype",
        "height",
        "tile_size",
        "tile_ratio",
        "tile_st",
        "found 2 paths, expected 3",
    ):
        assert key in text
    (tmp_path / "j.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a tile index"):
        open_volume(tmp_path / "j.json")
    with pytest.raises(SourceNotFoundError):
        open_volume(tmp_path / "k.json")
    plain = {
        "ndim": 1,
        "dtype": "uint8",
        "image": ["a.png"],
        "height": 20,
        "width": 20,
        "depth": 1,
        "tile_size": 16,
    }
    (tmp_path / "l.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match=r"expected paths with \{row\}"):
        open_volume(tmp_path / "l.json")


PLAIN: dict[str, Any] = {
    "ndim": 1,
    "dtype": "uint8",
    "image": ["{row}_{column}.png"],
    "height": 32,
    "width": 48,
    "depth": 1,
    "tile_size": 16,
}


def write_index(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**PLAIN, **changes}))
    return path


@pytest.mark.parametrize(
    "pattern",
    [
        "{row.__class__}_{column}.png",
        "{row}_{column}_{0}.png",
        "{row}_{}.png",
        "{row}_{other}.png",
        "{row[0]}_{column}.png",
        "{row!r}_{column}.png",
        "{row:999999999}_{column}.png",
        "{row:>9}_{column}.png",
        "{row:04f}_{column}.png",
        "{row}_{column",
        "{row}}_{column}.png",
        "{ row }_{column}.png",
    ],
)
def test_patterns_know_row_and_column_alone(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"expected no field but \{row\} and \{column\}"):
        open_volume(write_index(tmp_path / "i.json", image=[pattern]))


@pytest.mark.parametrize(
    "pattern",
    [
        "{row}_{column}.png",
        "{row:04d}/{column:04}.png",
        "t{row:2d}-{column:3}.png",
        "{column}_{row:03d}_{column:05d}.png",
        "50% {{a}} {row} #{column}~.png",
        "a/../{row}_{column}.png",
    ],
)
def test_patterns_are_filled_as_python_fills_them(tmp_path: Path, pattern: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (32, 48)).astype(np.uint8)
    (tmp_path / "a").mkdir()
    for row in range(2):
        for column in range(3):
            tile = array[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            path = tmp_path / pattern.format(row=row + 1, column=column)
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(tile)))
    index = write_index(tmp_path / "i.json", image=[pattern], tile_st=[1, 0])
    assert np.array_equal(open_volume(index).read()[0], array)


def test_braces_of_a_path_that_is_no_pattern(tmp_path: Path) -> None:
    tile = np.full((16, 16), 7, np.uint8)
    (tmp_path / "im{0}.png").write_bytes(imagecodecs.png_encode(tile))
    path = write_index(tmp_path / "i.json", image=["im{0}.png"], height=16, width=16)
    assert np.array_equal(open_volume(path).read()[0], tile)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tile_ratio": float("inf")}, "tile_ratio: found inf"),
        ({"tile_ratio": float("nan")}, "tile_ratio: found nan"),
        ({"tile_ratio": 0}, "tile_ratio: found 0"),
        ({"tile_ratio": -1}, "tile_ratio: found -1"),
        ({"tile_ratio": 1e300}, "tile_ratio: found 1e\\+300"),
        ({"tile_ratio": 10**400}, "tile_ratio: found 1000"),
        ({"tile_ratio": "2"}, "tile_ratio: found '2'"),
        ({"height": 1 << 62}, "height: found"),
        ({"width": 1e9}, "width: found"),
        ({"height": (1 << 31) - 1, "width": (1 << 31) - 1}, "tiles, expected 16,777,216 at most"),
        ({"depth": 1 << 40}, "depth: found"),
        ({"tile_size": [16]}, "tile_size: found"),
        ({"tile_st": [1 << 70, 0]}, "tile_st: found"),
        ({"ndim": [1]}, "ndim: found"),
        ({"dtype": {}}, "dtype: found"),
        ({"image": ["a\0{row}{column}.png"]}, "NUL"),
        ({"image": ["\ud800{row}{column}.png"]}, "cannot be read"),
        ({"image": [["{row}"]]}, "expected a list of paths"),
    ],
)
def test_absurd_indices_are_one_error(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        open_volume(write_index(tmp_path / "i.json", **changes))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000, "\x00", "[1, 2]", "null", "7"],
)
def test_json_that_is_no_index_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "i.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"i\.json"):
        open_volume(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"i\.json"):
        open_volume(path)


def test_an_index_with_a_byte_order_mark(tiled: tuple[np.ndarray, Path]) -> None:
    array, path = tiled
    marked = path.with_name("marked.json")
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert np.array_equal(open_volume(marked).read(), array)
    marked.unlink()


def test_a_tile_that_changes_is_one_error(tiled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(tiled[1].parent, folder)
    volume = open_volume(folder / "index.json")
    volume.read()
    tile = folder / "1" / "0_1.png"
    tile.write_bytes(imagecodecs.png_encode(np.zeros((16, 16), np.uint8)))
    with pytest.raises(InputError, match=r"0_1\.png: changed since it was opened"):
        volume.read(Box((1, 0, 16), (2, 16, 32)))
    assert np.array_equal(volume.read(Box((0, 0, 0), (1, 50, 43))), tiled[0][:1])


def test_all_of_many_tiles_are_looked_for(tmp_path: Path) -> None:
    tile = imagecodecs.png_encode(np.zeros((4, 4), np.uint8))
    (tmp_path / "tile.png").write_bytes(tile)
    for z in range(100):
        (tmp_path / f"{z}").mkdir()
        for i in range(256):
            (tmp_path / f"{z}" / f"{i // 16}_{i % 16}.png").hardlink_to(tmp_path / "tile.png")
    path = write_index(
        tmp_path / "i.json",
        image=[f"{z}/{{row}}_{{column}}.png" for z in range(100)],
        height=64,
        width=64,
        depth=100,
        tile_size=4,
    )
    volume = open_volume(path)
    fingerprint = volume.fingerprint
    assert not volume.read(Box((50, 0, 0), (51, 64, 64))).any()
    (tmp_path / "77" / "3_5.png").unlink()
    with pytest.raises(InputError, match=r"77/3_5\.png: no such file"):
        open_volume(path)
    (tmp_path / "77" / "3_5.png").write_bytes(imagecodecs.png_encode(np.ones((4, 4), np.uint8)))
    assert open_volume(path).fingerprint != fingerprint
