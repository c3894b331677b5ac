"""TIFF files of every kind against tifffile, an independent reader of whole files."""

import os
import pickle
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.spans import read_box

RNG = np.random.default_rng(0)
STACK = RNG.integers(1, 255, (6, 40, 48)).astype(np.uint8)


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """Values that a lossy codec keeps nearly."""
    return np.broadcast_to(np.linspace(20, 230, shape[-1]), shape).astype(np.uint8)


STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "lzw": {"compression": "lzw"},
    "deflate": {"compression": "deflate", "rowsperstrip": 7},
    "zstd": {"compression": "zstd"},
    "packbits": {"compression": "packbits"},
    "predictor": {"compression": "lzw", "predictor": True},
    "tiled": {"tile": (16, 32)},
    "tiled_deflate": {"tile": (32, 16), "compression": "deflate"},
    "bigtiff": {"bigtiff": True},
    "big_endian": {"byteorder": ">"},
    "big_endian_tiled": {"byteorder": ">", "tile": (16, 16)},
    "strips": {"rowsperstrip": 3},
}
TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", "?")


def written(stored: str, dtype: str) -> bool:
    """Whether tifffile writes it."""
    return dtype != "?" or not (stored == "predictor" or "tile" in STORED[stored])


@pytest.mark.parametrize(
    ("stored", "dtype"), [(s, dtype) for s in STORED for dtype in TYPES if written(s, dtype)]
)
def test_values_are_those_of_tifffile(tmp_path: Path, stored: str, dtype: str) -> None:
    options = STORED[stored]
    array = (STACK.astype(np.int64) * 3 - 300).astype(dtype) if dtype != "?" else STACK > 100
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", **options)
    volume = pickle.loads(pickle.dumps(open_volume(path)))
    expected = np.asarray(tifffile.imread(path))
    assert volume.shape == array.shape
    assert volume.dtype == (np.uint8 if dtype == "?" else np.dtype(dtype))
    assert np.array_equal(volume.read(), expected)
    assert volume.read().dtype == volume.dtype
    box = Box((1, 5, 7), (4, 33, 41))
    assert np.array_equal(volume.read(box), expected[box.slices()])


def test_lossy_planes_are_those_of_tifffile(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(STACK.shape), photometric="minisblack", compression="jpeg")
    assert np.array_equal(open_volume(path).read(), tifffile.imread(path))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "?"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_white_zero_is_turned(tmp_path: Path, dtype: str, compression: str | None) -> None:
    black = (STACK > 100) if dtype == "?" else STACK.astype(dtype) * 3
    kind = np.dtype(dtype).kind
    white = (
        ~black
        if kind in "b"
        else np.subtract(-1 if kind == "i" else np.iinfo(dtype).max, black, dtype=dtype)
    )
    for name, array, photometric in (("b", black, "minisblack"), ("w", white, "miniswhite")):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", array, photometric=photometric, compression=compression
        )
    first, second = open_volume(tmp_path / "b.tif"), open_volume(tmp_path / "w.tif")
    assert np.array_equal(first.read(), black)
    assert np.array_equal(second.read(), black)


def test_palette_indices_are_the_values(tmp_path: Path) -> None:
    labels = (STACK % 5).astype(np.uint8)
    colours = RNG.integers(0, 65535, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="palette", colormap=colours)
    assert np.array_equal(open_volume(tmp_path / "a.tif").read(), labels)


