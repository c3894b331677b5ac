"""What is compared: volumes of one place, checked before any of them is read."""

from dataclasses import dataclass, replace

import numpy as np

from cristae.errors import InputError, raise_faults
from cristae.grid import Box
from cristae.volumes.place import Align, laid_on, lay, misplaced
from cristae.volumes.volume import Volume

FLOAT_UNIT = 1 << 24
"""Scores that are floats are counted in steps of 2**-24, so that their sums are integers too."""


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
    """The box to compare in the prediction's voxels, and every volume on it, voxel by voxel.

    Nothing is read; options and errors are those of `overlap_table`.
    """
    prediction, truth, volumes = compared.prediction, compared.truth, compared.volumes
    faults = _type_faults(compared)
    overlays = {}
    for role, volume in volumes.items():
        try:
            overlays[role] = lay(prediction, volume, align, crop=True)
        except InputError as error:
            faults.append(f"{role} {error}")
    raise_faults(f"{prediction.name} and {truth.name}", faults)
    common = overlays["truth"].box
    if not overlays["truth"].same and not crop:
        reason = "expected the same place (crop compares the common part)"
        faults.append(f"truth {misplaced(prediction, truth, reason)}")
    for role in ("scores", "mask"):
        if role in overlays and not overlays[role].box.contains(common):
            found = f"{role} at {overlays[role].box} does not cover {common}"
            faults.append(f"{role} {misplaced(prediction, volumes[role], found)}")
    raise_faults(f"{prediction.name} and {truth.name}", faults)
    parts = {
        role: laid_on(prediction, volume, overlays[role]).crop(
            common.relative_to(overlays[role].box.start)
        )
        for role, volume in volumes.items()
    }
    placed = replace(
        compared,
        prediction=parts["prediction"],
        truth=parts["truth"],
        scores=parts.get("scores"),
        mask=parts.get("mask"),
    )
    return common, placed


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
