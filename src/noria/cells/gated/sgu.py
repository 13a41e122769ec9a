"""Simple gated unit."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class SGUCell(VectorCell):
    """The simple gated unit: a product of input and state gates the state before it is written.

    ::

        g  = tanh(W_g ((W_x x + b_x) * h))
        o  = softplus(g * h)
        z  = hard_sigmoid(W_z x + U_z h + b_z)
        h' = (1 - z) * h + z * o

        deep: o = sigmoid(W_o (g * h))

    ``hard_sigmoid(a)`` is ``0.2 * a + 0.5``, clipped to the range from 0 to 1, as in Theano.

    Args:
        deep: whether the cell is the deep simple gated unit, DSGU.

    Source: Gao and Glowacka 2016, arXiv 1604.02910 and PMLR 63. PyTorch's hard sigmoid, which
    torchrecurrent uses, has a slope of 1/6.
    """

    deep: bool = False
    W_x: jax.Array = matrix("hidden", "in")
    b_x: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "hidden")
    W_o: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.deep)
    W_z: jax.Array = matrix("hidden", "in")
    U_z: jax.Array = matrix("hidden", "hidden")
    b_z: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        g = jnp.tanh(self.W_g @ ((self.W_x @ x + self.b_x) * h))
        o = softplus(g * h) if self.W_o is None else sigmoid(self.W_o @ (g * h))
        a = self.W_z @ x + self.U_z @ h + self.b_z
        z = jnp.minimum(jnp.maximum(0.2 * a + 0.5, 0), 1)
        return (1 - z) * h + z * o
