"""Format: one form that volumes come in, a row of `cristae.volumes.formats.table.FORMATS`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cristae.volumes.formats.axes import OpenOptions
from cristae.volumes.volume import Volume


@dataclass(frozen=True)
class Format:
    """One form that volumes come in.

    Attributes:
        title: What it is called, ``multi-page TIFF``.
        written: How a source of it is written, for messages: ``file.tif``.
        open: ``open(path, options)`` gives the volume: a picklable reader, shape and type of the
            voxels, voxel size and origin with where they were found (`Volume.found`), and the
            identity (`cristae.engine.identity`).
        suffixes: What names of its files end with, in lower case.
        marker: Whether a path is one whatever it is called: by what a folder holds, or by the first
            bytes of a file.
        reads: Options that ``open`` itself reads: ``axes`` (with index and series), ``dataset``
            (what stands behind a colon), ``root``. Where axes are not among them they are
            named and taken over what ``open`` gives; the other two are refused.
    """

    title: str
    written: str
    open: Callable[[Path, OpenOptions], Volume]
    suffixes: tuple[str, ...] = ()
    marker: Callable[[Path], bool] | None = None
    reads: tuple[Literal["axes", "dataset", "root"], ...] = ()