@pytest.mark.parametrize("form", ["shaped", "plain", "ome"])
def test_pages_written_one_by_one_are_a_stack(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("a.ome.tif" if form == "ome" else "a.tif")
    with tifffile.TiffWriter(path) as file:
        for plane in STACK:
            options = {"metadata": None} if form == "plain" else {}
            file.write(plane, contiguous=False, **options)
    volume = open_volume(path)
    assert np.array_equal(volume.read(), STACK)
    assert np.array_equal(volume.read(Box((4, 2, 3), (5, 9, 9))), STACK[4:5, 2:9, 3:9])


@pytest.mark.parametrize("singly", [False, True])
def test_a_series_is_picked_by_number_or_name(tmp_path: Path, singly: bool) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for plane in [STACK] if not singly else STACK:
            file.write(plane, metadata={"name": "cells"})
        file.write(STACK[0, ::4, ::4], metadata={"name": "thumb"})
    with pytest.raises(InputError) as caught:
        open_volume(path)
    text = str(caught.value)
    assert "found 2 series" in text
    assert "--series 0: 6 x 40 x 48" in text
    assert "--series 1: 10 x 12" in text
    assert np.array_equal(open_volume(path, series=0).read(), STACK)
    assert np.array_equal(open_volume(path, series="cells").read(), STACK)
    assert np.array_equal(open_volume(path, series="thumb").read(), STACK[:1, ::4, ::4])
    for wrong in ("2", "no such"):
        with pytest.raises(InputError, match="found 2 series"):
            open_volume(path, series=wrong)


def test_the_finest_level_of_a_pyramid_is_read(tmp_path: Path) -> None:
    for name in ("a.tif", "a.ome.tif"):
        with tifffile.TiffWriter(tmp_path / name) as file:
            options: dict[str, Any] = {"tile": (16, 16), "photometric": "minisblack"}
            file.write(STACK, subifds=2, metadata={"axes": "ZYX"}, **options)
            file.write(STACK[:, ::2, ::2], subfiletype=1, **options)
            file.write(STACK[:, ::4, ::4], subfiletype=1, **options)
        assert np.array_equal(open_volume(tmp_path / name).read(), STACK)


@pytest.mark.parametrize("count", [3, 4])
def test_sections_stored_as_colours(tmp_path: Path, count: int) -> None:
    path, array = tmp_path / "a.tif", STACK[:count]
    tifffile.imwrite(path, array, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match=r"--index s=0.*--axes s=z"):
        open_volume(path)
    for axes in ("s=z", "zyx"):
        assert np.array_equal(open_volume(path, axes=axes).read(), array)
    assert np.array_equal(open_volume(path, index={"s": 1}).read(), array[1:2])
    contiguous = np.moveaxis(array, 0, -1)
    for compression in (None, "deflate"):
        tifffile.imwrite(path, contiguous, photometric="rgb", compression=compression)
        with pytest.raises(InputError, match=r"colours a pixel found.*--axes s=z"):
            open_volume(path)
        for axes in ("s=z", "yxz"):
            assert np.array_equal(open_volume(path, axes=axes).read(), array)
        assert np.array_equal(open_volume(path, index={"s": 2}).read(), array[2:3])


def test_sections_stored_as_channels_or_time(tmp_path: Path) -> None:
    for letter in "CT":
        path = tmp_path / f"{letter}.tif"
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": f"{letter}YX"})
        for axes in (f"{letter.lower()}=z", "zyx"):
            assert np.array_equal(open_volume(path, axes=axes).read(), STACK)
    assert np.array_equal(open_volume(tmp_path / "T.tif").read(), STACK)
    assert open_volume(tmp_path / "C.tif").channels is not None


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_stored_in_any_order(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    for axes in ("xyz", "yxz", "xzy", "zxy", "yzx"):
        stored = STACK.transpose(["zyx".index(a) for a in axes])
        tifffile.imwrite(path, stored, photometric="minisblack", compression=compression)
        volume = open_volume(path, axes=axes)
        assert np.array_equal(volume.read(), STACK)
        box = Box((1, 5, 7), (4, 33, 41))
        assert np.array_equal(volume.read(box), STACK[box.slices()])


@pytest.mark.parametrize("order", ["XYCZT", "XYZCT", "XYZTC", "XYTCZ"])
def test_order_of_planes_in_ome(tmp_path: Path, order: str) -> None:
    axes = order[::-1]
    sides = {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 24}
    array = RNG.integers(0, 255, [sides[a] for a in axes]).astype(np.uint8)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, array, metadata={"axes": axes}, photometric="minisblack")
    expected = array.transpose([axes.index(a) for a in "TCZYX"])
    assert np.array_equal(open_volume(path, index={"t": 1}).read(), expected[1])
    assert np.array_equal(open_volume(path, index={"t": 0, "c": 1}).read(), expected[0, 1])


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX", "TZYX", "TZCYX"])
def test_hyperstacks_of_imagej(tmp_path: Path, axes: str) -> None:
    sides = {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 24}
    array = RNG.integers(0, 255, [sides[a] for a in axes]).astype(np.uint8)
    path = tmp_path / "a.tif"
    stored = array.transpose([axes.index(a) for a in "TZCYX" if a in axes])
    tifffile.imwrite(path, stored, imagej=True)
    index = {"t": 1} if "T" in axes else {}
    expected = array.take(1, axes.index("T")) if "T" in axes else array
    left = axes.replace("T", "")
    expected = expected.transpose([left.index(a) for a in "CZYX" if a in left])
    tifffile.imwrite(
        path, stored, imagej=True, metadata={"axes": "".join(a for a in "TZCYX" if a in axes)}
    )
    assert np.array_equal(open_volume(path, index=index).read(), expected)


def imagej_in_one_piece(path: Path, array: np.ndarray, **more: Any) -> bytes:
    """A stack as ImageJ writes it above 4 GB: one directory, and planes that follow each other."""
    lines = {"images": len(array), "slices": len(array), "unit": "nm", "spacing": 30.0, **more}
    text = "ImageJ=1.53t\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
    with tifffile.TiffWriter(path) as file:
        file.write(
            array[0],
            description=text,
            metadata=None,
            resolution=(1 / 8, 1 / 8),
            resolutionunit="NONE",
            photometric="minisblack",
        )
    with path.open("ab") as file:
        file.write(array[1:].tobytes())
    return path.read_bytes()


def test_imagej_above_4_gb(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    whole = imagej_in_one_piece(path, STACK)
    volume = open_volume(path)
    assert np.array_equal(volume.read(), STACK)
    assert volume.voxel_size_nm == (30, 8, 8)
    for missing, there in ((1, 5), (3 * STACK[0].nbytes, 3), (5 * STACK[0].nbytes, 1)):
        path.write_bytes(whole[:-missing])
        with pytest.raises(InputError, match=f"announces 6 planes, {there} are there"):
            open_volume(path)


def write_ome(
    path: Path, planes: np.ndarray, xml: str, compression: str | None = "deflate"
) -> None:
    with tifffile.TiffWriter(path) as file:
        for number, plane in enumerate(planes):
            file.write(
                plane,
                description=xml.encode() if number == 0 else None,
                metadata=None,
                contiguous=False,
                compression=compression,
            )


def ome_xml(size_z: int, data: str, attributes: str = "", planes: str = "", more: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {attributes}>'
        '<Image ID="Image:0" Name="a"><Pixels BigEndian="false" DimensionOrder="XYZCT" '
        f'ID="Pixels:0" Type="uint8" SizeX="48" SizeY="40" SizeZ="{size_z}" SizeC="1" SizeT="1" '
        f'{more}><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}{planes}</Pixels></Image>'
        "</OME>"
    )


def ome_set(folder: Path, array: np.ndarray, parts: int, companion: bool = False) -> list[Path]:
    """An OME-TIFF of several files, each with as many sections."""
    ids = [str(uuid.UUID(int=i + 1)) for i in range(parts)]
    each = len(array) // parts
    data = "".join(
        f'<TiffData FirstC="0" FirstT="0" FirstZ="{each * i + j}" IFD="{j}" PlaneCount="1">'
        f'<UUID FileName="b{i}.ome.tif">urn:uuid:{ids[i]}</UUID></TiffData>'
        for i in range(parts)
        for j in range(each)
    )
    paths = [folder / f"b{i}.ome.tif" for i in range(parts)]
    for i, path in enumerate(paths):
        xml = ome_xml(len(array), data, f'UUID="urn:uuid:{ids[i]}"')
        if companion:
            (folder / "set.companion.ome").write_text(ome_xml(len(array), data))
            xml = (
                '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
                f'UUID="urn:uuid:{ids[i]}"><BinaryOnly MetadataFile="set.companion.ome" '
                'UUID="urn:uuid:9"/></OME>'
            )
        write_ome(path, array[each * i : each * (i + 1)], xml, "deflate" if i else None)
    return paths


@pytest.mark.parametrize("companion", [False, True])
@pytest.mark.parametrize("opened", [0, 2])
def test_an_ome_set_is_read_by_any_of_its_files(
    tmp_path: Path, companion: bool, opened: int
) -> None:
    paths = ome_set(tmp_path, STACK, 3, companion)
    volume = pickle.loads(pickle.dumps(open_volume(paths[opened])))
    assert np.array_equal(volume.read(), STACK)
    # every file of the set is part of the identity
    fingerprint = volume.fingerprint
    os.utime(paths[1], ns=(5, 5))
    assert open_volume(paths[opened]).fingerprint == fingerprint
    with tifffile.TiffFile(paths[1]) as file:
        xml = file.pages[0].description
    write_ome(paths[1], STACK[:2], xml)
    assert open_volume(paths[opened]).fingerprint != fingerprint
    assert np.array_equal(open_volume(paths[opened]).read()[2:4], STACK[:2])
    paths[1].unlink()
    with pytest.raises(InputError) as caught:
        open_volume(paths[opened])
    assert "b1.ome.tif: no such file" in str(caught.value)
    assert "missing z 2; z 3" in str(caught.value)


def test_a_companion_that_is_missing(tmp_path: Path) -> None:
    paths = ome_set(tmp_path, STACK, 3, companion=True)
    (tmp_path / "set.companion.ome").unlink()
    with pytest.raises(InputError, match=r"set\.companion\.ome: no such file"):
        open_volume(paths[0])


@pytest.mark.parametrize("there", [1, 6])
def test_planes_announced_and_not_there(tmp_path: Path, there: int) -> None:
    path = tmp_path / "a.ome.tif"
    write_ome(path, STACK[:there], ome_xml(8, '<TiffData IFD="0" PlaneCount="8"/>'))
    with pytest.raises(InputError, match=f"8 planes announced, {there} there: missing z {there}"):
        open_volume(path)


def test_ome_xml_that_does_not_parse(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write_ome(path, STACK, ome_xml(6, '<TiffData IFD="0" PlaneCount="6">'))
    with pytest.raises(InputError, match="OME-XML that cannot be read"):
        open_volume(path)


SIZES: dict[str, tuple[str, Sequence[float] | str]] = {
    "default": ('PhysicalSizeX="0.008" PhysicalSizeY="0.004" PhysicalSizeZ="0.03"', (30, 4, 8)),
    "each": (
        'PhysicalSizeX="8" PhysicalSizeXUnit="nm" PhysicalSizeY="40" PhysicalSizeYUnit="Å" '
        'PhysicalSizeZ="0.00003" PhysicalSizeZUnit="mm"',
        (30, 4, 8),
    ),
    "comma": ('PhysicalSizeX="0,008" PhysicalSizeY="0.004" PhysicalSizeZ="0.03"', "'0,008'"),
    "inf": ('PhysicalSizeX="8" PhysicalSizeY="inf" PhysicalSizeZ="0.03"', "'inf'"),
    "nan": ('PhysicalSizeX="8" PhysicalSizeY="4" PhysicalSizeZ="nan"', "'nan'"),
    "negative": ('PhysicalSizeX="-8" PhysicalSizeY="4" PhysicalSizeZ="3"', "'-8'"),
    "unit": (
        'PhysicalSizeX="8" PhysicalSizeXUnit="pixel" PhysicalSizeY="4" PhysicalSizeZ="3"',
        "'pixel', which is no length",
    ),
    "missing": ('PhysicalSizeX="0.008" PhysicalSizeY="0.008"', "no PhysicalSizeZ"),
}


@pytest.mark.parametrize("form", list(SIZES))
def test_sizes_of_ome(tmp_path: Path, form: str) -> None:
    attributes, expected = SIZES[form]
    path = tmp_path / "a.ome.tif"
    write_ome(path, STACK, ome_xml(6, '<TiffData IFD="0" PlaneCount="6"/>', more=attributes))
    volume = open_volume(path)
    if isinstance(expected, str):
        assert volume.voxel_size_nm is None
        assert expected in volume.found["voxel_size"]
    else:
        assert volume.voxel_size_nm == expected
        assert volume.found["voxel_size"].startswith("OME-XML PhysicalSizeZ")


def test_the_place_that_ome_gives(tmp_path: Path) -> None:
    path, size = tmp_path / "a.ome.tif", SIZES["default"][0]
    for unit, expected in (("µm", (3000, 2000, 1000)), ("reference frame", (0, 0, 0))):
        units = " ".join(f'Position{a}Unit="{unit}"' for a in "XYZ")
        plane = (
            f'<Plane TheZ="0" TheC="0" TheT="0" PositionX="1" PositionY="2" PositionZ="3" {units}/>'
        )
        xml = ome_xml(6, '<TiffData IFD="0" PlaneCount="6"/>', more=size, planes=plane)
        write_ome(path, STACK, xml)
        assert open_volume(path).origin_nm == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (30, 8, 8)),
        ({"unit": "um", "spacing": 0.03}, (30, 8000, 8000)),
        ({"unit": "", "spacing": 30}, "without a unit"),
        ({"unit": "pixel"}, "'pixel', which is no length"),
        ({"spacing": "0,03"}, "'0,03'"),
        ({"spacing": "inf"}, "inf"),
        ({"yunit": "um"}, (30, 8000, 8)),
    ],
)
def test_sizes_of_imagej(tmp_path: Path, more: dict[str, Any], expected: Any) -> None:
    path = tmp_path / "a.tif"
    imagej_in_one_piece(path, STACK, **more)
    volume = open_volume(path)
    if isinstance(expected, str):
        assert volume.voxel_size_nm is None
        assert expected in volume.found["voxel_size"]
    else:
        assert volume.voxel_size_nm == expected
        assert volume.found["voxel_size"] == "ImageJ spacing, YResolution, XResolution"


