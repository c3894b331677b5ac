"""Channels: what the names of a network's outputs say of affinities.

``affinity_z`` is whether a voxel and the one before it along z are of one instance (so for y and
x), ``affinity_z4`` the same with the voxel 4 before it. A decoder that only gets the values needs
to be told which voxel each channel joins a voxel to: that is its offset.
"""

import re

from cristae.grid import Triple

_AFFINITY = re.compile(r"affinity_([zyx])([1-9]\d*)?")


def affinity_step(channel: str) -> tuple[int, int] | None:
    """Axis (0, 1, 2 for z, y, x) and range in voxels that an affinity's name says, else None."""
    named = _AFFINITY.fullmatch(channel)
    return ("zyx".index(named[1]), int(named[2] or 1)) if named else None


def affinity_offsets(channels: tuple[str, ...]) -> tuple[Triple, ...]:
    """Offset (z, y, x) of the voxel that each channel joins a voxel to.

    One for each channel up to the first that is no affinity; ``affinity_z`` is (-1, 0, 0).
    """
    offsets = []
    for channel in channels:
        step = affinity_step(channel)
        if step is None:
            break
        along = [0, 0, 0]
        along[step[0]] = -step[1]
        offsets.append((along[0], along[1], along[2]))
    return tuple(offsets)
