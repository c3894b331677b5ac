"""Compare: several runs side by side, in the table of the MitoEM paper.

One row a run (model x post-processing), and for every score the columns small, medium, large and
all. Numbers come from the runs' ``scores.json`` and are not computed again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from cristae.configuration import read_yaml
from cristae.engine.files import read_json, write_text
from cristae.engine.outputs import write_text_output
from cristae.engine.paths import user_path
from cristae.engine.records import read_record, record_fingerprint, write_record
from cristae.errors import ConfigError, InputError, OutputExistsError, raise_faults
from cristae.evaluation.comparison import Column, ComparedRun, Comparison, latex, markdown, page
from cristae.evaluation.judge import keys_of, lower_is_better, score_of
from cristae.evaluation.scores import Scores, load_scores
from cristae.runfolder import RunFolder, SampleFolder
from cristae.volumes.formats import open_volume
from cristae.volumes.place import lay, misplaced

By = Literal["pool", "sample"]

SIZES = ("small", "medium", "large", "all")
FAMILIES = {
    "ap_75": ("AP-75", {s: f"average_precision_coco/75_{s}" for s in SIZES[:3]}),
    "accuracy_75": ("accuracy-75", {s: f"matching/0.75/{s}/accuracy" for s in SIZES[:3]}),
    "f1_50": ("F1-50", {s: f"matching/0.5/{s}/f1" for s in SIZES[:3]}),
}
"""Scores that are known by size, too: title, and keys of the sizes below ``all``."""


def compare_runs(
    runs: Sequence[str | Path], scores: Sequence[str] = ("ap_75", "accuracy_75"), by: By = "pool"
) -> Comparison:
    """Put the scores of finished runs side by side.

    Args:
        runs: Run folders.
        scores: Names of `judge.SCORES` or `metrics.METRICS`, or keys of a number of
            ``scores.json``, ``a/b/c``. Those of `FAMILIES` come by size; sizes that no run knows
            are left out.
        by: ``pool`` for all samples of a run together, ``sample`` for columns by sample.

    Raises:
        ConfigError: No such score.
        InputError: Folders that are no runs, runs without scores, runs of different samples, or of
            truths that do not cover the same place; all at once.
    """
    folders = [RunFolder(user_path(run)) for run in runs]
    raise_faults("compare", list(_faults(folders)))
    names: Sequence[str | None] = [None] if by == "pool" else _scored_samples(folders[0])
    groups = [(name or "", [_scores_at(folder, name) for folder in folders]) for name in names]
    columns: list[Column] = []
    values: list[list[float | None]] = []
    for volume, found in groups:
        for score in scores:
            for column, numbers in _columns_of(volume, score, found):
                columns.append(column)
                values.append(numbers)
    rows = tuple(
        ComparedRun(folder.root.resolve().name, *_made_with(folder), numbers)
        for folder, numbers in zip(folders, zip(*values, strict=True), strict=True)
    )
    return Comparison(tuple(columns), rows)


def _faults(folders: Sequence[RunFolder]) -> Iterator[str]:
    if not folders:
        yield "no run given, expected one at least"
    samples: dict[str, list[str]] = {}
    for folder in folders:
        if not folder.config.is_file():
            yield f"{folder.root}: not a run folder (no {folder.config.name})"
        elif not folder.scores.is_file():
            yield f"{folder.root}: no {folder.scores.name}: not finished, or without truth"
        elif not _is_pooled(folder):
            yield (
                f"{folder.root}: {folder.scores.name} is not of the scores that are there: "
                "the run is not finished"
            )
        else:
            samples[str(folder.root)] = _scored_samples(folder)
    if len({tuple(names) for names in samples.values()}) > 1:
        listed = "; ".join(f"{run}: {', '.join(names)}" for run, names in samples.items())
        yield f"runs of different samples cannot be compared: {listed}"
    elif samples:
        for name in next(iter(samples.values())):
            yield from _place_faults(
                name, [folder for folder in folders if str(folder.root) in samples]
            )


def _place_faults(sample: str, folders: Sequence[RunFolder]) -> Iterator[str]:
    """Runs whose truth of a sample does not cover the same place as the first run's."""
    paths = [folder.sample(sample).truth for folder in folders]
    truths = [open_volume(path) for path in paths if path.is_dir()]
    for truth in truths[1:]:
        try:
            if not lay(truths[0], truth, crop=True).same:
                yield f"{sample}: {misplaced(truths[0], truth, 'expected the same place')}"
        except InputError as error:
            yield f"{sample}: {error}"


def _scored_samples(folder: RunFolder) -> list[str]:
    return [name for name in folder.samples() if folder.sample(name).scores.is_file()]


def _scores_at(folder: RunFolder, sample: str | None) -> Scores:
    return load_scores(folder.scores if sample is None else folder.sample(sample).scores)


