"""Cells: one step of a recurrence.

=============== ===================================================================
file            contents
=============== ===================================================================
base            ``Cell``, how a cell emits its output, ``GatedCell``
declare         declarations of sizes, parameters and states
declared        ``DeclaredCell``: the constructor, the initial state, checks
parts           functions that many cells share
catalogue       the entries of ``catalogue.toml`` and ``papers.bib``
elman, gru      the cells of ``noria`` itself; also ``lstm``
one_gate        one gate between the old state and a candidate
=============== ===================================================================

A class of the catalogue is loaded when it is asked for: ``noria.cells.MGUCell``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from noria.cells.declare import array as array
from noria.cells.declare import matrix as matrix
from noria.cells.declare import size as size
from noria.cells.declare import state as state
from noria.cells.declare import vector as vector
from noria.cells.declared import DeclaredCell as DeclaredCell
from noria.cells.declared import VectorCell as VectorCell

if TYPE_CHECKING:
    from noria.cells.one_gate import MGUCell as MGUCell


def __getattr__(name: str) -> Any:
    from noria.cells.catalogue import catalogue

    for entry in catalogue().values():
        if entry.cls == name:
            return getattr(import_module(f"noria.cells.{entry.file}"), name)
    raise AttributeError(f"module 'noria.cells' has no attribute {name!r}")


def __dir__() -> list[str]:
    from noria.cells.catalogue import catalogue

    return [*globals(), *(entry.cls for entry in catalogue().values())]
