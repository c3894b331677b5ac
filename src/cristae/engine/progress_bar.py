"""A live line of progress on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cristae.engine.progress import Advance, rate_text


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        fresh = task.completed - task.fields["before"]
        return Text(rate_text(fresh, task.elapsed or 0.0, task.fields["unit"]))


@contextmanager
def live_line(description: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    """Show the progress of some work; arguments are those of `cristae.engine.progress.track`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, unit=unit, before=done)
        progress.update(task, completed=done)

        def advance(amount: float, note: str = "") -> None:
            text = f"{description} {note}" if note else description
            progress.update(task, advance=amount, description=text)

        yield advance
