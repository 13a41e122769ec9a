"""State spaces of events: Event-SSM and STREAM."""

import jax
import jax.numpy as jnp
from jax.nn import softplus

from noria.cells.declare import vector
from noria.cells.heads import step_bias
from noria.cells.linear.s5 import S5Cell
from noria.cells.memory.mamba import MambaCell
from noria.cells.parts import complex_like


class EventSSMCell(S5Cell):
    """Event-SSM: the diagonal state space S5 whose state decays by the time between events.

    ::

        Lambda = Lambda_re + i Lambda_im,   Delta = step_rescale * exp(log_Delta)
        h'     = exp(Lambda Delta dt) * h + (exp(Lambda Delta) - 1) / Lambda * (B x)
        y      = 2 Re(C h') + D x                        the output

    The layer gets the time differences as ``dt=``. An event counts as much as it would after one
    unit of time. Parameters and starts are those of S5.

    Args:
        state_size: complex numbers of the state, half the order of HiPPO.
        method: ``"zoh"``, the only one here.
        step_rescale: factor of all step sizes, for data of another sampling rate.

    Source: Schoene et al. 2024, arXiv 2404.18508, the asynchronous discretisation.
    """

    def __check_init__(self) -> None:
        if self.method != "zoh":
            raise ValueError(f"{self._call}: method is {self.method!r}; expected 'zoh'.")

    def __call__(  # type: ignore[override]
        self, h: jax.Array, x: jax.Array, *, dt: jax.Array
    ) -> jax.Array:
        Lambda = complex_like(self.Lambda_re, self.Lambda_im, h)
        Delta = self.step_rescale * jnp.exp(self.log_Delta)
        zero = jnp.zeros_like(Delta)
        decays = jnp.exp(Lambda * complex_like(Delta * dt, zero, h))
        b = (jnp.exp(Lambda * complex_like(Delta, zero, h)) - 1) / Lambda
        return decays * h + b * complex_like(self.B[0] @ x, self.B[1] @ x, h)


class StreamCell(MambaCell):
    """STREAM: the selective state space of Mamba whose state decays by the time between events.

    ::

        u  = W_u x,  B = W_B u,  C = W_C u
        Delta = softplus(W_up W_down u + b_Delta)
        h'_ij = exp(-dt softplus(b_dt)_i exp(A_log_ij)) h_ij + Delta_i u_i B_j
        y  = h' C + D * u                                    the output

    The layer gets the time differences as ``dt=``: differences of time, or of a coordinate along a
    curve. Parameters and starts are those of Mamba; ``b_dt`` starts as ``b_Delta``.

    Args:
        state_size: numbers for each feature, the paper's N.
        rank: rows of ``W_down``.

    Source: Schoene et al. 2024, arXiv 2411.12603, in the form of lrnnx.
    """

    b_dt: jax.Array = vector("hidden", step_bias)

    def __call__(  # type: ignore[override]
        self, h: jax.Array, x: jax.Array, *, dt: jax.Array
    ) -> jax.Array:
        u = self.W_u @ x
        Delta = softplus(self.W_up @ (self.W_down @ u) + self.b_Delta)
        decays = jnp.exp(-(dt * softplus(self.b_dt))[:, None] * jnp.exp(self.A_log))
        return decays * h + (Delta * u)[:, None] * (self.W_B @ u)
