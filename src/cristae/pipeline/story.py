"""The story of a run folder: what was asked for last, and every call that worked in it.

``provenance.json`` is the last call: versions, command, inputs, times; ``history`` are the calls
before it, oldest first, each with its configuration as ``config`` where that was another one. A
call is added once every check has passed: a refused one leaves no trace, a killed one has no
``finished``.
"""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import yaml

from cristae import __version__
from cristae.configuration import read_yaml, to_plain
from cristae.engine.files import read_json, write_json, write_text
from cristae.engine.memory import peak_memory
from cristae.pipeline.config import RunConfig, Running
from cristae.renamed import current_names
from cristae.report.report import is_own_page
from cristae.runfolder import RunFolder

HISTORY = "history"
PACKAGES = ("numpy", "numba", "scipy", "tensorstore", "torch")

Call = dict[str, Any]


def folder_faults(folder: RunFolder) -> list[str]:
    """Files of others that have the names a run would write, a line each."""
    occupied = [] if _is_own(folder) else [folder.config, folder.provenance, folder.scores]
    pages = [] if is_own_page(folder.report) else [folder.report]
    return [
        f"{path}: exists and was not made by cristae run; expected another run folder"
        for path in occupied + pages
        if path.exists()
    ]


def _is_own(folder: RunFolder) -> bool:
    """Whether the provenance that is there is cristae's."""
    found = read_json(folder.provenance) if folder.provenance.is_file() else None
    return isinstance(found, dict) and "cristae" in found


def begin_call(config: RunConfig, running: Running, folder: RunFolder) -> Call:
    """Add a call to the story, and write what is asked for.

    Returns:
        The call, with the history, for `finish_call`.
    """
    before = read_json(folder.provenance)
    history = list(before.pop(HISTORY, [])) if before else []
    plain = to_plain(config)
    if before:
        asked = current_names(read_yaml(folder.config)) if folder.config.is_file() else None
        other = {"config": asked} if asked is not None and asked != plain else {}
        history.append({**before, **other})
    call = _call_of(config, running) | ({HISTORY: history} if history else {})
    write_json(folder.provenance, call)
    write_text(folder.config, yaml.safe_dump(plain, sort_keys=False))
    return call


def finish_call(call: Call, seconds: float, folder: RunFolder) -> None:
    """Note that a call has come to its end."""
    history = {HISTORY: call[HISTORY]} if HISTORY in call else {}
    facts = {
        "finished": _now(),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory(),
    }
    write_json(folder.provenance, {**call, **facts, **history})


def shown_provenance(folder: RunFolder) -> Call:
    """What a report shows of the story: the last call, and a line on each before it."""
    found = read_json(folder.provenance) or {}
    earlier = [_line(call) for call in found.get(HISTORY, [])]
    shown = {key: value for key, value in found.items() if key != HISTORY}
    return shown | ({"earlier calls": earlier} if earlier else {})


def _line(call: Mapping[str, Any]) -> str:
    model = call.get("model") or "a model of its own"
    end = "" if "finished" in call else ", not finished"
    return f"{call.get('started')} with cristae {call.get('cristae')} and {model}{end}"


def _call_of(config: RunConfig, running: Running) -> Call:
    return {
        "cristae": __version__,
        "command": running.command or None,
        "started": _now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "model": config.model,
        "sources": {
            sample.name: to_plain(sample.simulate) if sample.simulate else sample.image
            for sample in config.volumes
        },
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