def _columns_of(
    volume: str, score: str, found: Sequence[Scores]
) -> Iterator[tuple[Column, list[float | None]]]:
    """Columns of one score: by size where that is known, then ``all``."""
    keys = keys_of(score)
    title, by_size = FAMILIES.get(score, (keys.replace("/", " "), {}))
    lower = lower_is_better(keys)
    for size, path in by_size.items():
        numbers = [_known(each, path) for each in found]
        if any(number is not None for number in numbers):
            yield Column(volume, title, size, lower), numbers
    yield Column(volume, title, "all", lower), [score_of(each, keys) for each in found]


def _known(scores: Scores, keys: str) -> float | None:
    """A number by its keys; None where the scores have no such size."""
    try:
        return score_of(scores, keys)
    except ConfigError:
        return None


def write_pooled(
    folder: RunFolder, names: Sequence[str], scores: Mapping[str, Any], model: str | None
) -> None:
    """Write the scores of all samples of a run, with a record of what they were made with.

    Args:
        folder: The run's.
        names: The samples that have scores.
        scores: Those of all together, as `Scores.to_dict` has them.
        model: Name of the model; None where the run trained it.
    """
    text = json.dumps(scores, indent=2) + "\n"
    inputs = {name: _state_of(folder.sample(name)) for name in names}
    decoders = {_decoder_at(folder.sample(name)) for name in names}
    summary = {
        "content": _digest(text.encode()),
        "model": model,
        "decoder": ", ".join(sorted(decoders)),
    }
    write_record(folder.scores, "pool", inputs, summary)
    write_text(folder.scores, text)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_pooled(folder: RunFolder) -> bool:
    """Whether the pooled scores are of the samples' scores; release 0.1 has no record of that."""
    record = read_record(folder.scores)
    if record is None:
        return True
    if _digest(folder.scores.read_bytes()) != record["summary"]["content"]:
        return False
    return all(_state_of(folder.sample(name)) == state for name, state in record["inputs"].items())


def _state_of(sample: SampleFolder) -> str:
    """Which scores a sample has, and what they were made of."""
    if not sample.scores.is_file():
        return "none"
    record = read_record(sample.scores)
    made_of = "" if record is None else record_fingerprint(record)
    return f"{_digest(sample.scores.read_bytes())} {made_of}"


def _made_with(folder: RunFolder) -> tuple[str, str]:
    """Names of the model and the decoder that the scores were made with."""
    record = read_record(folder.scores)
    if record is not None:
        return _model_name(folder, record["summary"]["model"]), record["summary"]["decoder"]
    return _model_name(folder, _model_of(folder)), _decoder_of(folder)


def _model_name(folder: RunFolder, model: str | None) -> str:
    return Path(str(model)).stem if model else f"trained in {folder.root.resolve().name}"


def _model_of(folder: RunFolder) -> str | None:
    """The model of scores without a record: that of the last call which came to its end."""
    last = read_json(folder.provenance) or {}
    finished = [call for call in last.get("history", []) if "finished" in call]
    if finished and "finished" not in last:
        return cast("str | None", finished[-1].get("model"))
    return cast("str | None", read_yaml(folder.config).get("model"))


def _decoder_of(folder: RunFolder) -> str:
    """The decoder of the instances, from the instances themselves."""
    names = {_decoder_at(folder.sample(name)) for name in _scored_samples(folder)}
    return ", ".join(sorted(names)) or "unknown"


def _decoder_at(sample: SampleFolder) -> str:
    tree = read_json(sample.instances / "zarr.json") or {}
    ours = tree.get("attributes", {}).get("cristae", {})
    return str(ours.get("decoder") or "unknown")


def write_comparisons(
    comparison: Comparison, paths: Sequence[Path], *, overwrite: bool = False
) -> None:
    """Write the table into files, each in the format of its suffix.

    Args:
        comparison: What to write.
        paths: ``.md``, ``.tex`` (booktabs) or ``.html``.
        overwrite: Replace files that are there.

    Raises:
        ConfigError: Another suffix.
        OutputExistsError: A file is there with another content, or cristae did not write it.
    """
    makers = {".md": markdown, ".tex": latex, ".html": page}
    faults = [
        f"{path}: suffix {path.suffix!r}, expected one of {', '.join(makers)}"
        for path in paths
        if path.suffix.lower() not in makers
    ]
    raise_faults("compare", faults, ConfigError)
    texts = {path: makers[path.suffix.lower()](comparison) for path in paths}
    occupied = [
        f"{path}: exists with another content; --overwrite replaces it"
        for path, text in texts.items()
        if path.exists() and path.read_bytes() != text.encode() and not overwrite
    ]
    raise_faults("compare", occupied, OutputExistsError)
    for path, text in texts.items():
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        write_text_output(path, text, "compare", overwrite=overwrite)
