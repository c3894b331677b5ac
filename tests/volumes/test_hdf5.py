import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats import open_volume
from cristae.volumes.info import describe

ARRAY = np.random.default_rng(0).integers(1, 255, (6, 20, 30)).astype(np.uint8)


def tags(names: str, **of_all: Any) -> str:
    return json.dumps(
        {"axes": [{"key": n, "typeFlags": 2, "description": ""} | of_all for n in names]}
    )


def write(path: Path, array: np.ndarray = ARRAY, name: str = "raw", **attributes: Any) -> Path:
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=array).attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("array", "attributes", "source"),
    [
        (ARRAY[..., None], {"axistags": tags("zyxc")}, "attribute axistags"),
        (ARRAY.T, {"axistags": tags("xyz")}, "attribute axistags"),
        (ARRAY[None, ..., None], {"axistags": tags("tzyxc").encode()}, "attribute axistags"),
        (ARRAY.T, {"axis_names": ["x", "y", "z"]}, "attribute axis_names"),
        (ARRAY[None], {"axis_names": ["c^", "z", "y", "x"]}, "attribute axis_names"),
        (ARRAY.transpose(1, 0, 2), {"_ARRAY_DIMENSIONS": ["y", "z", "x"]}, "_ARRAY_DIMENSIONS"),
        (ARRAY.T, {"axes": "xyz"}, "attribute axes"),
        (ARRAY.T, {"axes": "X,Y,Z"}, "attribute axes"),
        (ARRAY, {"axistags": "{"}, "the usual order"),
    ],
)
def test_axes_named_in_attributes_are_heeded(
    tmp_path: Path, array: np.ndarray, attributes: dict[str, Any], source: str
) -> None:
    volume = open_volume(write(tmp_path / "a.h5", array, **attributes))
    assert source in volume.found["axes"]
    assert volume.channels is None
    assert np.array_equal(volume.read(), ARRAY)
    box = Box((1, 2, 3), (4, 11, 17))
    assert np.array_equal(volume.read(box), ARRAY[box.slices()])


def test_labels_and_scales_of_dimensions_name_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        labelled = file.create_dataset("labelled", data=ARRAY.T)
        scaled = file.create_dataset("scaled", data=ARRAY.T)
        for i, name in enumerate("xyz"):
            labelled.dims[i].label = name
            file[name] = np.arange(ARRAY.T.shape[i])
            file[name].make_scale(name)
            scaled.dims[i].attach_scale(file[name])
    for name in ("labelled", "scaled"):
        volume = open_volume(f"{tmp_path}/a.h5:{name}")
        assert volume.found["axes"] == "dimensions: x, y, z"
        assert np.array_equal(volume.read(), ARRAY)


def test_attributes_that_name_another_number_of_axes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", axis_names=["c", "z", "y", "x"])
    with pytest.raises(InputError, match=r"axis_names names 4 axes .*; --axes names them"):
        open_volume(path)
    assert open_volume(path, axes="zyx").shape == ARRAY.shape


@pytest.mark.parametrize(
    ("array", "attributes", "size", "origin"),
    [
        (ARRAY, {"element_size_um": (0.03, 0.008, 0.004)}, (30, 8, 4), (0, 0, 0)),
        (ARRAY, {"resolution": (30, 8, 4), "units": "nm"}, (30, 8, 4), (0, 0, 0)),
        (ARRAY, {"resolution": (30, 8, 4), "unit": b"nm"}, (30, 8, 4), (0, 0, 0)),
        (ARRAY, {"voxel_size": 8, "units": "nm"}, (8, 8, 8), (0, 0, 0)),
        (ARRAY, {"voxel_size_nm": (30, 8, 4)}, (30, 8, 4), (0, 0, 0)),
        (
            ARRAY,
            {"voxel_size": (0.03, 8, 4), "units": ["um", "nm", "nanometers"], "offset": (1, 2, 3)},
            (30, 8, 4),
            (1000, 2, 3),
        ),
        (
            ARRAY.T,
            {"axis_names": ["x", "y", "z"], "voxel_size": (4, 8, 30), "units": ["nm"] * 3}
            | {"offset": (3, 2, 1)},
            (30, 8, 4),
            (1, 2, 3),
        ),
        (ARRAY, {"axistags": tags("zyx", resolution=8, unit="nm")}, (8, 8, 8), (0, 0, 0)),
    ],
)
def test_sizes_and_origins_in_attributes(
    tmp_path: Path, array: np.ndarray, attributes: dict[str, Any], size: Any, origin: Any
) -> None:
    volume = open_volume(write(tmp_path / "a.h5", array, **attributes))
    assert volume.voxel_size_nm == size
    assert volume.origin_nm == origin
    assert "attribute" in volume.found["voxel_size"]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"resolution": (40, 4, 4)}, "attribute resolution says 40, 4, 4: without a unit"),
        ({"resolution": (40, 4, 4), "units": "px"}, "px is no unit of length"),
        ({"resolution": (np.inf, 4, 4), "units": "nm"}, "inf is no size"),
        ({"resolution": (40, np.nan, 4), "units": "nm"}, "nan is no size"),
        ({"resolution": (40, 0, -4), "units": "nm"}, "0 is no size, -4 is no size"),
        ({"resolution": ["40", "4,5", "4"], "units": "nm"}, "'4,5' is no number"),
        ({"resolution": (40, 4), "units": "nm"}, "has 2 values for axes z, y, x"),
        ({"element_size_um": "fine"}, "'fine' is no number"),
        ({}, "nothing states it"),
    ],
)
def test_a_size_that_says_nothing_stays_unknown_with_the_reason(
    tmp_path: Path, attributes: dict[str, Any], reason: str
) -> None:
    volume = open_volume(write(tmp_path / "a.h5", **attributes))
    assert volume.voxel_size_nm is None
    assert reason in volume.found["voxel_size"]
    line = next(line for line in describe(volume).text.split("\n") if "voxel size" in line)
    assert "unknown (give it with --voxel-size Z,Y,X)" in line
    assert reason in line


