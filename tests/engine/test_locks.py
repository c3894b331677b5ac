"""One writer an output, on every file system; kills and failing calls are real."""

import errno
import os
import signal

import pytest
from tests.failing_calls import linux_only
from tests.programs import run, start

from cristae.engine.files import write_json
from cristae.engine.ledger import open_ledger
from cristae.engine.locks import locked_folder, take_lock
from cristae.errors import BusyError, ConfigError, FileError
from cristae.pipeline import RunConfig
from cristae.pipeline import run as run_stages

HOLD = """
import sys
from cristae.engine.ledger import open_ledger
ledger = open_ledger(sys.argv[1], stage="try", inputs={}, settings={})
ledger.mark("step", "one")
print("held", flush=True)
sys.stdin.read()
"""

WITHOUT_LOCKS = """
import sys
from pathlib import Path
from tests.failing_calls import fail_locks
fail_locks(int(sys.argv[2]))
from cristae.engine.files import write_json
from cristae.engine.ledger import open_ledger
from cristae.errors import BusyError
output = Path(sys.argv[1])
with open_ledger(output, stage="try", inputs={}, settings={}) as ledger:
    try:
        open_ledger(output, stage="try", inputs={}, settings={})
    except BusyError as error:
        print("refused", error)
    write_json(output / "zarr.json", {})
    ledger.finish()
print(open_ledger(output, stage="try", inputs={}, settings={}).state)
"""


@pytest.fixture(params=["out.zarr", "out.csv"])
def output(tmp_path, request):
    return tmp_path / request.param


def begin(path, **options):
    return open_ledger(path, stage="try", inputs={}, settings={}, **options)


def make(output):
    if output.suffix == ".zarr":
        write_json(output / "zarr.json", {"zarr_format": 3, "node_type": "group"})
    else:
        output.write_text("x")


def test_another_process_is_refused_and_a_killed_one_leaves_the_lock_free(output):
    other = start(HOLD, output, stdin=-1)
    assert other.stdout.readline() == "held\n"
    for overwrite in (False, True):
        with pytest.raises(BusyError, match="another process is writing it"):
            begin(output, overwrite=overwrite)
    other.kill()
    other.communicate()
    with begin(output) as ledger:
        assert ledger.done("step") == {"one": None}


def test_the_lock_is_given_back_after_the_work_folder_is_gone(output, monkeypatch):
    from cristae.engine import ledger as module

    refused, remove = [], module.remove_tree

    def ask_meanwhile(path):
        for _ in range(2):  # before and after it is gone
            with pytest.raises(BusyError):
                begin(output)
            refused.append(path)
            remove(path)

    monkeypatch.setattr(module, "remove_tree", ask_meanwhile)
    with begin(output) as ledger:
        make(output)
        ledger.finish()
        assert begin(output).state == "done"
    assert len(refused) == 2


def test_a_finished_output_has_no_lock_beside_it(output):
    with begin(output) as ledger:
        make(output)
        ledger.finish()
    assert begin(output).state == "done"
    beside = {output.name} | ({f"{output.name}.cristae.json"} if output.suffix == ".csv" else set())
    assert {entry.name for entry in output.parent.iterdir()} == beside


def test_one_output_has_one_lock_however_it_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with begin("real/../link/out.zarr"), pytest.raises(BusyError):
        begin(tmp_path / "real" / "out.zarr")


@linux_only
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_a_soft_lock_takes_their_place(tmp_path, code):
    done = run(WITHOUT_LOCKS, tmp_path / "out.zarr", code)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("refused")
    assert done.stdout.splitlines()[1] == "done"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.zarr"]


@linux_only
def test_the_soft_lock_of_a_killed_process_is_taken_over(output):
    refuse = "from tests.failing_calls import fail_locks; fail_locks()"
    other = start(refuse + HOLD, output, stdin=-1)
    assert other.stdout.readline() == "held\n"
    again = run(refuse + HOLD, output)
    assert "another process is writing it" in again.stderr
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    again = run(refuse + HOLD, output)
    assert (again.stdout, again.stderr) == ("held\n", "")


def test_a_folder_is_held_without_a_file_in_it(tmp_path):
    with locked_folder(tmp_path / "run"):
        assert list((tmp_path / "run").iterdir()) == []
        with (
            pytest.raises(BusyError, match="run: another process"),
            locked_folder(tmp_path / "run"),
        ):
            pass
    with locked_folder(tmp_path / "run"):
        pass


def test_a_lock_that_is_a_folder_is_one_message(tmp_path):
    (tmp_path / ".out.csv.lock").mkdir()
    with pytest.raises(FileError, match=r"\.out\.csv\.lock: a folder found, expected a file"):
        take_lock(tmp_path / "out.csv")
    assert (tmp_path / ".out.csv.lock").is_dir()


def test_a_second_run_of_one_folder_is_refused_and_leaves_it_as_it_was(tmp_path):
    config = RunConfig((), str(tmp_path / "run"), model="general")
    with locked_folder(tmp_path / "run"), pytest.raises(BusyError, match="run: another process"):
        run_stages(config)
    with pytest.raises(ConfigError):
        run_stages(config)
    assert list(tmp_path.iterdir()) == []
