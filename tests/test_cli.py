import subprocess
import sys
import time

import numpy as np
import pytest

from cristae import cli


def cristae(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "cristae", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


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
        (["run", "a.tif"], "needs RUN_DIR and --model"),
        (["run", "a.yaml", "--roi", ":,:,:"], "--roi: for a run of a SOURCE"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["predict", "x.tif", "nothing", "out.zarr"], "x.tif: no such file or folder"),
    ],
)
def test_a_fault_is_one_message_and_exit_code_2(arguments, says, tmp_path):
    done = cristae(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_start_logging", interrupted)
    monkeypatch.setattr(sys, "argv", ["cristae", "demo"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert "goes on from here" in capsys.readouterr().err
