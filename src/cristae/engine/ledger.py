"""What is done: the durable record of an output, its identity, and its lock.

An output is finished, unfinished or foreign. While it is unfinished its record lies in a work
folder, ``OUT/.cristae`` for a folder and ``OUT.cristae`` beside a single file::

    identity.json   stage, inputs and settings
    done.jsonl      one line a finished piece, appended after its data is on disk
    written.jsonl   one line a file written, before it gets its name: its content (`written`)
    scratch/        files between steps

A finished folder keeps its identity as attribute ``cristae.record`` of ``OUT/zarr.json``, with the
state of its array (`stored.array_state`), and lists its shards in a manifest (`manifest`). A
finished file has it in ``OUT.cristae.json``, with what tells the file from any other of that name.
A record without its output is ignored. The lock lies beside the output (`locks`): it is taken
before the record is read, and given back when the work folder is gone.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from cristae.engine.files import (
    check_writable,
    make_folder,
    merge_attributes,
    remove_tree,
    sweep_leftovers,
    sweep_output,
    sync_folder,
    told_error,
    translate_os_errors,
    write_json,
)
from cristae.engine.identity import Identity, Place
from cristae.engine.locks import Release, take_lock
from cristae.engine.manifest import write_manifest
from cristae.engine.ownership import (
    beside_content,
    check_path,
    drop_torn_line,
    find_record,
    read_marks,
    record_file,
    refuse_changed,
    refuse_foreign,
    refuse_foreign_entries,
    refuse_input,
    remove_output,
    work_folder,
)
from cristae.engine.paths import user_path
from cristae.engine.progress import log
from cristae.engine.records import (
    Input,
    differences,
    identity_tree,
    record_fingerprint,
    trusted_roles,
)
from cristae.engine.unfinished import refuse_unfinished
from cristae.engine.written import content_of, forget_writes, note_writes, notes_file
from cristae.errors import BusyError, FileError, InputError, OutputExistsError

State = Literal["new", "resume", "done"]


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
        self._work = work_folder(output, is_folder)
        self.scratch = self._work / "scratch"
        self._done: dict[str, dict[str, Any]] = {}
        self._log: IO[str] | None = None
        self._release: Release | None = None
        self._beside: Sequence[Path] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.state == "new" and not self._done and self._log is not None:
            self._leave_nothing()
        self.close()
        told = told_error(error, self.output)
        if told is not None:
            raise told from error

    def _leave_nothing(self) -> None:
        """Take the record back where the stage ended before it had written anything."""
        self._close_log()
        written = set(os.listdir(self.output)) - {".cristae"} if self._is_folder else ()
        if written or self.output.is_file() or any(self.scratch.iterdir()):
            return
        with suppress(OSError):  # of the disk, perhaps, as the error was
            remove_tree(self._work)
            if self._is_folder:
                self.output.rmdir()

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
            record["state"] = write_manifest(self.output)
            merge_attributes(self.output, {"record": record})
        else:
            if self._beside:
                record["beside"] = beside_content(self._beside)
            write_json(record_file(self.output), {**record, "content": content_of(self.output)})
        self.state, self.summary = "done", summary
        self._close_log()
        remove_tree(self._work)
        self.close()

    def reopen(self) -> None:
        """Take a finished output up again, to continue it under the same identity.

        Raises:
            BusyError: Another process has taken it up, or replaced it, in between.
        """
        self._release = take_lock(self.output)
        record, finished = find_record(self.output, self._is_folder)
        roles = set(self._identity["inputs"])  # judged before: here only a replaced output counts
        if not finished or differences(record or {}, self._identity, roles, True)[0]:
            self.close()
            raise BusyError(f"{self.output}: another process has changed it just now")
        if not self._is_folder:
            refuse_changed(self.output, self._beside)
        self._begin("resume")

    def close(self) -> None:
        """Release the lock; marks stay."""
        self._close_log()
        if self._release is not None:
            self._release()
            self._release = None

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
            forget_writes((self.output, *self._beside))

    def _begin(self, state: State) -> None:
        with translate_os_errors(self.output):
            make_folder(self.scratch)
            sweep_output(self.output)
            write_json(self._work / "identity.json", self._identity)
            for lines in (self._work / "done.jsonl", notes_file(self._work)):
                drop_torn_line(lines)
            self._done = read_marks(self._work / "done.jsonl")
            self._log = (self._work / "done.jsonl").open("a", encoding="utf-8")
            sync_folder(self._work)
        if not self._is_folder:
            note_writes((self.output, *self._beside), self._work)
        self.state = state


def open_ledger(
    output: str | Path,
    *,
    stage: str,
    inputs: Mapping[str, Input],
    settings: Mapping[str, Any],
    overwrite: bool = False,
    reads: Iterable[str | Path] = (),
    beside: Sequence[Path] = (),
) -> Ledger:
    """Open the record of an output, and say whether it is new, to be resumed, or done.

    Args:
        output: A ``.zarr`` folder, or any other path for a single file.
        stage: Name of the stage that writes it.
        inputs: What each input is, by role; one that is trusted is the recorded one in any case.
        settings: Every setting that can change the output's bytes, and no other; as JSON.
        overwrite: Remove an output of another identity, or the same one, and start anew.
        reads: Files that are read and are no `Identity` among the inputs.
        beside: Further files and folders that the stage writes. They are part of the output: the
            files go with it when it is made anew, and are refused where it has no record.

    Returns:
        The ledger; where its state is ``done`` there is nothing to do.

    Raises:
        OutputExistsError: The output exists and is of another identity (what differs is named), or
            was not made by cristae, or holds what was not. Such a file or folder is never removed.
        InputError: There is no writing where it should lie (a `FileError`).
        BusyError: Another process is writing it.
    """
    output = user_path(output)
    check_path(output)
    refuse_input(output, _places(inputs, reads))
    ledger = Ledger(output, identity_tree(stage, inputs, settings), output.suffix == ".zarr")
    try:
        refused = _hold(ledger)
        _open(ledger, overwrite, trusted_roles(inputs), refused, beside)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _hold(ledger: Ledger) -> InputError | None:
    """Take the lock; the error where none can be written: a finished output needs none."""
    output = ledger.output
    try:
        ledger._release = take_lock(output)
    except FileError as error:
        refusal: InputError = error
        try:
            check_writable(output)
        except InputError as told:
            refusal = told
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return refusal
        raise refusal from error
    for path in (output, record_file(output), work_folder(output, ledger._is_folder)):
        sweep_leftovers(path, alone=True)
    return None


def _open(
    ledger: Ledger,
    overwrite: bool,
    trusted: set[str],
    refused: InputError | None,
    beside: Sequence[Path],
) -> None:
    """Find out what is there, and begin where something is to be done."""
    ledger._beside = beside
    judged = _judge(ledger.output, ledger._identity, overwrite, trusted, beside)
    ledger.state, record, notes = judged
    for note in notes:
        log.info("%s: %s", ledger.output, note)
    if ledger.state == "done":
        ledger.summary = (record or {}).get("summary", {})
        ledger.close()
        return
    if refused is not None:
        raise refused
    if ledger.state == "new":  # before the record goes, so that they are never without one
        for path in beside:
            if not path.is_dir():
                path.unlink(missing_ok=True)
    if ledger.state == "new" and record is not None:
        remove_output(ledger.output, ledger._is_folder)
    ledger._begin(ledger.state)


def check_output(
    output: str | Path,
    *,
    stage: str,
    inputs: Mapping[str, Input | None],
    settings: Mapping[str, Any],
    overwrite: bool = False,
    unknown: Sequence[str] = (),
    reads: Iterable[str | Path] = (),
    beside: Sequence[Path] = (),
) -> State:
    """What `open_ledger` would find, with its errors; nothing is written.

    Args:
        output: See `open_ledger`.
        stage: See `open_ledger`.
        inputs: See `open_ledger`; one that is None is not known yet, and is not compared.
        settings: See `open_ledger`.
        overwrite: See `open_ledger`.
        unknown: Settings that are not known yet, and are not compared.
        reads: See `open_ledger`.
        beside: See `open_ledger`.

    Raises:
        OutputExistsError: See `open_ledger`.
        InputError: See `check_writable`.
    """
    output = user_path(output)
    check_path(output)
    refuse_input(output, _places(inputs, reads))
    record, _ = find_record(output, output.suffix == ".zarr")
    inputs_there, there = ({}, {}) if record is None else (record["inputs"], record["settings"])
    known = {role: one for role, one in inputs.items() if one is not None}
    certain = {name: value for name, value in settings.items() if name not in unknown}
    certain |= {name: there[name] for name in unknown if name in there}
    identity = identity_tree(stage, known, certain)
    later = {role: inputs_there.get(role, "") for role, one in inputs.items() if one is None}
    identity["inputs"] |= later
    state = _judge(output, identity, overwrite, trusted_roles(known), beside)[0]
    if state != "done":
        check_writable(output)
    return state


def _places(inputs: Mapping[str, Input | None], reads: Iterable[str | Path]) -> Iterator[Place]:
    """Where inputs lie; an output that is not finished is none."""
    for one in inputs.values():
        for place, is_whole in one.places() if isinstance(one, Identity) else ():
            if is_whole:
                refuse_unfinished(place)
            yield place, is_whole
    yield from ((str(path), False) for path in reads)


def _judge(
    output: Path,
    identity: Mapping[str, Any],
    overwrite: bool,
    trusted: set[str],
    beside: Sequence[Path],
) -> tuple[State, dict[str, Any] | None, list[str]]:
    """What an output is to a stage that is to write it, its record, and remarks; or a refusal."""
    is_folder = output.suffix == ".zarr"
    record, finished = refuse_foreign(output, is_folder)
    if record is None:
        foreign = [path for path in beside if path.exists()]
        if foreign and not _has_record(output, is_folder):
            names = ", ".join(str(path) for path in foreign)
            raise OutputExistsError(
                f"{output}: {names} would be written as well, but was not made by cristae"
            )
        refuse_changed(output, beside)
        return "new", None, []
    if not is_folder and (overwrite or not finished):
        refuse_changed(output, beside if finished else (output, *beside))
    if overwrite:
        refuse_foreign_entries(output, is_folder)
        return "new", record, []
    found, notes = differences(record, identity, trusted, finished)
    if found:
        raise OutputExistsError(
            f"{output}: exists with other inputs or settings; --overwrite replaces it\n"
            + "\n".join(f"  - {line}" for line in found)
        )
    return ("done" if finished else "resume"), record, notes


def _has_record(output: Path, is_folder: bool) -> bool:
    """Whether there is a record, also of an output that is gone."""
    begun = work_folder(output, is_folder) / "identity.json"
    return begun.exists() or (not is_folder and record_file(output).exists())