def test_groups_around_a_dataset_may_hold_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", name="volumes/raw")
    with h5py.File(path, "a") as file:
        file["volumes"].attrs.update(voxel_size=(30, 8, 8), units="nm")
        file.attrs.update(resolution=(1, 1, 1), units="nm")
    volume = open_volume(path)
    assert volume.voxel_size_nm == (30, 8, 8)
    assert volume.found["voxel_size"] == "attribute voxel_size of group /volumes"


def test_links_are_followed_and_keep_their_names(tmp_path: Path) -> None:
    write(tmp_path / "src.h5", name="volumes/data")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["raw"] = h5py.ExternalLink("src.h5", "/volumes/data")
        file["again"] = h5py.SoftLink("/raw")
    with h5py.File(tmp_path / "project.h5", "w") as file:
        file["volumes/data"] = 255 - ARRAY
        file["input"] = h5py.ExternalLink("src.h5", "/volumes/data")
        file["volumes/up"] = h5py.SoftLink("/")
    assert np.array_equal(open_volume(tmp_path / "link.h5").read(), ARRAY)
    assert np.array_equal(open_volume(f"{tmp_path}/link.h5:again").read(), ARRAY)
    assert np.array_equal(open_volume(f"{tmp_path}/project.h5:input").read(), ARRAY)
    own = open_volume(f"{tmp_path}/project.h5:volumes/data")
    assert np.array_equal(own.read(), 255 - ARRAY)
    with pytest.raises(InputError, match="found 2 datasets"):
        open_volume(tmp_path / "project.h5")
    assert np.array_equal(open_volume(tmp_path / "project.h5", series="input").read(), ARRAY)
    assert np.array_equal(open_volume(tmp_path / "project.h5", series=1).read(), 255 - ARRAY)
    with pytest.raises(InputError, match=r"no series 2; found 2:\n  - 0  input"):
        open_volume(tmp_path / "project.h5", series=2)
    before = open_volume(tmp_path / "link.h5").fingerprint
    with h5py.File(tmp_path / "src.h5", "a") as file:
        file["volumes/data"][0, 0, 0] = 0
    assert open_volume(tmp_path / "link.h5").fingerprint != before
    (tmp_path / "src.h5").unlink()
    with pytest.raises(InputError, match=r"link to /volumes/data in src\.h5, which is missing"):
        open_volume(f"{tmp_path}/link.h5:raw")
    with pytest.raises(InputError, match=r"raw  link to /volumes/data in src\.h5, missing"):
        open_volume(tmp_path / "link.h5")


def virtual(path: Path, parts: int = 3) -> Path:
    """ARRAY as a virtual dataset of several files."""
    depth = len(ARRAY) // parts
    layout = h5py.VirtualLayout(ARRAY.shape, "u1")
    for i in range(parts):
        section = slice(i * depth, (i + 1) * depth)
        write(path.parent / f"p{i}.h5", ARRAY[section], "data")
        source = h5py.VirtualSource(f"p{i}.h5", "data", ARRAY[section].shape)
        layout[section] = source[:] if i else source
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("raw", layout, fillvalue=0)
    return path


