"""The ways to run a cell over a sequence. All solve the same `Problem` with the same answer.

A cell backend runs the cell as it is: a function ``run(problem) -> (final state, outputs)``. A loop
backend runs the loop that the compiler takes out of a cell; it satisfies `LoopBackend`. To add one,
write a module with an object ``BACKEND``, and add a line to `LOOP_BACKENDS`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from noria.backends import plain, reference
from noria.backends.base import LoopBackend, Problem

# Thresholds are part of the key of `jax.jit`. Defined later, they would change the key of functions
# that were compiled before, which would be compiled again.
from noria.backends.native import machine as machine

#: Backends that run the cell as it is.
CELL_BACKENDS: dict[str, Callable[[Problem], tuple[Any, Any]]] = {
    "reference": reference.run,
    "plain": plain.run,
}

#: The module of each loop backend, imported when first needed. ``"auto"`` takes the first that
#: supports a loop; ``"scan"`` supports all.
LOOP_BACKENDS = {
    "native": "noria.backends.native.backend",
    "scan": "noria.backends.scan",
}


def loop_backend(name: str) -> LoopBackend:
    """The loop backend of a name in `LOOP_BACKENDS`."""
    found: LoopBackend = import_module(LOOP_BACKENDS[name]).BACKEND
    return found


def names() -> tuple[str, ...]:
    """The backends that a layer may name, besides ``"auto"``. A linear recurrence needs no loop."""
    return (*CELL_BACKENDS, *reversed(LOOP_BACKENDS), "associative", "chunkwise")
