"""What other packages add to a table, and what is said of one that is broken."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from cristae.engine import plugins
from cristae.engine.plugins import all_plugins, find_plugin
from cristae.errors import InputError
from cristae.grid import Box

VALUES = {"good": "cristae.grid:Box.of", "gone": "no_such_package:X", "other": "cristae.grid:tile"}


@pytest.fixture(autouse=True)
def _entries(monkeypatch: pytest.MonkeyPatch) -> None:
    there = EntryPoints(EntryPoint(name, value, "a.group") for name, value in VALUES.items())
    monkeypatch.setattr(plugins, "entry_points", lambda group: there.select(group=group))
    all_plugins.cache_clear()


def test_one_is_found_by_its_name() -> None:
    assert find_plugin("a.group", "good", type(Box.of)) == Box.of
    assert find_plugin("a.group", "none", object) is None
    assert find_plugin("another.group", "good", object) is None


def test_a_broken_one_is_named() -> None:
    with pytest.raises(InputError, match=r"plugin gone of a package \(a.group: no_such_package:X"):
        find_plugin("a.group", "gone", object)
    with pytest.raises(InputError, match=r"plugin other .*: found a function, expected a Box"):
        find_plugin("a.group", "other", Box)


def test_a_broken_one_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert list(all_plugins("a.group", type(Box.of))) == ["good"]
    assert [line.split(" (")[0] for line in caplog.messages] == [
        "plugin gone of a package",
        "plugin other of a package",
    ]
