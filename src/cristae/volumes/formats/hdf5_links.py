"""Datasets of an HDF5 file by their names in this file, and every file that their voxels lie in.

HDF5 fills what it does not find: a virtual dataset whose source is gone reads as zeros. So all that
a dataset is made from is looked for before it is read.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py

from cristae.errors import raise_faults

SHOWN = 20


@dataclass
class Listing:
    """What a group holds, links followed; each object once, also where links go in circles.

    Attributes:
        datasets: By their names below the root of the file at hand.
        broken: Names of links to nothing, with what they point to.
    """

    datasets: dict[str, Any] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def list_datasets(group: Any, name: str = "") -> Listing:
    """The datasets of a file or group, hard links before others.

    Args:
        group: An open file or group.
        name: Its name in the file at hand, which begins that of each dataset.
    """
    listing = Listing()
    _fill(listing, group, name)
    return listing


def link_target(group: Any, name: str) -> str | None:
    """Where a name of a file or group points to, in words; None where it is no link."""
    try:
        link = group.get(name, getlink=True)
    except (KeyError, RuntimeError):
        return None
    if isinstance(link, h5py.ExternalLink):
        return f"{link.path} in {link.filename}"
    return link.path if isinstance(link, h5py.SoftLink) else None


def files_of(dataset: Any, name: str) -> tuple[str, ...]:
    """Every file that a dataset's voxels lie in, the one at hand first.

    Raises:
        InputError: Files or datasets that are missing; all at once.
    """
    found: dict[str, None] = {}
    faults = list(dict.fromkeys(_collect(dataset, found, set())))
    if len(faults) > SHOWN:
        faults[SHOWN:] = [f"and {len(faults) - SHOWN} more"]
    raise_faults(name, faults)
    return tuple(found)


def _fill(listing: Listing, group: Any, name: str) -> None:
    seen, waiting = {_place(group)}, [(name, group)]
    while waiting:
        name, group = waiting.pop()
        links = {key: group.get(key, getlink=True) for key in group}
        inner = []
        for key in sorted(links, key=lambda key: (not isinstance(links[key], h5py.HardLink), key)):
            full, node = f"{name}/{key}", group.get(key)
            if node is None:
                listing.broken[full] = link_target(group, key) or "nothing"
            elif isinstance(node, h5py.Group | h5py.Dataset) and _place(node) not in seen:
                seen.add(_place(node))
                if isinstance(node, h5py.Dataset):
                    listing.datasets[full] = node
                else:
                    inner.append((full, node))
        waiting += inner[::-1]  # in order of name


def _place(node: Any) -> tuple[str, int]:
    """What tells an object from all others: its file, and where it lies in it."""
    return os.path.realpath(node.file.filename), int(h5py.h5o.get_info(node.id).addr)


def _collect(dataset: Any, found: dict[str, None], seen: set[tuple[str, int]]) -> Iterator[str]:
    """Add the files of a dataset; yields what is missing."""
    if _place(dataset) in seen:
        return
    seen.add(_place(dataset))
    file = os.path.abspath(dataset.file.filename)
    found[file] = None
    for raw, _, _ in dataset.external or ():
        if not os.path.isfile(raw):
            yield f"its voxels lie in {raw}, which is missing"
        found[os.path.abspath(raw)] = None
    if not dataset.is_virtual:
        return
    reach: dict[tuple[str, str], tuple[int, ...]] = {}
    points: dict[tuple[str, str], int] = {}
    for source in dataset.virtual_sources():
        key, last = (source.file_name, source.dset_name), _last(source.src_space)
        reach[key] = tuple(max(pair) for pair in zip(reach.get(key) or last, last, strict=False))
        points[key] = max(points.get(key, 0), int(source.vspace.get_select_npoints()))
    for key, last in reach.items():
        yield from _collect_source(dataset, key, (last, points[key]), found, seen)


def _last(space: Any) -> tuple[int, ...]:
    """The last element that is selected along each axis; nothing where it is all of them."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return ()
    return tuple(int(i) for i in space.get_select_bounds()[1])


def _collect_source(
    dataset: Any,
    source: tuple[str, str],
    needed: tuple[tuple[int, ...], int],
    found: dict[str, None],
    seen: set[tuple[str, int]],
) -> Iterator[str]:
    """One source of a virtual dataset, of which so many elements up to a last one are read."""
    (name, inner), (last, points) = source, needed
    if "%b" in name + inner:  # numbered blocks: HDF5 takes those that are there
        yield from _collect_blocks(dataset, name, found)
        return
    inner = inner.replace("%%", "%")
    paths = _candidates(dataset.file.filename, name.replace("%%", "%"))
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        yield f"source {name} of the virtual dataset is missing"
        return
    found[os.path.abspath(path)] = None
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            node = file.get(inner)
            if not isinstance(node, h5py.Dataset):
                yield f"source {name} of the virtual dataset has no dataset {inner}"
            elif node.size < points or any(n <= i for n, i in zip(node.shape, last, strict=False)):
                yield (
                    f"source {name}:{inner} of the virtual dataset has shape {node.shape}, "
                    f"which is less than is read of it"
                )
            else:
                yield from _collect(node, found, seen)
    except (OSError, ValueError) as error:
        yield f"source {name} of the virtual dataset cannot be read: {error}"


def _collect_blocks(dataset: Any, name: str, found: dict[str, None]) -> Iterator[str]:
    pattern = glob.escape(name).replace("%b", "*").replace("%%", "%")
    for candidate in _candidates(dataset.file.filename, pattern):
        if paths := sorted(glob.glob(candidate)):
            found.update(dict.fromkeys(map(os.path.abspath, paths)))
            return
    yield f"source {name} of the virtual dataset is missing"


def _candidates(main: str, name: str) -> list[str]:
    """Where HDF5 looks for a file that another one names."""
    folder = os.path.dirname(os.path.abspath(main))
    if name == ".":
        return [main]
    if os.path.isabs(name):
        return [name, os.path.join(folder, os.path.basename(name))]
    return [os.path.join(folder, name), name]
