"""The models that come with the package: ``weights/NAME.pt``, with a card ``NAME.md`` beside it."""

from pathlib import Path

from cristae.engine.paths import user_path
from cristae.errors import InputError, SourceNotFoundError

WEIGHTS = Path(__file__).parent / "weights"


def named_models() -> dict[str, Path]:
    """The models that come with the package: their files by name, in alphabetical order."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.pt"))}


def model_card(name: str) -> str:
    """The card (Markdown) of a model that comes with the package; empty where it has none.

    Raises:
        SourceNotFoundError: An unknown name; the known ones are listed.
    """
    if name not in named_models():
        raise SourceNotFoundError(f"{name}: {_known()}")
    card = WEIGHTS / f"{name}.md"
    return card.read_text() if card.is_file() else ""


def is_shipped(path: Path) -> bool:
    """Whether a file is one of the package's."""
    return path.resolve().parent == WEIGHTS.resolve()


def find_model(path_or_name: str | Path) -> Path:
    """The file of a model; a name wins over a file of the same name in the working folder.

    Raises:
        SourceNotFoundError: Neither a file nor a known name; the known names are listed.
        InputError: A folder.
    """
    named = named_models()
    if isinstance(path_or_name, str) and path_or_name in named:
        return named[path_or_name]
    path = user_path(path_or_name)
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path}: a folder found, expected a model file")
    raise SourceNotFoundError(f"{path}: no such model file, and {_known()}")


def _known() -> str:
    names = ", ".join(named_models())
    return f"no model has that name (known names: {names or 'none in this installation'})"
