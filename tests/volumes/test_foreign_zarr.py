import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats import open_volume

ARRAY = np.random.default_rng(0).integers(0, 255, (4, 20, 30)).astype(np.uint8)


def axis(name: str, unit: str | None) -> dict[str, str]:
    kind = {"t": "time", "c": "channel"}.get(name, "space")
    return {"name": name, "type": kind, **({"unit": unit} if unit and kind == "space" else {})}


def write_image(
    path: Path,
    array: np.ndarray,
    names: str = "zyx",
    *,
    version: str = "0.4",
    unit: str | None = "micrometer",
    attributes: dict[str, Any] | None = None,
    **multiscale: Any,
) -> Path:
    """An OME-Zarr image of two levels, 0.03 x 0.008 x 0.008 units."""
    fmt = 3 if version == "0.5" else 2
    group = zarr.open_group(path, mode="w", zarr_format=fmt)
    for level in ("s0", "s1"):
        chunks = tuple(min(n, 8) for n in array.shape)
        group.create_array(level, data=array, chunks=chunks)
        array = array[..., ::2, ::2]
    size = {"z": 0.03, "y": 0.008, "x": 0.008}
    scale = [size.get(name, 1.0) for name in names]
    tree = {
        "axes": [axis(name, unit) for name in names],
        "datasets": [
            {
                "path": level,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [s * f for s in scale]},
                    {"type": "translation", "translation": [2 * s for s in scale]},
                ],
            }
            for level, f in (("s0", 1), ("s1", 2))
        ],
        "version": version,
        **multiscale,
    }
    ome = {"multiscales": [tree], **(attributes or {})}
    group.attrs.update({"ome": {**ome, "version": "0.5"}} if version == "0.5" else ome)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_is_read_at_full_size_in_place(tmp_path: Path, version: str) -> None:
    volume = open_volume(write_image(tmp_path / "a.zarr", ARRAY, version=version))
    assert volume.shape == ARRAY.shape
    assert volume.voxel_size_nm == (30, 8, 8)
    assert volume.origin_nm == (60, 16, 16)
    assert volume.kind is None
    assert np.array_equal(volume.read(Box((1, 2, 3), (3, 15, 30))), ARRAY[1:3, 2:15, 3:30])


def test_the_outer_transformation_is_applied_after_the_inner(tmp_path: Path) -> None:
    outer = [
        {"type": "scale", "scale": [2, 2, 2]},
        {"type": "translation", "translation": [1, 0, 0]},
    ]
    volume = open_volume(write_image(tmp_path / "a.zarr", ARRAY, coordinateTransformations=outer))
    assert volume.voxel_size_nm == (60, 16, 16)
    assert volume.origin_nm == (2 * 60 + 1000, 32, 32)


def test_without_units_the_size_is_unknown(tmp_path: Path) -> None:
    volume = open_volume(write_image(tmp_path / "a.zarr", ARRAY, unit=None))
    assert volume.voxel_size_nm is None
    assert volume.origin_nm == (0, 0, 0)


def test_axes_of_one_are_dropped_and_channels_stay(tmp_path: Path) -> None:
    single = write_image(tmp_path / "a.zarr", ARRAY[None, None], "tczyx")
    assert open_volume(single).channels is None
    assert np.array_equal(open_volume(single).read(), ARRAY)
    two = np.stack([ARRAY, 255 - ARRAY])[None]
    names = {"omero": {"channels": [{"label": "membrane"}, {"label": "nucleus"}]}}
    path = write_image(tmp_path / "b.zarr", two, "tczyx", attributes=names)
    volume = open_volume(path)
    assert volume.channels == ("membrane", "nucleus")
    assert np.array_equal(volume.read(), two[0])
    one = open_volume(path, index={"c": 1})
    assert one.channels is None
    assert np.array_equal(one.read(), 255 - ARRAY)
    assert one.fingerprint != volume.fingerprint


