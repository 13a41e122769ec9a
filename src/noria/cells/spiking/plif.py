"""Parametric leaky integrate-and-fire."""

import jax
from jax.lax import stop_gradient
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, state, vector
from noria.cells.spikes import SpikingCell


class PLIFCell(SpikingCell):
    """Leaky integrate-and-fire with one time constant, which is trained.

    ::

        k  = sigmoid(a)                             (1 / tau)
        m  = u + k * (W x + b - u)
        s  = H(m - threshold)
        u' = (1 - s) * m

    The output is ``s``. ``a`` is one number for all units and starts at 0, where ``tau`` is 2.

    Args:
        detach_reset: whether gradients ignore the reset.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: Fang et al. 2020, arXiv 2007.05785. SpikingJelly also has a form without ``k`` before
    the input.
    """

    detach_reset: bool = False
    a: jax.Array = array(initializer=0)
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    u: jax.Array = state("hidden")

    def __call__(self, u: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        m = u + sigmoid(self.a) * (self.W @ x + self.b - u)
        s = self._spike(m - self.threshold)
        return (1 - (stop_gradient(s) if self.detach_reset else s)) * m, s
