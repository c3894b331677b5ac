"""What is compared: volumes of one place, checked before any of them is read."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cristae.errors import raise_faults
from cristae.grid import Box, Triple
from cristae.volumes.volume import Volume

Align = Literal["origin", "corner"]

FLOAT_UNIT = 1 << 24
"""Scores that are floats are counted in steps of 2**-24, so that their sums are integers too."""

_TOLERANCE_VX = 1e-3


@dataclass(frozen=True)
class Compared:
    """What is compared, volume by volume.

    Attributes:
        prediction: Labels (z, y, x), 0 background, ids up to 2**64 - 1.
        truth: Labels of the same place.
        scores: Prediction ([c,] z, y, x), unsigned integers over their type's whole range or
            floats in [0, 1], whose mean within an instance is its score.
        score_channel: Channel of ``scores``; the mean over channels by default.
        mask: Voxels where it is 0 are left out of everything.
    """

    prediction: Volume
    truth: Volume
    scores: Volume | None = None
    score_channel: int | None = None
    mask: Volume | None = None

    @property
    def volumes(self) -> dict[str, Volume]:
        """Those given, by role."""
        roles = {
            "prediction": self.prediction,
            "truth": self.truth,
            "scores": self.scores,
            "mask": self.mask,
        }
        return {role: volume for role, volume in roles.items() if volume is not None}

    @property
    def score_unit(self) -> int | None:
        """What a voxel of score 1 adds up to over the channels used; None without scores."""
        if self.scores is None:
            return None
        channels = 1 if self.score_channel is not None else len(self.scores.channels or ("",))
        kind = self.scores.dtype.kind
        if kind in "bf":
            return channels * (FLOAT_UNIT if kind == "f" else 1)
        return channels * int(np.iinfo(self.scores.dtype).max)

    @property
    def bytes_per_voxel(self) -> int:
        """Bytes a worker holds for a voxel of its block."""
        p, t = self.prediction.dtype.itemsize, self.truth.dtype.itemsize
        total = p + t
        if self.scores is not None:
            total += len(self.scores.channels or ("",)) * self.scores.dtype.itemsize
            total += 8 if self.scores.dtype.kind == "f" else 0
        return total if self.mask is None else total + p + t + self.mask.dtype.itemsize + 1


def place_volumes(compared: Compared, crop: bool, align: Align) -> tuple[Box, Compared]:
    """The box to compare in the prediction's voxels, and every volume cropped to it.

    Nothing is read; options and errors are those of `overlap_table`.
    """
    prediction, truth, volumes = compared.prediction, compared.truth, compared.volumes
    faults = _type_faults(compared)
    offsets: dict[str, Triple] = {}
    for role, volume in volumes.items():
        offsets[role], found = _offset(prediction, volume, align)
        faults += found
    raise_faults(f"{prediction.name} and {truth.name}", faults)
    boxes = {role: volume.box.shift(offsets[role]) for role, volume in volumes.items()}
    common = boxes["prediction"].clip(boxes["truth"])
    if boxes["truth"] != boxes["prediction"] and not crop:
        faults.append(
            f"prediction has shape {prediction.shape}, truth has shape {truth.shape} at voxel "
            f"{offsets['truth']} of it; expected the same place (crop compares the common part)"
        )
    elif common.empty:
        faults.append(f"truth at {boxes['truth']} and prediction at {prediction.box} do not meet")
    for role in ("scores", "mask"):
        if role in boxes and not boxes[role].contains(common):
            faults.append(f"{role} at {boxes[role]} does not cover {common}")
    raise_faults(f"{prediction.name} and {truth.name}", faults)
    parts = {role: v.crop(common.relative_to(offsets[role])) for role, v in volumes.items()}
    placed = replace(
        compared,
        prediction=parts["prediction"],
        truth=parts["truth"],
        scores=parts.get("scores"),
        mask=parts.get("mask"),
    )
    return common, placed


def _offset(base: Volume, volume: Volume, align: Align) -> tuple[Triple, list[str]]:
    """Voxel of ``base`` on which voxel 0 of ``volume`` lies, and what is wrong with that."""
    size, other = base.voxel_size_nm, volume.voxel_size_nm
    faults = []
    if size is not None and other is not None and not np.allclose(size, other, rtol=1e-4):
        faults.append(f"voxel size {other} nm of {volume.name}, {size} nm of {base.name}")
    if align == "corner":
        return (0, 0, 0), faults
    # where the voxel size is unknown, origins are counted in voxels
    here, there = (np.array(v.origin_nm) / (v.voxel_size_nm or (1.0,) * 3) for v in (base, volume))
    offset = there - here
    whole = np.rint(offset)
    if not faults and (np.abs(offset - whole) > _TOLERANCE_VX).any():
        z, y, x = np.round(offset, 3).tolist()
        faults.append(
            f"{volume.name} lies ({z}, {y}, {x}) voxels from {base.name}, expected whole voxels"
        )
    z, y, x = (int(i) for i in whole)
    return (z, y, x), faults


def _type_faults(compared: Compared) -> list[str]:
    faults = []
    for role, volume in compared.volumes.items():
        if role != "scores" and volume.channels is not None:
            faults.append(f"{role} has channels {', '.join(volume.channels)}, expected none")
        if role in ("prediction", "truth") and volume.dtype.kind not in "buif":
            faults.append(f"{role} is {volume.dtype}, expected integer labels")
        if role == "scores":
            faults += _score_faults(volume, compared.score_channel)
    return faults


def _score_faults(scores: Volume, channel: int | None) -> list[str]:
    faults = []
    kind, width = scores.dtype.kind, scores.dtype.itemsize
    if kind not in "buf" or (kind == "u" and width > 4):
        faults.append(f"scores are {scores.dtype}, expected uint8 to uint32, or floats in [0, 1]")
    channels = len(scores.channels or ("",))
    if channel is not None and not 0 <= channel < channels:
        faults.append(f"score channel {channel}, scores have channels 0 to {channels - 1}")
    return faults
