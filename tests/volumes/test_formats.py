"""A format that another package adds is read as those of the table are."""

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from cristae.engine import plugins
from cristae.engine.identity import Identity, SourceFiles
from cristae.engine.plugins import all_plugins
from cristae.errors import InputError
from cristae.volumes.formats import open_volume, table
from cristae.volumes.formats.axes import OpenOptions
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.table import FORMATS, register_format
from cristae.volumes.info import describe
from cristae.volumes.volume import ArrayReader, Volume

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def open_npy(path: Path, options: OpenOptions) -> Volume:
    array = np.load(path)
    return Volume(
        name=options.name,
        reader=ArrayReader(array),
        shape=array.shape,
        dtype=array.dtype,
        identity=Identity((SourceFiles(options.name, str(path.parent), (path.name,)),)),
    )


FORMAT = Format("NumPy file", "file.npy", open_npy, suffixes=(".npy",))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(table, "FORMATS", dict(FORMATS))
    np.save(tmp_path / "a.npy", ARRAY)
    return tmp_path / "a.npy"


def check(source: Path) -> None:
    volume = open_volume(source, voxel_size_nm=(30, 8, 8))
    assert np.array_equal(volume, ARRAY)
    assert describe(volume).form == "NumPy file"
    assert np.array_equal(open_volume(source, axes="xyz"), ARRAY.T)
    with pytest.raises(InputError, match=r"for tile indices"):
        open_volume(source, root="there")


def test_one_that_is_registered(source: Path) -> None:
    with pytest.raises(InputError, match=r"not a known form of volume, expected a Zarr folder, .*"):
        open_volume(source)
    register_format("npy", FORMAT)
    check(source)
    with pytest.raises(InputError, match="format 'npy': there is one of that name, NumPy file"):
        register_format("npy", FORMAT)
    (source.parent / "empty").mkdir()
    with pytest.raises(InputError, match=r"an empty folder, expected .*\.json, or file\.npy$"):
        open_volume(source.parent / "empty")


def test_one_of_a_plugin(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def entries(group: str) -> EntryPoints:
        looked.append(group)
        entry = EntryPoint("npy", "npy_of_a_package:FORMAT", "cristae.formats")
        monkeypatch.setattr(EntryPoint, "load", lambda self: FORMAT)
        return EntryPoints([entry]).select(group=group)

    all_plugins.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", entries)
    open_volume(ARRAY)
    with pytest.raises(InputError, match="no such file"):
        open_volume(source.parent / "missing.npy")
    assert not looked  # only where nothing of ours knows a source that is there
    check(source)
    assert looked == ["cristae.formats"]
    all_plugins.cache_clear()


def test_what_stands_behind_a_colon(tmp_path: Path) -> None:
    (tmp_path / "im").mkdir()
    (tmp_path / "im" / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="is of form image slices, which takes no name"):
        open_volume(f"{tmp_path}/im:raw")
