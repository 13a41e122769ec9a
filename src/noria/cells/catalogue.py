"""The catalogue: what `catalogue.toml` and `papers.bib` say of each cell of the library."""

import functools
import importlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.cells.declare import shape_of

_FOLDER = Path(__file__).parent

#: The families, in the order of tables, and what is common to their cells.
FAMILIES = {
    "gated": "vectors, with gates or without",
    "orthogonal": "recurrent weights whose norms are bounded",
    "dynamical": "differential equations, reservoirs, models of neurons",
    "linear": "next states that are linear in the state",
    "memory": "matrices as states",
    "spiking": "neurons that spike, with surrogate gradients",
    "convolutional": "images as states",
}

#: The kinds of arithmetic in a step.
KINDS = ("vector", "linear", "matrix", "complex", "convolution")


@dataclass(frozen=True)
class Entry:
    """One cell of the catalogue.

    Attributes:
        key: its short name, as in ``noria cells mgu``.
        cls: the name of its class in `noria.cells`.
        file: the module of the class, in `noria.cells`.
        name: its full name.
        family: one of `FAMILIES`.
        paper: the key of its paper in ``papers.bib``.
        states: the names of the arrays of its state; the first one is the output.
        gates: the names of its gates.
        kind: one of `KINDS`.
        parameters: the number of its parameters, in words for sizes as in a declaration.
        differs: how other libraries differ from the paper.
        libraries: other libraries that have the cell.
    """

    key: str
    cls: str
    file: str
    name: str
    family: str
    paper: str
    states: tuple[str, ...]
    gates: tuple[str, ...]
    kind: str
    parameters: str
    differs: str = ""
    libraries: tuple[str, ...] = ()


@functools.cache
def catalogue() -> dict[str, Entry]:
    """All entries by their keys, in the order of the file."""
    with (_FOLDER / "catalogue.toml").open("rb") as file:
        tables = tomllib.load(file)
    return {key: _entry(key, table) for key, table in tables.items()}


def _entry(key: str, table: dict[str, object]) -> Entry:
    given = {
        {"class": "cls"}.get(name, name): tuple(value) if isinstance(value, list) else value
        for name, value in table.items()
    }
    return Entry(key=key, **given)  # type: ignore[arg-type]


@functools.cache
def papers() -> dict[str, str]:
    """The BibTeX entries by their keys."""
    text = (_FOLDER / "papers.bib").read_text(encoding="utf-8")
    return {
        match[1]: match[0].strip()
        for match in re.finditer(r"^@\w+\{(\w+),\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    }


def class_of(entry: Entry) -> Any:
    """The class of a cell."""
    return getattr(importlib.import_module(f"noria.cells.{entry.file}"), entry.cls)


def parameter_count(entry: Entry, cell: Any) -> int:
    """The formula of the entry, for the sizes of a cell."""
    from noria.cells.construction import numbers_of  # it imports JAX

    (count,) = shape_of((entry.parameters,), numbers_of(cell))
    return count
