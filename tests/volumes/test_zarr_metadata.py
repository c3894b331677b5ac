import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.info import describe

ARRAY = np.random.default_rng(0).integers(1, 255, (6, 20, 30)).astype(np.uint8)
BOX = Box((1, 2, 3), (5, 17, 29))


def write(path: Path, array: np.ndarray = ARRAY, fmt: int = 2, **settings: Any) -> Path:
    settings.setdefault("chunks", tuple(min(n, 8) for n in array.shape))
    zarr.create_array(path, data=array, zarr_format=fmt, **settings)  # type: ignore[arg-type]
    return path


def write_image(
    path: Path, axes: Any, transforms: Any, array: np.ndarray = ARRAY, **more: Any
) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=array, chunks=array.shape)
    level = {"path": "0", "coordinateTransformations": transforms}
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [level], "version": "0.4", **more}]
    return path


def space(*units: str | None, names: str = "zyx") -> list[dict[str, Any]]:
    return [{"name": n, "type": "space", "unit": u} for n, u in zip(names, units, strict=True)]


@pytest.mark.parametrize(
    ("array", "fmt", "settings", "source"),
    [
        (ARRAY.T, 2, {"attributes": {"_ARRAY_DIMENSIONS": ["x", "y", "z"]}}, "_ARRAY_DIMENSIONS"),
        (ARRAY.T, 3, {"attributes": {"axis_names": ["x", "y", "z"]}}, "axis_names"),
        (ARRAY.T, 2, {"attributes": {"axes": ["x", "y", "z"]}}, "attribute axes"),
        (ARRAY.T, 3, {"dimension_names": ["x", "y", "z"]}, "dimension_names"),
        (ARRAY.T, 3, {"dimension_names": ["Width", "height", "depth"]}, "dimension_names"),
        (ARRAY, 3, {"dimension_names": ["dim_0", "dim_1", "dim_2"]}, "the usual order"),
        (
            ARRAY.T,
            3,
            {"dimension_names": [None, "a", None], "attributes": {"axes": "xyz"}},
            "attribute axes",
        ),
        (ARRAY[..., None], 2, {"attributes": {"axes": "zyxc"}}, "attribute axes"),
    ],
)
def test_axes_are_heeded_wherever_they_are_named(
    tmp_path: Path, array: np.ndarray, fmt: int, settings: dict[str, Any], source: str
) -> None:
    volume = open_volume(write(tmp_path / "a", array, fmt, **settings))
    assert source in volume.found["axes"]
    assert np.array_equal(volume.read(), ARRAY)
    assert np.array_equal(volume.read(BOX), ARRAY[BOX.slices()])


def test_a_person_names_axes_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "a", ARRAY.T, 3, dimension_names=["z", "y", "x"])
    volume = open_volume(path, axes="xyz")
    assert volume.found["axes"] == "--axes: x, y, z"
    assert np.array_equal(volume.read(BOX), ARRAY[BOX.slices()])
    assert "x, y, z as stored (--axes)" in describe(volume).text


@pytest.mark.parametrize(
    ("attributes", "size", "origin"),
    [
        ({"pixelResolution": {"dimensions": [4, 8, 30], "unit": "nm"}}, (30, 8, 4), (0, 0, 0)),
        (
            {"resolution": [4, 8, 30], "offset": [3, 2, 1], "units": "nm", "multiScale": True},
            (30, 8, 4),
            (1, 2, 3),
        ),
        (
            {
                "transform": {
                    "axes": ["x", "z", "y"],
                    "scale": [4, 0.03, 8],
                    "translate": [3, 0.001, 2],
                    "units": ["nm", "um", "nm"],
                }
            },
            (30, 8, 4),
            (1, 2, 3),
        ),
        ({"voxel_size": [30, 8, 4], "units": ["nm"] * 3}, (30, 8, 4), (0, 0, 0)),
    ],
)
def test_sizes_in_attributes(tmp_path: Path, attributes: Any, size: Any, origin: Any) -> None:
    array = ARRAY
    if "transform" in attributes:  # which names the axes, too
        array = ARRAY.transpose(2, 0, 1)
    volume = open_volume(write(tmp_path / "a", array, attributes=attributes))
    assert (volume.voxel_size_nm, volume.origin_nm) == (size, origin)
    assert np.array_equal(volume.read(), ARRAY)


