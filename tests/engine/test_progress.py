"""Progress where there is no terminal: a line now and then with share, rate and time left."""

import logging

import pytest

from cristae.engine import progress


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
