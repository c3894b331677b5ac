"""Configurations: frozen dataclasses, checked strictly, read from YAML with overrides.

A stage's configuration is a dataclass beside the code that reads it, made with
`config_dataclass`. A key that no field has is an error that names the key.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from cristae.errors import ConfigError, SourceNotFoundError, raise_faults

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def config_dataclass(cls: type[C]) -> type[C]:
    """Make a class a frozen dataclass whose fields are checked strictly when it is made."""
    made = pydantic_dataclass(cls, frozen=True, config=ConfigDict(extra="forbid"))
    return cast(type[C], made)


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
    for override in overrides:
        _apply(tree, override)
    return tree


def from_plain(cls: type[C], tree: Any, name: str) -> C:
    """A configuration from plain values (dicts, lists, numbers, strings, null).

    Raises:
        ConfigError: Unknown keys or values of the wrong type; all at once, each with its path.
    """
    try:
        # JSON mode: strict, yet a list may stand for a tuple
        return TypeAdapter(cls).validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise_faults(name, [_describe(e) for e in error.errors()], ConfigError)
        raise
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from error


def to_plain(config: Any) -> Any:
    """A configuration as plain dicts, lists, numbers and strings, ready for YAML or JSON."""
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
        raise SourceNotFoundError(f"{path}: no such file")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {type(tree).__name__}, expected keys and values")
    return tree


def _apply(tree: Any, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: expected key=value")
    *parents, last = key.split(".")
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
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}={text}: not readable as YAML: {error}") from error
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


def _describe(error: Any) -> str:
    # a part in angle brackets names which of several classes a value was read as, not a key
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith("<"))
    if error["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"{where}: no such key (found value {error['input']!r})"
    return f"{where}: {error['msg']} (found {error['input']!r})"
