"""``PackedDense``: a `Dense` of constant weights, whose product is a kernel for few rows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import Key, State
from noria.cells.base import Cell
from noria.layers.base import Layer
from noria.layers.dense import Dense, identity
from noria.layers.explain import explained_step
from noria.layers.recurrence import Recurrence
from noria.module import made


class _Product(Cell):
    """A `Dense` as a cell without an input: a row is the state of one step, which does not change.

    So the compiler leaves the product in the kernel. XLA would compute that of an input.
    """

    dense: Dense

    def initial_state(self) -> State:
        return jnp.zeros(self.dense.W.shape[1], self.dense.W.dtype)

    def __call__(self, row: Any, x: Any) -> tuple[State, Any]:
        return row, self.dense.apply(row, None)


class PackedDense(Dense):
    """A `Dense` whose arrays are constants of a program, which packs the weights once.

    XLA takes up to twice as long for the product of up to 128 rows (`Tuning.step_rows`), and
    computes that of more: ``python benchmarks/packing.py --dense``.
    """

    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        self._check(xs)
        affine = made(Dense, W=self.W, b=self.b, activation=identity)
        kernel, count = Recurrence(_Product(affine)), math.prod(xs.shape[:-1])
        rows, nothing = xs.reshape(count, self.W.shape[1]), jnp.zeros((count, 0), xs.dtype)
        if explained_step(kernel, rows, nothing, 1)[0].backend != "native":
            return super().apply(xs, key)
        _, ys = kernel.step(rows, nothing)
        return self.activation(ys.reshape(*xs.shape[:-1], self.W.shape[0]))


def packed(model: Layer) -> Layer:
    """A copy of a model of constant arrays, in which each `Dense` is a `PackedDense`."""

    def one(node: Any) -> Any:
        if type(node) is not Dense:
            return node
        return made(PackedDense, W=node.W, b=node.b, activation=node.activation)

    # A cell may hold a Dense too; it is a part of the kernel of its layer.
    found: Layer = jtu.tree_map(
        one, model, is_leaf=lambda node: isinstance(node, Dense | Recurrence)
    )
    return found
