"""The digests of all outputs: as they are now, and as `tests/golden/bytes.json` has them."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bytes.runs import runs, submissions
from tests.bytes.stages import collect
from tests.bytes.volumes import CASES
from tests.segmentation.helpers import MEMORY_DISK

from cristae import challenge
from cristae.volumes.formats.ome_zarr import Layout

GOLDEN = Path(__file__).parents[1] / "golden" / "bytes.json"
NAMES = (*(case.name for case in CASES), "submission", "run")


@contextmanager
def small_parts() -> Iterator[None]:
    """Shards, chunks and submissions so small that a volume has several."""
    small = [
        (Layout.__init__, "__defaults__", ((4, 16, 16), (12, 32, 32))),
        (challenge, "SHAPE", (5, 40, 44)),
        (challenge, "CHUNK", (2, 16, 16)),
        (challenge, "BLOCK", (2, 32, 32)),
    ]
    real = [(owner, name, getattr(owner, name)) for owner, name, _ in small]
    for owner, name, value in small:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in real:
            setattr(owner, name, value)


def found_digests(name: str) -> dict[str, str]:
    """Do everything with one of `NAMES`."""
    case = next((case for case in CASES if case.name == name), None)
    logging.disable(logging.WARNING)
    try:
        with small_parts(), tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
            if case is not None:
                return collect(case, Path(folder))
            return (submissions if name == "submission" else runs)(Path(folder))
    finally:
        logging.disable(logging.NOTSET)


def known_digests(name: str) -> dict[str, str]:
    known = json.loads(GOLDEN.read_text())
    return {key: value for key, value in known.items() if key.startswith(f"{name}/")}


def differences(found: dict[str, str], known: dict[str, str]) -> list[str]:
    """A line for each output that is another, new or gone."""
    lines = [f"{key}: another content" for key in known if found.get(key, known[key]) != known[key]]
    lines += [f"{key}: gone" for key in known if key not in found]
    lines += [f"{key}: not there before" for key in found if key not in known]
    return sorted(lines)


def write_golden() -> None:
    found = {key: value for name in NAMES for key, value in found_digests(name).items()}
    GOLDEN.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
