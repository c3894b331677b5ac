"""Names of channels, and the offsets they stand for."""

import pytest

from cristae.networks.channels import affinity_offsets, affinity_step


@pytest.mark.parametrize(
    ("channel", "step"),
    [
        ("affinity_z", (0, 1)),
        ("affinity_x1", (2, 1)),
        ("affinity_y12", (1, 12)),
        ("affinity_z0", None),
        ("affinity", None),
        ("mask", None),
    ],
)
def test_step(channel, step):
    assert affinity_step(channel) == step


def test_offsets_end_with_the_first_other_channel():
    channels = ("affinity_y", "affinity_z3", "affinity_x", "contour", "affinity_z")
    assert affinity_offsets(channels) == ((0, -1, 0), (-3, 0, 0), (0, 0, -1))
    assert affinity_offsets(("mask", "affinity_z")) == ()
