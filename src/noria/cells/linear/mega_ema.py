"""Damped moving average of Mega."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import matrix, size, state
from noria.cells.declared import VectorCell
from noria.cells.parts import has_other_size
from noria.cells.starts import over_inputs
from noria.initializers import normal


def _signs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """1, -1, 1, ... along the last axis, and noise of the deviation 0.02."""
    noise = 0.02 * jax.random.normal(key, shape, dtype)
    return noise + jnp.asarray((-1.0) ** np.arange(shape[-1]), dtype)


class MegaEMACell(VectorCell):
    """The damped moving average of Mega, with several averages of each feature.

    ::

        alpha, delta = sigmoid(a), sigmoid(d)
        h' = alpha * (beta * x) + (1 - alpha * delta) * h     for n averages of each feature
        y  = sum of eta * h' over n                           the output

    If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``.

    Args:
        ndim: averages of each feature, the paper's h.

    Source: Ma et al. 2023, arXiv 2209.10655. The authors' code adds ``omega * x`` to
    ``y``, and then applies silu.
    """

    ndim: int = size(default=16)
    P: jax.Array | None = matrix("hidden", "in", when=has_other_size)
    a: jax.Array = matrix("hidden", "ndim", normal(0.2))
    d: jax.Array = matrix("hidden", "ndim", normal(0.2))
    beta: jax.Array = matrix("hidden", "ndim", _signs)
    eta: jax.Array = matrix("hidden", "ndim", over_inputs)
    h: jax.Array = state("hidden", "ndim")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        alpha, delta = sigmoid(self.a), sigmoid(self.d)
        return alpha * (self.beta * x[:, None]) + (1 - alpha * delta) * h

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """A weighted sum of the averages of each feature."""
        return (self.eta * h).sum(1)
