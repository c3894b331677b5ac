"""Packages that are installed beside cristae: one that works, one that does not."""

from pathlib import Path

import numpy as np
import pytest

from cristae import cli
from cristae.engine.plugins import all_plugins
from cristae.errors import ConfigError, InputError
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decode import decode

GOOD = """
import numpy as np
from cristae.engine.identity import Identity, SourceFiles
from cristae.segmentation.decoder import Decoder
from cristae.segmentation.connected import Connected
from cristae.volumes.formats.format import Format
from cristae.volumes.volume import ArrayReader, Volume

def open_npy(path, options):
    array = np.load(path)
    identity = Identity((SourceFiles(options.name, str(path.parent), (path.name,)),))
    return Volume(options.name, ArrayReader(array), array.shape, array.dtype, identity=identity)

FORMAT = Format("NumPy file", "file.npy", open_npy, suffixes=(".npy",))
DEFAULTS = {"foreground_threshold": 0.5, "min_size": 1, "small": "background"}
DECODER = Decoder(Connected, ("mask",), DEFAULTS)
"""


def install(folder: Path, name: str, code: str, entries: str) -> None:
    """What pip leaves of a package."""
    (folder / f"{name}.py").write_text(code)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entries)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    good = "[cristae.formats]\nnpy = good_plugin:FORMAT\n"
    good += "[cristae.decoders]\nplain = good_plugin:DECODER\n"
    install(tmp_path, "good_plugin", GOOD, good)
    broken = "[cristae.formats]\nodd = broken_plugin:FORMAT\n"
    broken += "[cristae.decoders]\nodd = broken_plugin:DECODER\n"
    install(tmp_path, "broken_plugin", "import no_such_module", broken)
    monkeypatch.syspath_prepend(tmp_path)
    all_plugins.cache_clear()
    np.save(tmp_path / "a.npy", np.full((2, 3, 4), 200, np.uint8))
    yield tmp_path
    all_plugins.cache_clear()


def test_the_command_line_reads_a_format_of_a_package(
    packages: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cli.app(["info", str(packages / "a.npy")], standalone_mode=False)
    assert "NumPy file" in capsys.readouterr().out
    (line,) = [m for m in caplog.messages if "plugin" in m]
    assert line.startswith("plugin odd of package broken_plugin (cristae.formats: broken_plugin:")
    assert "No module named 'no_such_module'" in line


def test_a_decoder_of_a_package(packages: Path) -> None:
    levels = np.full((2, 3, 4), 200, np.uint8)
    assert decode(levels, SegmentConfig(decoder="plain")).max() == 1
    with pytest.raises(InputError, match=r"plugin odd of package broken_plugin .* imported"):
        decode(levels, SegmentConfig(decoder="odd"))
    with pytest.raises(ConfigError, match=r"decoder 'none' is not known, .*mitoem.*, plain$"):
        decode(levels, SegmentConfig(decoder="none"))
