"""Inputs are known for what they are: one row a form, each changed in every way that counts."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

from cristae import cli
from cristae.engine import identity
from cristae.engine.identity import Identity, compare, hash_array
from cristae.engine.ledger import open_ledger
from cristae.errors import CristaeError, InputError, OutputExistsError
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.table import FORMATS
from cristae.volumes.volume import Volume, array_volume

ONE, OTHER = (
    np.random.default_rng(seed).integers(1, 250, (4, 48, 48), dtype=np.uint8) for seed in (0, 1)
)
THEN = 1_000_000_000_000_000_000


def tiff(folder: Path, array: np.ndarray) -> str:
    tifffile.imwrite(folder / "a.tif", array, photometric="minisblack", metadata=None)
    return "a.tif"


def ome_tiff_set(folder: Path, array: np.ndarray) -> str:
    """Two files that name each other, as microscopes write them."""
    planes = "".join(
        f'<TiffData IFD="{z % 2}" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="p{z // 2}.ome.tif">urn:uuid:0000000{z // 2}-0000-0000-0000-000000000000'
        "</UUID></TiffData>"
        for z in range(4)
    )
    for i in range(2):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/'
            'Schemas/OME/2016-06" '
            f'UUID="urn:uuid:0000000{i}-0000-0000-0000-000000000000">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
            'SizeX="48" SizeY="48" SizeZ="4" SizeC="1" SizeT="1" BigEndian="false">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(folder / f"p{i}.ome.tif") as file:
            for j, plane in enumerate(array[2 * i : 2 * i + 2]):
                file.write(
                    plane,
                    description=xml if j == 0 else None,
                    metadata=None,
                    contiguous=False,
                    photometric="minisblack",
                )
    return "p0.ome.tif"


def slices(folder: Path, array: np.ndarray) -> str:
    (folder / "s").mkdir()
    for z, plane in enumerate(array):
        tifffile.imwrite(folder / "s" / f"im{z}.tif", plane, metadata=None)
    return "s"


def a_glob(folder: Path, array: np.ndarray) -> str:
    return slices(folder, array) + "/im*.tif"


def hdf5(folder: Path, array: np.ndarray) -> str:
    with h5py.File(folder / "a.h5", "w", track_order=False) as file:
        file["raw"] = array
    return "a.h5"


def virtual(folder: Path, array: np.ndarray) -> str:
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    for i in range(2):
        with h5py.File(folder / f"p{i}.h5", "w") as file:
            file["data"] = array[2 * i : 2 * i + 2]
        source = h5py.VirtualSource(f"p{i}.h5", "data", (2, *array.shape[1:]))
        layout[2 * i : 2 * i + 2] = source
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    return "a.h5"


def external_link(folder: Path, array: np.ndarray) -> str:
    with h5py.File(folder / "data.h5", "w") as file:
        file["raw"] = array
    with h5py.File(folder / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("data.h5", "/raw")
    return "a.h5"


def zarr_of(version: int) -> Callable[[Path, np.ndarray], str]:
    def make(folder: Path, array: np.ndarray) -> str:
        zarr.create_array(
            folder / "a.zarr",
            data=array,
            chunks=(4, 24, 48),
            zarr_format=version,
            compressors=None,
        )
        return "a.zarr"

    return make


def delta_zarr(folder: Path, array: np.ndarray) -> str:
    """Chunks that hold differences, which cristae decodes itself; the last of them are bare."""
    differences = numcodecs.Delta(dtype="u1")
    zarr.create_array(
        folder / "a.zarr",
        data=array,
        chunks=(4, 24, 48),
        zarr_format=2,
        filters=[differences],
        compressors=None,
    )
    return "a.zarr"


def tile_index(folder: Path, array: np.ndarray) -> str:
    slices(folder, array)
    index = {
        "depth": 4,
        "height": 48,
        "width": 48,
        "ndim": 1,
        "dtype": "uint8",
        "tile_size": 48,
        "tile_ratio": 1,
        "tile_st": [0, 0],
        "image": [f"s/im{z}.tif" for z in range(4)],
    }
    (folder / "index.json").write_text(json.dumps(index))
    return "index.json"


def chunk_folder(folder: Path, array: np.ndarray) -> str:
    for z in (0, 2):
        with h5py.File(folder / f"result_{z}-{z + 2}-0-48-0-48.h5", "w") as file:
            file["vol0"] = array[None, z : z + 2]
    return "."


FILES: dict[str, tuple[str, Callable[[Path, np.ndarray], str]]] = {
    "tiff": ("tiff", tiff),
    "ome_tiff_set": ("tiff", ome_tiff_set),
    "slices": ("slices", slices),
    "a_glob": ("slices", a_glob),
    "hdf5": ("hdf5", hdf5),
    "virtual": ("hdf5", virtual),
    "external_link": ("hdf5", external_link),
    "tile_index": ("tile_index", tile_index),
    "chunk_folder": ("prediction_chunks", chunk_folder),
    "zarr2": ("zarr", zarr_of(2)),
    "zarr3": ("zarr", zarr_of(3)),
    "delta_zarr": ("zarr", delta_zarr),
}
"""A source of each format, and how it is written."""


def test_every_format_has_a_row() -> None:
    assert {name for name, _ in FILES.values()} == set(FORMATS)


def write(folder: Path, form: str, array: np.ndarray) -> Path:
    folder.mkdir()
    source = folder / FILES[form][1](folder, array)
    for path in folder.rglob("*"):
        os.utime(path, ns=(THEN, THEN))
    return source


def finish(out: Path, volume: Volume) -> None:
    with open_ledger(out, stage="try", inputs={"source": volume.identity}, settings={}) as ledger:
        out.write_text("x")
        ledger.finish()


def again(out: Path, volume: Volume) -> str:
    options = {"stage": "try", "inputs": {"source": volume.identity}, "settings": {}}
    return open_ledger(out, **options).state


def data_file(folder: Path) -> Path:
    """The last of the largest files, which holds voxels."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    most = max(path.stat().st_size for path in files)
    return max(path for path in files if path.stat().st_size == most)


