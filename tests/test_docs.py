"""Every code block in the README and in docs/ runs, page by page, in a fresh folder.

Blocks marked ``text`` are drawings. The two ``make`` lines are what runs these tests. A training
is shrunk by settings that are added to its line, a simulated volume by its shape. Commands of
cristae run in this process (50 of them would load torch 50 times), those of the page on MitoEM on
folders of its data set's layout.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import yaml
from tests.recipes import BASE, BC

from cristae import challenge, cli
from cristae.evaluation.metrics import METRICS
from cristae.networks.families.table import FAMILIES
from cristae.segmentation.decoders import DECODERS
from cristae.volumes.formats.table import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "yaml", "text"}
SHRINK = (
    " --set train.steps=2 --set train.batch=1 --set train.patch=[4,32,32]"
    " --set train.network.widths=[4,6] --set train.network.strides=[[1,2,2]]"
    " --set train.network.z_kernel_levels=[1]"
)
LARGE = re.compile(r"\b16, ?256, ?256\b")  # simulated; predicted three times
MITOEM = ROOT / "docs" / "mitoem.md"
LEARN = (  # the recipe's own rate rises over 1000 steps
    " --set train.steps=60 --set train.optimizer=adamw --set train.learning_rate=0.02"
    " --set train.warmup_steps=0 --set train.calibration_batches=2 --set train.batch=2"
    " --set train.ema_decay=0.9 --set train.augmentation=own"
)


def blocks_of(page):
    return BLOCK.findall(LARGE.sub("12,96,192", page.read_text()))


def run_line(line, shrink=SHRINK):
    """Do what a shell does with a line of a page."""
    trains = re.match(r"cristae (train|run) \S+\.yaml", line)
    program, *words = shlex.split(line + shrink if trains else line)
    if program == "cristae":
        words += ["--workers", "1"] if trains else []  # more than one are processes
        cli.app(words, standalone_mode=False)
    elif program == "python":
        subprocess.run([sys.executable, *words], check=True)
    else:
        assert program == "make", line


def run_python(code):
    exec(compile(code, "<page>", "exec"), {"__name__": "__main__"})


@pytest.fixture(autouse=True)
def _tables():
    """What a page adds to a table goes with it."""
    kept = [(table, dict(table)) for table in (FORMATS, METRICS, DECODERS, FAMILIES)]
    yield
    for table, before in kept:
        table.clear()
        table.update(before)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_language(page):
    text = page.read_text()
    assert text.count("\n```") == 2 * len(BLOCK.findall(text))
    assert {language for language, _ in blocks_of(page)} <= LANGUAGES


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```" in page.read_text() and page != MITOEM],
    ids=lambda page: page.name,
)
def test_every_block_runs(page, tmp_path, monkeypatch):
    for folder in ("configs", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    for language, code in blocks_of(page):
        if language == "python":
            run_python(code)
        elif language == "bash":
            for line in filter(None, code.splitlines()):
                run_line(line)


def test_the_page_on_mitoem_runs(mitoem, monkeypatch, capfd):
    """Import, train, predict, tune, segment, score, hand in and check, of both volumes."""
    monkeypatch.chdir(mitoem)
    for name, shape in (("SHAPE", (8, 96, 96)), ("CHUNK", (4, 32, 32)), ("BLOCK", (4, 64, 64))):
        monkeypatch.setattr(challenge, name, shape)
    blocks = [code for language, code in blocks_of(MITOEM) if language == "bash"]
    for line in filter(None, "\n".join(blocks).splitlines()):
        run_line(line, SHRINK + LEARN)
    said = capfd.readouterr()
    assert "not carried over: DATASET.IMAGE_NAME: volumes are those of --data" in said.err
    assert "0_human_instance_seg_pred.h5  main  uint8  16 instances" in said.out
    for name in ("rat", "human"):
        scores = json.loads(Path(name, "val_scores.json").read_text())
        assert scores["voxel"]["foreground_iou"] > 0.5
        imported = yaml.safe_load(Path(f"{name}.yaml").read_text())
        assert [volume["group"] for volume in imported["volumes"]] == ["train", "validation"]


@pytest.fixture
def mitoem(tmp_path):
    """Slices 392-407 and 500-507 of both volumes, and the recipes: dark boxes, each an instance."""
    for letter, seed in (("R", 0), ("H", 1)):
        (tmp_path / f"MitoEM-{letter}-Base.yaml").write_text(BASE)
        (tmp_path / f"MitoEM-{letter}-BC.yaml").write_text(BC)
        random = np.random.default_rng(seed)
        labels = np.zeros((24, 96, 96), np.uint16)
        for i, (y, x) in enumerate(np.ndindex(4, 4), start=1):
            labels[:, 24 * y + 3 : 24 * y + 20, 24 * x + 4 : 24 * x + 22] = i
        grey = np.where(labels > 0, 70, 170) + random.normal(0, 8, labels.shape)
        image = grey.clip(0, 255).astype(np.uint8)
        for i, z in enumerate([*range(392, 408), *range(500, 508)]):
            part = "mito-train-v2" if z < 400 else "mito-val-v2"
            root = tmp_path / f"MitoEM-{letter}"
            for folder in ("im", part):
                (root / folder).mkdir(parents=True, exist_ok=True)
            (root / "im" / f"im{z:04d}.png").write_bytes(imagecodecs.png_encode(image[i]))
            if z < 500:
                tifffile.imwrite(root / part / f"seg{z:04d}.tif", labels[i])
    return tmp_path


def test_the_walks_of_the_design_name_what_is_there():
    """Every function that the page names behind a file is defined in it."""
    page = (ROOT / "docs" / "design.md").read_text()
    walks = page.split("## Four walks")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)` `(\w+)`", walks)
    assert len(named) > 20
    for file, name in named:
        text = (ROOT / "src" / "cristae" / file).read_text()
        assert re.search(rf"^ *(def|class) {name}\b", text, re.M), (file, name)
