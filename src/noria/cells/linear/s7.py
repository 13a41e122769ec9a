"""Selective and simplified state space layer, S7."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import has_other_size
from noria.cells.starts import over_inputs
from noria.initializers import normal


def _counted(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """-1, -2, ...: the eigenvalues of HiPPO-LegS."""
    del key
    return jnp.asarray(-1.0 - np.arange(shape[0]), dtype)


class S7Cell(VectorCell):
    """The selective and simplified state-space layer: all matrices depend on the input.

    ::

        Lambda = W_Lambda x + b_Lambda
        a  = 1 - 1 / (Lambda^2 + 0.5)                   between -1 and 1
        h' = a * h + B(x) x
        y  = C(x) h' + D(x) * x                         the output

        B(x) = W_B x + b_B,  C(x) = W_C x + b_C,  D(x) = W_D x + b_D

    ``W_B`` and ``W_C`` have three axes. If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``.
    ``b_Lambda`` starts at -1, -2, ..., the eigenvalues of HiPPO-LegS.

    Args:
        state_size: numbers of the state.

    Source: Soydan et al. 2024, arXiv 2410.03464. All numbers are real. lrnnx has an input
    projection, a gate after the output, and a second input ``W_b x`` of the state. Its one bias is
    ``b_Lambda``, which starts at -1/2.
    """

    state_size: int = size(default=16)
    P: jax.Array | None = matrix("hidden", "in", when=has_other_size)
    W_Lambda: jax.Array = matrix("state", "hidden", normal(0.02))
    b_Lambda: jax.Array = vector("state", _counted)
    W_B: jax.Array = array("state", "hidden", "hidden", initializer=normal(0.02))
    b_B: jax.Array = matrix("state", "hidden", over_inputs)
    W_C: jax.Array = array("hidden", "state", "hidden", initializer=normal(0.02))
    b_C: jax.Array = matrix("hidden", "state", over_inputs)
    W_D: jax.Array = matrix("hidden", "hidden", normal(0.02))
    b_D: jax.Array = vector("hidden", normal(1))
    h: jax.Array = state("state")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        Lambda = self.W_Lambda @ x + self.b_Lambda
        return (1 - 1 / (Lambda * Lambda + 0.5)) * h + (self.W_B @ x + self.b_B) @ x

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """A read-out and a skip connection, both of the input."""
        x = x if self.P is None else self.P @ x
        return (self.W_C @ x + self.b_C) @ h + (self.W_D @ x + self.b_D) * x
