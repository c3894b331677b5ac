"""Settings that had another name in release 0.1: read by either, recorded by the old one.

Records, model files and checkpoints keep the old names, so that what either release wrote is known
to the other.
"""

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "label_widening_nm": "label_dilation_nm",
    "paste": "copy_paste",
    "section_step": "z_stride",
    "variants": "tta",
}
"""Old names and today's."""

_OLD = {new: old for old, new in RENAMED.items()}


def current_names(tree: Any) -> Any:
    """A tree of plain values whose keys have today's names; a key that has both stays as it is."""
    return _named(tree, RENAMED)


def recorded_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of plain values whose keys have the names that records keep."""
    named: dict[str, Any] = _named(tree, _OLD)
    return named


def _named(tree: Any, names: Mapping[str, str]) -> Any:
    if isinstance(tree, Mapping):
        return {
            names[key] if key in names and names[key] not in tree else key: _named(value, names)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_named(value, names) for value in tree]
    return tree
