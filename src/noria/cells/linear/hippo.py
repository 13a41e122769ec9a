"""HiPPO-RNN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from noria._errors import check_choice
from noria._legendre import check_window, scaled, translated
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import wide_dtype
from noria.initializers import lecun_normal


class HiPPOCell(VectorCell):
    """The HiPPO-RNN: a gated unit whose memory ``c`` approximates the past by polynomials.

    ::

        f  = W_f x + U_f h + b_f
        c' = memory of c and f
        g  = sigmoid(W_g x + V_g c' + b_g)
        n  = tanh(W_n x + V_n c' + b_n)
        h' = (1 - g) * h + g * n

        legs: c' = (I - A / 2t)^-1 ((I + A / 2t) c + B f / t),  at t = 0: c' = (f, 0, 0, ...)
        legt: c' = A c + B f
        legs: A_nk = -r_n r_k for n > k, -(n + 1) for n = k;  B_n = r_n = sqrt(2 n + 1)
        legt: dc/dt = (-Z c + r f) / theta, held for a step;
              Z_nk = r_n r_k for n >= k, (-1)^(n - k) r_n r_k for n < k

    ``t`` is the number of the step, from 0. ``A`` and ``B`` are no parameters. LegS approximates
    all steps since the start, and LegT those in a window of ``theta`` steps.

    Args:
        measure: ``"legs"`` or ``"legt"``.
        theta: length of the window of LegT, in steps.
        memory_size: numbers in ``f``, each with its own memory.
        order: coefficients of a memory.

    Source: Gu, Dao, Ermon, Rudra and Re 2020, arXiv 2008.07669. The order of the updates and the
    bilinear form of LegS are those of the authors' code. There the matrices of LegS do not change
    after a largest step, 1024 by default.
    """

    measure: str = "legs"
    theta: float = 100.0
    memory_size: int = size(default=1)
    order: int = size(default=32)
    W_f: jax.Array = matrix("memory", "in", lecun_normal())
    U_f: jax.Array = matrix("memory", "hidden", lecun_normal())
    b_f: jax.Array = vector("memory")
    W_g: jax.Array = matrix("hidden", "in")
    V_g: jax.Array = matrix("hidden", "memory * order")
    b_g: jax.Array = vector("hidden")
    W_n: jax.Array = matrix("hidden", "in")
    V_n: jax.Array = matrix("hidden", "memory * order")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("memory", "order")

    def __check_init__(self) -> None:
        check_choice("HiPPOCell", "measure", self.measure, ("legs", "legt"))
        check_window("HiPPOCell", self.theta)

    def __call__(self, state: Any, x: jax.Array, *, t: jax.Array) -> Any:  # type: ignore[override]
        h, c = state
        f = self.W_f @ x + self.U_f @ h + self.b_f
        if self.measure == "legs":
            c = self._legs(c, f, t)
        else:
            A, B = (jnp.asarray(a, self.dtype) for a in translated(self.order, self.theta))
            c = c @ A.T + f[:, None] * B
        m = c.reshape(-1)
        g = sigmoid(self.W_g @ x + self.V_g @ m + self.b_g)
        n = jnp.tanh(self.W_n @ x + self.V_n @ m + self.b_n)
        return self.State((1 - g) * h + g * n, c)

    def _legs(self, c: jax.Array, f: jax.Array, t: jax.Array) -> jax.Array:
        wide = wide_dtype(self.dtype)
        A, B = (jnp.asarray(a, wide) for a in scaled(self.order))
        c, f = c.astype(wide), f.astype(wide)
        start = f[:, None] * jnp.asarray(np.eye(1, self.order), wide)
        step = 1 / jnp.maximum(t, 1).astype(wide)
        explicit = c + step / 2 * (c @ A.T) + step * (f[:, None] * B)
        implicit = jnp.asarray(np.eye(self.order), wide) - step / 2 * A
        after = jax.scipy.linalg.solve_triangular(implicit, explicit.T, lower=True).T
        return jnp.where(t == 0, start, after).astype(self.dtype)
