"""Records: what an output was made from, and whether that is what it would be made from now."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cristae.engine.files import (
    merge_attributes,
    read_json,
    remove_tree,
    write_json,
    write_text,
)
from cristae.engine.identity import Identity, compare, fingerprint_of, stable
from cristae.engine.locks import take_lock
from cristae.engine.ownership import (
    find_record,
    read_marks,
    record_file,
    refuse_foreign_entries,
    work_folder,
)
from cristae.engine.paths import user_path
from cristae.engine.written import content_of

Input = str | Identity
"""What an input is, by a text or by what it is at this moment."""

RECORDED_LATER = ("version", "places")
"""Settings that release 0.1 did not record: the version of the predicting code, and where the
volumes of a comparison lie."""


def looked_at(inputs: Mapping[str, Input]) -> dict[str, Input]:
    """Inputs as they are now: what a stage compares and records is looked at once."""
    return {role: one.now() if isinstance(one, Identity) else one for role, one in inputs.items()}


def identity_tree(
    stage: str, inputs: Mapping[str, Input], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a record keeps of an output's stage, inputs and settings, as JSON knows it."""
    known = {role: one.tree() if isinstance(one, Identity) else one for role, one in inputs.items()}
    tree = {"stage": stage, "inputs": known, "settings": dict(settings)}
    return dict(json.loads(json.dumps(tree)))


def record_fingerprint(record: Mapping[str, Any]) -> str:
    """The id of an output: of its stage, the content of its inputs, and its settings."""
    if "id" in record:
        return str(record["id"])
    inputs = {role: stable(one) for role, one in record["inputs"].items()}
    return fingerprint_of(
        {"stage": record["stage"], "inputs": inputs, "settings": record["settings"]}
    )


def is_unfinished(output: Path) -> bool:
    """Whether an output was begun and not finished."""
    is_folder = output.suffix == ".zarr"
    record, finished = find_record(output, is_folder)
    return record is not None and not finished


def finished_summary(output: Path) -> dict[str, Any] | None:
    """What `Ledger.finish` was told of an output; None where it is not finished."""
    record, finished = find_record(output, output.suffix == ".zarr")
    return dict(record.get("summary", {})) if record is not None and finished else None


def read_record(output: Path) -> dict[str, Any] | None:
    """The record beside a single file; None where there is none."""
    found = read_json(record_file(output))
    return found if isinstance(found, dict) else None


def write_record(
    output: Path, stage: str, inputs: Mapping[str, str], summary: Mapping[str, Any]
) -> None:
    """Write the record of a single file that is made at once, before the file itself.

    Args:
        output: The file.
        stage: Name of the stage that writes it.
        inputs: What each input is, by role.
        summary: Facts to keep with the record, as JSON knows them.
    """
    record = {**identity_tree(stage, inputs, {}), "finished": True, "summary": dict(summary)}
    write_json(record_file(output), record)


@contextmanager
def changing_output(output: Path) -> Iterator[None]:
    """Change a finished file in place; its record stays with it, also where that is interrupted."""
    record, finished = find_record(output, False)
    if record is None or not finished:
        yield
        return
    any_content = {key: value for key, value in record.items() if key != "content"}
    write_json(record_file(output), any_content)
    yield
    write_json(record_file(output), {**any_content, "content": content_of(output)})


def settings_recorded(output: str | Path, inputs: Mapping[str, Input]) -> dict[str, Any] | None:
    """Settings of an output begun or finished with these inputs; None where there is none.

    What was found of the inputs before it was begun need not be looked for again.
    """
    output = user_path(output)
    record, _ = find_record(output, output.suffix == ".zarr")
    if record is None:
        return None
    there, now = record.get("inputs", {}), identity_tree("", inputs, {})["inputs"]
    if not all(compare(there.get(role, ""), one)[0] for role, one in now.items()):
        return None
    return dict(record.get("settings", {}))


