"""The table of families, and which one a network is of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from cristae.engine.plugins import all_plugins, find_plugin
from cristae.errors import ConfigError, InputError
from cristae.networks.families.pytc import family as pytc
from cristae.networks.families.unet import family as unet
from cristae.networks.family import Family, NetworkConfig, Trained

FAMILIES: dict[str, Family] = {
    "unet": unet.FAMILY,
    "pytc": pytc.FAMILY,
}
"""By the name in model files. Those of plugins are in the entry points ``cristae.networks``."""


def register_family(name: str, family: Family) -> None:
    """Add a family to the table, for this process; model files of its name are then read.

    Raises:
        InputError: The name is taken.
    """
    if name in FAMILIES:
        raise InputError(f"network family {name!r}: there is one of that name")
    FAMILIES[name] = family


def find_family(name: str, where: str) -> Family:
    """A family by the name in a model file.

    Args:
        name: As the file says.
        where: What messages begin with.

    Raises:
        InputError: There is none; the known ones are listed.
    """
    found = FAMILIES.get(name) or find_plugin("cristae.networks", name, Family)
    if found is None:
        known = [*FAMILIES, *all_plugins("cristae.networks", Family)]
        raise InputError(f"{where}: network: {name!r} found, expected one of {known}")
    return found


def named_family(config: NetworkConfig) -> tuple[str, Family]:
    """The name and the family of what a network is built from.

    Raises:
        TypeError: It is of none.
    """
    for name, family in _all():
        if type(config) is family.config_class:
            return name, family
    raise TypeError(f"{type(config).__name__}: of no network family")


def family_of(config: NetworkConfig) -> Family:
    """The family of what a network is built from."""
    return named_family(config)[1]


def trained_of(config: NetworkConfig) -> Trained:
    """What training needs to know of a network.

    Raises:
        ConfigError: A kind that is only run.
    """
    family = family_of(config)
    if family.trained is None:
        raise ConfigError(f"network: networks of {family.title} are run, not trained")
    return family.trained


def fresh_network(config: NetworkConfig) -> nn.Module:
    """A network with fresh weights."""
    return family_of(config).build(config)


def load_foreign(path: Path) -> Any:
    """The model in another program's file, by the first family that reads it; None by none."""
    for _, family in _all():
        found = family.load(path) if family.load else None
        if found is not None:
            return found
    return None


def _all() -> Iterator[tuple[str, Family]]:
    """The table, then what packages add, which are looked up only if asked for."""
    yield from FAMILIES.items()
    yield from all_plugins("cristae.networks", Family).items()
