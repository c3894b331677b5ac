"""Outputs that are written at once, by the rules of every output."""

from collections.abc import Callable, Iterable
from pathlib import Path

from cristae.engine.files import write_text
from cristae.engine.identity import fingerprint_of
from cristae.engine.ledger import open_ledger


def write_output(
    path: Path,
    write: Callable[[], object],
    stage: str,
    content: str,
    *,
    overwrite: bool = False,
    reads: Iterable[str | Path] = (),
) -> None:
    """Write a file with a record of its own; the same content again is left alone.

    Args:
        path: The file.
        write: Writes it, atomically.
        stage: What makes it.
        content: Text that tells this content from any other.
        overwrite: Replace another content that cristae wrote.
        reads: Files that are read for it, and so are never its place.

    Raises:
        OutputExistsError: There is another content, unless ``overwrite``; or what cristae did not
            write, in any case.
        InputError: It is one of the files read.
    """
    settings = {"content": fingerprint_of(content)}
    with open_ledger(
        path, stage=stage, inputs={}, settings=settings, overwrite=overwrite, reads=reads
    ) as ledger:
        if ledger.state != "done":
            write()
            ledger.finish()


def write_text_output(
    path: Path,
    text: str,
    stage: str,
    *,
    overwrite: bool = False,
    reads: Iterable[str | Path] = (),
) -> None:
    """Write a text; see `write_output`."""
    write_output(
        path, lambda: write_text(path, text), stage, text, overwrite=overwrite, reads=reads
    )
