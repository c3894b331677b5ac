"""Nothing that cristae did not make is removed or written over, in any state of a record."""

import json
import signal

import numpy as np
import pytest
from tests.programs import run

from cristae.engine.files import write_text
from cristae.engine.ledger import open_ledger
from cristae.engine.outputs import write_text_output
from cristae.engine.records import is_unfinished
from cristae.errors import InputError, OutputExistsError
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume


def begin(path, overwrite=False, **settings):
    return open_ledger(path, stage="try", inputs={}, settings=settings, overwrite=overwrite)


def written(tmp_path, text="ours"):
    """A finished file of ours."""
    output = tmp_path / "out.csv"
    with begin(output) as ledger:
        output.write_text(text)
        ledger.finish()
    return output


def image(tmp_path):
    """A finished image of ours, with a pyramid."""
    array = np.arange(8 * 20 * 300, dtype=np.uint16).reshape(8, 20, 300)
    convert_volume(open_volume(array, voxel_size_nm=(30, 5, 5)), tmp_path / "v.zarr")
    return tmp_path / "v.zarr"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_without_a_record_stays(tmp_path, overwrite):
    output = tmp_path / "out.csv"
    output.write_text("of a person")
    with pytest.raises(OutputExistsError, match="not made by cristae"):
        begin(output, overwrite)
    assert output.read_text() == "of a person"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_took_the_place_of_ours_stays(tmp_path, overwrite):
    """Its record is still there, and describes another file."""
    output = written(tmp_path)
    output.unlink()
    output.write_text("of a person")
    with pytest.raises(OutputExistsError, match="not made by cristae, or was changed since"):
        begin(output, overwrite)
    assert output.read_text() == "of a person"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_took_the_place_of_our_file_stays(tmp_path, overwrite):
    output = written(tmp_path)
    output.unlink()
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="a folder found that was not made by cristae"):
        begin(output, overwrite, a=2)
    assert (output / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_took_the_place_of_an_unfinished_file_stays(tmp_path):
    output = tmp_path / "out.csv"
    with begin(output) as ledger:
        ledger.mark("step", "one")
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="a folder found"):
            begin(output, overwrite)
    assert (output / "thesis.txt").exists()


def test_a_folder_with_the_name_of_our_work_folder_stays(tmp_path):
    (tmp_path / "out.csv.cristae").mkdir()
    (tmp_path / "out.csv.cristae" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"out\.csv\.cristae: exists and was not made by"):
        begin(tmp_path / "out.csv")
    assert (tmp_path / "out.csv.cristae" / "thesis.txt").exists()


@pytest.mark.parametrize(
    "place",
    ["thesis.txt", "0/notes.txt", "0/c/0/0/cells.txt", "labels/zarr.json", "1/figure/a.png"],
)
def test_foreign_files_in_an_image_of_ours_are_named_and_stay(tmp_path, place):
    output = image(tmp_path)
    (output / place).parent.mkdir(parents=True, exist_ok=True)
    (output / place).write_text("years of work")
    named = {"labels/zarr.json": "labels", "1/figure/a.png": "1/figure"}.get(place, place)
    with pytest.raises(OutputExistsError, match=f"holds what was not made by cristae: {named}"):
        begin(output, overwrite=True)
    assert (output / place).read_text() == "years of work"
    assert (output / "0" / "zarr.json").exists()


def test_what_killed_writers_and_systems_leave_is_not_foreign(tmp_path):
    output = image(tmp_path)
    for place in (".DS_Store", ".zarr.json.0a1b2c3d.tmp", "0/c/0/0/1.__lock", "0/c/0/0/.1.tmp"):
        (output / place).write_text("")
    with begin(output, overwrite=True):
        assert [entry.name for entry in output.iterdir()] == [".cristae"]


