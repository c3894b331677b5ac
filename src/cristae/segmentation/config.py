"""What a user may set of a segmentation, and the names of the field as presets of decoders.

Nothing here computes; the decoders themselves are in `cristae.segmentation.decoders`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import model_validator

from cristae.configuration import config_dataclass
from cristae.grid import Triple

PROBABILITIES = (
    "foreground_threshold",
    "seed_threshold",
    "contour_threshold",
    "affinity_threshold",
    "merge_threshold",
    "slice_overlap",
)
DISTANCES = ("distance_seed_threshold", "distance_foreground_threshold")
COUNTS = ("min_seed_size", "min_size")
SMALL = ("background", "neighbor")
DEFAULT_DECODER = "bc_watershed"

Value = bool | int | float | str | tuple[int | float, ...]

_NO_PARAMETERS = ("decoder", "allow_approximate", "parameters")


@dataclass(frozen=True)
class Preset:
    """A name of the field: a decoder, how many channels it reads, and its parameters.

    Attributes:
        decoder: Name in `cristae.segmentation.decoders.DECODERS`.
        channels: Number of channels, from the first on.
        defaults: Every parameter it has.
    """

    decoder: str
    channels: int
    defaults: Mapping[str, Any]


_WATERSHED = {"min_seed_size": 32, "min_size": 128, "small": "background"}
_CONNECTED = {"min_size": 128, "small": "background"}
_BC = {"seed_threshold": 0.9, "contour_threshold": 0.8, "foreground_threshold": 0.85, **_WATERSHED}
_DISTANCE = {"distance_seed_threshold": 0.5, "distance_foreground_threshold": 0.0}

PRESETS: dict[str, Preset] = {
    "bc_watershed": Preset("watershed", 2, _BC),
    "mitoem": Preset(
        "watershed",
        2,
        {
            **_BC,
            "seed_threshold": 0.85,
            "contour_threshold": 0.6,
            "foreground_threshold": 0.8,
            "min_size": 1024,
        },
    ),
    "bcd_watershed": Preset("watershed", 3, {**_BC, **_DISTANCE}),
    "binary_watershed": Preset(
        "watershed",
        1,
        {"seed_threshold": 0.98, "foreground_threshold": 0.85, **_WATERSHED},
    ),
    "binary_connected": Preset("connected", 1, {"foreground_threshold": 0.8, **_CONNECTED}),
    "bc_connected": Preset(
        "connected",
        2,
        {
            "foreground_threshold": 0.8,
            "contour_threshold": 0.5,
            "dilation": (1, 5, 5),
            **_CONNECTED,
        },
    ),
    "stack_2d": Preset("stack", 2, {**_BC, "slice_overlap": 0.25}),
    "affinity_connected": Preset("affinity", 3, {"affinity_threshold": 0.8, **_CONNECTED}),
    "affinity_agglomeration": Preset(
        "agglomeration",
        3,
        {
            "seed_threshold": 0.9,
            "affinity_threshold": 0.5,
            "merge_threshold": 0.5,
            **_CONNECTED,
        },
    ),
}


@config_dataclass
class SegmentConfig:
    """What a user may set of a decoder; None takes the prediction's value, then the decoder's.

    Attributes:
        decoder: Name of a decoder; the prediction's own, else ``bc_watershed``.
        foreground_threshold: Mask probability above which a voxel is foreground.
        seed_threshold: Mask probability above which a voxel may be seed; of
            ``affinity_agglomeration``, affinity above which an edge makes fragments.
        contour_threshold: Contour probability below which it may be.
        affinity_threshold: Affinity above which an edge joins two voxels.
        merge_threshold: Mean affinity above which fragments join.
        distance_seed_threshold: Signed distance in [-1, 1] above which it may be.
        distance_foreground_threshold: Signed distance in [-1, 1] above which it is foreground.
        slice_overlap: Overlap (voxels of both over voxels of either) from which instances of
            consecutive slices are one.
        dilation: Extent (z, y, x) of the box that dilates instances in plane, odd, z = 1.
        min_seed_size: Seeds of fewer voxels are dropped.
        min_size: Instances of fewer voxels are small; they are removed after everything else.
        small: What becomes of small instances: ``background``, or ``neighbor`` for the instance
            with most contact in plane (background where there is none).
        allow_approximate: Cut a component too large for memory along borders of blocks, and flag
            its instances, instead of refusing it. Then the block shape is a setting like others.
        parameters: What only a decoder of another package has; where it is named, its parameters
            may stand beside the others.
    """

    decoder: str | None = None
    foreground_threshold: float | None = None
    seed_threshold: float | None = None
    contour_threshold: float | None = None
    affinity_threshold: float | None = None
    merge_threshold: float | None = None
    distance_seed_threshold: float | None = None
    distance_foreground_threshold: float | None = None
    slice_overlap: float | None = None
    dilation: Triple | None = None
    min_seed_size: int | None = None
    min_size: int | None = None
    small: str | None = None
    allow_approximate: bool = False
    parameters: dict[str, Value] = field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        """Put keys that no field has under ``parameters``, of a decoder that no preset names."""
        given = values if isinstance(values, dict) else dict(values.kwargs or {})
        known = {f.name for f in fields(cls)}
        name = given.get("decoder")
        others = {key: value for key, value in given.items() if key not in known}
        if not others or not isinstance(name, str) or name in PRESETS:
            return values
        kept = {key: value for key, value in given.items() if key in known}
        return {**kept, "parameters": {**dict(given.get("parameters") or {}), **others}}

    @property
    def given(self) -> dict[str, Any]:
        """Every parameter that is set, by name."""
        own = (f.name for f in fields(self) if f.name not in _NO_PARAMETERS)
        values = {name: getattr(self, name) for name in own}
        return {k: v for k, v in values.items() if v is not None} | self.parameters

    def plain(self) -> dict[str, Any]:
        """What `cristae.configuration.to_plain` gives: all parameters beside each other."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "parameters"}
        return values | self.parameters


def faults_of_shared(parameters: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of parameters that `SegmentConfig` has, a line each."""
    faults = []
    for keys, low in ((PROBABILITIES, 0), (DISTANCES, -1)):
        for key in keys:
            value = parameters.get(key, low)
            if not _is_number(value) or not low <= value <= 1:
                faults.append(f"{key}: {value!r} found, expected a number in [{low}, 1]")
    for key in COUNTS:
        value = parameters.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            faults.append(f"{key}: {value!r} found, expected a whole number of voxels, 0 or more")
    if parameters.get("small", "background") not in SMALL:
        faults.append(f"small: {parameters['small']!r} found, expected 'background' or 'neighbor'")
    dilation = parameters.get("dilation", (1, 1, 1))
    if not _is_dilation(dilation):
        faults.append(
            f"dilation: {dilation!r} found, expected (1, y, x) with odd extents (in plane only)"
        )
    return faults


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_dilation(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(v, int) and v > 0 and v % 2 == 1 for v in value)
        and value[0] == 1
    )
