"""The line of the user's cell that asked for an equation."""

import inspect
from pathlib import Path

import equinox as eqx
import jax

from noria._jax import user_frames
from noria.ir.graph import Equation

_PACKAGE = Path(__file__).parent.parent


#: Files whose lines are not the cell's own: those of the compiler, and of the libraries below it.
_HIDDEN = (
    *(str(_PACKAGE / part) for part in ("compiler", "backends", "ir", "layers", "ops", "_jax")),
    *(f"{Path(inspect.getfile(library)).parent}/" for library in (jax, eqx)),
)


def origin(equation: Equation) -> tuple[str, int]:
    """File and line of the cell that asked for an equation; an empty path if none did."""
    for path, line in user_frames(equation.source):
        if not path.startswith(_HIDDEN):
            return path, line
    return "", 0


def place(equation: Equation) -> str:
    """The operation and the line of the cell that asked for it: ``tanh at cells/gru.py:57``."""
    path, number = origin(equation)
    return (
        f"{equation.name} at {'/'.join(Path(path).parts[-2:])}:{number}" if path else equation.name
    )