def test_a_virtual_dataset_needs_all_its_files(tmp_path: Path) -> None:
    path = virtual(tmp_path / "v.h5")
    volume = open_volume(path)
    assert np.array_equal(volume.read(), ARRAY)
    first = volume.fingerprint
    for name in ("p0.h5", "p1.h5"):
        (tmp_path / name).rename(tmp_path / f"lost_{name}")
    with pytest.raises(InputError, match=r"p0\.h5 is missing"):
        volume.read()
    with pytest.raises(InputError, match="2 faults") as caught:
        open_volume(path)
    assert "source p0.h5 of the virtual dataset is missing" in str(caught.value)
    assert "source p1.h5 of the virtual dataset is missing" in str(caught.value)
    write(tmp_path / "p0.h5", ARRAY[:1], "data")
    write(tmp_path / "p1.h5", ARRAY[2:4], "other")
    with pytest.raises(InputError, match="2 faults") as caught:
        open_volume(path)
    assert "p1.h5 of the virtual dataset has no dataset data" in str(caught.value)
    for name in ("p0.h5", "p1.h5"):
        (tmp_path / f"lost_{name}").rename(tmp_path / name)
    assert open_volume(path).fingerprint == first
    with h5py.File(tmp_path / "p2.h5", "a") as file:
        file["data"][0, 0, 0] = 0
    assert open_volume(path).fingerprint != first


def test_one_dataset_of_two_dimensions_is_one_section(tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / "a.h5", ARRAY[0]))
    assert volume.shape == (1, 20, 30)
    assert np.array_equal(volume.read(), ARRAY[:1])
    write(tmp_path / "b.h5", ARRAY[0])
    write(tmp_path / "b.h5", ARRAY, "group/volume")
    assert open_volume(tmp_path / "b.h5").shape == ARRAY.shape
    assert open_volume(f"{tmp_path}/b.h5:raw").shape == (1, 20, 30)
    assert open_volume(f"{tmp_path}/b.h5:group").shape == ARRAY.shape


def test_the_full_size_of_bigdataviewer_is_read_unsigned(tmp_path: Path) -> None:
    wide = ARRAY.astype(np.uint16) * 250
    write(tmp_path / "a.h5", wide.view(np.int16), "t00000/s00/0/cells")
    write(tmp_path / "a.h5", wide[:, ::2, ::2].view(np.int16), "t00000/s00/1/cells")
    volume = open_volume(tmp_path / "a.h5")
    assert volume.dtype == np.uint16
    assert np.array_equal(volume.read(), wide)


def test_types_that_hold_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    pairs = np.zeros((2, 3, 4), [("a", "u1"), ("b", "f4")])
    write(tmp_path / "a.h5", pairs, "pairs")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_dataset("words", (2, 3, 4), h5py.string_dtype())
        file["none"] = h5py.Empty("f4")
    for name in ("pairs", "words", "none"):
        with pytest.raises(InputError, match=f"a.h5:/{name}: found"):
            open_volume(f"{tmp_path}/a.h5:{name}")


def test_damaged_and_unknown_compression_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=ARRAY, chunks=(6, 20, 30), fletcher32=True)
        place = file["d"].id.get_chunk_info(0).byte_offset
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((6, 20, 30))
        plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple(ARRAY.shape)
        h5py.h5d.create(file.id, b"zstd", h5py.h5t.NATIVE_UINT8, space, plan)
    content = bytearray(path.read_bytes())
    content[place + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.h5:/d, box .*a chunk is damaged"):
        open_volume(f"{path}:d").read()
    with pytest.raises(InputError, match=r"HDF5 filter 32015 \(zstd\), which is not installed"):
        open_volume(f"{path}:zstd")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_files_that_are_cut_off_say_so(tmp_path: Path, share: float) -> None:
    content = write(tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"cut off \([\d,]+ bytes found, {len(content):,} exp"):
        open_volume(f"{tmp_path}/a.h5:raw")


def test_a_file_that_is_being_written_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    code = "import sys, cristae; cristae.open_volume(sys.argv[1])"
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.flush()
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.h5")], capture_output=True, text=True
        )
    assert "InputError" in done.stderr
    assert "another program is writing it" in done.stderr


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_many_threads_read_what_is_there(tmp_path: Path, compression: str | None) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=ARRAY, chunks=(2, 8, 8), compression=compression)
    volume = open_volume(tmp_path / "a.h5")
    rng = np.random.default_rng(1)
    starts = rng.integers(0, [5, 19, 29], (800, 3))
    stops = np.minimum(starts + rng.integers(1, 12, (800, 3)), ARRAY.shape)

    def right(i: int) -> bool:
        box = Box(tuple(map(int, starts[i])), tuple(map(int, stops[i])))  # type: ignore[arg-type]
        return np.array_equal(volume.read(box), ARRAY[box.slices()])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(right, range(len(starts))))
