"""Decoder: a row of the table `cristae.segmentation.decoders.DECODERS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cristae.segmentation.config import Preset
from cristae.segmentation.job import Decoding


@dataclass(frozen=True)
class Parameter:
    """A parameter that `SegmentConfig` does not have.

    Attributes:
        name: Its name.
        fits: Whether a value can be used.
        expected: What values can be, for messages: ``a number of voxels, 0 or more``.
        text: What it is, in a line.
    """

    name: str
    fits: Callable[[Any], bool]
    expected: str
    text: str


def _as_it_is(preset: Preset, channels: int) -> Preset:
    return preset


@dataclass(frozen=True)
class Decoder:
    """A way from probabilities to instances.

    Attributes:
        decoding: Labels, joins and decodes, with every number fixed.
        channels: What the channels are, in order: ``mask``, ``contour``, ``distance``, or
            ``affinity_z``, ``affinity_y``, ``affinity_x``. Presets may read the first ones only.
        defaults: Its parameters. Those that `SegmentConfig` has mean here what they mean there;
            ``min_size`` and ``small`` have to be among them. Those of cristae have theirs in
            `cristae.segmentation.config.PRESETS`.
        own: The others.
        fitted: What a preset becomes for a prediction of so many channels.
    """

    decoding: type[Decoding]
    channels: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    own: tuple[Parameter, ...] = ()
    fitted: Callable[[Preset, int], Preset] = _as_it_is
