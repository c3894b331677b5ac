import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box, tile
from cristae.volumes.formats import hdf5, open_volume, slices, tiff, tiff_stack
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr
from cristae.volumes.formats.pages import PlaneCache
from cristae.volumes.volume import Volume

SHAPE = (6, 40, 37)
ARRAY = np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)
FORMS = (
    "slices_png",
    "slices_tif",
    "glob",
    "tiff",
    "tiff_pages",
    "tiff_big_endian",
    "hdf5",
    "hdf5_chunked",
    "zarr2",
    "zarr3",
    "ours",
)


def write(form: str, folder: Path) -> str:
    """Write ARRAY in a form; the source to open it by."""
    path = folder / form
    if form in ("slices_png", "glob"):
        path.mkdir()
        for z, plane in enumerate(ARRAY):
            (path / f"im{z + 7}.png").write_bytes(imagecodecs.png_encode(plane))
    elif form == "slices_tif":
        path.mkdir()
        for z, plane in enumerate(ARRAY):
            tifffile.imwrite(path / f"s_{z * 5}.tif", plane, compression="zlib" if z % 2 else None)
    elif form.startswith("tiff"):
        path = path.with_suffix(".tif")
        compression = "zlib" if form == "tiff_pages" else None
        order = ">" if form == "tiff_big_endian" else "<"
        tifffile.imwrite(
            path, ARRAY, compression=compression, photometric="minisblack", byteorder=order
        )
    elif form.startswith("hdf5"):
        path = path.with_suffix(".h5")
        with h5py.File(path, "w") as file:
            chunks = (2, 16, 16) if form == "hdf5_chunked" else None
            file.create_dataset("volumes/raw", data=ARRAY, chunks=chunks)
            file["volumes/table"] = np.zeros((3, 3))
    elif form.startswith("zarr"):
        zarr.create_array(path, data=ARRAY, chunks=(2, 16, 16), zarr_format=int(form[-1]))
    else:
        path = path.with_suffix(".zarr")
        volume = create_ome_zarr(
            path,
            shape=SHAPE,
            dtype=ARRAY.dtype,
            kind="image",
            voxel_size_nm=(30, 8, 8),
            layout=Layout((2, 16, 16), (4, 32, 32)),
        )
        for box in tile(volume.box, volume.shard_shape or SHAPE):
            volume.write(box, ARRAY[box.slices()])
    return str(path / "*.png") if form == "glob" else str(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    return {form: write(form, folder) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_volume(sources: dict[str, str], form: str) -> None:
    volume = open_volume(sources[form])
    assert (volume.shape, volume.dtype, volume.channels) == (SHAPE, np.dtype(np.uint16), None)
    found = volume.read()
    assert found.dtype == np.uint16
    assert found.dtype.isnative
    assert np.array_equal(found, ARRAY)
    assert volume.name == sources[form]
    assert volume.fingerprint == open_volume(sources[form]).fingerprint
    found[:] = 0
    assert np.array_equal(volume.read(), ARRAY)


@given(data=st.data())
def test_boxes_equal_the_array(sources: dict[str, str], data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, SHAPE, strict=True)]
    box = Box(tuple(start), tuple(stop))
    for form in FORMS:
        assert np.array_equal(open_volume(sources[form]).read(box), ARRAY[box.slices()]), form


def read_all(volume: Volume) -> int:
    """Sum of a volume, read in boxes."""
    return sum(int(volume.read(box).sum()) for box in tile(volume.box, (2, 30, 30)))


@pytest.mark.parametrize("form", FORMS)
def test_readers_are_safe_in_threads(sources: dict[str, str], form: str) -> None:
    volume = pickle.loads(pickle.dumps(open_volume(sources[form])))
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(read_all, [volume] * 16))
    assert set(sums) == {int(ARRAY.sum())}


def test_readers_are_safe_in_processes(sources: dict[str, str]) -> None:
    volumes = [open_volume(sources[form]) for form in FORMS]
    expected = [read_all(volume) for volume in volumes]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(read_all, volumes)) == expected


