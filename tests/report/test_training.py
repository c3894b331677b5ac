"""The training's part of the report: its figures, curves and pictures, also on the way."""

import re

import numpy as np
import pytest

from cristae.errors import ConfigError, InputError
from cristae.pipeline import report_run
from cristae.report.training import read_training, training_page
from cristae.training.panels import Panel, save_panels

HEAD = "step,learning_rate,loss,validation_loss,validation_iou,validation_ap75\n"
ROWS = "10,0.1,2.0,,,\n20,0.2,1.5,1.6,0.5,\n30,0.1,1.25,,,\n40,0.05,1.0,1.2,0.4,0.75\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.csv").write_text(HEAD + ROWS)
    grey = np.arange(2 * 8 * 12, dtype=np.uint8).reshape(2, 8, 12)
    panel = Panel("sample <1>", ("image", "mask, found"), grey)
    save_panels([panel], 40, tmp_path / "model.panels.npz")
    return tmp_path


def test_figures_and_pictures(folder):
    data = read_training(folder / "model.csv", folder / "model.panels.npz")
    page = training_page(data)
    assert page["facts"] == [
        ("steps", "40"),
        ("training loss", "1.000"),
        ("validation loss", "1.200"),
        ("IoU of the foreground", "0.400 (best 0.500, step 20)"),
        ("AP-75 of instances", "0.750 (best 0.750, step 40)"),
    ]
    assert [chart["caption"] for chart in page["charts"]] == [
        "Loss",
        "On the validation samples",
        "Learning rate",
    ]
    (panel,) = page["panels"]
    assert (panel["sample"], page["panels_step"]) == ("sample <1>", 40)
    sizes = [(p["title"], p["width"], p["height"]) for p in panel["pictures"]]
    assert sizes == [("image", 270, 180), ("mask, found", 270, 180)]
    assert all(p["source"].startswith("data:image/png;base64,") for p in panel["pictures"])


def test_report_before_anything_is_segmented(folder):
    text = report_run(folder).read_text()
    assert "no volume has\n    been segmented yet" in text
    assert len(re.findall("<svg", text)) == 3
    assert "sample &lt;1&gt;" in text
    assert 'id="sections"' not in text
    assert "best 0.500, step 20" in text


def test_without_panels_or_steps(tmp_path):
    table = tmp_path / "model.csv"
    assert read_training(table, tmp_path / "none.npz") is None
    with pytest.raises(ConfigError, match="not a run folder"):
        report_run(tmp_path)
    table.write_text(HEAD)
    assert read_training(table, tmp_path / "none.npz") is None
    table.write_text(HEAD + "10,0.1,2.0,,,\n")
    page = training_page(read_training(table, tmp_path / "none.npz"))
    assert page["panels"] == []
    assert [chart["caption"] for chart in page["charts"]] == ["Loss", "Learning rate"]


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\xfe\x00", b'a,b\n"1', b"a,b\n1,2\n", b"a\n1,2\n1,2,3\n"]
)
def test_a_damaged_table_is_one_error(damage, tmp_path):
    (tmp_path / "model.csv").write_bytes(damage)
    with pytest.raises(InputError, match=r"model\.csv: "):
        read_training(tmp_path / "model.csv", tmp_path / "none.npz")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_damaged_panels_are_one_error(damage, tmp_path):
    (tmp_path / "model.csv").write_text("step,loss\n1,0.5\n")
    (tmp_path / "p.npz").write_bytes(damage)
    with pytest.raises(InputError, match=r"p\.npz: cannot be read as example panels"):
        read_training(tmp_path / "model.csv", tmp_path / "p.npz")
