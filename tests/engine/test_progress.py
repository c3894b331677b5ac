"""Progress where there is no terminal: a line now and then with share, rate and time left."""

import logging

import numpy as np
import pytest

from cristae.engine import progress
from cristae.engine.executors import Resources
from cristae.volumes.convert import convert_volume

SERIAL = Resources(1, "serial")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_share_rate_and_time_left(clock, caplog):
    """3 of 8 Mvoxels were done before: the rate and what is left go by the fresh ones."""
    with (
        caplog.at_level(logging.INFO, logger="cristae"),
        progress.track("label", 8e6, "voxels", 3e6) as advance,
    ):
        clock[0] += 20
        advance(1e6)  # too soon for a line
        clock[0] += 20
        advance(1e6)
    assert caplog.messages == ["label: 62 %, 50 kvoxels/s, 60 s left"]


@pytest.mark.parametrize(
    ("amount", "text"),
    [(3, "1.5 voxels/s"), (5e3, "2.5 kvoxels/s"), (8e6, "4 Mvoxels/s"), (2e10, "10 Gvoxels/s")],
)
def test_rate_has_a_fitting_prefix(amount, text):
    assert progress.rate_text(amount, 2, "voxels") == text


def test_a_stage_reports_to_the_function_it_is_given(tmp_path):
    """From 0 to all; nobody is told of a stage that follows without the function."""
    seen = []
    image = np.arange(2 * 70 * 600, dtype=np.uint16).reshape(70, 2, 600)
    convert_volume(image, tmp_path / "one.zarr", resources=SERIAL, progress=seen.append)
    first = [report for report in seen if report.description == seen[0].description]
    assert first[0].done == 0
    assert first[-1].done == first[-1].total == image.size
    assert first[0].unit == "voxels"
    count = len(seen)
    convert_volume(image, tmp_path / "two.zarr", resources=SERIAL)
    assert len(seen) == count


def test_what_the_function_raises_ends_the_stage_which_then_goes_on(tmp_path):
    class Enough(Exception):
        pass

    def stop(report):
        if report.done:
            raise Enough

    image = np.arange(2 * 140 * 600, dtype=np.uint16).reshape(140, 2, 600)
    with pytest.raises(Enough):
        convert_volume(image, tmp_path / "one.zarr", resources=SERIAL, progress=stop)
    seen = []
    found = convert_volume(image, tmp_path / "one.zarr", resources=SERIAL, progress=seen.append)
    assert 0 < seen[0].done < image.size
    np.testing.assert_array_equal(found.read(), image)