def change_byte(path: Path, value: bytes, changed_ns: int) -> None:
    """A voxel gets another value."""
    content = bytearray(path.read_bytes())
    at = content.rfind(value)
    content[at if at >= 0 else len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))
    os.utime(path, ns=(changed_ns, changed_ns))


def noticed(out: Path, source: Path) -> str:
    with pytest.raises(CristaeError) as caught:
        again(out, open_volume(source))
    return str(caught.value)


@pytest.mark.parametrize("form", FILES)
def test_another_source_of_the_same_size_and_time(tmp_path: Path, form: str) -> None:
    source = write(tmp_path / "a", form, ONE)
    other = write(tmp_path / "b", form, OTHER)
    out = tmp_path / "out.csv"
    finish(out, open_volume(source))
    assert again(out, open_volume(source)) == "done"
    assert "source" in noticed(out, other)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    assert "other content" in noticed(out, source)


@pytest.mark.parametrize("form", FILES)
def test_one_byte_of_a_small_source(tmp_path: Path, form: str) -> None:
    source = write(tmp_path / "a", form, ONE)
    out = tmp_path / "out.csv"
    finish(out, open_volume(source))
    change_byte(data_file(tmp_path / "a"), ONE[-1, -1, -9:].tobytes(), THEN)
    assert "other content" in noticed(out, source)


@pytest.mark.parametrize("form", FILES)
def test_one_byte_of_a_large_source(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "FILE_BYTES", 128)
    source = write(tmp_path / "a", form, ONE)
    out = tmp_path / "out.csv"
    finish(out, open_volume(source))
    change_byte(data_file(tmp_path / "a"), ONE[-1, -1, -9:].tobytes(), THEN + 1)
    assert "source" in noticed(out, source)
    trusted = open_volume(source, same_source=True)
    assert again(out, trusted) == "done"


@pytest.mark.parametrize("form", FILES)
def test_the_same_source_elsewhere_or_later(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "a", form, ONE)
    out = tmp_path / "out.csv"
    finish(out, open_volume(source))
    caplog.set_level("INFO", "cristae")
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # with the times
    moved = tmp_path / "b" / source.relative_to(tmp_path / "a")
    assert again(out, open_volume(moved)) == "done"
    assert "the same content as" in caplog.messages[-1]
    for path in (tmp_path / "a").rglob("*"):
        os.utime(path, ns=(THEN + 9, THEN + 9))
    assert again(out, open_volume(source)) == "done"
    assert "another time of change, all bytes equal" in caplog.messages[-1]
    assert len(caplog.messages) == 2
    monkeypatch.setattr(identity, "FILE_BYTES", 128)  # of a large one that cannot be known
    (tmp_path / "large").mkdir()
    later = tmp_path / "large" / "out.csv"
    finish(later, open_volume(source))
    for path in (tmp_path / "a").rglob("*"):
        os.utime(path, ns=(THEN, THEN))
    assert "--same-source goes on" in noticed(later, source)


