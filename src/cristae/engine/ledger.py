"""What is done: the durable record of an output, its identity, and its lock.

An output is finished, unfinished or foreign. While it is unfinished its record lies in a work
folder, ``OUT/.cristae`` for a folder and ``OUT.cristae`` beside a single file::

    identity.json   stage, inputs and settings
    done.jsonl      one line a finished piece, appended after its data is on disk
    scratch/        files between steps
    lock            held while a process writes

A finished folder keeps its identity as attribute ``cristae.record`` of ``OUT/zarr.json``, a
finished file in ``OUT.cristae.json``. A record whose output is gone counts for nothing.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from cristae.engine.files import (
    check_writable,
    merge_attributes,
    read_json,
    remove_tree,
    write_json,
)
from cristae.engine.identity import Identity, compare, fingerprint_of, stable
from cristae.engine.progress import log
from cristae.errors import BusyError, InputError, OutputExistsError

State = Literal["new", "resume", "done"]

Input = str | Identity
"""What an input is, by a text or by what it is at this moment."""


class Ledger:
    """The record of one output; made by `open_ledger`, used as a context manager.

    Attributes:
        output: The file or folder being written.
        state: ``new`` (nothing done), ``resume`` (some pieces done) or ``done`` (finished before).
        summary: What `finish` was told, for a finished output.
        scratch: Folder for files between steps; gone after `finish`.
    """

    def __init__(self, output: Path, identity: dict[str, Any], is_folder: bool) -> None:
        self.output = output
        self.state: State = "new"
        self.summary: dict[str, Any] = {}
        self._identity = identity
        self._is_folder = is_folder
        self._work = _work_folder(output, is_folder)
        self.scratch = self._work / "scratch"
        self._done: dict[str, dict[str, Any]] = {}
        self._log: IO[str] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def done(self, step: str) -> dict[str, Any]:
        """Keys of the pieces of a step that are finished, with the values they were marked with."""
        return dict(self._done.get(step, {}))

    def mark(self, step: str, key: str, value: Any = None) -> None:
        """Record a piece as finished. Call it only after the piece's data is on disk.

        Args:
            step: Name of the step within the stage.
            key: Name of the piece within the step.
            value: Something small to remember of it, as JSON knows it.
        """
        if self._log is None:
            raise ValueError(f"{self.output}: its record is not open for writing")
        self._log.write(json.dumps([step, key, value]) + "\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        self._done.setdefault(step, {})[key] = value

    def finish(self, **summary: Any) -> None:
        """Record the output as finished and remove the work folder.

        Args:
            summary: Facts to keep with the record, as JSON knows them.
        """
        mark = record_fingerprint(self._identity)
        record = {**self._identity, "finished": True, "summary": summary, "id": mark}
        if self._is_folder:
            merge_attributes(self.output, {"record": record})
        else:
            write_json(_record_file(self.output), record)
        self.state, self.summary = "done", summary
        self.close()
        remove_tree(self._work)

    def reopen(self) -> None:
        """Take a finished output up again, to continue it under the same identity."""
        self._begin("resume")

    def close(self) -> None:
        """Release the lock; marks stay."""
        for file in (self._log, self._lock):
            if file is not None:
                file.close()
        self._log = self._lock = None

    def _begin(self, state: State) -> None:
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.output}: cannot be made here: {error}") from error
        self._take_lock()
        write_json(self._work / "identity.json", self._identity)
        self._done = _read_marks(self._work / "done.jsonl")
        self._log = (self._work / "done.jsonl").open("a", encoding="utf-8")
        self.state = state

    def _take_lock(self) -> None:
        self._lock = (self._work / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise BusyError(f"{self.output}: another process is writing it") from error


def open_ledger(
    output: str | Path,
    *,
    stage: str,
    inputs: Mapping[str, Input],
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> Ledger:
    """Open the record of an output, and say whether it is new, to be resumed, or done.

    Args:
        output: A ``.zarr`` folder, or any other path for a single file.
        stage: Name of the stage that writes it.
        inputs: What each input is, by role; one that is trusted is the recorded one in any case.
        settings: Every setting that can change the output's bytes, and no other; as JSON.
        overwrite: Remove an output of another identity, or the same one, and start anew.

    Returns:
        The ledger; where its state is ``done`` there is nothing to do.

    Raises:
        OutputExistsError: The output exists and is of another identity (what differs is named), or
            was not made by cristae; what was not is never removed.
        InputError: There is no writing where it should lie.
        BusyError: Another process is writing it.
    """
    output = Path(output)
    identity = identity_tree(stage, inputs, settings)
    ledger = Ledger(output, identity, output.suffix == ".zarr")
    ledger.state, record = _judge(output, identity, overwrite, _trusted(inputs))
    if ledger.state == "done":
        ledger.summary = (record or {}).get("summary", {})
        return ledger
    if overwrite and not (record is None and output.is_dir()):
        _refuse_if_busy(ledger)
        _remove_output(output, output.suffix == ".zarr")
    ledger._begin(ledger.state)
    return ledger


def check_output(
    output: str | Path,
    *,
    stage: str,
    inputs: Mapping[str, Input | None],
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> State:
    """What `open_ledger` would find, with its errors; nothing is written.

    Args:
        output: See `open_ledger`.
        stage: See `open_ledger`.
        inputs: See `open_ledger`; one that is None is not known yet, and is not compared.
        settings: See `open_ledger`.
        overwrite: See `open_ledger`.

    Raises:
        OutputExistsError: See `open_ledger`.
        InputError: See `check_writable`.
    """
    output = Path(output)
    check_writable(output)
    record, _ = _find_record(output, output.suffix == ".zarr")
    there = {} if record is None else record["inputs"]
    known = {role: one for role, one in inputs.items() if one is not None}
    identity = identity_tree(stage, known, settings)
    unknown = {role: there.get(role, "") for role, one in inputs.items() if one is None}
    identity["inputs"] |= unknown
    return _judge(output, identity, overwrite, _trusted(known))[0]


def _trusted(inputs: Mapping[str, Input]) -> set[str]:
    return {role for role, one in inputs.items() if isinstance(one, Identity) and one.trusted}


def _judge(
    output: Path, identity: Mapping[str, Any], overwrite: bool, trusted: set[str]
) -> tuple[State, dict[str, Any] | None]:
    """What an output is to a stage that is to write it, and the record there; or why it may not."""
    is_folder = output.suffix == ".zarr"
    if is_folder and output.is_file():
        raise OutputExistsError(f"{output}: a file found, expected a folder or nothing")
    record, finished = _find_record(output, is_folder)
    if record is None:
        if _occupied(output, is_folder):
            raise OutputExistsError(f"{output}: exists and was not made by cristae")
        return "new", None
    if overwrite:
        return "new", record
    differences, notes = _differences(record, identity, trusted, finished)
    if differences:
        raise OutputExistsError(
            f"{output}: exists with other inputs or settings; --overwrite replaces it\n"
            + "\n".join(f"  - {line}" for line in differences)
        )
    for note in notes:
        log.info("%s: %s", output, note)
    return ("done" if finished else "resume"), record


def settings_recorded(output: str | Path, inputs: Mapping[str, Input]) -> dict[str, Any] | None:
    """Settings of an output begun or finished with these inputs; None where there is none.

    What was found of the inputs before it was begun need not be looked for again.
    """
    output = Path(output)
    record, _ = _find_record(output, output.suffix == ".zarr")
    there = (record or {}).get("inputs", {})
    now = identity_tree("", inputs, {})["inputs"]
    if record is None or not all(compare(there.get(role, ""), one)[0] for role, one in now.items()):
        return None
    return dict(record.get("settings", {}))


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
    record, finished = _find_record(output, is_folder)
    return record is not None and not finished


def _work_folder(output: Path, is_folder: bool) -> Path:
    return output / ".cristae" if is_folder else output.with_name(output.name + ".cristae")


def _record_file(output: Path) -> Path:
    return output.with_name(output.name + ".cristae.json")


def _find_record(output: Path, is_folder: bool) -> tuple[dict[str, Any] | None, bool]:
    """The output's identity and whether it is finished; a finished record wins over a leftover."""
    if is_folder:
        attributes = (read_json(output / "zarr.json") or {}).get("attributes", {})
        record = attributes.get("cristae", {}).get("record")
    else:
        record = read_json(_record_file(output)) if output.exists() else None
    work = _work_folder(output, is_folder)
    begun = read_json(work / "identity.json")
    if begun is not None and (record is None or _reopened(work)):
        return begun, False
    return (record, True) if record is not None else (None, False)