def adopt_settings(
    output: Path,
    *,
    stage: str,
    inputs: Mapping[str, Input],
    settings: Mapping[str, Any],
    unknown: Sequence[str],
    before: Callable[[], object],
) -> bool:
    """Put what was unknown of an output's settings into its record, where nothing else differs.

    Args:
        output: A ``.zarr`` folder, begun or finished.
        stage: See `open_ledger`.
        inputs: See `open_ledger`.
        settings: See `open_ledger`.
        unknown: Settings of which the first is None in the record.
        before: Changes the output; called before its record is changed, and again by the next call
            where this one is interrupted.

    Returns:
        Whether that was so.

    Raises:
        BusyError: Another process is writing it.
    """
    record, finished = find_record(output, is_folder=True)
    if record is None or record["settings"].get(unknown[0]) is not None:
        return False
    identity = identity_tree(stage, inputs, settings)
    known = {name: identity["settings"][name] for name in unknown}
    work = work_folder(output, is_folder=True)
    if known[unknown[0]] is None:
        return False
    adopted = {**record, "settings": {**record["settings"], **known}}
    if differences(adopted, identity, trusted_roles(inputs), finished)[0]:
        return False
    release = take_lock(output)
    try:
        if not finished:
            _drop_levels(output, work)
        before()
        if finished:
            merge_attributes(output, {"record": adopted})
        else:
            write_json(work / "identity.json", adopted)
    finally:
        release()
    return True


def _drop_levels(output: Path, work: Path) -> None:
    """Let the smaller levels of an unfinished image be made anew: they follow its voxel size."""
    levels = [path for path in output.iterdir() if path.name.isdecimal() and path.name != "0"]
    if not levels:
        return
    refuse_foreign_entries(output, is_folder=True)
    marks = work / "done.jsonl"
    kept = [
        json.dumps([step, key, value]) + "\n"
        for step, pieces in read_marks(marks).items()
        for key, value in pieces.items()
        if not step.startswith("pyramid")
    ]
    write_text(marks, "".join(kept))  # before they go, so that none is taken for made
    for level in levels:
        remove_tree(level)


def trusted_roles(inputs: Mapping[str, Input]) -> set[str]:
    """Roles of the inputs that a person says are the recorded ones."""
    return {role for role, one in inputs.items() if isinstance(one, Identity) and one.trusted}


def differences(
    there: Mapping[str, Any], now: Mapping[str, Any], trusted: set[str], finished: bool
) -> tuple[list[str], list[str]]:
    """What makes an output another one; and what differs but does not count, in words.

    Release 0.1 recorded a fingerprint an input, which nothing can be compared with today, and
    nothing of `RECORDED_LATER`: what it finished is taken as it is.
    """
    early = finished and "id" not in there
    settings = dict(there["settings"])
    if early:
        later = {name: now["settings"][name] for name in RECORDED_LATER if name in now["settings"]}
        settings = {**later, **settings}
    lines = _setting_differences(
        {"stage": there["stage"], "settings": settings},
        {"stage": now["stage"], "settings": now["settings"]},
    )
    notes = []
    for role in dict.fromkeys([*now["inputs"], *there["inputs"]]):
        before, after = (tree["inputs"].get(role, []) for tree in (there, now))
        if early and isinstance(before, str) and isinstance(after, list):
            notes.append(f"finished by release 0.1, its {role} not compared")
            continue
        same, note = compare(before, after, role in trusted)
        if not same:
            lines.append(f"inputs.{role}: {note}")
        elif note:
            notes.append(f"inputs.{role}: {note}")
    return lines, notes


def _setting_differences(
    there: Mapping[str, Any], now: Mapping[str, Any], where: str = ""
) -> list[str]:
    lines = []
    for key in dict.fromkeys([*now, *(k for k in there if where)]):
        a, b = there.get(key), now.get(key)
        name = f"{where}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += _setting_differences(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {a!r} there, {b!r} now")
    return lines
