"""Every command over odd and damaged inputs: the right voxels or one message, never a traceback."""

import random
import sys

import numpy as np
import pytest
import torch
import zarr
from tests.fuzz.damage import DAMAGES, copy_damaged
from tests.fuzz.odd_inputs import ODD, Odd

from cristae import cli
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, save_model

BY_NAME = {odd.name: odd for odd in ODD}

DAMAGED = (
    "tiff_u1",
    "tiff_zlib",
    "imagej_stack",
    "ome_ZYX",
    "slices_png_u1",
    "slices_tif_u1",
    "hdf5_u1",
    "hdf5_gzip",
    "zarr2_u2",
    "zarr3_u2",
    "ome_zarr_zyx",
    "tile_index_index.json",
    "prediction_chunks_u1",
    "ours",
)
"""One source a form and way of storing."""

CASES = [(name, damage) for name in DAMAGED for damage in DAMAGES]

FEW = random.Random(7)
FEW_ODD = {odd.name for odd in FEW.sample(ODD, 14)}
FEW_CASES = set(FEW.sample(CASES, 16))


def some(cases, few, name=str):
    """All cases, of which all but a few take part in long checks only."""
    return [
        pytest.param(case, id=name(case), marks=() if case in few else pytest.mark.long)
        for case in cases
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of a small network."""
    torch.manual_seed(0)
    config = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))
    network = build_network(config)
    path = tmp_path_factory.mktemp("model") / "m.pt"
    save_model(Model(config, network.state_dict(), config.channels), path)
    return path


@pytest.fixture
def cristae(capsys, monkeypatch):
    """Give a command; its exit code and what it said of an error."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cristae", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return call


def one_message(code: int, said: str) -> bool:
    """Whether a refusal is a single message of ours."""
    ours = [line for line in said.splitlines() if line.startswith("cristae: ")]
    return code == 2 and len(ours) == 1 and "Traceback" not in said


@pytest.mark.parametrize("name", some([odd.name for odd in ODD], FEW_ODD))
def test_odd_inputs_are_read_as_other_libraries_read_them(tmp_path, cristae, monkeypatch, name):
    odd: Odd = BY_NAME[name]
    (tmp_path / "in").mkdir()
    source, expected, options = odd.make(tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    assert cristae("info", source, *[o for o in options if o not in ("--kind", "labels")])[0] == 0
    code, said = cristae("convert", source, "../out.zarr", *options, "--no-pyramid", "-q")
    assert (code, said.count("Traceback")) == (0, 0), said
    found = np.asarray(zarr.open_array(tmp_path / "out.zarr" / "0", mode="r")[...])
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("case", some(CASES, FEW_CASES, "-".join))
def test_damaged_inputs_are_refused_or_read_right(tmp_path, cristae, monkeypatch, model, case):
    name, damage = case
    odd = BY_NAME[name]
    (tmp_path / "whole").mkdir()
    source, expected, options = odd.make(tmp_path / "whole")
    copy_damaged(tmp_path / "whole", tmp_path / "in", damage)
    monkeypatch.chdir(tmp_path / "in")
    code, said = cristae("info", source)
    assert code == 0 or one_message(code, said), said
    code, said = cristae("convert", source, "../out.zarr", *options, "--no-pyramid", "-q")
    assert code == 0 or one_message(code, said), said
    if code == 0:
        found = np.asarray(zarr.open_array(tmp_path / "out.zarr" / "0", mode="r")[...])
        assert found.shape == expected.shape
        # a byte of bare voxels is a voxel like any other
        assert np.count_nonzero(found != expected) <= (damage == "middle")
    size = ["--voxel-size", "30,8,8"]
    commands = (
        ["predict", source, model, "../p.zarr", *size],
        ["segment", source, "../i.zarr", "--decoder", "binary_connected", *size],
        ["evaluate", source, source, "--json", "../s.json", *size],
        ["measure", source, "../m.csv", *size],
        ["preview", source, model, "../page.html", "--n", "1", *size],
    )
    command = commands[(DAMAGED.index(name) + list(DAMAGES).index(damage)) % len(commands)]
    code, said = cristae(*command)
    assert code == 0 or one_message(code, said), (command[0], said)
