"""The page of augmentations leaves none out, and its picture is small."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

from cristae.training.augment import Augmentations

DOCS = Path(__file__).parents[1] / "docs"


def test_every_setting_is_shown_or_says_how_one_is_done():
    spec = importlib.util.spec_from_file_location("augmentation", DOCS / "augmentation.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    shown = {(e.part, name) for e in page.ENTRIES for name in (e.share, *dict(e.own))}
    amounts = re.compile(
        r"\w+_(px|level|sections|extent|jitter|about)|contrast|brightness|gamma|copies"
    )
    for part in fields(Augmentations):
        for setting in fields(getattr(Augmentations(), part.name)):
            known = (part.name, setting.name) in shown or amounts.fullmatch(setting.name)
            assert known, f"{part.name}.{setting.name}"
    assert f"{len(page.ENTRIES)} augmentations" in (DOCS / "augmentation.md").read_text()


def test_the_picture_is_small():
    assert 50_000 < (DOCS / "images" / "augmentation.jpg").stat().st_size < 300_000
