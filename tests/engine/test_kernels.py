"""Kernels run wherever cristae is installed, with a cache or without one."""

import shutil
from pathlib import Path

from tests.failing_calls import linux_only
from tests.programs import run

import cristae

USE = """
import numpy as np
from cristae.volumes.pyramid import downsample
print(downsample(np.arange(8, dtype="u1").reshape(2, 2, 2), (2, 2, 2), False).ravel())
"""

READ_ONLY = """
import os
import sys
from tests.failing_calls import obey_permissions
obey_permissions()
os.environ.pop("XDG_CACHE_HOME", None)
os.environ.pop("NUMBA_CACHE_DIR", None)
os.environ["HOME"] = os.path.join(sys.argv[1], "home")
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import cristae
assert cristae.__file__.startswith(sys.argv[1])
"""


@linux_only
def test_a_read_only_installation_without_a_home_warns_once_and_works(tmp_path):
    place = tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(cristae.__file__).parent, place / "cristae", ignore=ignored)
    folders = [place, *filter(Path.is_dir, place.rglob("*"))]
    for folder in folders:
        folder.chmod(0o555)
    done = run(READ_ONLY + USE, place)
    for folder in folders:
        folder.chmod(0o755)
    assert done.stdout.split() == ["[4]"], done.stderr
    assert done.stderr.splitlines() == [
        "compiled kernels are not kept for the next time: no folder for it can be written; "
        "NUMBA_CACHE_DIR names one"
    ]


def test_a_cache_that_cannot_be_read_or_written_is_left_aside(tmp_path):
    """Every cache file is a folder, so that reading fails; a later process still compiles."""
    keep = f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}\n"
    assert run(keep + USE).stdout.split() == ["[4]"]
    files = [path for path in tmp_path.rglob("*.nb?")]
    assert files
    for path in files:
        path.unlink()
        path.mkdir()
    done = run(keep + USE)
    assert done.stdout.split() == ["[4]"]
    assert done.stderr.count("compiled kernels are not kept") == 1


def test_a_damaged_cache_is_left_aside(tmp_path):
    keep = f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}\n"
    run(keep + USE)
    for path in tmp_path.rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:20])
    done = run(keep + USE)
    assert done.stdout.split() == ["[4]"]
    assert "Traceback" not in done.stderr


GONE = """
import os, sys
os.environ["NUMBA_CACHE_DIR"] = sys.argv[1]
import numpy as np
from cristae.labels import overlap_table
rows = overlap_table.LabelRuns(*(np.zeros(1, t) for t in ("i8", "i4", "i4", "u8")))
rows = rows._replace(stop=rows.stop + 1, label=rows.label + np.uint64(1))
if sys.argv[2] == "renamed":
    del overlap_table.LabelRuns
print(len(overlap_table.overlaps_of_runs(rows, rows, (1, 1, 2)).labels))
"""


def test_a_cache_that_names_what_is_gone_is_made_anew(tmp_path):
    """As after a release that renames a class that a kernel takes."""
    assert run(GONE, tmp_path, "here").stdout.split() == ["1"]
    done = run(GONE, tmp_path, "renamed")
    assert done.stdout.split() == ["1"], done.stderr
