"""Groups of options: what commands share, as one parameter each.

A command names a group as the type of a parameter; typer sees the group's options in its place,
behind the command's own::

    def measure(instances: Instances, reading: Reading, work: Work) -> None: ...
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose groups are options of their own."""
    known = signature(command).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in known if is_dataclass(each.annotation)
    }
    own = [each for each in known if each.name not in groups]
    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own]
    parameters += [
        Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for group in groups.values()
        for each in fields(group)
    ]

    @wraps(command)
    def call(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind)})
            for name, kind in groups.items()
        }
        command(**given, **made)

    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call
