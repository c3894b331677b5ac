"""A segmentation that is asked for: what its record names."""

from pathlib import Path
from typing import Any

from cristae.configuration import to_plain
from cristae.errors import InputError
from cristae.grid import Triple
from cristae.segmentation.job import Decoding

VERSION = 2
"""Raised when the same prediction and parameters would give other labels, or other scratch files:
those of an interrupted run are read by the next."""


def check_name(out: Path) -> None:
    """Raise an InputError for an output that is not named ``.zarr``."""
    if out.suffix != ".zarr":
        raise InputError(f"output {out}: expected a name that ends with .zarr")


def segment_settings(
    decoding: Decoding, block_shape: Triple | None, pyramid: bool
) -> dict[str, Any]:
    """The settings that make a segmentation this one, for its record."""
    parameters = to_plain(decoding.parameters)
    settings = {"version": VERSION, "decoder": decoding.decoder, "pyramid": pyramid, **parameters}
    settings |= to_plain(decoding.settings)
    if decoding.approximate:  # a cut follows the blocks
        settings |= {"allow_approximate": True, "block_shape": block_shape and list(block_shape)}
    return settings
