"""Runs side by side, and their table as Markdown, LaTeX and HTML; the best of a column is bold."""

import html
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

NAMES = ("run", "model", "post-processing")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Runs side by side</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ margin: 2rem }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8886;
  font-variant-numeric: tabular-nums }}
tr :nth-child(-n+3) {{ text-align: left }}
</style>
</head>
<body>
{table}
</body>
</html>
"""


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        volume: Sample it is of; empty where all are pooled.
        score: Title of the score.
        size: One of `SIZES`.
        lower: Whether lower is better.
    """

    volume: str
    score: str
    size: str
    lower: bool


@dataclass(frozen=True)
class ComparedRun:
    """A run: what it was made with, and its number in each column (None where not defined)."""

    run: str
    model: str
    decoder: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Rows in the order in which the runs were given."""

    columns: tuple[Column, ...]
    rows: tuple[ComparedRun, ...]

    def best(self, column: int) -> set[int]:
        """Rows of the best number of a column; none where there is one row only."""
        values = [row.values[column] for row in self.rows]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return set()
        top = min(known) if self.columns[column].lower else max(known)
        return {i for i, value in enumerate(values) if value == top}


def markdown(comparison: Comparison) -> str:
    """A pipe table."""
    table = _table(comparison, lambda text: text.replace("|", "\\|"), "**{}**")
    table.columns = [" ".join(filter(None, titles)) for titles in table.columns]
    align = ["left"] * len(NAMES) + ["right"] * len(comparison.columns)
    text = table.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=align)
    return f"{text}\n"


def latex(comparison: Comparison) -> str:
    """A ``tabular`` for the booktabs package."""
    return _table(comparison, _tex, r"\textbf{{{}}}").to_latex(
        index=False,
        escape=False,
        multicolumn_format="c",
        column_format="l" * len(NAMES) + "r" * len(comparison.columns),
    )


def page(comparison: Comparison) -> str:
    """A page of its own with the table."""
    table = _table(comparison, html.escape, "<strong>{}</strong>")
    return _PAGE.format(table=table.to_html(index=False, escape=False, border=0))


def _table(comparison: Comparison, escape: Callable[[str], str], bold: str) -> pd.DataFrame:
    """Text of every cell under two rows of titles: volume and score, then size."""
    titles = [("", name) for name in NAMES] + [
        (escape(" ".join(filter(None, (c.volume, c.score)))), escape(c.size))
        for c in comparison.columns
    ]
    rows = [
        [*map(escape, (row.run, row.model, row.decoder))]
        + [
            bold.format(_number(value)) if i in comparison.best(k) else _number(value)
            for k, value in enumerate(row.values)
        ]
        for i, row in enumerate(comparison.rows)
    ]
    return pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(titles))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _tex(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
