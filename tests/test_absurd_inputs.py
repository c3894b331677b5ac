"""Inputs that nobody means are answered by every command within 2 seconds, with one message."""

import json
import struct
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

import cristae.report.preview
import cristae.report.tuning  # loaded first: only what a command itself takes is timed
from cristae import cli
from cristae.errors import InputError
from cristae.evaluation.evaluate import score_instances
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, save_model
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import array_volume

SHAPE, SIDE = (3, 8, 10), 10**9
ZEROS = np.zeros(SHAPE, np.uint8)
OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    'DimensionOrder="XYZCT" SizeX="10" SizeY="8" SizeZ="{}" SizeC="1" SizeT="1" Type="uint8">'
    '<TiffData PlaneCount="{}"/></Pixels></Image></OME>'
)


def zarr2(**changes):
    tree = {"zarr_format": 2, "shape": SHAPE, "chunks": SHAPE, "dtype": "|u1", "compressor": None}
    tree |= {"fill_value": 0, "order": "C", "filters": None}
    return tree_in("a.zarr/.zarray", tree | changes)


def zarr3(**changes):
    grid = {"name": "regular", "configuration": {"chunk_shape": SHAPE}}
    tree = {"zarr_format": 3, "node_type": "array", "shape": SHAPE, "data_type": "uint8"}
    tree |= {"chunk_grid": grid, "chunk_key_encoding": {"name": "default"}, "fill_value": 0}
    return tree_in("a.zarr/zarr.json", tree | {"codecs": [{"name": "bytes"}]} | changes)


def tree_in(name, tree):
    def make(folder):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(tree))
        return name.split("/")[0]

    return make


def hdf5(shape=SHAPE, attributes=None, **how):
    def make(folder):
        with h5py.File(folder / "a.h5", "w") as file:
            made = file.create_dataset("d", shape=shape, **{"dtype": "u1"} | how)
            made.attrs.update(attributes or {})
        return "a.h5"

    return make


def tiff(array=ZEROS, changes=None, description=None):
    def make(folder):
        path = folder / "a.tif"
        tifffile.imwrite(
            path, array, photometric="minisblack", metadata=None, description=description
        )
        with tifffile.TiffFile(path, mode="r+b") as file:
            for name, value in (changes or {}).items():
                file.filehandle.seek(file.pages[0].tags[name].valueoffset)
                file.filehandle.write(struct.pack("<I", value))
        return "a.tif"

    return make


def chunk_file(name):
    def make(folder):
        (folder / "p").mkdir()
        with h5py.File(folder / "p" / name, "w") as file:
            file["main"] = np.zeros((2, 5, 5, 5), np.uint8)
        return "p"

    return make


def tiles(**changes):
    tree = {"depth": 1, "height": 8, "width": 10, "ndim": 1, "dtype": "uint8", "tile_size": 10}
    return tree_in(
        "a.json", tree | {"tile_ratio": 1, "tile_st": [0, 0], "image": ["t.png"]} | changes
    )


