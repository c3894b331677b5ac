"""`make check-long PART=...`: each test that takes long is in one part."""

import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("fuzz", "kills", "oracles")


def command_of(part):
    """What is called for a part, without calling it."""
    made = subprocess.run(
        [
            "make",
            "-n",
            "--no-print-directory",
            "-o",
            ".venv/.ready-dev",
            "check-long",
            f"PART={part}",
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return made.stdout + made.stderr


def covers(part, file):
    """Whether pytest is given a file, by a folder it is in that is not left out."""
    words = shlex.split(command_of(part).strip().splitlines()[-1])
    left_out = [word.removeprefix("--ignore=") for word in words if word.startswith("--ignore=")]
    given = [word for word in words if word.startswith("tests")]
    assert "-m long" in " ".join(words)
    assert given
    return any(file.is_relative_to(ROOT / folder) for folder in given) and not any(
        file.is_relative_to(ROOT / folder) for folder in left_out
    )


def test_each_long_test_is_in_one_part():
    files = [path for path in ROOT.glob("tests/**/test_*.py") if "mark.long" in path.read_text()]
    assert len(files) > 10
    for part in ("", *PARTS):
        assert (ROOT / "tests" / part).is_dir()
    parts = {str(file): [part for part in PARTS if covers(part, file)] for file in files}
    assert {name: found for name, found in parts.items() if len(found) != 1} == {}
    assert all(covers("", file) for file in files)


def test_another_part_is_one_error():
    assert "PART=other: expected fuzz, kills or oracles" in command_of("other")
