"""The step of a model as one kernel, for `noria.stream`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import Aux, State
from noria.cells.base import Cell
from noria.compiler.explain import Explanation
from noria.layers.base import Layer
from noria.layers.explain import explained_step
from noria.layers.packed_dense import packed
from noria.layers.recurrence import Recurrence
from noria.layers.with_backend import with_backend


class _ModelCell(Cell):
    """A model of layers as a cell, for inputs of one shape."""

    model: Layer
    in_shape: tuple[int, ...] = eqx.field(static=True)

    def initial_state(self) -> State:
        return self.model.initial_state()

    def __call__(self, state: State, x: Any) -> tuple[State, Any]:
        found: tuple[State, Any] = self.model.step(state, x)
        return found


class _WithInput(Cell):
    """A cell whose input is a part of its state, and does not change.

    So the compiler leaves all in the kernel. What needs the input only would be computed by XLA.
    """

    cell: _ModelCell
    dtype: Any = eqx.field(static=True)

    def initial_state(self) -> State:
        return self.cell.initial_state(), jnp.zeros(self.cell.in_shape, self.dtype)

    def __call__(self, state: State, _: Any) -> tuple[State, Any]:
        state, x = state
        after, y = self.cell(state, x)
        return (after, x), y


def step_in_one_kernel(model: Layer, state: State, x: Any, axes: int) -> tuple[State, Any]:
    """A step of a model, by one kernel if it has machine code.

    JAX computes a program with more than a thousand floating-point operations in another thread,
    and to wake it takes longer than a step of a small model. The work of kernels does not count.

    Args:
        model: a model of layers, in the mode of `noria.inference`.
        state: the state of the call, also traced.
        x: the input of the call, also traced.
        axes: the axes of ``x`` for streams, 0 or 1.

    Raises:
        ValueError: see `Layer.step`.
        TypeError: see `Layer.step`.
    """
    found: tuple[State, Any]
    parts = _native_parts(model, state, x, axes)
    if parts is not None:
        x = jnp.asarray(x)
        cell = _ModelCell(with_backend(model, "plain"), x.shape[axes:])
        inside, nothing = Recurrence(_WithInput(cell, x.dtype)), jnp.zeros((*x.shape[:axes], 0))
        if _is_kernel(inside, (state, x), nothing, axes):
            (after, _), y = inside.step((state, x), nothing)
            return after, y
        whole = Recurrence(cell)
        if parts and _is_kernel(whole, state, x, axes):
            found = whole.step(state, x)
            return found
    found = packed(model).step(state, x)
    return found


def _native_parts(model: Layer, state: State, x: Any, axes: int) -> list[Explanation] | None:
    """The recurrent layers of a model that can be a cell, if all have machine code."""
    fits = jtu.all_leaves([x]) and model.stride == 1 and not model.takes()
    if isinstance(model, Recurrence) or not fits:
        return None
    _, y = jax.eval_shape(lambda state, x: model.step(state, x), state, x)
    parts = explained_step(model, state, x, axes)
    is_native = all(part.backend == "native" for part in parts)
    return parts if is_native and not isinstance(y, Aux) else None


def _is_kernel(layer: Recurrence, state: State, x: Any, axes: int) -> bool:
    (whole,) = explained_step(layer, state, x, axes)
    return whole.backend == "native"
