"""Limits on the length of lines, files and functions, and on annotations that are `Any`."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PYTHON = [
    path
    for folder in ("src", "tests", "scripts", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "_build" not in path.parts
]
PROSE = [
    *(ROOT / name for name in ("Makefile", "pyproject.toml", ".ci/run")),
    *sorted(ROOT.glob("*.md")),
    *sorted(SOURCE.rglob("*.md")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts),
]
PACKAGE = [path for path in PYTHON if path.is_relative_to(SOURCE)]

COLUMNS, FILE, MEDIAN, FUNCTION = 100, 400, 140, 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- length -------------------------------------------------------------------------------------


def is_data(line: str) -> bool:
    """Whether a line cannot be broken: a row of a table, or a URL."""
    return line.lstrip().startswith("|") or "://" in line


@pytest.mark.parametrize("path", [*PYTHON, *PROSE], ids=name_of)
def test_lines_have_at_most_100_columns(path):
    """Rows of tables in prose and lines with a URL may be longer."""
    lines = path.read_text().splitlines()
    long = [
        f"{name_of(path)}:{number}: {len(line)} columns"
        for number, line in enumerate(lines, 1)
        if len(line) > COLUMNS and not (is_data(line) if path in PROSE else "://" in line)
    ]
    assert not long, "\n".join(long)


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in PACKAGE}
    assert {name: n for name, n in lengths.items() if n > FILE} == {}
    assert statistics.median(lengths.values()) <= MEDIAN


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short():
    """The body, without the docstring."""
    long = {}
    for path in PACKAGE:
        for node in functions_of(path):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if length > FUNCTION:
                long[f"{name_of(path)}: {node.name}"] = length
    assert long == {}


# --- annotations --------------------------------------------------------------------------------


def annotations_of(path: Path) -> Iterator[ast.expr | None]:
    """The annotations of all parameters except ``self`` and ``cls``, and of all results."""
    for node in functions_of(path):
        some = node.args
        named = [*some.posonlyargs, *some.args, *some.kwonlyargs, some.vararg, some.kwarg]
        yield from (a.annotation for a in named if a and a.arg not in ("self", "cls"))
        yield node.returns


def is_any(annotation: ast.expr | None) -> bool:
    """Whether an annotation is missing or contains `Any`."""
    if annotation is None:
        return True
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation))


def test_less_than_a_fifth_of_the_annotations_of_the_compiler_is_any():
    """With the graphs that it works on."""
    files = [path for path in PACKAGE if {"compiler", "ir"}.intersection(path.parts)]
    found = [is_any(a) for path in files for a in annotations_of(path)]
    assert sum(found) < 0.2 * len(found), f"{sum(found)} of {len(found)} annotations say Any"
