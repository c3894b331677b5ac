"""Ways in which files are damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """All files, the largest first."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (-path.stat().st_size, str(path)))


def data_file(folder: Path) -> Path:
    """The file that holds most."""
    return files_below(folder)[0]


def entry_file(folder: Path) -> Path:
    """The file that says what the others are: metadata or an index; else the data."""
    named = [p for p in files_below(folder) if p.name in ("zarr.json", ".zarray", ".zattrs")]
    named += [p for p in files_below(folder) if p.suffix.lower() == ".json"]
    return min(named, key=lambda path: len(path.parts)) if named else data_file(folder)


def cut(share: float) -> Callable[[Path], None]:
    """Leave the first part of the data."""

    def damage(folder: Path) -> None:
        path = data_file(folder)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def cut_entry(folder: Path) -> None:
    """Leave half of the metadata."""
    path = entry_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(at: int | float) -> Callable[[Path], None]:
    """Flip bits of one byte: its number, or its place as a share of the file."""

    def damage(folder: Path) -> None:
        path = data_file(folder)
        content = bytearray(path.read_bytes())
        place = at if isinstance(at, int) else int(at * len(content))
        content[place] ^= 0x5A
        path.write_bytes(bytes(content))

    return damage


def empty(folder: Path) -> None:
    """Nothing is left of the data."""
    data_file(folder).write_bytes(b"")


def other_content(folder: Path) -> None:
    """Under the name lies something else."""
    data_file(folder).write_bytes(b"\x00\xff not what the name says " * 40)


def folder_instead(folder: Path) -> None:
    """A folder lies where the file was."""
    path = entry_file(folder)
    path.unlink()
    path.mkdir()


def gone(folder: Path) -> None:
    """The file is not there, or the link to it leads nowhere."""
    path = data_file(folder)
    path.unlink()
    path.symlink_to(folder / "nowhere")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut_10": cut(0.1),
    "cut_50": cut(0.5),
    "cut_99": cut(0.99),
    "cut_metadata": cut_entry,
    "header": flip(5),
    "first_byte": flip(0),
    "middle": flip(0.5),
    "empty": empty,
    "other_content": other_content,
    "folder": folder_instead,
    "gone": gone,
}


def copy_damaged(source: Path, folder: Path, damage: str) -> None:
    """A copy of a source's folder, damaged."""
    shutil.copytree(source, folder)
    DAMAGES[damage](folder)
