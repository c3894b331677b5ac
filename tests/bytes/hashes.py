"""What an output holds, as short digests that say nothing of times, places, versions or packing.

A digest is the beginning of a sha256: of an array's type, shape and voxels in C order; of a text;
of a tree of JSON. Numbers of texts and trees count with 12 and 9 digits, as the last ones may
depend on a processor's square and cube roots.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from cristae.segmentation.segment import read_instances_table, read_runs
from cristae.volumes.formats import open_volume

DIGITS = 16
LONG = re.compile(r"-?\d+\.\d{6,}(?:e[-+]?\d+)?")
BOLD = r"\*\*|\\textbf\{|<strong>"
CELL = re.compile(rf"({BOLD})?(\d+\.\d{{3}})\b")
PASSING = {
    *("id", "state", "content", "hash", "tables", "inputs"),
    *("seconds", "started", "peak_memory_bytes", "voxels_computed_per_voxel", "modified"),
    *("path", "source", "sources", "model", "command"),
    *("cristae", "python", "platform", "packages", "record"),
}
"""Keys of records and attributes that name times, places, versions, or the packing of files."""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def array_digest(array) -> str:
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return digest(f"{little.dtype.str} {little.shape} ".encode() + little.tobytes())


def text_digest(text: str) -> str:
    return digest(LONG.sub(lambda number: f"{float(number[0]):.12g}", text).encode())


def table_digest(text: str) -> str:
    """Of the numbers of a table in Markdown, LaTeX or HTML, and which of them are bold."""
    return digest(
        " ".join("*" * bool(bold) + number for bold, number in CELL.findall(text)).encode()
    )


def tree_digest(tree) -> str:
    return digest(json.dumps(plain(tree), sort_keys=True).encode())


def plain(tree):
    """A tree as it is everywhere: without what passes, floats with 9 digits."""
    if isinstance(tree, dict):
        known = {str(key): value for key, value in tree.items() if key not in PASSING}
        known |= {f"input {role}": "" for role in tree.get("inputs", ())}
        if "finished" in known:  # in a story the time
            known["finished"] = bool(known["finished"])
        if isinstance(known.get("version"), str):
            del known["version"]
        if "line_contrast" in known:  # a logarithm of float32 sums, close to 0
            known["line_contrast"] = round(known["line_contrast"], 3)
        return {key: plain(value) for key, value in known.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    return float(f"{tree:.9g}") if isinstance(tree, float) else tree


def zarr_digests(path: Path, *, record: bool = True) -> dict[str, str]:
    """Every array and table of an output of ours, its attributes, and its record where asked."""
    tree = json.loads((path / "zarr.json").read_text())["attributes"]
    found = {"attributes": tree_digest(tree["cristae"])}
    if record:
        found["record"] = tree_digest(tree["cristae"]["record"])
    for image in tree["ome"]["multiscales"]:
        found["levels"] = tree_digest([image["axes"], image["datasets"]])
    for level in sorted(each.name for each in path.iterdir() if each.name.isdigit()):
        source = path if level == "0" else path / level
        found[f"array {level}"] = array_digest(open_volume(source).read())
    for table, read in (("runs", read_runs), ("instances", read_instances_table)):
        if (path / table).is_dir():
            columns = read(path)
            parts = [f"{name} {array_digest(columns[name])}" for name in sorted(columns)]
            found[f"table of {table}"] = text_digest("\n".join(parts))
    return found


def record_digest(output: Path) -> str:
    """The record beside a single file."""
    return tree_digest(json.loads(output.with_name(f"{output.name}.cristae.json").read_text()))


class Found:
    """Digests by key; what comes out otherwise in another way of doing it has a key of its own."""

    def __init__(self, volume: str) -> None:
        self.volume = volume
        self.digests: dict[str, str] = {}

    def add(self, stage: str, how: str, digests: dict[str, str]) -> None:
        for output, value in digests.items():
            key = f"{self.volume}/{stage}/{output}"
            if self.digests.setdefault(key, value) != value:
                self.digests[f"{key}, {how}"] = value
