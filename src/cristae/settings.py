"""Settings: the fields of configurations, as a person finds them in help and in messages."""

import dataclasses
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_ENTRY = re.compile(r"^ {4}(\w+): (.*)$")
_LINK = re.compile(r"`+([^`]*)`+")
_SHORT = {int: "whole number", float: "number", bool: "true or false", str: "text"}


class Setting(NamedTuple):
    """A field of a configuration.

    Attributes:
        key: As ``--set`` and YAML name it, ``a.b``; ``N`` stands for an index of a list.
        type: What it takes.
        default: As YAML, ``-`` where a value has to be given.
        text: What it is.
    """

    key: str
    type: str
    default: str
    text: str


def settings_of(cls: Any, before: str = "") -> Iterator[Setting]:
    """All settings of a configuration, those of configurations within it too.

    Args:
        cls: A class made with `cristae.configuration.config_dataclass`.
        before: Key of the configuration, with a dot behind it.
    """
    texts = dict(_described(cls))
    types_of = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = [part for part in _parts(types_of[field.name]) if dataclasses.is_dataclass(part)]
        key = before + field.name
        listed = "N." if typing.get_origin(_plain(types_of[field.name])) is tuple else ""
        default, text = _default(field), texts.get(field.name, "")
        if not inner or default == "null" or listed:
            yield Setting(key, _named(types_of[field.name]), default, text)
        for one in inner:
            yield from settings_of(one, f"{key}.{listed}")


def _described(cls: Any) -> Iterator[tuple[str, str]]:
    """Name and text of each entry under ``Attributes:`` in the docstring of a class."""
    _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    name, text = "", ""
    for line in [*attributes.splitlines(), "    end: "]:
        entry = _ENTRY.match(line)
        if entry:
            if name:
                yield name, _LINK.sub(r"\1", text)
            name, text = entry.groups()
        elif line.strip():
            text += " " + line.strip()


def table(settings: Iterable[Setting], width: int = 100) -> str:
    """Settings as lines for a terminal: key, what it takes and the default, then what it is."""
    wrap = textwrap.TextWrapper(
        width,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = []
    for key, kind, default, text in settings:
        lines += [f"  {key}  ({kind}; {default})", *wrap.wrap(text)]
    return "\n".join(lines)


def nearest(key: str, cls: Any) -> str | None:
    """The setting that a wrong key may have meant; None where none is alike."""
    path = re.sub(r"\.\d+\.", ".N.", key)
    keys = {setting.key for setting in settings_of(cls)}
    keys |= {".".join(k.split(".")[:n]) for k in keys for n in range(1, k.count(".") + 1)}
    found = difflib.get_close_matches(path, sorted(keys), 1, 0.7)
    last = path.rpartition(".")[2]
    found += [k for k in sorted(keys) if k.rpartition(".")[2] == last]
    return found[0] if found else None


def _default(field: "dataclasses.Field[Any]") -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "-"
    return _as_yaml(value)


def _as_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return str(value)


def _plain(kind: Any) -> Any:
    """A type without what is annotated, and without None beside it."""
    if typing.get_origin(kind) is typing.Annotated:
        return _plain(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        others = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(others) == 1:
            return _plain(others[0])
    return kind


def _parts(kind: Any) -> list[Any]:
    """The types that a value, or a value of a list, may have."""
    kind = _plain(kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return [part for one in inner for part in _parts(one)]
    if origin is tuple and len(inner) == 2 and inner[1] is ...:
        return _parts(inner[0])
    return [kind]


def _named(kind: Any) -> str:
    """What a type is called where people read it."""
    kind = _plain(kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " | ".join(map(_as_yaml, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(one) for one in inner if one is not type(None)))
    if origin is tuple:
        many = len(inner) == 2 and inner[1] is ...
        return f"[{_named(inner[0])}, ...]" if many else f"[{', '.join(map(_named, inner))}]"
    if origin in (dict, list) or kind in (dict, list) or typing.get_origin(kind) is not None:
        return "keys and values"
    if dataclasses.is_dataclass(kind):
        return "settings below"
    return _SHORT.get(kind, getattr(kind, "__name__", str(kind)))