CHUNK = {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SIDE] * 3}}}
SOURCES = {
    **{
        f"Zarr v2 of {t}": (zarr2(dtype=t), "dtype")
        for t in ("<c8", "|O", "<U4", "<M8[ns]", "<f16")
    },
    "Zarr v2 of records": (zarr2(dtype=[["a", "<i4"]]), "dtype"),
    "Zarr v2 of 10^27 voxels": (zarr2(shape=[SIDE] * 3), r"2\*\*53 voxels"),
    "Zarr v2 of -1 sections": (zarr2(shape=[-1, 8, 10]), "shape"),
    "Zarr v2 of inf sections": (zarr2(shape=[float("inf"), 8, 10]), "shape"),
    "Zarr v2 of 0 sections": (zarr2(shape=[0, 8, 10]), "at least one voxel"),
    "Zarr v2, chunks of 0": (zarr2(chunks=[0, 8, 10]), "a.zarr"),
    **{
        f"Zarr v3 of {t}": (zarr3(data_type=t), "data_type")
        for t in ("complex64", "string", "r16", "float128", "float8_e5m2", "int4")
    },
    "Zarr v3 of 10^27 voxels": (zarr3(shape=[SIDE] * 3), r"2\*\*53 voxels"),
    "Zarr v3, one chunk of 10^27": (zarr3(shape=[SIDE] * 3, **CHUNK), "a.zarr"),
    "Zarr v3 of 0 columns": (zarr3(shape=[3, 8, 0]), "at least one voxel"),
    "HDF5 of complex numbers": (hdf5(dtype="c8"), "complex64"),
    "HDF5 of records": (hdf5(dtype=[("a", "i4")]), "'a'"),
    "HDF5 of texts": (hdf5(dtype=h5py.string_dtype()), "object"),
    "HDF5 of bytes": (hdf5(dtype="S3"), "S3"),
    "HDF5 of long doubles": (hdf5(dtype=np.longdouble), "float128"),
    "HDF5 of 0 rows": (hdf5((3, 0, 10)), "with voxels"),
    "HDF5 of 10^27 voxels": (hdf5((SIDE,) * 3, chunks=(1, 64, 64)), r"2\*\*53 voxels"),
    "TIFF of complex numbers": (tiff(ZEROS.astype("c8")), "complex64"),
    "TIFF of 2^31 columns": (tiff(ZEROS[0], {"ImageWidth": 2**31}), "cut off"),
    "TIFF of 2^64 voxels": (
        tiff(ZEROS[0], {"ImageWidth": 2**32 - 1, "ImageLength": 2**32 - 1}),
        "cut off",
    ),
    "TIFF of 0 columns": (tiff(ZEROS[0], {"ImageWidth": 0}), "at least one voxel"),
    "OME-TIFF of 10^9 sections": (tiff(ZEROS[0], None, OME.format(SIDE, 1)), "1000000000 planes"),
    "OME-TIFF of 10^9 planes": (tiff(ZEROS[0], None, OME.format(1, SIDE)), "1000000000 planes"),
    "ImageJ of 10^9 sections": (
        tiff(ZEROS[0], None, f"ImageJ=1.5\nimages={SIDE}\nslices={SIDE}\n"),
        "cut off",
    ),
    "chunks of 10^27 voxels": (chunk_file("r_0-1000000000-0-1000000000-0-1000000000.h5"), "shape"),
    "chunks of 0 sections": (chunk_file("r_0-0-0-5-0-5.h5"), "with voxels"),
    **{
        f"tiles, ratio {ratio}": (tiles(tile_ratio=ratio), "tile_ratio")
        for ratio in (float("inf"), float("nan"), 0, -1, 1e308, 10**400, "a")
    },
    "tiles of 2^62 pixels": (tiles(height=2**31 - 1, width=2**31 - 1), "expected paths with"),
    "tiles of size 0": (tiles(tile_size=0), "tile_size"),
    "tiles from row 10^30": (tiles(tile_st=[10**30, 0]), "tile_st"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of a small network."""
    config = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
    path = tmp_path_factory.mktemp("model") / "m.pt"
    save_model(Model(config, build_network(config).state_dict(), config.channels), path)
    return path


@pytest.fixture
def cristae(capsys, monkeypatch, tmp_path, model):
    """Give a command that is refused; what it says. In its folder lies a model, m.pt."""
    monkeypatch.chdir(tmp_path)
    Path("m.pt").symlink_to(model)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cristae", *map(str, arguments)])
        begun = time.process_time()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert time.process_time() - begun < 2
        said = capsys.readouterr().err
        assert end.value.code == 2
        assert len(said) < 2000
        return said

    return call


@pytest.mark.parametrize("name", SOURCES)
def test_an_absurd_source_is_one_message(cristae, tmp_path, name):
    make, says = SOURCES[name]
    source = make(tmp_path)
    begun = time.process_time()
    with pytest.raises(InputError, match=says):
        open_volume(str(tmp_path / source))
    assert time.process_time() - begun < 2
    assert cristae("convert", source, "out.zarr", "-q").count("cristae: ") == 1
    assert not Path("out.zarr").exists()


def test_attributes_of_countless_levels_say_nothing(tmp_path):
    source = hdf5(attributes={"axistags": "[" * 5000, "resolution": [1e308 * 10, 0, -1]})(tmp_path)
    volume = open_volume(str(tmp_path / source))
    assert (volume.shape, volume.voxel_size_nm) == (SHAPE, None)


COMMANDS = (
    ("convert", "a.h5", "b.zarr"),
    ("segment", "a.h5", "b.zarr", "--decoder", "binary_connected"),
    ("tune", "a.h5", "--decoder", "binary_connected"),
    ("measure", "a.h5", "b.csv"),
    ("evaluate", "a.h5", "a.h5"),
    ("predict", "a.h5", "m.pt", "b.zarr"),
    ("preview", "a.h5", "m.pt", "b.html"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_header_of_1000_terabytes_is_refused_before_it_is_read(cristae, tmp_path, command):
    """10^15 voxels, none of which is stored."""
    hdf5((10**5,) * 3, chunks=(64, 64, 64), dtype="u1")(tmp_path)
    said = cristae(*command, "--voxel-size", "30,8,8", "-q")
    assert said.count("cristae: ") == 1
    assert "Traceback" not in said


OPTIONS = {
    "index -1": ("info", "a.h5", "--index", "c=-1"),
    "index of no axis": ("info", "a.h5", "--index", "c=0"),
    "index of 30 digits": ("info", "c.tif", "--index", "c=" + "9" * 30),
    "series -1": ("info", "a.h5", "--series", "-1"),
    "series of a stack": ("info", "a.tif", "--series", "-1"),
    "scores channel -1": ("evaluate", "a.h5", "a.h5", "--scores-channel", "-1"),
    "scores channel 9": ("evaluate", "a.h5", "a.h5", "--scores", "c.tif", "--scores-channel", "9"),
    "no memory": ("convert", "a.h5", "b.zarr", "--memory", "-1"),
    "nan memory": ("convert", "a.h5", "b.zarr", "--memory", "nan"),
    "0 workers": ("convert", "a.h5", "b.zarr", "--workers", "0"),
    "10^9 workers": ("measure", "a.h5", "b.csv", "--workers", "1000000000"),
    "blocks of 0": ("evaluate", "a.h5", "a.h5", "--block-shape", "0,1,1"),
    "blocks of 1e400": ("evaluate", "a.h5", "a.h5", "--block-shape", "1e400,1,1"),
    "size of 0": ("convert", "a.h5", "b.zarr", "--voxel-size", "0,1,1"),
    "size of 1e300": ("convert", "a.h5", "b.zarr", "--voxel-size", "1e300,1,1"),
    "nan 1e400": ("convert", "a.h5", "b.zarr", "--nan", "1e400"),
    "roi of 30 digits": ("convert", "a.h5", "b.zarr", "--roi", "0:" + "9" * 30 + ",0:1,0:1"),
    "10^9 places": ("preview", "a.h5", "m.pt", "--n", "1000000000"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_absurd_option_is_one_message(cristae, tmp_path, name):
    hdf5()(tmp_path)
    tifffile.imwrite(tmp_path / "c.tif", np.stack([ZEROS] * 2), metadata={"axes": "CZYX"}, ome=True)
    tifffile.imwrite(tmp_path / "a.tif", ZEROS, photometric="minisblack")
    said = cristae(*OPTIONS[name])
    assert "Traceback" not in said
    assert said.count("cristae: ") + said.count("Error: ") == 1


RECORDS = np.zeros(SHAPE, [("a", "i4")])
ARRAYS = {
    "complex": ZEROS.astype(complex),
    "objects": ZEROS.astype(object),
    "records": RECORDS,
    "texts": ZEROS.astype(str),
    "bytes": ZEROS.astype("S3"),
    "dates": ZEROS.astype("M8[ns]"),
    "long doubles": ZEROS.astype(np.longdouble),
    "nothing": ZEROS[:0],
    "masked": np.ma.masked_array(ZEROS, ZEROS == 0),
    "2^60 voxels": np.broadcast_to(np.uint8(1), (2**20,) * 3),
    "6 axes": np.zeros((1,) * 6),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_absurd_array_is_refused(name):
    begun = time.process_time()
    for use in (open_volume, array_volume, lambda array: score_instances(array, array)):
        with pytest.raises(InputError, match=r"array|instances"):
            use(ARRAYS[name])
    assert time.process_time() - begun < 2


ARGUMENTS = {
    "voxel_size_nm": [(np.inf, 1, 1), (1, 1), "abc", "123", 5, (10**400, 1, 1), (1e300, 1, 1)],
    "index": [{"c": -1}, {"z": 0}, {"c": "a"}],
    "axes": [5, "", "q" * 10**5, "c="],
    "series": [-1, 0, "a"],
    "nan": ["x", np.nan, np.inf, 10**400],
    "kind": ["x", 5],
    "roi": ["0:1", "0:" + "9" * 30 + ",0:1,0:1"],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_absurd_argument_is_refused(name):
    for value in ARGUMENTS[name]:
        with pytest.raises(InputError):
            open_volume(ZEROS.astype(np.float32), **{name: value})


@pytest.mark.parametrize("lowest", [2**63, 2**64 - 2])
def test_ids_beyond_2_to_the_63_are_ids(tmp_path, lowest):
    labels = np.zeros(SHAPE, np.uint64)
    labels[:, :4], labels[:, 4:, 5:] = lowest, lowest + 1
    assert score_instances(labels, labels).average_precision_coco["75"] == 1
    made = convert_volume(array_volume(labels, kind="labels"), tmp_path / "l.zarr")
    assert np.array_equal(made.read(), labels)


def test_labels_that_no_integer_holds_are_named():
    labels = np.where(ZEROS == 0, 1e300, 0)
    with pytest.raises(InputError, match=r"label 1e\+300 .* 2\*\*64 - 1"):
        score_instances(labels, ZEROS)
