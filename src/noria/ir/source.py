"""The line of the user's cell that asked for an equation."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from noria._jax import user_frames
from noria.ir.graph import Equation

_PACKAGE = Path(__file__).parent.parent


#: Files whose lines are not the cell's own: the compiler, and the libraries below it.
_HIDDEN = (
    *(str(_PACKAGE / part) for part in ("compiler", "backends", "ir", "layers", "ops", "_jax")),
    str(_PACKAGE / "_functions.py"),
    *(f"{Path(inspect.getfile(library)).parent}/" for library in (jax, eqx)),
)


def origin(equation: Equation) -> tuple[str, int]:
    """File and line of the cell that asked for an equation; an empty path if there is none."""
    return next(_lines(equation.source), ("", 0))


def where(source: Any) -> str:
    """The line of the cell at the end of a message: ``, gru.py:57``; empty if there is none."""
    path, line = next(_lines(source), ("", 0))
    return f", {Path(path).name}:{line}" if path else ""


def located(source: Any, call: Any) -> Any:
    """The traceback of an equation, or of the call around it if it has no line of the cell.

    JAX traces a compiled function once, and keeps no line of the cell for its equations.
    """
    return source if call is None or next(_lines(source), None) else call


def _lines(source: Any) -> Iterator[tuple[str, int]]:
    return (frame for frame in user_frames(source) if not frame[0].startswith(_HIDDEN))


def place(equation: Equation) -> str:
    """The operation and the line of the cell that asked for it: ``tanh at cells/gru.py:57``."""
    path, number = origin(equation)
    return (
        f"{equation.name} at {'/'.join(Path(path).parts[-2:])}:{number}" if path else equation.name
    )
