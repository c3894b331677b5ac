"""The table of formats, and which of them a path is of."""

from pathlib import Path

from cristae.engine.plugins import all_plugins
from cristae.errors import InputError
from cristae.volumes.formats import (
    foreign_zarr,
    hdf5,
    prediction_chunks,
    slices,
    tiff,
    tile_index,
)
from cristae.volumes.formats.format import Format

FORMATS: dict[str, Format] = {
    "zarr": foreign_zarr.FORMAT,
    "hdf5": hdf5.FORMAT,
    "tiff": tiff.FORMAT,
    "prediction_chunks": prediction_chunks.FORMAT,
    "slices": slices.FORMAT,
    "tile_index": tile_index.FORMAT,
}
"""By name. A file is of the first whose suffix it has, else any path of the first whose marker it
has; those of plugins (``cristae.formats``) come last."""


def register_format(name: str, form: Format) -> None:
    """Add a format to the table, for this process.

    Raises:
        InputError: The name is taken.
    """
    if name in FORMATS:
        raise InputError(f"format {name!r}: there is one of that name, {FORMATS[name].title}")
    FORMATS[name] = form


def find_format(path: Path) -> Format | None:
    """The format that a path is of; None where it is of none."""
    found = _first(FORMATS, path)
    if found is None and path.exists():
        return _first(all_plugins("cristae.formats", Format), path)
    return found


def _first(table: dict[str, Format], path: Path) -> Format | None:
    if path.is_file():
        for form in table.values():
            if path.name.lower().endswith(form.suffixes):
                return form
    return next((f for f in table.values() if f.marker is not None and f.marker(path)), None)


def written_forms() -> str:
    """How a source of every format is written, for messages."""
    forms = [*FORMATS.values(), *all_plugins("cristae.formats", Format).values()]
    *others, last = (form.written for form in forms)
    return f"{', '.join(others)}, or {last}"
