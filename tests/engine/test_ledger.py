import os
import subprocess
import sys

import pytest

from cristae.engine.files import read_json, write_json, write_text
from cristae.engine.ledger import check_output, open_ledger
from cristae.engine.records import is_unfinished
from cristae.errors import BusyError, InputError, OutputExistsError


def begin(path, overwrite=False, **settings):
    inputs = {"source": "abc"}
    return open_ledger(path, stage="try", inputs=inputs, settings=settings, overwrite=overwrite)


@pytest.fixture(params=["out.zarr", "out.csv"])
def output(tmp_path, request):
    return tmp_path / request.param


def make(output):
    if output.suffix == ".zarr":
        write_json(output / "zarr.json", {"zarr_format": 3, "node_type": "group"})
    else:
        write_text(output, "x")


def test_marks_survive_and_a_finished_output_is_left_alone(output):
    with begin(output, a=1) as ledger:
        assert ledger.state == "new"
        (ledger.scratch / "piece").write_text("data")
        ledger.mark("step", "k", {"n": 3})
        make(output)
    assert is_unfinished(output)
    with begin(output, a=1) as ledger:
        assert ledger.state == "resume"
        assert ledger.done("step") == {"k": {"n": 3}}
        assert (ledger.scratch / "piece").read_text() == "data"
        ledger.finish(total=7)
    assert not is_unfinished(output)
    assert not (output / ".cristae").exists()
    with begin(output, a=1) as ledger:
        assert (ledger.state, ledger.summary) == ("done", {"total": 7})
    assert list(output.parent.glob(".*")) == []


def test_another_identity_is_refused_naming_what_differs(output):
    with begin(output, a=1, b={"c": 2}) as ledger:
        make(output)
        ledger.finish()
    with pytest.raises(OutputExistsError, match=r"settings.b.c: 2 there, 3 now"):
        begin(output, a=1, b={"c": 3})
    with begin(output, overwrite=True, a=2) as ledger:
        assert ledger.state == "new"
        assert not output.exists() or list(output.iterdir()) == [output / ".cristae"]


def test_unfinished_of_another_identity_is_refused(output):
    with begin(output, a=1) as ledger:
        make(output)
        ledger.mark("step", "k")
    with pytest.raises(OutputExistsError, match=r"settings.a: 1 there, 2 now"):
        begin(output, a=2)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cristae_did_not_make_is_refused_and_never_removed(output, overwrite):
    make(output)
    before = sorted(output.parent.rglob("*"))
    for look in (begin, check):
        with pytest.raises(OutputExistsError, match="not made by cristae"):
            look(output, overwrite=overwrite)
    assert sorted(output.parent.rglob("*")) == before


def check(path, overwrite=False, **settings):
    inputs = {"source": "abc"}
    return check_output(path, stage="try", inputs=inputs, settings=settings, overwrite=overwrite)


def test_a_check_finds_what_opening_would_and_writes_nothing(output):
    assert check(output, a=1) == "new"
    assert not list(output.parent.iterdir())
    with begin(output, a=1) as ledger:
        make(output)
        assert check(output, a=1) == "resume"
        ledger.finish()
    assert check(output, a=1) == "done"
    before = {path: path.stat().st_mtime_ns for path in output.parent.rglob("*")}
    with pytest.raises(OutputExistsError, match=r"settings.a: 1 there, 2 now"):
        check(output, a=2)
    assert check(output, overwrite=True, a=2) == "new"
    assert {path: path.stat().st_mtime_ns for path in output.parent.rglob("*")} == before


def test_an_input_that_is_not_known_yet_is_not_compared(output):
    with begin(output, a=1) as ledger:
        make(output)
        ledger.finish()
    options = {"stage": "try", "settings": {"a": 1}}
    assert check_output(output, inputs={"source": None}, **options) == "done"
    with pytest.raises(OutputExistsError, match=r"inputs.source: 'abc' there, 'xyz' now"):
        check_output(output, inputs={"source": "xyz"}, **options)
    with pytest.raises(OutputExistsError, match=r"settings.a: 1 there, 2 now"):
        check_output(output, stage="try", inputs={"source": None}, settings={"a": 2})