SCALE = {"type": "scale", "scale": [0.03, 8, 4]}
SHIFT = {"type": "translation", "translation": [0.1, 20, 30]}
UNITS = space("micrometer", "nanometer", "nanometer")


@pytest.mark.parametrize(
    ("transforms", "outer", "size", "origin"),
    [
        ([SCALE, SHIFT], None, (30, 8, 4), (100, 20, 30)),
        ([SHIFT, SCALE], None, (30, 8, 4), (3, 160, 120)),
        ([{"type": "identity"}, SCALE], None, (30, 8, 4), (0, 0, 0)),
        (
            [{"type": "sequence", "transformations": [SCALE, SHIFT]}],
            None,
            (30, 8, 4),
            (100, 20, 30),
        ),
        ([SCALE], [{"type": "scale", "scale": [2, 2, 2]}, SHIFT], (60, 16, 8), (100, 20, 30)),
        (
            [{"type": "affine", "affine": [[0.03, 0, 0, 0.1], [0, 8, 0, 20], [0, 0, 4, 30]]}],
            None,
            (30, 8, 4),
            (100, 20, 30),
        ),
    ],
)
def test_transformations_are_applied_in_their_order(
    tmp_path: Path, transforms: Any, outer: Any, size: Any, origin: Any
) -> None:
    more = {} if outer is None else {"coordinateTransformations": outer}
    volume = open_volume(write_image(tmp_path / "a.zarr", UNITS, transforms, **more))
    assert volume.voxel_size_nm == size
    assert volume.origin_nm == pytest.approx(origin)
    assert volume.found["voxel_size"] == "OME coordinateTransformations"


@pytest.mark.parametrize(
    ("axes", "transforms", "reason"),
    [
        (space("parsec", "nanometer", "nanometer"), [SCALE], "parsec is no unit of length"),
        (space(None, None, None), [SCALE], "says 0.03, 8, 4: without a unit"),
        (UNITS, [{"type": "scale", "scale": [float("inf"), 8, 4]}], "inf is no size"),
        (UNITS, [{"type": "scale", "scale": [float("nan"), 8, 4]}], "nan is no size"),
        (UNITS, [{"type": "scale", "scale": [-1, 0, 4]}], "-1 is no size, 0 is no size"),
        (UNITS, [{"type": "scale", "scale": ["0,03", 8, 4]}], "0,03"),
        (UNITS, [{"type": "scale", "scale": [8, 4]}], "scale [8, 4] for 3 axes"),
        (UNITS, [{"type": "scale", "path": "s"}], "a scale kept elsewhere (s)"),
        (UNITS, [SHIFT], "states no scale"),
        (UNITS, [{"type": "rotation", "rotation": []}], "type 'rotation' is not known"),
        (UNITS, ["scale"], "'scale' is no transformation"),
        (
            UNITS,
            [{"type": "affine", "affine": [[1, 1, 0, 0], [0, 8, 0, 0], [0, 0, 4, 0]]}],
            "turns or shears",
        ),
        (space("micrometer", "nanometer", "second"), [SCALE], "second is no unit of length"),
    ],
)
def test_what_says_no_size_leaves_it_unknown_with_the_reason(
    tmp_path: Path, axes: Any, transforms: Any, reason: str
) -> None:
    volume = open_volume(write_image(tmp_path / "a.zarr", axes, transforms))
    assert volume.voxel_size_nm is None
    assert reason in volume.found["voxel_size"]
    assert np.array_equal(volume.read(), ARRAY)


def test_axes_of_images_in_any_order_take_their_units_along(tmp_path: Path) -> None:
    axes = [*space("nanometer", "nanometer", "micrometer", names="xyz"), {"name": "c"}]
    axes[3]["type"] = "channel"
    two = np.stack([ARRAY.T, 255 - ARRAY.T], axis=-1)
    transforms = [{"type": "scale", "scale": [4, 8, 0.03, 1]}]
    volume = open_volume(write_image(tmp_path / "a.zarr", axes, transforms, two))
    assert volume.voxel_size_nm == (30, 8, 4)
    assert np.array_equal(volume.read(), np.stack([ARRAY, 255 - ARRAY]))
    text = describe(volume).text
    assert "30 x 8 x 4 nm (OME coordinateTransformations)" in text
    assert "x, y, z, c as stored (OME axes)" in text


