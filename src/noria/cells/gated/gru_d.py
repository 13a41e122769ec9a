"""Gated recurrent unit with decays for missing values."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class GRUDCell(VectorCell):
    """The GRU with decays, GRU-D, for inputs with missing values.

    ::

        v, m, d = x                                     values, masks (1: seen), time gaps
        gamma_x = exp(-relu(w_gamma_x * d + b_gamma_x))
        gamma_h = exp(-relu(W_gamma_h d + b_gamma_h))
        x^      = m * v + (1 - m) * (gamma_x * last + (1 - gamma_x) * x_mean)
        h^      = gamma_h * h
        z  = sigmoid(W_z x^ + U_z h^ + V_z m + b_z)
        r  = sigmoid(W_r x^ + U_r h^ + V_r m + b_r)
        n  = tanh(W x^ + U (r * h^) + V m + b)
        h' = (1 - z) * h^ + z * n
        last' = m * v + (1 - m) * last

    ``in`` is three times the number of variables: ``x`` has their values, their masks and the times
    since each was seen, side by side. Where the mask is 0 the value is not used, and may be NaN.
    ``x_mean`` is not trained. It is 0, for standardised data; ``init={"x_mean": ...}`` sets it.
    ``last`` starts at 0. ``w_gamma_x`` starts at 0.1: a negative one would never learn.

    Raises:
        ValueError: if ``in`` is no multiple of 3.

    Source: Che et al. 2016, arXiv 1606.01865. The authors' code feeds ``1 - m`` in the place of
    ``m``, decays a missing value to 0, and mixes ``n`` with ``h``.
    """

    w_gamma_x: jax.Array = vector("in // 3", 0.1)
    b_gamma_x: jax.Array = vector("in // 3")
    W_gamma_h: jax.Array = matrix("hidden", "in // 3")
    b_gamma_h: jax.Array = vector("hidden")
    x_mean: jax.Array = vector("in // 3", trained=False)
    W_z: jax.Array = matrix("hidden", "in // 3")
    U_z: jax.Array = matrix("hidden", "hidden")
    V_z: jax.Array = matrix("hidden", "in // 3")
    b_z: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("hidden", "in // 3")
    U_r: jax.Array = matrix("hidden", "hidden")
    V_r: jax.Array = matrix("hidden", "in // 3")
    b_r: jax.Array = vector("hidden")
    W: jax.Array = matrix("hidden", "in // 3")
    U: jax.Array = matrix("hidden", "hidden")
    V: jax.Array = matrix("hidden", "in // 3")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    last: jax.Array = state("in // 3")

    def __check_init__(self) -> None:
        if self.in_size % 3:
            raise ValueError(
                f"{self._call}: in_size is {self.in_size}; expected a multiple of 3: values, masks "
                "and time gaps."
            )

    @property
    def variables(self) -> int:
        """The number of variables, a third of ``in``."""
        return self.in_size // 3

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, last = state
        v, m, d = jnp.split(x, 3)
        gamma_x = jnp.exp(-relu(self.w_gamma_x * d + self.b_gamma_x))
        gamma_h = jnp.exp(-relu(self.W_gamma_h @ d + self.b_gamma_h))
        seen = m > 0
        x = jnp.where(seen, v, gamma_x * last + (1 - gamma_x) * self.x_mean)
        h = gamma_h * h
        z = sigmoid(self.W_z @ x + self.U_z @ h + self.V_z @ m + self.b_z)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.V_r @ m + self.b_r)
        n = jnp.tanh(self.W @ x + self.U @ (r * h) + self.V @ m + self.b)
        return self.State((1 - z) * h + z * n, jnp.where(seen, v, last))