def test_a_file_on_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for look in (check, begin):
        with pytest.raises(InputError, match=r"out.csv: cannot be made here"):
            look(tmp_path / "file" / "below" / "out.csv")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_where_a_file_is_due_is_never_removed(tmp_path, overwrite):
    output = tmp_path / "out.csv"
    (output / "of a person").mkdir(parents=True)
    with pytest.raises(OutputExistsError, match="not made by cristae"):
        begin(output, overwrite=overwrite)
    assert (output / "of a person").is_dir()
    file = tmp_path / "out.zarr"
    file.write_text("x")
    with pytest.raises(OutputExistsError, match="a file found, expected a folder"):
        begin(file, overwrite=overwrite)
    assert file.read_text() == "x"


def test_a_record_whose_output_is_gone_counts_for_nothing(tmp_path):
    output = tmp_path / "out.csv"
    with begin(output, a=1) as ledger:
        make(output)
        ledger.finish()
    output.unlink()
    with begin(output, a=2) as ledger:
        assert ledger.state == "new"


def test_a_torn_last_line_was_never_done(output):
    with begin(output) as ledger:
        make(output)
        ledger.mark("step", "one")
        work = ledger.scratch.parent
    with (work / "done.jsonl").open("a") as file:
        file.write('["step", "tw')
    with begin(output) as ledger:
        assert list(ledger.done("step")) == ["one"]
        ledger.mark("step", "two")
    with begin(output) as ledger:
        assert list(ledger.done("step")) == ["one", "two"]


def test_a_refusal_before_anything_is_written_leaves_nothing(output):
    with pytest.raises(InputError), begin(output):
        raise InputError("no room")
    assert list(output.parent.iterdir()) == []
    with begin(output) as ledger:
        ledger.mark("step", "one")
    with pytest.raises(InputError), begin(output):
        raise InputError("no room")
    with begin(output) as ledger:
        assert list(ledger.done("step")) == ["one"]


def test_two_writers_are_refused(output):
    with begin(output):
        make(output)
        with pytest.raises(BusyError, match="another process"):
            begin(output)
        with pytest.raises(BusyError):
            begin(output, overwrite=True)


def test_a_finished_output_can_be_taken_up_again(output):
    with begin(output) as ledger:
        make(output)
        ledger.finish(steps=1)
    with begin(output) as ledger:
        assert ledger.summary == {"steps": 1}
        ledger.reopen()
        ledger.mark("step", "more")
    with begin(output) as ledger:
        assert ledger.state == "resume"
        ledger.finish(steps=2)
    with begin(output) as ledger:
        assert ledger.summary == {"steps": 2}


KILLED = """
import os, signal, sys
from cristae.engine.ledger import open_ledger
ledger = open_ledger(sys.argv[1], stage="try", inputs={}, settings={})
for i in range(100):
    ledger.mark("step", str(i))
    if i == 41:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_marks_of_a_killed_process_are_kept_and_its_lock_is_free(tmp_path):
    output = tmp_path / "out.zarr"
    child = subprocess.run([sys.executable, "-c", KILLED, str(output)], check=False, env=os.environ)
    assert child.returncode == -9
    with open_ledger(output, stage="try", inputs={}, settings={}) as ledger:
        assert ledger.state == "resume"
        assert len(ledger.done("step")) == 42


def test_record_of_a_folder_lies_in_its_attributes(tmp_path):
    output = tmp_path / "out.zarr"
    with begin(output, a=1) as ledger:
        make(output)
        ledger.finish(n=2)
    record = read_json(output / "zarr.json")["attributes"]["cristae"]["record"]
    assert record["settings"] == {"a": 1}
    assert record["summary"] == {"n": 2}


def test_what_a_killed_process_was_removing_is_swept_in_an_output_of_ours_alone(tmp_path):
    ours, theirs = tmp_path / "ours.zarr", tmp_path / "theirs.zarr"
    left = ".runs.0123abcd-17-2.removed"
    begin(ours).close()
    for folder in (ours, theirs):
        (folder / left / "x0").mkdir(parents=True)
    begin(ours).close()
    assert not (ours / left).exists()
    with pytest.raises(OutputExistsError):
        begin(theirs)
    assert (theirs / left / "x0").is_dir()