def _reopened(work: Path) -> bool:
    # `finish` writes the record, then removes the folder: a lone lock or scratch is a leftover
    return (work / "done.jsonl").exists() and (work / "identity.json").exists()


def _occupied(output: Path, is_folder: bool) -> bool:
    if is_folder and output.is_dir():
        return any(entry.name != ".cristae" for entry in output.iterdir())
    return output.exists()


def _refuse_if_busy(ledger: Ledger) -> None:
    if ledger._work.is_dir():
        ledger._take_lock()
        ledger.close()


def _remove_output(output: Path, is_folder: bool) -> None:
    if output.exists():
        remove_tree(output)
    if not is_folder:
        _record_file(output).unlink(missing_ok=True)
        if _work_folder(output, is_folder).exists():
            remove_tree(_work_folder(output, is_folder))


def _read_marks(path: Path) -> dict[str, dict[str, Any]]:
    marks: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return marks
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]  # a torn last line was never finished
    if len(kept) < len(whole):
        with path.open("r+b") as file:
            file.truncate(len(kept))
    for line in kept.splitlines():
        step, key, value = json.loads(line)
        marks.setdefault(step, {})[key] = value
    return marks


def _differences(
    there: Mapping[str, Any], now: Mapping[str, Any], trusted: set[str], finished: bool
) -> tuple[list[str], list[str]]:
    """What makes an output another one; and what differs but does not count, in words.

    Release 0.1 recorded a fingerprint an input, which nothing can be compared with today, and no
    version of the predicting code: what it finished is taken as it is.
    """
    early = finished and "id" not in there
    settings = dict(there["settings"])
    if early and "version" in now["settings"]:
        settings.setdefault("version", now["settings"]["version"])
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
