"""Checks of a `Recurrence`: its cell and its options."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_choice
from noria.backends import CELL_BACKENDS, LOOP_BACKENDS, names
from noria.layers.base import Layer


def check_cell(cell: Any) -> None:
    """Reject classes, layers and Equinox cells, which are easily taken for a cell."""
    if isinstance(cell, type):
        raise TypeError(
            f"Recurrence(cell): cell is the class {cell.__name__}; "
            f"expected an instance: {cell.__name__}(...)."
        )
    if isinstance(cell, Layer):
        raise TypeError(
            f"Recurrence(cell): cell is already a layer, {cell.label}; expected a cell."
        )
    if isinstance(cell, eqx.nn.GRUCell | eqx.nn.LSTMCell):
        name = type(cell).__name__
        raise TypeError(
            f"Recurrence(cell): equinox.nn.{name} takes (x, state); expected (state, x). "
            f"Use noria.{name}, or a Cell of your own that calls it."
        )
    if not callable(cell):
        raise TypeError(
            f"Recurrence(cell): cell is a {type(cell).__name__}; "
            "expected a Cell or a function (state, x)."
        )


def check_options(call: str, backend: str, save: str, checkpoint: int | str | None) -> None:
    """Check each option, and that the backend can store residuals as they say."""
    check_choice(call, "backend", backend, ("auto", *names()))
    check_choice(call, "save", save, ("gates", "states"))
    steps = isinstance(checkpoint, int) and not isinstance(checkpoint, bool) and checkpoint >= 1
    if not (checkpoint is None or checkpoint == "sqrt" or steps):
        raise ValueError(
            f'{call}: checkpoint is {checkpoint!r}; expected None, "sqrt", '
            "or a whole number of steps of at least 1."
        )
    if save != "gates" and not chooses_residuals(backend):
        option = "save"
    elif checkpoint is not None and backend in CELL_BACKENDS:
        option = "checkpoint"
    else:
        return
    raise ValueError(
        f"{call}: with backend={backend!r} JAX decides what is stored for the gradient; "
        f"{option}= needs another backend."
    )


def chooses_residuals(backend: str) -> bool:
    """Whether a backend has an option ``save=``."""
    return backend in ("auto", *LOOP_BACKENDS)


def strip_weak_type(leaf: Any) -> jax.Array:
    """An array of the same dtype that takes part in promotion, also from a Python number."""
    return jnp.asarray(leaf, jnp.result_type(leaf))