def test_the_place_that_imagej_gives(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    imagej_in_one_piece(path, STACK, xorigin=10, yorigin=-2.5)
    volume = open_volume(path)
    assert volume.origin_nm == (0, 20, -80)
    assert volume.found["origin"] == "ImageJ xorigin, yorigin"


@pytest.mark.parametrize("unit", ["inch", "cm"])
def test_resolution_tags_need_a_spacing(tmp_path: Path, unit: str) -> None:
    per_unit = 2.54e7 / 8 if unit == "inch" else 1e7 / 8
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {
        "photometric": "minisblack",
        "resolution": (per_unit, per_unit),
        "resolutionunit": unit.upper() if unit == "inch" else "CENTIMETER",
    }
    tifffile.imwrite(path, STACK, **options)
    volume = open_volume(path)
    assert volume.voxel_size_nm is None
    assert "say nothing of z" in volume.found["voxel_size"]
    spacing = 30 / (2.54e7 if unit == "inch" else 1e7)
    tifffile.imwrite(path, STACK, metadata={"spacing": spacing}, **options)
    assert open_volume(path).voxel_size_nm == pytest.approx((30, 8, 8), rel=1e-5)


@pytest.mark.parametrize("stored", ["plain", "deflate", "tiled_deflate"])
def test_a_file_that_changes_is_one_error(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", **STORED[stored])
    volume = open_volume(path)
    volume.read(Box((0, 0, 0), (1, 40, 48)))
    tifffile.imwrite(path, 255 - STACK, photometric="minisblack", **STORED[stored])
    os.utime(path, ns=(7, 7))
    for z in (0, 3):
        with pytest.raises(InputError, match="changed since it was opened"):
            volume.read(Box((z, 0, 0), (z + 1, 40, 48)))
    assert np.array_equal(open_volume(path).read(), 255 - STACK)


@pytest.mark.parametrize(("tag", "value"), [("Compression", 55555), ("Predictor", 77)])
@pytest.mark.parametrize("planes", [1, 6])
def test_what_nothing_decodes_is_found_when_it_is_opened(
    tmp_path: Path, tag: str, value: int, planes: int
) -> None:
    options = {"photometric": "minisblack", "compression": "lzw", "predictor": True}
    for i in range(6 // planes):
        path = tmp_path / f"{i}.tif"
        tifffile.imwrite(path, STACK[:planes], **options)
        with tifffile.TiffFile(path, mode="r+b") as file:
            for page in file.pages:
                page.tags[tag].overwrite(value)
    for source in {tmp_path / "0.tif", tmp_path if planes == 1 else tmp_path / "0.tif"}:
        with pytest.raises(InputError, match=rf"0\.tif.*cannot be read as TIFF: .*{value}"):
            open_volume(source)


@pytest.mark.parametrize("stored", ["plain", "deflate", "tiled"])
def test_a_file_cut_off_while_it_is_read_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    path, whole = tmp_path / "a.tif", os.pread
    tifffile.imwrite(path, STACK, photometric="minisblack", **STORED[stored])
    volume, size = open_volume(path), path.stat().st_size

    def cut_before(descriptor: int, count: int, offset: int) -> bytes:
        os.truncate(path, size // 2)
        return whole(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", cut_before)
    expected = rf"a\.tif: changed since it was opened \({size // 2} bytes found, {size} expected\)"
    with pytest.raises(InputError, match=expected):
        volume.read()


def test_a_file_is_cut_off_between_reads_of_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(STACK, (4, 20, 20)), photometric="minisblack")
    volume = open_volume(path)
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(volume.read) for _ in range(200)]
        os.truncate(path, 40_000)
        errors = {str(error) for read in reads if (error := read.exception()) is not None}
    assert len(errors) == 1
    assert "changed since it was opened" in errors.pop()


@pytest.mark.parametrize("shape", [(6, 7, 8), (3, 2, 40, 20_001)])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<f4"])
def test_any_part_of_an_array_in_one_piece(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    array = RNG.integers(0, 99, shape).astype(dtype)
    (tmp_path / "raw").write_bytes(b"head" + array.tobytes())
    descriptor = os.open(tmp_path / "raw", os.O_RDONLY)
    for _ in range(60):
        pairs = [sorted(map(int, RNG.integers(0, n + 1, 2))) for n in shape]
        kinds = RNG.integers(0, 3, len(shape))
        select = tuple(
            (min(i, n - 1), slice(i, j), slice(None))[kind]
            for (i, j), n, kind in zip(pairs, shape, kinds, strict=True)
        )
        found = read_box(descriptor, 4, array.dtype, shape, select)
        assert found.dtype == array.dtype
        assert np.array_equal(found, array[select])
    os.close(descriptor)


@pytest.mark.parametrize("stored", ["plain", "deflate", "tiled", "lzw"])
def test_a_file_cut_anywhere_is_one_error(tmp_path: Path, stored: str) -> None:
    path, cut = tmp_path / "a.tif", tmp_path / "cut.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", **STORED[stored])
    whole = path.read_bytes()
    for part in (0, 4, 9, len(whole) // 10, len(whole) // 2, len(whole) * 99 // 100):
        cut.write_bytes(whole[:part])
        with pytest.raises(InputError, match="cut"):
            open_volume(cut).read()


def test_random_reads_of_many_threads(tmp_path: Path) -> None:
    """A short form of the test in tests/oracles."""
    array = RNG.integers(1, 255, (12, 40, 48)).astype(np.uint8)
    paths = {"set": ome_set(tmp_path, array, 3)[0]}
    for name in ("plain", "deflate", "tiled_deflate"):
        paths[name] = tmp_path / f"{name}.tif"
        tifffile.imwrite(paths[name], array, photometric="minisblack", **STORED[name])
    for path in paths.values():
        volume = open_volume(path)

        def right(seed: int, volume: Any = volume) -> bool:
            rng = np.random.default_rng(seed)
            for _ in range(30):
                z, y, x = (int(rng.integers(0, n - 4)) for n in array.shape)
                box = Box((z, y, x), (z + 2, y + 4, x + 4))
                if not np.array_equal(volume.read(box), array[box.slices()]):
                    return False
            return True

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(right, range(16)))


@pytest.mark.parametrize("stored", ["plain", "lzw", "tiled_deflate", "imagej"])
def test_a_flipped_bit_is_one_error_or_what_tifffile_reads(tmp_path: Path, stored: str) -> None:
    whole, path = STACK[:2, :12, :20], tmp_path / "a.tif"
    options = {"imagej": True} if stored == "imagej" else STORED[stored]
    tifffile.imwrite(path, whole, photometric="minisblack", **options)
    data = path.read_bytes()
    for at in range(0, min(len(data), 300), 3):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(RNG.integers(0, 8))
        path.write_bytes(damaged)
        try:
            found = open_volume(path).read()
        except InputError:
            continue
        expected = np.asarray(tifffile.imread(path)).reshape(found.shape)
        assert np.array_equal(found, expected) or np.array_equal(255 - found, expected), at


@pytest.mark.parametrize("imagej", [False, True])
def test_a_resolution_that_nobody_set_is_no_voxel_size(tmp_path: Path, imagej: bool) -> None:
    array = np.zeros((3, 8, 8), np.uint8)
    metadata = {"axes": "ZYX", "unit": "nm", "spacing": 40.0}
    tifffile.imwrite(
        tmp_path / "a.tif", array, imagej=imagej, metadata=metadata, photometric="minisblack"
    )
    volume = open_volume(tmp_path / "a.tif")
    assert volume.voxel_size_nm is None
    assert "default" in volume.found["voxel_size"]
