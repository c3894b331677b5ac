"""Configurations: frozen dataclasses, checked strictly, read from YAML with overrides.

A stage's configuration is a dataclass beside the code that reads it, made with
`config_dataclass`. A key that no field has is an error that names the key.
"""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from cristae.errors import ConfigError, SourceNotFoundError, raise_faults
from cristae.renamed import RENAMED, current_names
from cristae.settings import nearest

C = TypeVar("C")

LARGEST_BYTES, MOST_VALUES, DEEPEST = 1 << 20, 100_000, 50
"""A text with more bytes, values (those that aliases repeat counted) or levels is no configuration;
reading it would take long, or all memory."""

_SHOWN = 80
"""Characters of a value that a message shows."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass_transform(frozen_default=True)
def config_dataclass(cls: type[C]) -> type[C]:
    """Make a class a frozen dataclass whose fields are checked strictly when it is made."""
    made = pydantic_dataclass(cls, frozen=True, config=ConfigDict(extra="forbid"))
    made.__init__ = _by_either_name(made.__init__)  # type: ignore[method-assign]
    return cast(type[C], made)


def _by_either_name(init: Callable[..., None]) -> Callable[..., None]:
    """Take keywords by their names in release 0.1, too, with a DeprecationWarning."""

    @wraps(init)
    def initialise(self: Any, *args: Any, **named: Any) -> None:
        for old in RENAMED.keys() & named.keys():
            text = f"{type(self).__name__}({old}=...): expected {RENAMED[old]}, its new name"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        init(self, *args, **current_names(named))

    return initialise


def load_config(
    cls: type[C], source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> C:
    """Read, override and check a configuration.

    Args:
        cls: A class made with `config_dataclass`.
        source: A YAML file, or its content as a mapping.
        overrides: ``key.path=value``; the value is YAML, a number in the path is a list index.

    Returns:
        The configuration.

    Raises:
        SourceNotFoundError: No such file.
        ConfigError: YAML that cannot be read, unknown keys, values of the wrong type; all at once.
    """
    name = str(source) if isinstance(source, str | Path) else cls.__name__
    return from_plain(cls, load_tree(source, overrides), name)


def load_tree(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """The keys and values that a configuration gives, overridden but not checked.

    Args:
        source: A YAML file, or its content as a mapping.
        overrides: See `load_config`.

    Raises:
        SourceNotFoundError: No such file.
        ConfigError: YAML or overrides that cannot be read.
    """
    tree = (
        read_yaml(Path(os.path.expanduser(source)))
        if isinstance(source, str | Path)
        else _copy(source)
    )
    tree = current_names(tree)
    for override in overrides:
        _apply(tree, override)
    return tree


def from_plain(cls: type[C], tree: Any, name: str) -> C:
    """A configuration from plain values (dicts, lists, numbers, strings, null).

    Raises:
        ConfigError: Unknown keys or values of the wrong type; all at once, each with its path.
    """
    tree = current_names(tree)
    raise_faults(name, list(_faults_of_values(tree)), ConfigError)
    try:
        # JSON mode: strict, yet a list may stand for a tuple
        return TypeAdapter(cls).validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise_faults(name, [_describe(e, cls) for e in error.errors()], ConfigError)
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: {error}") from error


def _faults_of_values(node: Any, where: str = "") -> Iterator[str]:
    """A fault for every number that is none, and every text that UTF-8 cannot hold."""
    if isinstance(node, float) and not math.isfinite(node):
        yield f"{where or 'value'}: {node} found, expected a finite number"
    elif isinstance(node, str) and node.encode("utf-8", "ignore").decode() != node:
        yield f"{where or 'value'}: {node!r} found, expected a name in UTF-8"
    elif isinstance(node, Mapping | list | tuple):
        inner = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in inner:
            yield from _faults_of_values(value, f"{where}.{key}" if where else str(key))


def to_plain(config: Any) -> Any:
    """A configuration as plain dicts, lists, numbers and strings, ready for YAML or JSON."""
    if hasattr(config, "plain") and not isinstance(config, type):  # it says how
        return to_plain(config.plain())
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    return config


def _copy(tree: Mapping[str, Any]) -> Any:
    return to_plain(tree)


def read_yaml(path: Path) -> Any:
    """The keys and values of a YAML file.

    Raises:
        SourceNotFoundError: No such file.
        ConfigError: Not readable as YAML, or something other than keys and values.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file".replace("\0", "\\0"))
    with path.open("rb") as file:
        text = file.read(LARGEST_BYTES + 1)
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {type(tree).__name__}, expected keys and values")
    return tree


def parse_yaml(text: bytes | str, name: str) -> Any:
    """The values of a YAML text.

    Raises:
        ConfigError: Not readable as YAML, or larger or deeper than any configuration.
    """
    if len(text) > LARGEST_BYTES:
        raise ConfigError(f"{name}: more than {LARGEST_BYTES} bytes found, expected a short text")
    try:
        _check_extent(text, name)
        return yaml.load(text, _Loader)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a date such as 13-45
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name}: not readable as YAML: {error}") from error


def _check_extent(text: bytes | str, name: str) -> None:
    """Count values and levels before any is made, those behind aliases as often as they are named.

    Raises:
        ConfigError: Too many.
    """
    counts, anchors, known = [0], list[str | None](), dict[str, int]()
    for event in yaml.parse(text, _Loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor in anchors:
                raise ConfigError(f"{name}: alias *{anchor} inside of what it names")
            counts[-1] += known.get(str(anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            known |= {anchor: 1} if anchor else {}
        elif isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            count, closed = counts.pop(), anchors.pop()
            counts[-1] += count
            known |= {closed: count} if closed else {}
        if len(counts) > DEEPEST:
            raise ConfigError(f"{name}: nested more than {DEEPEST} levels deep, expected fewer")
        if counts[-1] > MOST_VALUES:
            raise ConfigError(f"{name}: more than {MOST_VALUES} values, expected fewer")


def _apply(tree: Any, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: expected key=value")
    *parents, last = (RENAMED.get(part, part) for part in key.split("."))
    node = tree
    for part in parents:
        if isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            node = node[_index(node, part, key)]
    if isinstance(node, dict):
        node[last] = _value(text, key)
    else:
        node[_index(node, last, key)] = _value(text, key)


def _value(text: str, key: str) -> Any:
    value = parse_yaml(text, f"--set {key}={text[:_SHOWN]}")
    if isinstance(value, str):
        try:  # YAML 1.1 takes 1e-3 for a string
            return float(value)
        except ValueError:
            return value
    return value


def _index(node: Any, part: str, key: str) -> int:
    if not isinstance(node, list):
        raise ConfigError(f"--set {key}: {part!r} is below {node!r}, which has no keys")
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--set {key}: {part!r} found, expected an index from 0 to {len(node) - 1}"
        )
    return int(part)


def _describe(error: Any, cls: Any) -> str:
    # a part in angle brackets names which of several classes a value was read as, not a key
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith("<"))
    if error["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        meant = nearest(where, cls)
        end = f"; the nearest is {meant}" if meant else ""
        return f"{where}: no such key (found value {error['input']!r}){end}"
    return f"{where}: {error['msg']} (found {error['input']!r})"
