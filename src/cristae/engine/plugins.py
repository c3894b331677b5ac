"""Plugins: what other packages add to a table of cristae, through entry points.

A package names what it adds in its ``pyproject.toml``::

    [project.entry-points."cristae.formats"]
    n5 = "my_package.n5:FORMAT"

Entry points are looked up only for a name, or a source, that cristae itself does not know, and
where all there are is listed.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from cristae.engine.progress import log
from cristae.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

T = TypeVar("T")


def entry_points(group: str) -> "EntryPoints":
    """Those of all packages; loading what finds them takes 14 ms, so it waits until it is used."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def find_plugin(group: str, name: str, kind: type[T]) -> T | None:
    """What a package adds under a name; None where none does.

    Args:
        group: The table, ``cristae.formats``, ``cristae.decoders`` or ``cristae.networks``.
        name: The name in the table.
        kind: What the table holds.

    Raises:
        InputError: It cannot be imported, or is something else; the entry point is named.
    """
    for entry in entry_points(group).select(name=name):
        return _load(entry, kind)
    return None


@cache
def all_plugins(group: str, kind: type[T]) -> dict[str, T]:
    """All that packages add to a table, by name; a broken one is a warning that names it."""
    found = {}
    for entry in entry_points(group):
        try:
            found[entry.name] = _load(entry, kind)
        except InputError as error:
            log.warning("%s", error)
    return found


def _load(entry: "EntryPoint", kind: type[T]) -> T:
    package = "a package" if entry.dist is None else f"package {entry.dist.name}"
    what = f"plugin {entry.name} of {package} ({entry.group}: {entry.value})"
    try:
        found: Any = entry.load()
    except Exception as error:
        raise InputError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise InputError(f"{what}: found a {type(found).__name__}, expected a {kind.__name__}")
    return found
