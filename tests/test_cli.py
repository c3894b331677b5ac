import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from tests.programs import cristae

from cristae import cli
from cristae.networks.model import load_model
from cristae.networks.shipped import model_card, named_models
from cristae.volumes.formats import open_volume


def inside(capfd, *arguments):
    """Run a command in this process, which has loaded all that it needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cristae", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    said = capfd.readouterr()
    return subprocess.CompletedProcess(arguments, end.value.code or 0, said.out, said.err)


def test_help_is_quick_and_names_every_stage():
    quickest = np.inf
    for _ in range(3):
        start = time.perf_counter()
        done = cristae("--help")
        quickest = min(quickest, time.perf_counter() - start)
    assert done.returncode == 0
    for command in ("convert", "train", "predict", "segment", "evaluate", "measure", "run", "demo"):
        assert f"\n  {command} " in done.stdout
    assert quickest < 5  # the figure itself is printed by benchmarks/startup.py


def test_help_and_import_load_neither_torch_nor_numba():
    code = (
        "import sys, cristae, cristae.cli; "
        "heavy = {'torch', 'numba', 'tensorstore', 'matplotlib', 'numpy'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "nowhere.tif"], "nowhere.tif: no such file or folder"),
        (["info", ".", "--voxel-size", "1,2"], "--voxel-size '1,2': expected three numbers"),
        (["info", ".", "--voxel-size", "1,2,-3"], "expected positive numbers"),
        (["info", ".", "--voxel-size", "1,nan,inf"], "expected positive numbers"),
        (["run", "a.tif"], "needs RUN_DIR and --model"),
        (["run", "a.yaml", "--roi", ":,:,:"], "--roi: for a run of a SOURCE"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["predict", "x.tif", "nothing", "out.zarr"], "x.tif: no such file or folder"),
    ],
)
def test_a_fault_is_one_message_and_exit_code_2(arguments, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    done = inside(capfd, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_with_exit_code_2(tmp_path):
    done = cristae("info", "nowhere.tif", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere.tif: no such file or folder" in done.stderr


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.tools.WorkOptions, "start", interrupted)
    monkeypatch.setattr(sys, "argv", ["cristae", "demo"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert "goes on from here" in capsys.readouterr().err


def test_a_checkpoint_is_predicted_with_its_configurations(shared, tmp_path, capfd):
    golden = np.load(shared / "golden" / "networks" / "sliding_window.npz")
    checkpoint = shared / "golden" / "networks" / "unet_3d_residual_bn_bc.pth.tar"
    tifffile.imwrite(tmp_path / "raw.tif", golden["raw"][:6, :40, :50])
    (tmp_path / "base.yaml").write_text(
        "MODEL: {FILTERS: [8, 12, 16, 20, 24], INPUT_SIZE: [5, 33, 33], OUTPUT_SIZE: [5, 33, 33]}\n"
        "INFERENCE: {STRIDE: [4, 16, 16], PAD_SIZE: [0, 0, 0]}\n"
        "SOLVER: {BASE_LR: 0.04}\n"
    )
    (tmp_path / "bc.yaml").write_text(
        "MODEL: {OUT_PLANES: 2, TARGET_OPT: ['0', '4-1-1']}\n"
        "INFERENCE: {OUTPUT_ACT: [sigmoid, sigmoid]}\n"
    )
    command = ["predict", tmp_path / "raw.tif", checkpoint, tmp_path / "p.zarr"]
    configs = ["--pytc-config", tmp_path / "base.yaml", "--pytc-config", tmp_path / "bc.yaml"]
    missing = inside(capfd, *command)
    assert (missing.returncode, "--pytc-config" in missing.stderr) == (2, True)
    options = ["--truncate", "--chunks", tmp_path / "chunks", "--workers", 1]
    done = inside(capfd, *command, *configs, *options)
    assert done.returncode == 0, done.stderr
    assert "not carried over: SOLVER.BASE_LR: of training" in done.stderr
    found = open_volume(tmp_path / "p.zarr")
    assert (found.shape, found.channels) == ((6, 40, 50), ("mask", "contour"))
    assert found.attributes["quantisation"] == "truncated"
    assert found.attributes["precision"] == "float32"
    assert found.attributes["decoder"] == "bc_watershed"
    assert np.array_equal(open_volume(tmp_path / "chunks").read(), found.read())
    again = inside(capfd, *command, *configs, *options)
    assert "already done" in again.stderr


def test_models_are_listed_with_their_cards(capfd):
    done = inside(capfd, "models")
    assert done.returncode == 0
    for name in named_models():
        assert name in done.stdout
        assert model_card(name).strip() in done.stdout


def test_the_mean_of_models_is_written_once(tmp_path, capfd):
    """The mean of a model and itself is that model."""
    out = tmp_path / "mean.pt"
    done = inside(capfd, "average", "general", "general", "--out", out)
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    assert load_model(out).fingerprint == load_model("general").fingerprint
    again = inside(capfd, "average", "general", "epfl", "--out", out)
    assert again.returncode == 2
    assert "--overwrite replaces it" in again.stderr
    assert load_model(out).fingerprint == load_model("general").fingerprint