def test_only_the_planes_of_a_box_are_decoded(
    sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = slices.decode_plane
    monkeypatch.setattr(slices, "PLANES", PlaneCache(1 << 20))
    monkeypatch.setattr(
        slices, "decode_plane", lambda p, s: (decoded.append(p.name), decode(p, s))[1]
    )
    volume = open_volume(sources["slices_png"])
    assert decoded == []
    volume.read(Box((2, 3, 4), (4, 5, 6)))
    volume.read(Box((3, 30, 4), (4, 35, 6)))
    assert decoded == ["im9.png", "im10.png"]

    pages: list[int] = []
    plane = tiff_stack.TiffSeries.plane
    monkeypatch.setattr(tiff, "PLANES", PlaneCache(1 << 20))
    monkeypatch.setattr(
        tiff_stack.TiffSeries, "plane", lambda self, n, s: (pages.append(n), plane(self, n, s))[1]
    )
    stack = open_volume(sources["tiff_pages"])
    stack.read(Box((4, 0, 0), (6, 2, 2)))
    assert pages == [4, 5]
    open_volume(sources["tiff"]).read()
    assert pages == [4, 5]


def test_the_cache_keeps_to_its_size() -> None:
    cache = PlaneCache(1000)
    made: list[int] = []

    def get(key: int) -> None:
        cache.get(key, lambda: (made.append(key), np.zeros(400, np.uint8))[1])

    for key in (1, 2, 1, 3, 1, 2):
        get(key)
    assert made == [1, 2, 3, 2]
    with pytest.raises(InputError):
        cache.get(9, lambda: (_ for _ in ()).throw(InputError("x")))
    get(9)
    assert made[-1] == 9


def test_a_file_changed_in_place_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for value in (1, 2):
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            file["a"] = np.full((2, 3, 4), value, np.uint8)
        os.utime(path, (value, value))
        volume = open_volume(path)
        assert (volume.read() == value).all()


def test_hdf5_needs_exactly_one_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = np.zeros((2, 3, 4), np.uint8)
        file["seg/labels"] = np.ones((2, 3, 4), np.uint32)
        file["table"] = np.zeros((2, 3))
        file["pred"] = np.zeros((2, 2, 3, 4), np.uint8)
        file["text"] = "x"
    with pytest.raises(InputError, match="found 3 datasets of 3 or 4") as caught:
        open_volume(path)
    for line in ("raw  (2, 3, 4)  uint8", "seg/labels  (2, 3, 4)  uint32", "table  (2, 3)"):
        assert line in str(caught.value)
    assert open_volume(f"{path}:seg/labels").dtype == np.uint32
    assert open_volume(f"{path}:/raw").dtype == np.uint8
    prediction = open_volume(f"{path}:pred")
    assert prediction.channels == ("channel_0", "channel_1")
    assert prediction.read().shape == (2, 2, 3, 4)
    assert open_volume(f"{path}:pred", index={"c": 1}).read().shape == (2, 3, 4)
    with pytest.raises(InputError, match="no dataset 'nothing'"):
        open_volume(f"{path}:nothing")
    assert open_volume(f"{path}:table").shape == (1, 2, 3)
    with pytest.raises(InputError, match=r"found shape \(\)"):
        open_volume(f"{path}:text")
    with pytest.raises(InputError, match="expected 0 to 1"):
        open_volume(f"{path}:pred", index={"c": 2})
    with pytest.raises(SourceNotFoundError):
        open_volume(tmp_path / "b.h5")


def test_hdf5_says_its_voxel_size_only_with_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("fiji", "funlib", "bare"):
            file[name] = np.zeros((2, 3, 4), bool)
        file["fiji"].attrs["element_size_um"] = (0.03, 0.008, 0.008)
        file["funlib"].attrs.update(voxel_size=(40, 4, 4), units=["nm"] * 3)
        file["bare"].attrs["resolution"] = (40, 4, 4)
    assert open_volume(f"{path}:fiji").voxel_size_nm == (30, 8, 8)
    assert open_volume(f"{path}:funlib").voxel_size_nm == (40, 4, 4)
    assert open_volume(f"{path}:bare").voxel_size_nm is None
    assert open_volume(f"{path}:bare").dtype == np.uint8
    assert open_volume(f"{path}:bare").read().dtype == np.uint8
    assert open_volume(f"{path}:bare", voxel_size_nm=(1, 2, 3)).voxel_size_nm == (1, 2, 3)


def test_cut_off_files_are_refused(sources: dict[str, str], tmp_path: Path) -> None:
    for form in ("hdf5", "tiff", "tiff_pages"):
        whole = Path(sources[form]).read_bytes()
        path = tmp_path / Path(sources[form]).name
        for part in (0.05, 0.5, 0.97):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(InputError, match=path.stem):
                open_volume(path)
    (tmp_path / "text.tif").write_text("not a picture")
    with pytest.raises(InputError, match="cannot be read as TIFF"):
        open_volume(tmp_path / "text.tif")


def test_faulty_slices_are_told_at_once(tmp_path: Path) -> None:
    for z in range(6):
        plane = ARRAY[z] if z != 2 else ARRAY[z, :-1]
        plane = plane if z != 3 else (plane >> 8).astype(np.uint8)
        (tmp_path / f"{z}.png").write_bytes(imagecodecs.png_encode(plane))
    data = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(data[:-20])
    tifffile.imwrite(tmp_path / "6.tif", ARRAY[:3], photometric="minisblack")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    text = str(caught.value)
    for fault in (
        "2.png: found 39 x 37",
        "3.png: found 40 x 37 pixels of 1 uint8",
        "4.png: cut off",
        "6.tif: 3 pages",
        "different formats",
    ):
        assert fault in text
    assert len(text.splitlines()) == 6


def test_slices_missing_from_a_sequence_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for z in (1, 2, 3, 6, 7, 10, 11):
        (tmp_path / f"s{z}.png").write_bytes(imagecodecs.png_encode(ARRAY[0]))
    with caplog.at_level("WARNING", "cristae"):
        volume = open_volume(tmp_path)
    assert volume.shape[0] == 7
    assert "s3.png to s6.png; s7.png to s10.png" in caplog.text


def test_colours_are_ids_for_labels_only(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(rgb))
    with pytest.raises(InputError, match="3 samples a pixel"):
        open_volume(tmp_path)
    ids = rgb.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    volume = open_volume(tmp_path, kind="labels")
    assert np.array_equal(volume.read()[0], ids)


@pytest.mark.parametrize("style", ["imagej", "ome", "ome_zlib"])
def test_tiff_metadata_gives_the_voxel_size(tmp_path: Path, style: str) -> None:
    path = tmp_path / "a.tif"
    if style == "imagej":
        tifffile.imwrite(
            path,
            ARRAY,
            imagej=True,
            resolution=(1 / 0.008, 1 / 0.008),
            metadata={"axes": "ZYX", "spacing": 0.03, "unit": "um"},
        )
    else:
        size = {f"PhysicalSize{a}": v for a, v in zip("ZYX", (30, 8, 8), strict=True)}
        unit = {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
        tifffile.imwrite(
            path,
            ARRAY,
            ome=True,
            metadata={"axes": "ZYX", **size, **unit},
            compression="zlib" if style == "ome_zlib" else None,
        )
    volume = open_volume(path)
    assert volume.voxel_size_nm == pytest.approx((30, 8, 8), rel=1e-6)
    assert np.array_equal(volume.read(), ARRAY)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_axes(tmp_path: Path, compression: str | None) -> None:
    hyper = np.random.default_rng(0).integers(0, 255, (2, 3, 2, 8, 9)).astype(np.uint8)  # t z c y x
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, hyper, ome=True, metadata={"axes": "TZCYX"}, compression=compression)
    with pytest.raises(InputError, match="--index t=0"):
        open_volume(path)
    volume = open_volume(path, index={"t": 1})
    assert volume.channels == ("channel_0", "channel_1")
    box = Box((1, 2, 3), (3, 8, 9))
    assert np.array_equal(volume.read(box), hyper[1].swapaxes(0, 1)[:, 1:3, 2:8, 3:9])
    one = open_volume(path, index={"t": 0, "c": 1})
    assert np.array_equal(one.read(), hyper[0, :, 1])
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="3 colours a pixel found, expected grey values"):
        open_volume(tmp_path / "b.tif")


