"""No file is longer than 400 lines, and no function but a command than 50 without its docstring."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "cristae"


def length(function):
    """Lines of a function, without those of its docstring."""
    first = function.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if is_text else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_files_and_functions_are_short():
    long = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{path}: {text.count(chr(10))} lines")
        if path.parent.name != "cli":  # a command has a line an option
            functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
            long += [f"{path}: {f.name}, {length(f)} lines" for f in functions if length(f) > 50]
    assert long == []