def test_longer_time_axes_need_an_index(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", np.stack([ARRAY, 255 - ARRAY]), "tzyx")
    with pytest.raises(InputError, match="axis t has 2 elements: say which with --index t=0"):
        open_volume(path)
    assert np.array_equal(open_volume(path, index={"t": 1}).read(), 255 - ARRAY)
    with pytest.raises(InputError, match="expected 0 to 1"):
        open_volume(path, index={"t": 2})
    with pytest.raises(InputError, match="no such axis"):
        open_volume(path, index={"t": 0, "c": 0})


def test_axes_in_another_order_are_turned(tmp_path: Path) -> None:
    volume = open_volume(write_image(tmp_path / "a.zarr", ARRAY.T, "xyz"))
    assert np.array_equal(volume.read(), ARRAY)
    box = Box((1, 2, 3), (3, 7, 9))
    assert np.array_equal(volume.read(box), ARRAY[box.slices()])
    section = open_volume(write_image(tmp_path / "b.zarr", ARRAY[0], "yx"))
    assert np.array_equal(section.read(), ARRAY[:1])
    with pytest.raises(InputError, match="expected y and x"):
        open_volume(write_image(tmp_path / "c.zarr", ARRAY, "zyw"))


def test_old_images_without_axes_are_tczyx(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ARRAY[None, None], "tczyx")
    attributes = json.loads((path / ".zattrs").read_text())
    del attributes["multiscales"][0]["axes"]
    (path / ".zattrs").write_text(json.dumps(attributes))
    volume = open_volume(path)
    assert np.array_equal(volume.read(), ARRAY)
    assert volume.voxel_size_nm is None


def test_label_images_say_so(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ARRAY, attributes={"image-label": {}})
    assert open_volume(path).kind == "labels"


@pytest.mark.parametrize("fmt", [2, 3])
def test_a_group_with_one_array_or_image_stands_for_it(tmp_path: Path, fmt: int) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=fmt)
    group.create_array("table", data=np.zeros((3, 3)))
    raw = group.create_group("volumes").create_array("raw", data=ARRAY)
    raw.attrs.update({"resolution": [40, 4, 4], "units": ["nm", "nm", "nm"]})
    volume = open_volume(tmp_path / "a.zarr")
    assert np.array_equal(volume.read(), ARRAY)
    assert volume.voxel_size_nm == (40, 4, 4)
    write_image(tmp_path / "a.zarr" / "image", ARRAY)
    with pytest.raises(InputError, match="found 2 arrays or images") as caught:
        open_volume(tmp_path / "a.zarr")
    assert f"{tmp_path}/a.zarr/image" in str(caught.value)
    assert f"{tmp_path}/a.zarr/volumes/raw" in str(caught.value)
    assert np.array_equal(open_volume(tmp_path / "a.zarr" / "image").read(), ARRAY)


def test_sharded_big_endian_and_boolean_arrays(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "s", data=ARRAY, chunks=(2, 4, 5), shards=(4, 8, 10), zarr_format=3
    )
    volume = open_volume(tmp_path / "s")
    assert (volume.chunk_shape, volume.shard_shape) == ((2, 4, 5), (4, 8, 10))
    assert np.array_equal(volume.read(), ARRAY)
    zarr.create_array(tmp_path / "b", data=ARRAY.astype(">u2"), zarr_format=2)
    assert open_volume(tmp_path / "b").read().dtype == np.dtype("u2")
    zarr.create_array(tmp_path / "m", data=ARRAY > 99, zarr_format=3)
    assert open_volume(tmp_path / "m").dtype == np.uint8
    assert np.array_equal(open_volume(tmp_path / "m").read(), ARRAY > 99)


def test_named_dimensions_count(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a", data=np.stack([ARRAY] * 2), zarr_format=3, dimension_names=list("tzyx")
    )
    with pytest.raises(InputError, match="axis t has 2"):
        open_volume(tmp_path / "a")


def test_damaged_data_is_an_error_when_read(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=ARRAY, chunks=(4, 20, 30), zarr_format=2)
    chunk = tmp_path / "a" / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a/0.0.0, box 0:4"):
        open_volume(tmp_path / "a").read()


def test_metadata_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ARRAY)
    shutil.rmtree(path / "s0")
    with pytest.raises(InputError, match="no array 's0'"):
        open_volume(path)
    (path / ".zattrs").write_text('{"multiscales": [{"axes": []}]}')
    with pytest.raises(InputError, match="metadata without 'datasets'"):
        open_volume(path)
    (path / ".zattrs").write_text("{")
    with pytest.raises(InputError, match="metadata cannot be read"):
        open_volume(path)
    zarr.open_group(tmp_path / "empty", mode="w", zarr_format=3)
    with pytest.raises(InputError, match="found 0 arrays or images"):
        open_volume(tmp_path / "empty")
    zarr.create_array(tmp_path / "c", data=np.zeros((2, 2, 2), complex), zarr_format=3)
    with pytest.raises(InputError, match="expected real numbers"):
        open_volume(tmp_path / "c")