def test_a_record_of_release_0_1_is_a_record(tmp_path):
    """It does not say what the file holds."""
    output = written(tmp_path)
    record = tmp_path / "out.csv.cristae.json"
    tree = json.loads(record.read_text())
    del tree["content"]
    record.write_text(json.dumps(tree))
    assert begin(output).state == "done"
    with begin(output, overwrite=True) as ledger:
        assert ledger.state == "new"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stage": 1}', '{"stage": "try"}', "[" * 3000])
@pytest.mark.parametrize("kind", ["file", "folder", "begun"])
def test_a_damaged_record_is_one_error_that_names_it(tmp_path, damage, kind):
    if kind == "file":
        output = written(tmp_path)
        place = tmp_path / "out.csv.cristae.json"
    else:
        output = tmp_path / "out.zarr"
        with begin(output) as ledger:
            place = ledger.scratch.parent / "identity.json"
        if kind == "folder":
            place = output / "zarr.json"
            damage = damage if damage in ("", "{") else f'{{"attributes": {{"cristae": {damage}}}}}'
    place.write_text(damage)
    for overwrite in (False, True):
        if kind == "folder" and '"stage"' in damage:  # keys and values, though none of ours
            continue
        with pytest.raises(InputError, match=place.name):
            begin(output, overwrite)
    assert place.read_text() == damage


def test_a_path_with_a_nul_is_one_error(tmp_path):
    for name in ("out\0.zarr", "out\0.csv"):
        with pytest.raises(InputError, match="NUL"):
            begin(tmp_path / name)


def test_a_text_is_an_output_like_every_other(tmp_path):
    path = tmp_path / "out.yaml"
    write_text_output(path, "a: 1\n", "plan")
    write_text_output(path, "a: 1\n", "plan")
    with pytest.raises(OutputExistsError, match="--overwrite replaces it"):
        write_text_output(path, "a: 2\n", "plan")
    write_text_output(path, "a: 2\n", "plan", overwrite=True)
    assert path.read_text() == "a: 2\n"
    path.write_text("a: 3  # by hand\n")
    with pytest.raises(OutputExistsError, match="changed since"):
        write_text_output(path, "a: 2\n", "plan", overwrite=True)
    assert not is_unfinished(path)


@pytest.mark.parametrize("more", ["overwrite", "reopen"])
@pytest.mark.parametrize("made", [False, True])
def test_what_has_come_beside_a_finished_output_stays(tmp_path, made, more):
    """A file of a person's in the place of one that the stage writes, or would write."""
    output, beside = tmp_path / "m.pt", [tmp_path / "m.csv", tmp_path / "m.board"]

    def begin(overwrite=False):
        return open_ledger(
            output, stage="try", inputs={}, settings={}, overwrite=overwrite, beside=beside
        )

    with begin() as ledger:
        output.write_text("ours")
        if made:
            beside[0].write_text("ours")
        ledger.finish()
    beside[0].write_text("of a person")
    says = r"m\.csv: not made by cristae, or changed since"
    with (
        pytest.raises(OutputExistsError, match=says),
        begin(overwrite=more == "overwrite") as ledger,
    ):
        ledger.reopen()
    assert beside[0].read_text() == "of a person"
    assert output.read_text() == "ours"
    beside[0].unlink()
    with begin() as ledger:
        assert ledger.state == "done"
        ledger.reopen()
        write_text(beside[0], "ours, more of it")
    with begin(overwrite=True) as ledger:  # begun again, and not finished
        assert ledger.state == "new"
        assert not beside[0].exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from cristae.engine import files
from cristae.engine.ledger import open_ledger

output, moment = Path(sys.argv[1]), sys.argv[2]
beside = [output.with_suffix(".csv")]
ledger = open_ledger(output, stage="try", inputs={}, settings={}, beside=beside)
files.write_text(beside[0], "ours, too")
if moment == "before its name":
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_text(output, "ours")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["before its name", "before its record"])
def test_a_file_in_place_of_one_that_a_killed_stage_wrote_stays(tmp_path, moment):
    """The stage is told by what it noted of its own files."""
    output, table = tmp_path / "m.pt", tmp_path / "m.csv"
    assert run(KILLED, output, moment).returncode == -signal.SIGKILL
    assert output.exists() == (moment == "before its record")

    def begin(overwrite=False):
        identity = {"stage": "try", "inputs": {}, "settings": {}, "beside": [table]}
        return open_ledger(output, **identity, overwrite=overwrite)

    for file, ours in ((output, "ours"), (table, "ours, too")):
        file.write_text("of a person")
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match=rf"{file.name}: not made by cristae, or c"):
                begin(overwrite)
        assert file.read_text() == "of a person"
        file.write_text(ours)
    with begin() as ledger:
        assert ledger.state == "resume"
        ledger.finish()
    assert begin().state == "done"
