"""Series of a TIFF file: as tifffile has them, pages that were written one by one put together."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cristae.errors import InputError


class Series(NamedTuple):
    """A series as tifffile has it, or alike ones of one page each put together."""

    number: int
    name: str
    pages: Sequence[Any]
    shape: tuple[int, ...]
    axes: str
    kind: str
    offset: int | None
    keyframe: Any
    transform: Any


def series_of(file: Any) -> list[Series]:
    """Series of a file; such that follow each other, of one page each and alike, are one stack."""
    if not len(file.pages):
        raise InputError(f"{file.filehandle.path}: a TIFF file without pages")
    pages = _written_singly(file)
    if pages is not None:
        found = [
            Series(
                0,
                str(said_by_tifffile(page).get("name", "")),
                [page],
                page.shape,
                page.axes,
                "shaped",
                None,
                page,
                None,
            )
            for page in pages
        ]
    else:
        found = [
            Series(
                0, s.name, s, tuple(s.shape), s.axes, s.kind, s.dataoffset, s.keyframe, s.transform
            )
            for s in file.series
        ]
    runs: list[list[Series]] = []
    for one in found:
        if runs and _alike(runs[-1][0], one):
            runs[-1].append(one)
        else:
            runs.append([one])
    return [_joined(run)._replace(number=number) for number, run in enumerate(runs)]


def _written_singly(file: Any) -> list[Any] | None:
    """All pages, where tifffile wrote each by itself (its series would take seconds to find)."""
    first = file.pages[0]
    if not file.is_shaped or len(file.pages) < 2 or not _says_itself(first):
        return None
    pages = list(file.pages)
    return pages if all(_says_itself(page) for page in pages) else None


def _says_itself(page: Any) -> bool:
    said = said_by_tifffile(page)
    return not page.subifds and said.get("shape") == list(page.shape)


def said_by_tifffile(page: Any) -> dict[str, Any]:
    """What tifffile wrote of a page in its own form."""
    text = page.shaped_description or ""
    said = json.loads(text) if text.startswith("{") else {}
    return said if isinstance(said, dict) else {}


def _alike(one: Series, other: Series) -> bool:
    singles = all(
        len(s.pages) == 1 and s.axes == "YX" and s.pages[0] is not None for s in (one, other)
    )
    return singles and one.keyframe.hash == other.keyframe.hash


def _joined(run: Sequence[Series]) -> Series:
    if len(run) == 1:
        return run[0]
    pages = [one.pages[0] for one in run]
    return run[0]._replace(
        pages=pages, shape=(len(run), *run[0].shape), axes="I" + run[0].axes, offset=None
    )


def choose(name: str, found: Sequence[Series], wanted: str | None) -> Series:
    """The series wanted, by number or name; the only one where none is.

    Raises:
        InputError: No such series, or several and none wanted; all are listed.
    """
    full = [one for one in found if not one.keyframe.is_reduced]  # the file calls others smaller
    if wanted is None and (len(found) == 1 or len(full) == 1):
        return (full or found)[0]
    named = [one for one in found if wanted is not None and one.name == wanted]
    if wanted is not None and wanted.isdecimal() and int(wanted) < len(found) and not named:
        return found[int(wanted)]
    if len(named) == 1:
        return named[0]
    shown = [
        f"--series {one.number}: {' x '.join(map(str, one.shape))} ({one.axes.lower()}), "
        f"{one.keyframe.dtype}" + (f", {one.name!r}" if one.name else "")
        for one in found[:12]
    ] + ([f"and {len(found) - 12} more"] if len(found) > 12 else [])
    what = "one" if wanted is None else f"series {wanted!r}"
    lines = "\n".join(f"  - {line}" for line in shown)
    raise InputError(f"{name}: found {len(found)} series of planes, expected {what}:\n{lines}")
