"""The table of families, and which one a network is of."""

from torch import nn

from cristae.engine.plugins import all_plugins, find_plugin
from cristae.errors import InputError
from cristae.networks.families import pytc, unet
from cristae.networks.family import Family, NetworkConfig

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
    """The name and the family of what a network is built from."""
    for name, family in FAMILIES.items():
        if type(config) is family.config_class:
            return name, family
    for name, family in all_plugins("cristae.networks", Family).items():
        if type(config) is family.config_class:
            return name, family
    raise TypeError(f"{type(config).__name__}: of no network family")


def family_of(config: NetworkConfig) -> Family:
    """The family of what a network is built from."""
    return named_family(config)[1]


def fresh_network(config: NetworkConfig) -> nn.Module:
    """A network with fresh weights."""
    network: nn.Module = family_of(config).build(config)
    return network