def test_an_array_is_known_by_all_its_bytes(tmp_path: Path) -> None:
    array = ONE.copy()
    out = tmp_path / "out.csv"
    finish(out, array_volume(array))
    assert again(out, array_volume(ONE.copy())) == "done"
    array[2, 30, 30] += 1
    with pytest.raises(OutputExistsError, match="other content"):
        again(out, array_volume(array))
    with pytest.raises(OutputExistsError, match="source"):
        again(out, array_volume(ONE.reshape(4, 24, 96)))
    assert hash_array(ONE[:, ::2]) == hash_array(ONE[:, ::2].copy())
    assert hash_array(np.asfortranarray(ONE)) == hash_array(ONE)
    assert hash_array(np.zeros((2, 0, 3))) == hash_array(np.zeros((2, 0, 3)))


def test_an_array_is_looked_at_once_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr(identity, "hash_array", lambda a: looked.append(a.shape) or hash_array(a))
    volume = array_volume(ONE.astype(np.float32))
    for times in (1, 2):  # begun, and done before
        convert_volume(volume, tmp_path / "a.zarr")
        assert looked == [ONE.shape] * times


def test_the_part_read_counts(tmp_path: Path) -> None:
    source = write(tmp_path / "a", "tiff", ONE)
    out = tmp_path / "out.csv"
    finish(out, open_volume(source, roi="0:2,0:48,0:48"))
    assert again(out, open_volume(source, roi="0:2,0:48,0:48")) == "done"
    for options in ({}, {"roi": "1:3,0:48,0:48"}, {"roi": "0:2,0:48,0:48", "axes": "zxy"}):
        with pytest.raises(OutputExistsError, match="read as"):
            again(out, open_volume(source, **options))


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a", "slices", ONE)
    volume = open_volume(source)
    (source / "im2.tif").unlink()
    with pytest.raises(InputError, match=r"im2\.tif: cannot be read"):
        volume.identity.tree()


def test_an_output_of_ours_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    one = convert_volume(array_volume(ONE), tmp_path / "one.zarr", kind="image")
    other = convert_volume(array_volume(OTHER), tmp_path / "other.zarr", kind="image")
    out = tmp_path / "out.csv"
    finish(out, one)
    with pytest.raises(OutputExistsError, match="source"):
        again(out, other)
    shutil.copytree(tmp_path / "one.zarr", tmp_path / "copy.zarr", copy_function=shutil.copyfile)
    assert again(out, open_volume(tmp_path / "copy.zarr")) == "done"


def test_labels_edited_after_they_were_finished_are_another_input(tmp_path: Path) -> None:
    labels = (ONE > 200).astype(np.uint32)
    finished = convert_volume(array_volume(labels), tmp_path / "l.zarr", kind="labels")
    out = tmp_path / "out.csv"
    finish(out, finished)
    array = zarr.open_array(tmp_path / "l.zarr" / "0", mode="r+")
    array[0, :4, :4] = 7
    with pytest.raises(OutputExistsError, match="other content"):
        again(out, open_volume(tmp_path / "l.zarr"))


def test_what_nobody_knows_is_never_the_same(tmp_path: Path) -> None:
    unknown = array_volume(ONE).with_(identity=Identity())
    out = tmp_path / "out.csv"
    finish(out, unknown)
    with pytest.raises(OutputExistsError, match="source"):
        again(out, unknown)


def test_texts_and_numbers_of_inputs_are_compared() -> None:
    assert compare("a", "a") == (True, "")
    assert compare("a", "b") == (False, "'a' there, 'b' now")
    one = Identity.of("a").joined(Identity.of("b"))
    assert compare(one.tree(), one.tree()) == (True, "")
    assert not compare(one.tree(), Identity.of("a").tree())[0]
    assert not compare("a", Identity.of("a").tree())[0]


def test_a_person_says_that_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(identity, "FILE_BYTES", 128)
    source, out = write(tmp_path / "a", "tiff", ONE), tmp_path / "out.zarr"

    def convert(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cristae", "convert", str(source), str(out), *options])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    assert convert() == 0
    os.utime(source, ns=(THEN + 5, THEN + 5))
    assert convert() == 2
    assert "--same-source goes on" in capsys.readouterr().err
    assert convert("--same-source") == 0
