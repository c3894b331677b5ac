"""Any path that a shell takes, in and out, in every command."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from cristae import challenge, cli
from cristae.errors import CristaeError
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, save_model
from cristae.volumes.formats import open_volume

ARRAY = np.random.default_rng(0).integers(40, 200, (6, 48, 40)).astype(np.uint8)
SIZE = "--voxel-size=30,8,8"
NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))

FOLDERS = {
    "up": "../up",
    "dots": "./sub/./../dots",
    "home": "~/home",
    "link": "link",
    "beyond a link": "link/../beyond",
    "space": " with  space ",
    "umlaut": "Größe",
    "decomposed": "Gro\u0308ße",
    "hash": "a#b",
    "percent": "a%20b%",
    "colon": "a:b",
    "colon of a dataset": "a.h5:b",
    "brackets": "a[1]{2}",
    "question": "a?b*",
    "dash": "-a",
    "trailing": "trailing/",
    "long": "x" * 200,
    "backslash": "a\\b",
    "quotes": "a'b\"c$HOME;&|",
    "new line": "a\nb",
    "locked": "a.__lock",
    "scheme": "file:",
    "suffix": "folder.zarr",
    "no text": os.fsdecode(b"a\xffb"),
}
QUICK = ("up", "home", "beyond a link", "decomposed", "percent", "brackets", "dash", "backslash")
SOME = [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in FOLDERS]


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder by the name that a person types, the working folder beside it."""
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere" / "real").mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "elsewhere" / "real", target_is_directory=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    typed = FOLDERS[request.param]
    real = Path(os.path.expanduser(typed))
    real.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(real / "raw.tif", ARRAY, photometric="minisblack")
    return typed


def cristae(command: str, *arguments: str) -> None:
    options = [part for part in arguments if part.startswith("--")]
    paths = [part for part in arguments if not part.startswith("--")]
    cli.app([command, "-q", *options, "--", *paths], standalone_mode=False)


def inside(typed: str) -> Callable[[str], str]:
    return lambda name: f"{typed.rstrip('/')}/{name}"


def left(folder: str) -> set[str]:
    return set(os.listdir(os.path.expanduser(folder)))


@pytest.mark.parametrize("folder", SOME, indirect=True)
def test_a_volume_is_read_and_written(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = inside(folder)
    cristae("convert", at("raw.tif"), at("v.zarr"))
    cristae("convert", at("raw.tif"), at("v.zarr"))  # already done
    if folder != FOLDERS["no text"]:  # which is no text that could be captured
        cristae("info", at("v.zarr"))
        assert "6 x 48 x 40 voxels" in capsys.readouterr().out
    assert left(folder) == {"raw.tif", "v.zarr"}
    assert np.array_equal(open_volume(at("v.zarr")).read(), ARRAY)
    assert np.array_equal(open_volume(Path(at("v.zarr/0"))).read(), ARRAY)
    with pytest.raises(CristaeError, match="expected a box inside"):
        cristae("convert", "--roi=0:9,:,:", at("raw.tif"), at("w.zarr"))
    assert left(folder) == {"raw.tif", "v.zarr"}


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_every_stage_takes_the_path(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = inside(folder)
    if folder == FOLDERS["no text"]:
        monkeypatch.setattr(sys, "stdout", io.StringIO())
    torch.manual_seed(0)
    state = build_network(NETWORK).state_dict()
    thresholds = {"seed_threshold": 0.4, "contour_threshold": 0.9, "foreground_threshold": 0.3}
    model = Model(NETWORK, state, ("mask", "contour"), thresholds=thresholds)
    save_model(model, at("m.pt"))
    cristae("convert", at("raw.tif"), at("v.zarr"), SIZE)
    cristae("predict", at("v.zarr"), at("m.pt"), at("p.zarr"), "--device=cpu")
    cristae("segment", at("p.zarr"), at("s.zarr"))
    cristae("evaluate", at("s.zarr"), at("s.zarr"), f"--json={at('s.json')}")
    cristae("measure", at("s.zarr"), at("s.csv"))
    cristae("tune", at("p.zarr"), at("s.zarr"), f"--out={at('tuned')}")
    cristae("preview", at("v.zarr"), at("m.pt"), at("preview.html"), "--n=1")
    run = ("run", at("v.zarr"), at("run"), f"--model={at('m.pt')}", "--set=predict.device=cpu")
    if folder == FOLDERS["no text"]:  # no configuration can hold it
        with pytest.raises(CristaeError, match=r"out: .* found, expected a name in UTF-8"):
            cristae(*run)
    else:
        cristae(*run)
        cristae("report", at("run"))
        assert (Path(os.path.expanduser(folder)) / "run" / "report.html").is_file()
    monkeypatch.setattr(challenge, "SHAPE", ARRAY.shape)
    monkeypatch.setattr(challenge, "CHUNK", (2, 8, 8))
    monkeypatch.setattr(challenge, "BLOCK", (2, 16, 16))
    pair = [f"--human={at('s.zarr')}", f"--rat={at('s.zarr')}"]
    cristae("submit", at("out.zip"), *pair)
    made = {"m.pt", "v.zarr", "p.zarr", "s.zarr", "s.json", "s.csv", "tuned", "preview.html"}
    assert made | {"out.zip"} <= left(folder)
    assert open_volume(at("s.zarr")).kind == "labels"


def test_datasets_of_files_with_colons(tmp_path: Path) -> None:
    import h5py

    for name in ("a:b.h5", "a.h5:b.h5", "a.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["x:y/raw"] = ARRAY
            file["other"] = ARRAY + 1
    for name in ("a:b.h5", "a.h5:b.h5", "a.h5"):
        assert np.array_equal(open_volume(f"{tmp_path}/{name}:x:y/raw").read(), ARRAY)
        assert np.array_equal(open_volume(f"{tmp_path}/{name}:other").read(), ARRAY + 1)


def test_paths_that_name_nothing_are_one_error(tmp_path: Path) -> None:
    for name in (
        "a\0b.tif",
        "x" * 300,
        "x/" * 3000,
        "~nobody-of-this-name/a.tif",
        "",
        "file:",
        ":",
    ):
        with pytest.raises(CristaeError):
            open_volume(name)


def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "raw.tif", ARRAY, photometric="minisblack")
    cli.app(
        ["convert", "-q", str(tmp_path / "raw.tif"), str(tmp_path / "v.zarr")],
        standalone_mode=False,
    )
    for parent, folders, files in os.walk(tmp_path):
        for entry in [*folders, *files]:
            os.chmod(os.path.join(parent, entry), 0o555)
    os.chmod(tmp_path, 0o555)
    try:
        assert np.array_equal(open_volume(tmp_path / "v.zarr").read(), ARRAY)
        assert np.array_equal(open_volume(tmp_path / "v.zarr" / "0").read(), ARRAY)
    finally:
        for parent, _, _ in os.walk(tmp_path):
            os.chmod(parent, 0o755)