def test_tiff_of_unequal_pages_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((8, 9), np.uint8))
        file.write(np.zeros((8, 10), np.uint8))
    with pytest.raises(InputError, match="2 series of planes"):
        open_volume(tmp_path / "a.tif")


def test_a_single_plane_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ARRAY[0])
    assert np.array_equal(open_volume(tmp_path / "a.tif").read(), ARRAY[:1])


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    for name in ("missing", "missing/*.png", "missing.tif"):
        with pytest.raises(SourceNotFoundError):
            open_volume(tmp_path / name)
    with pytest.raises(InputError, match="an empty folder"):
        open_volume(tmp_path)
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(InputError, match=r"found a\.doc"):
        open_volume(tmp_path)
    with pytest.raises(InputError, match="not a known form"):
        open_volume(tmp_path / "a.doc")
    with pytest.raises(InputError, match="found a URL"):
        open_volume("https://example.org/a.zarr")
    with pytest.raises(InputError, match="positive"):
        open_volume(ARRAY, voxel_size_nm=(0, 1, 1))
    with pytest.raises(InputError, match="complex"):
        open_volume(np.zeros((2, 2, 2), complex))
    with pytest.raises(InputError, match="no such axis"):
        open_volume(ARRAY, index={"t": 0})


def test_a_roi_keeps_its_place(sources: dict[str, str]) -> None:
    volume = open_volume(sources["ours"], roi="2:5,:,10:20")
    assert volume.shape == (3, 40, 10)
    assert volume.origin_nm == (60, 0, 80)
    assert np.array_equal(volume.read(), ARRAY[2:5, :, 10:20])
    assert open_volume(ARRAY.astype(bool)).dtype == np.uint8


def test_handles_of_hdf5_are_kept(sources: dict[str, str]) -> None:
    volume = open_volume(sources["hdf5"])
    volume.read()
    before = hdf5.open_file.cache_info().misses
    for _ in range(5):
        volume.read()
    assert hdf5.open_file.cache_info().misses == before
