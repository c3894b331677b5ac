"""The scores of a comparison as a value that travels, and as files.

``scores.json`` has the layout of `Scores.to_dict`; a block that was not computed is left out, a
number that is not defined (a size range without truth) is null.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from cristae.engine.files import read_json, write_json
from cristae.engine.unfinished import refuse_unfinished
from cristae.errors import InputError
from cristae.evaluation.overlaps import Floats
from cristae.evaluation.tables import (
    MatchTables,
    precision_recall_of,
    read_matches,
    write_matches,
)

SCHEMA_VERSION = 1

Numbers = dict[str, float | None]
Block = dict[str, Any]
Ranking = Literal["size", "score"]


@dataclass(frozen=True)
class Scores:
    """The scores of a prediction. A block that was not computed is None.

    Attributes:
        average_precision_coco: ``50:95``, ``50``, ``75``, ``75_small``, ``75_medium``,
            ``75_large``; None where a range has no truth.
        matching: By IoU (``0.3``, ``0.5``, ``0.75``), by category (``all`` first): ``tp``, ``fp``,
            ``fn``, ``precision``, ``recall``, ``accuracy``, ``f1``, ``panoptic_quality``.
        associations: By category (``all`` first): counts, see `matching.association_counts`.
        voxel: By name, the metrics of that block, see `metrics.METRICS`.
        metrics: By name, metrics that were added to the table; None where there are none.
        intervals: ``ap_75``, ``accuracy_75``: [low, high].
        without_border_cut: The blocks again but ``voxel``, without instances cut by the border.
        ranked_by: What ranked the predictions for average precision.
        tables: What became of every instance.
    """

    average_precision_coco: Numbers
    matching: dict[str, dict[str, Numbers]] | None = None
    associations: dict[str, dict[str, int]] | None = None
    voxel: Numbers | None = None
    metrics: Numbers | None = None
    intervals: dict[str, list[float] | None] | None = None
    without_border_cut: Block | None = None
    ranked_by: Ranking = "size"
    tables: MatchTables | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> Block:
        """The content of ``scores.json``: the blocks computed, and ``schema_version``."""
        blocks = {name: getattr(self, name) for name in _BLOCKS}
        found = {name: block for name, block in blocks.items() if block is not None}
        return {**found, "schema_version": SCHEMA_VERSION}

    def precision_recall(self, iou: float = 0.75) -> tuple[Floats, Floats]:
        """Recall and precision in ranking order, see `tables.precision_recall_of`.

        Raises:
            InputError: The scores were read without their tables.
        """
        if self.tables is None:
            raise InputError("precision and recall need the match tables; these scores have none")
        return precision_recall_of(self.tables, iou)


_BLOCKS = (
    "average_precision_coco",
    "matching",
    "associations",
    "voxel",
    "metrics",
    "intervals",
    "without_border_cut",
)


@dataclass(frozen=True)
class ScoreFiles:
    """What an evaluation writes.

    Attributes:
        json: The scores file; its record lies beside it.
        csv_dir: Folder for the match tables, see `tables.write_matches`; none by default.
        overwrite: Replace an output of other inputs or settings.
    """

    json: Path
    csv_dir: Path | None = None
    overwrite: bool = False


def write_scores(scores: Scores, json_path: Path | None, csv_dir: Path | None = None) -> None:
    """Write the scores file and the match tables that are named, each file at once.

    Raises:
        InputError: Tables are asked for and these scores have none.
    """
    if csv_dir is not None:
        write_tables(scores, csv_dir)
    if json_path is not None:
        write_json(json_path, scores.to_dict())


def write_tables(scores: Scores, csv_dir: Path) -> None:
    """Write the match tables.

    Raises:
        InputError: These scores were read without their tables.
    """
    if scores.tables is None:
        raise InputError(f"{csv_dir}: these scores have no match tables to write")
    write_matches(scores.tables, csv_dir)


def load_scores(json_path: Path, csv_dir: Path | None = None) -> Scores:
    """Read a scores file, and its match tables where a folder is given.

    Raises:
        InputError: Not a scores file of a version that is known.
    """
    refuse_unfinished(json_path)
    tree = read_json(json_path)
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{json_path}: schema version {version}, expected {SCHEMA_VERSION}")
    record = read_json(json_path.with_name(json_path.name + ".cristae.json")) or {}
    ranked_by = cast(Ranking, record.get("summary", {}).get("ranked_by", "size"))
    blocks = {name: tree[name] for name in _BLOCKS if name in tree}
    tables = None if csv_dir is None else read_matches(csv_dir)
    return Scores(**blocks, ranked_by=ranked_by, tables=tables)
