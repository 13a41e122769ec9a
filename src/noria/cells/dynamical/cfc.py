"""Closed-form continuous-time network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total


def _lecun_tanh(z: jax.Array) -> jax.Array:
    """``1.7159 * tanh(0.666 * z)``."""
    return 1.7159 * jnp.tanh(0.666 * z)


def _glorot_row(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Glorot-uniform, as for a matrix of one row. At 0, ``|w|`` would have no gradient."""
    bound = (6 / (1 + shape[0])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class CfCCell(VectorCell):
    """The closed-form continuous-time network: a step for any time difference ``dt``.

    ::

        u  = activation(W x + U h + b)
        g  = W_g u + b_g
        t  = sigmoid((W_a u + b_a) * dt + W_t u + b_t)
        h' = (1 - t) * tanh(g) + t * tanh(W_f u + b_f)                 (default)
        h' = tanh(g) + t * tanh(W_f u + b_f)                           (no_gate)
        h' = A - A * exp(-dt * (|w| + |g|)) * g                        (pure)

    The layer gets the time differences as ``dt=``.

    Args:
        units: number of units of the backbone ``u``, which has one layer.
        mode: ``"default"``, ``"no_gate"`` or ``"pure"``: ncps's form of the solution of the
            equation, with absolute values and without the initial state.
        activation: activation of the backbone; ``1.7159 tanh(0.666 z)`` by default.

    Source: Hasani et al. 2022, arXiv 2106.13898, in the form of the authors' library ncps. The
    paper has no ``W_t u + b_t``. ``A`` starts at 1, and ``w`` is drawn as a matrix of one row is.
    ``ParaCfC`` of pararnn-torch is another cell, without a backbone.
    """

    units: int = size(default=128)
    mode: str = "default"
    activation: Callable[[jax.Array], jax.Array] = _lecun_tanh
    W: jax.Array = matrix("units", "in")
    U: jax.Array = matrix("units", "hidden")
    b: jax.Array = vector("units")
    W_g: jax.Array = matrix("hidden", "units")
    b_g: jax.Array = vector("hidden")
    W_f: jax.Array | None = matrix("hidden", "units", when=lambda cell: cell.mode != "pure")
    b_f: jax.Array | None = vector("hidden", when=lambda cell: cell.mode != "pure")
    W_a: jax.Array | None = matrix("hidden", "units", when=lambda cell: cell.mode != "pure")
    b_a: jax.Array | None = vector("hidden", when=lambda cell: cell.mode != "pure")
    W_t: jax.Array | None = matrix("hidden", "units", when=lambda cell: cell.mode != "pure")
    b_t: jax.Array | None = vector("hidden", when=lambda cell: cell.mode != "pure")
    w: jax.Array | None = vector("hidden", _glorot_row, when=lambda cell: cell.mode == "pure")
    A: jax.Array | None = vector("hidden", 1.0, when=lambda cell: cell.mode == "pure")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("CfCCell", "mode", self.mode, ("default", "no_gate", "pure"))

    def __call__(  # type: ignore[override]
        self, h: jax.Array, x: jax.Array, *, dt: jax.Array
    ) -> jax.Array:
        u = self.activation(self.W @ x + self.U @ h + self.b)
        g = self.W_g @ u + self.b_g
        if self.w is not None and self.A is not None:
            return self.A - self.A * jnp.exp(-dt * (jnp.abs(self.w) + jnp.abs(g))) * g
        a, b = total(times(self.W_a, u), self.b_a), total(times(self.W_t, u), self.b_t)
        t = sigmoid(a * dt + b)
        f = jnp.tanh(total(times(self.W_f, u), self.b_f))
        keep = 1 - t if self.mode == "default" else 1
        return keep * jnp.tanh(g) + t * f
