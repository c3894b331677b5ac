"""Every code block in the README and in docs/ runs, page by page, in a fresh folder.

Blocks marked ``text`` are drawings. The two ``make`` lines are what runs these tests. A training
is shrunk by settings that are added to its line.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "yaml", "text"}
SHRINK = (
    " --set train.steps=2 --set train.batch=1 --set train.patch=[4,32,32]"
    " --set train.network.widths=[4,6] --set train.network.strides=[[1,2,2]]"
    " --set train.network.z_kernel_levels=[1]"
)


def blocks_of(page):
    return BLOCK.findall(page.read_text())


def runnable(lines):
    kept = [line for line in lines.splitlines() if line and not line.startswith("make ")]
    trains = re.compile(r"^cristae (train|run) \S+\.yaml")
    return "\n".join(line + SHRINK if trains.match(line) else line for line in kept)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_language(page):
    text = page.read_text()
    assert text.count("\n```") == 2 * len(BLOCK.findall(text))
    assert {language for language, _ in blocks_of(page)} <= LANGUAGES


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```" in page.read_text()], ids=lambda page: page.name
)
def test_every_block_runs(page, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    for language, code in blocks_of(page):
        if language == "python":
            command = [sys.executable, "-c", code]
        elif language == "bash" and runnable(code):
            command = ["bash", "-euo", "pipefail", "-c", runnable(code)]
        else:
            continue
        done = subprocess.run(
            command, cwd=tmp_path, env=env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