def test_a_series_picks_one_of_several_images(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    root.create_group("OME").attrs["series"] = ["0", "1"]
    for i in range(11):
        array = ARRAY + i
        write_image(tmp_path / "a.zarr" / str(i), list("zyx"), [SCALE], array, name=f"well {i}")
    for series in (10, "10", "well 10"):
        assert np.array_equal(open_volume(tmp_path / "a.zarr", series=series).read(), ARRAY + 10)
    with pytest.raises(InputError, match=r"found 11 arrays or images.*--series N"):
        open_volume(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"no series 11; found 11:\n  - 0  0\n"):
        open_volume(tmp_path / "a.zarr", series=11)
    with pytest.raises(InputError, match="an array, there is no series 0"):
        open_volume(tmp_path / "a.zarr" / "0" / "0", series=0)


def test_a_series_picks_one_of_several_multiscales(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for i in range(2):
        group.create_array(f"m{i}", data=ARRAY + i)
    group.attrs["multiscales"] = [
        {"axes": list("zyx"), "name": f"name{i}", "datasets": [{"path": f"m{i}"}]} for i in range(2)
    ]
    assert np.array_equal(open_volume(tmp_path / "a.zarr").read(), ARRAY)
    for series in (1, "name1"):
        assert np.array_equal(open_volume(tmp_path / "a.zarr", series=series).read(), ARRAY + 1)


WIDE = np.random.default_rng(1).integers(0, 60000, (6, 20, 30))
CODECS: dict[str, dict[str, Any]] = {
    "lz4": {"compressors": numcodecs.LZ4()},
    "zstd": {"compressors": numcodecs.Zstd(level=3)},
    "zstd_checksum": {"compressors": numcodecs.Zstd(level=3, checksum=True)},
    "gzip": {"compressors": numcodecs.GZip()},
    "zlib": {"compressors": numcodecs.Zlib()},
    "bz2": {"compressors": numcodecs.BZ2()},
    "lzma": {"compressors": numcodecs.LZMA()},
    "none": {"compressors": None},
    "delta": {"filters": [numcodecs.Delta(dtype="<u2")]},
    "delta_astype": {"filters": [numcodecs.Delta(dtype="<u2", astype="<i4")]},
    "shuffle": {"filters": [numcodecs.Shuffle(2)]},
    "scaled": {"filters": [numcodecs.FixedScaleOffset(0, 1, "<u2", "<u4")]},
    "crc32": {"filters": [numcodecs.CRC32()], "compressors": None},
    "two": {"filters": [numcodecs.Delta(dtype="<u2"), numcodecs.Shuffle(2)]},
} | {
    f"blosc_{name}": {"compressors": numcodecs.Blosc(cname=name, shuffle=shuffle)}
    for name in ("lz4", "lz4hc", "zlib", "zstd", "blosclz")
    for shuffle in (numcodecs.Blosc.BITSHUFFLE if name == "lz4" else numcodecs.Blosc.SHUFFLE,)
}


@pytest.mark.parametrize("name", CODECS)
def test_codecs_of_zarr_v2_are_decoded(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a", WIDE.astype("<u2"), **CODECS[name])
    expected = zarr.open_array(path)[:]
    volume = open_volume(path)
    assert np.array_equal(volume.read(), expected)
    assert np.array_equal(volume.read(BOX), expected[BOX.slices()])


@pytest.mark.parametrize("codec", [numcodecs.LZ4(), None], ids=["here", "tensorstore"])
@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<i8", ">f4", "<f2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_orders_and_missing_chunks(
    tmp_path: Path, codec: Any, dtype: str, order: Any
) -> None:
    """A chunk that is not there holds the fill value."""
    array = zarr.create_array(
        tmp_path / "a",
        shape=(6, 20, 30),
        dtype=dtype,
        chunks=(4, 8, 8),
        zarr_format=2,
        compressors=codec,
        order=order,
        fill_value=1,
        chunk_key_encoding={"name": "v2", "separator": "/" if order == "F" else "."},
    )
    array[:5, :10] = (WIDE[:5, :10] % 200).astype(dtype)
    volume = open_volume(tmp_path / "a")
    assert np.array_equal(volume.read(), array[:])
    assert np.array_equal(volume.read(BOX), array[:][BOX.slices()])
    assert (volume.read(Box((5, 19, 29), (6, 20, 30))) == 1).all()


def test_arrays_of_zarr_v3(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"shards": (8, 16, 16), "chunks": (4, 8, 8)},
        {"compressors": [zarr.codecs.ZstdCodec(checksum=True), zarr.codecs.Crc32cCodec()]},
        {"compressors": zarr.codecs.BloscCodec(cname="lz4")},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"fill_value": 7},
        {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
    ]
    for i, setting in enumerate(settings):
        path = write(tmp_path / str(i), WIDE.astype("u2"), 3, **setting)
        assert np.array_equal(open_volume(path).read(BOX), WIDE[BOX.slices()]), setting


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
def test_wrapped_codecs_of_zarr_v3(tmp_path: Path) -> None:
    from zarr.codecs import numcodecs as wrapped

    for i, setting in enumerate(
        [
            {"compressors": wrapped.LZ4()},
            {"filters": [wrapped.Delta(dtype="<u2")]},
            {"compressors": wrapped.LZMA(), "dimension_names": ["x", "y", "z"]},
        ]
    ):
        named = "dimension_names" in setting
        array = WIDE.astype("u2").T if named else WIDE.astype("u2")
        path = write(tmp_path / str(i), array, 3, **setting)
        assert np.array_equal(open_volume(path).read(BOX), WIDE[BOX.slices()])


def test_an_unknown_codec_is_named_in_one_short_message(tmp_path: Path) -> None:
    for fmt, file in ((2, ".zarray"), (3, "zarr.json")):
        path = write(tmp_path / str(fmt), fmt=fmt)
        tree = json.loads((path / file).read_text())
        if fmt == 2:
            tree["compressor"] = {"id": "zfpy", "mode": 4}
        else:
            tree["codecs"] = [{"name": "bytes"}, {"name": "vendor.wavelet"}]
        (path / file).write_text(json.dumps(tree))
        with pytest.raises(
            InputError, match=r"codec (zfpy|vendor\.wavelet) found, expected"
        ) as told:
            open_volume(path)
        assert len(str(told.value)) < 300


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    for name, codec in (("a", numcodecs.LZ4()), ("b", numcodecs.Zstd(checksum=True))):
        path = write(tmp_path / name, compressors=codec)
        chunk = path / "0.0.0"
        chunk.write_bytes(chunk.read_bytes()[:-9])
        with pytest.raises(InputError, match=r"0\.0\.0: cannot be decoded"):
            open_volume(path).read()


@pytest.mark.parametrize("fmt", [2, 3])
@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"attributes": []}', "null", "\x00"])
def test_metadata_that_is_cut_or_empty_is_one_message(
    tmp_path: Path, fmt: int, content: str
) -> None:
    path = write(tmp_path / "a", fmt=fmt)
    file = path / (".zarray" if fmt == 2 else "zarr.json")
    file.write_text(content)
    with pytest.raises(InputError, match="a"):
        open_volume(path)
    whole = write(tmp_path / "b", fmt=fmt)
    file = whole / (".zarray" if fmt == 2 else "zarr.json")
    text = file.read_text()
    for share in (0.1, 0.5, 0.99):
        file.write_text(text[: int(len(text.rstrip()) * share)])
        with pytest.raises(InputError, match="b"):
            open_volume(whole)


def test_what_a_person_gave_and_what_cristae_wrote_is_told(tmp_path: Path) -> None:
    given = open_volume(write(tmp_path / "a"), voxel_size_nm=(30, 8, 4))
    assert "30 x 8 x 4 nm (--voxel-size)" in describe(given).text
    convert_volume(given.with_(origin_nm=(1.0, 2.0, 3.0)), tmp_path / "a.zarr")
    text = describe(open_volume(tmp_path / "a.zarr")).text
    assert "30 x 8 x 4 nm (cristae's attributes)" in text
    assert "1, 2, 3 nm (cristae's attributes)" in text
    assert "axes" not in text


def test_an_offset_without_a_unit_is_told_and_not_used(tmp_path: Path) -> None:
    attributes = {"resolution": [40, 4, 4], "offset": [1520, 3644, 3644]}
    volume = open_volume(write(tmp_path / "a", attributes=attributes))
    assert volume.origin_nm == (0, 0, 0)
    text = describe(volume).text
    assert "(attribute resolution says 40, 4, 4: without a unit)" in text
    assert "0, 0, 0 nm (attribute offset says 1520, 3644, 3644: without a unit)" in text
