"""Decoders: how a prediction becomes instances, as two rules and a few numbers.

Three code paths, and the field's names as presets of them:

- ``seeded_watershed``: seeds are the 26-connected components of the voxels that pass the seed
  rule; they flood the voxels that pass the foreground rule (`cristae.segmentation.flood`).
  ``stack_2d`` does so slice by slice, then joins slices (`cristae.segmentation.stacking`).
- ``connected``: instances are the 26-connected components of the voxels that pass the foreground
  rule, widened in plane where the decoder says so.
- ``affinity``: instances are what the edges that pass ``affinity_threshold`` hold together, an
  edge being two voxels that share a face (`cristae.segmentation.affinity`); with a
  ``merge_threshold``, what fragments of these agglomerate to (`cristae.segmentation.agglomerate`).

A threshold is a probability t and is compared as PyTorch Connectomics v1 does: a uint8 value v
passes ``> t`` with v > int(255 t) and ``< t`` with v < int(255 t). A distance threshold is a signed
distance, d = v / 127.5 - 1. Channels are known by position: mask, contour, distance; or one
affinity along each axis, z, y, x with the voxel before unless the prediction's ``offsets`` (one a
channel) say otherwise. A channel whose name says something else than its position is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import config_dataclass
from cristae.errors import ConfigError, raise_faults
from cristae.grid import Triple
from cristae.volumes.values import probabilities
from cristae.volumes.volume import Array, Volume

Levels = NDArray[np.uint8]
CodePath = Literal["seeded_watershed", "connected", "affinity"]

CHANNELS = ("mask", "contour", "distance")
AFFINITIES = ("affinity_z", "affinity_y", "affinity_x")
OFFSETS: tuple[Triple, ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
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
        dilation: Extent (z, y, x) of the box that widens instances in plane, odd, z = 1.
        min_seed_size: Seeds of fewer voxels are dropped.
        min_size: Instances of fewer voxels are small; they are removed after everything else.
        small: What becomes of small instances: ``background``, or ``neighbor`` for the instance
            with most contact in plane (background where there is none).
        allow_approximate: Cut a component too large for memory along borders of blocks, and flag
            its instances, instead of refusing it. Then the block shape is a setting like others.
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


@dataclass(frozen=True)
class Decoder:
    """A name of the field: a code path, the channels it reads, and its defaults.

    A planar one decodes slice by slice, and does without a contour where there is none.
    """

    path: CodePath
    channels: int
    defaults: Mapping[str, Any]
    planar: bool = False

    def fitted(self, channels: int) -> "Decoder":
        """The decoder for a prediction of so many channels."""
        if not self.planar or channels > 1:
            return self
        defaults = {k: v for k, v in self.defaults.items() if k != "contour_threshold"}
        return replace(self, channels=1, defaults=defaults)


_WATERSHED = {"min_seed_size": 32, "min_size": 128, "small": "background"}
_CONNECTED = {"min_size": 128, "small": "background"}
_BC = {"seed_threshold": 0.9, "contour_threshold": 0.8, "foreground_threshold": 0.85, **_WATERSHED}
_DISTANCE = {"distance_seed_threshold": 0.5, "distance_foreground_threshold": 0.0}

DECODERS: dict[str, Decoder] = {
    "bc_watershed": Decoder("seeded_watershed", 2, _BC),
    "mitoem": Decoder(
        "seeded_watershed",
        2,
        {
            **_BC,
            "seed_threshold": 0.85,
            "contour_threshold": 0.6,
            "foreground_threshold": 0.8,
            "min_size": 1024,
        },
    ),
    "bcd_watershed": Decoder("seeded_watershed", 3, {**_BC, **_DISTANCE}),
    "binary_watershed": Decoder(
        "seeded_watershed",
        1,
        {"seed_threshold": 0.98, "foreground_threshold": 0.85, **_WATERSHED},
    ),
    "binary_connected": Decoder("connected", 1, {"foreground_threshold": 0.8, **_CONNECTED}),
    "bc_connected": Decoder(
        "connected",
        2,
        {
            "foreground_threshold": 0.8,
            "contour_threshold": 0.5,
            "dilation": (1, 5, 5),
            **_CONNECTED,
        },
    ),
    "stack_2d": Decoder("seeded_watershed", 2, {**_BC, "slice_overlap": 0.25}, planar=True),
    "affinity_connected": Decoder("affinity", 3, {"affinity_threshold": 0.8, **_CONNECTED}),
    "affinity_agglomeration": Decoder(
        "affinity",
        3,
        {
            "seed_threshold": 0.9,
            "affinity_threshold": 0.5,
            "merge_threshold": 0.5,
            **_CONNECTED,
        },
    ),
}


@dataclass(frozen=True)
class AffinityRule:
    """Which edges hold, as uint8 levels.

    Attributes:
        offsets: Offset (z, y, x) of the voxel that each channel joins a voxel to.
        edge: An edge joins its voxels where its value is above.
        fragment: An edge makes fragments where its value is above; not below ``edge``.
        merge: Fragments join while the mean of the edges between them is above; None where
            nothing is agglomerated.
    """

    offsets: tuple[Triple, ...]
    edge: int
    fragment: int = 255
    merge: int | None = None


@dataclass(frozen=True)
class Decoding:
    """A decoder with every number fixed; two equal ones give equal instances.

    Attributes:
        decoder: Its name.
        path: Code path.
        channels: Number of channels read, from the first on.
        parameters: Every parameter of the decoder, by name.
        foreground: Rule (above, below, beyond) on uint8 mask, contour and distance.
        seed: Rule of seeds; None on the connected path.
        reach: Voxels (y, x) an instance is widened by to each side.
        affinity: Rule of edges; None on the other paths.
        planar: Whether slices are decoded one by one, and then joined.
        approximate: Whether a component too large for memory is cut.
    """

    decoder: str
    path: CodePath
    channels: int
    parameters: Mapping[str, Any]
    foreground: Triple
    seed: Triple | None
    reach: tuple[int, int] = (0, 0)
    affinity: AffinityRule | None = None
    planar: bool = False
    approximate: bool = False

    @property
    def drops_small_at_once(self) -> bool:
        """Whether a small instance can go before all blocks are known.

        It cannot where voxels are added to it, nor where a neighbour may want it: components
        of a mask touch no other, those of edges do.
        """
        return self.reach == (0, 0) and not (self.affinity and self.to_neighbor)

    @property
    def min_size(self) -> int:
        """Instances of fewer voxels are removed."""
        return int(self.parameters["min_size"])

    @property
    def to_neighbor(self) -> bool:
        """Whether small instances join the neighbour with most contact."""
        return bool(self.parameters["small"] == "neighbor")

    @property
    def min_seed_size(self) -> int:
        """Seeds of fewer voxels are dropped."""
        return int(self.parameters.get("min_seed_size", 0))


def resolve(config: SegmentConfig, prediction: Volume) -> Decoding:
    """Fix every number of a decoder, and check all of them against the prediction.

    A parameter is taken from ``config``, else from the prediction's ``thresholds`` attribute where
    the decoder is the one the prediction names, else from the decoder's defaults.

    Raises:
        ConfigError: An unknown decoder (the known ones are listed), a parameter the decoder does
            not have, a value outside its range, or a prediction with too few channels; all at once.
    """
    named = prediction.attributes.get("decoder")
    name = config.decoder or named or DEFAULT_DECODER
    if name not in DECODERS:
        known = ", ".join(DECODERS)
        raise ConfigError(f"{prediction.name}: decoder {name!r} is not known, known are {known}")
    decoder = DECODERS[name].fitted(len(prediction.channels or ("mask",)))
    own = (prediction.attributes.get("thresholds") or {}) if name == named else {}
    own_fields = [f.name for f in fields(config) if f.name not in ("decoder", "allow_approximate")]
    given = {key: getattr(config, key) for key in own_fields}
    given = {key: value for key, value in given.items() if value is not None}
    parameters = {**decoder.defaults, **own, **given}
    faults = [
        f"{key}: {name} has no such parameter, it has {', '.join(decoder.defaults)}"
        for key in parameters
        if key not in decoder.defaults
    ]
    offsets = prediction.attributes.get("offsets") or OFFSETS
    if isinstance(offsets, list | tuple):
        offsets = offsets[: decoder.channels]  # others join voxels farther away
    faults += _faults_of_values(parameters) + _faults_of_prediction(prediction, name, decoder)
    if decoder.path == "affinity" and not _are_offsets(offsets):
        faults.append(
            f"offsets: {offsets!r} found, expected three of one voxel, one along each axis, "
            f"such as {[list(o) for o in OFFSETS]}"
        )
    raise_faults(f"{prediction.name}, decoder {name}", faults, ConfigError)
    if "dilation" in parameters:
        parameters["dilation"] = tuple(parameters["dilation"])
    if decoder.path == "affinity":
        decoding = _affinity_decoding(name, decoder, parameters, offsets)
    else:
        decoding = _decoding(name, decoder, parameters)
    return replace(decoding, approximate=config.allow_approximate)


def _faults_of_values(parameters: Mapping[str, Any]) -> list[str]:
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
    cut, merge = (parameters.get(key) for key in ("affinity_threshold", "merge_threshold"))
    if isinstance(cut, float | int) and isinstance(merge, float | int) and merge < cut:
        faults.append(
            f"merge_threshold: {merge!r} found, expected at least affinity_threshold ({cut!r}): "
            "below it, what edges over the threshold hold apart could join"
        )
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


def _are_offsets(value: Any) -> bool:
    """Whether a value is three (z, y, x) offsets of one voxel, one along each axis."""
    try:
        steps = np.array(value)
    except ValueError:  # rows of unequal lengths
        return False
    if steps.shape != (3, 3) or steps.dtype.kind != "i":
        return False
    size = np.abs(steps)
    return bool((size.sum(axis=0) == 1).all() and (size.sum(axis=1) == 1).all())


def _faults_of_prediction(prediction: Volume, name: str, decoder: Decoder) -> list[str]:
    faults = []
    found = 1 if prediction.channels is None else len(prediction.channels)
    if found < decoder.channels:
        names = ", ".join(prediction.channels or ("one, unnamed",))
        known = AFFINITIES if decoder.path == "affinity" else CHANNELS
        needed = ", ".join(known[: decoder.channels])
        faults.append(f"{found} channels found ({names}), {name} needs {needed}")
    for place, channel in enumerate((prediction.channels or ())[: decoder.channels]):
        wanted = "affinity" if decoder.path == "affinity" else CHANNELS[place]
        says = "affinity" if channel.startswith("affinity_") else channel
        if says != wanted and says in (*CHANNELS, "affinity"):
            faults.append(f"channel {place}: {channel} found, {name} takes it for {wanted}")
    if prediction.dtype.kind not in "buif":
        faults.append(f"{prediction.dtype} voxels found, expected a mask or probabilities")
    return faults


def _decoding(name: str, decoder: Decoder, parameters: dict[str, Any]) -> Decoding:
    foreground = int(255 * parameters["foreground_threshold"])
    contour = int(255 * parameters["contour_threshold"]) if decoder.channels > 1 else 256
    if decoder.path == "connected":
        _, y, x = parameters.get("dilation", (1, 1, 1))
        rule = (foreground, contour, -1)
        return Decoding(
            name, decoder.path, decoder.channels, parameters, rule, None, (y // 2, x // 2)
        )
    beyond, seed_beyond = -1, -1
    if decoder.channels > 2:
        beyond = distance_bound(parameters["distance_foreground_threshold"])
        seed_beyond = distance_bound(parameters["distance_seed_threshold"])
    seed = (int(255 * parameters["seed_threshold"]), contour, seed_beyond)
    rule = (foreground, 256, beyond)
    return Decoding(
        name, decoder.path, decoder.channels, parameters, rule, seed, planar=decoder.planar
    )


def _affinity_decoding(
    name: str, decoder: Decoder, parameters: dict[str, Any], offsets: Any
) -> Decoding:
    steps = tuple((int(z), int(y), int(x)) for z, y, x in offsets)
    edge = int(255 * parameters["affinity_threshold"])
    rule = AffinityRule(steps, edge)
    if "merge_threshold" in parameters:
        fragment = max(edge, int(255 * parameters["seed_threshold"]))
        rule = AffinityRule(steps, edge, fragment, int(255 * parameters["merge_threshold"]))
    foreground = (edge, 256, -1)
    return Decoding(
        name, decoder.path, decoder.channels, parameters, foreground, None, affinity=rule
    )


def distance_bound(threshold: float) -> int:
    """The largest uint8 value that does not pass a distance threshold; -1 where all pass."""
    distance = np.arange(256) / 127.5 - 1.0
    return int(np.count_nonzero(distance <= threshold)) - 1


def quantise(array: Array, name: str) -> Levels:
    """A prediction as 256 levels, truncated as PyTorch Connectomics writes it.

    Args:
        array: uint8 (kept), uint16 (65535 is certain) or float probabilities in [0, 1].
        name: What messages call the array.

    Returns:
        uint8 array of the same shape: int(255 p).

    Raises:
        InputError: A float outside [0, 1] by more than rounding, or not a number.
    """
    levels: Levels
    if array.dtype == np.uint8:
        levels = array
        return levels
    if array.dtype.newbyteorder("=") == np.uint16:
        levels = (array // 257).astype(np.uint8)
        return levels
    wide = np.float64 if array.dtype == np.float64 else np.float32
    levels = np.multiply(probabilities(array, name), 255, dtype=wide).astype(np.uint8)
    return levels
