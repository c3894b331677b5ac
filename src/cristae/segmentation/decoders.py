"""Decoders: the table of them, and how one is fixed for a prediction.

- ``watershed``: seeds flood a foreground (`cristae.segmentation.watershed`); ``stack`` does so
  slice by slice, then joins slices (`cristae.segmentation.stacking`).
- ``connected``: instances are components of a mask (`cristae.segmentation.connected`).
- ``affinity``: instances are what edges hold together, an edge being two voxels that share a face
  (`cristae.segmentation.affinity`); ``agglomeration`` joins fragments of these
  (`cristae.segmentation.agglomerate`).

People name a preset of these (`cristae.segmentation.config.PRESETS`), or a decoder of another
package. Channels are known by position: mask, contour, distance; or one affinity along each axis,
z, y, x with the voxel before unless the prediction's ``offsets`` (one a channel) say otherwise. A
channel whose name says something else than its position is refused.
"""

from collections.abc import Mapping
from typing import Any

from cristae.engine.plugins import all_plugins, find_plugin
from cristae.errors import ConfigError, InputError, raise_faults
from cristae.segmentation import affinity, agglomerate, connected, stacking, watershed
from cristae.segmentation.config import (
    DEFAULT_DECODER,
    PRESETS,
    Preset,
    SegmentConfig,
    faults_of_shared,
)
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.job import Decoding
from cristae.settings import Setting
from cristae.volumes.volume import Volume

DECODERS: dict[str, Decoder] = {
    "watershed": watershed.DECODER,
    "stack": stacking.DECODER,
    "connected": connected.DECODER,
    "affinity": affinity.DECODER,
    "agglomeration": agglomerate.DECODER,
}
"""By name. Those of plugins are in the entry points ``cristae.decoders``."""

KINDS = ("mask", "contour", "distance", "affinity")
"""What a channel's name can say."""


def register_decoder(name: str, decoder: Decoder) -> None:
    """Add a decoder to the table, for this process; it is then asked for by its name.

    Raises:
        InputError: The name is taken.
    """
    if name in PRESETS or name in DECODERS:
        raise InputError(f"decoder {name!r}: there is one of that name")
    DECODERS[name] = decoder


def find_decoder(name: str, where: str) -> tuple[Decoder, Preset]:
    """A decoder by the name that a person uses, with its defaults.

    Args:
        name: A preset, or a decoder of another package.
        where: What messages begin with.

    Raises:
        ConfigError: There is none; the known ones are listed.
        InputError: A plugin of that name that cannot be imported.
    """
    if name in PRESETS:
        return DECODERS[PRESETS[name].decoder], PRESETS[name]
    found = DECODERS.get(name) or find_plugin("cristae.decoders", name, Decoder)
    if found is None or not found.defaults:
        raise ConfigError(
            f"{where}: decoder {name!r} is not known, known are {', '.join(decoder_names())}"
        )
    return found, Preset(name, len(found.channels), found.defaults)


def decoder_names() -> list[str]:
    """Every name that a person can use."""
    added = [name for name, decoder in DECODERS.items() if decoder.defaults]
    return [*PRESETS, *added, *all_plugins("cristae.decoders", Decoder)]


def added_settings() -> list[Setting]:
    """Parameters that only decoders of other packages have."""
    return [
        Setting(own.name, own.expected, str(preset.defaults[own.name]), f"{name}: {own.text}")
        for name in decoder_names()[len(PRESETS) :]
        for decoder, preset in [find_decoder(name, "settings")]
        for own in decoder.own
    ]


def resolve(config: SegmentConfig, prediction: Volume) -> Decoding:
    """Fix every number of a decoder, and check all of them against the prediction.

    A parameter is taken from ``config``, else from the prediction's ``thresholds`` attribute where
    the decoder is the one the prediction names, else from the decoder's defaults.

    Raises:
        ConfigError: An unknown decoder (the known ones are listed), a parameter the decoder does
            not have, a value outside its range, or a prediction with too few channels; all at once.
        InputError: A plugin of that name that cannot be imported.
    """
    named = prediction.attributes.get("decoder")
    name = config.decoder or named or DEFAULT_DECODER
    decoder, preset = find_decoder(name, prediction.name)
    preset = decoder.fitted(preset, len(prediction.channels or ("mask",)))
    channels = decoder.channels[: preset.channels]
    own = (prediction.attributes.get("thresholds") or {}) if name == named else {}
    parameters = {**preset.defaults, **own, **config.given}
    faults = [
        f"{key}: {name} has no such parameter, it has {', '.join(preset.defaults)}"
        for key in parameters
        if key not in preset.defaults
    ]
    faults += faults_of_shared(parameters) + _faults_of_own(decoder, parameters)
    faults += _faults_of_prediction(prediction, name, channels)
    faults += decoder.decoding.faults(parameters, prediction, len(channels))
    raise_faults(f"{prediction.name}, decoder {name}", faults, ConfigError)
    if "dilation" in parameters:
        parameters["dilation"] = tuple(parameters["dilation"])
    return decoder.decoding.of(
        name, len(channels), parameters, config.allow_approximate, prediction
    )


def _faults_of_own(decoder: Decoder, parameters: Mapping[str, Any]) -> list[str]:
    return [
        f"{own.name}: {parameters[own.name]!r} found, expected {own.expected}"
        for own in decoder.own
        if not own.fits(parameters[own.name])
    ]


def _faults_of_prediction(prediction: Volume, name: str, channels: tuple[str, ...]) -> list[str]:
    faults = []
    found = 1 if prediction.channels is None else len(prediction.channels)
    if found < len(channels):
        names = ", ".join(prediction.channels or ("one, unnamed",))
        faults.append(f"{found} channels found ({names}), {name} needs {', '.join(channels)}")
    for place, (channel, needed) in enumerate(
        zip(prediction.channels or (), channels, strict=False)
    ):
        wanted, says = _kind(needed), _kind(channel)
        if says != wanted and says in KINDS:
            faults.append(f"channel {place}: {channel} found, {name} takes it for {wanted}")
    if prediction.dtype.kind not in "buif":
        faults.append(f"{prediction.dtype} voxels found, expected a mask or probabilities")
    return faults


def _kind(channel: str) -> str:
    return "affinity" if channel.startswith("affinity_") else channel
