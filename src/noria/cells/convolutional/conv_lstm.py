"""Convolutional long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, state, vector
from noria.cells.parts import scaled, total
from noria.cells.spatial import SpatialCell, kernel_init


def _peephole() -> Any:
    return array("space", "hidden", initializer=0, when=lambda cell: cell.peepholes)


class ConvLSTMCell(SpatialCell):
    """The convolutional long short-term memory, ConvLSTM.

    ::

        a  = W (*) x + U (*) h + b               for the gates i, f, g, o
        i  = sigmoid(a_i + p_i * c)
        f  = sigmoid(a_f + p_f * c)
        c' = f * c + i * tanh(a_g)
        o  = sigmoid(a_o + p_o * c')
        h' = o * tanh(c')

    ``(*)`` is a convolution. Channels of ``W``, ``U`` and ``b`` are those of i, f, g and o, one
    gate after the other. A peephole has a number for each feature at each point.

    Args:
        peepholes: whether there are ``p``, as in the paper.

    Source: Shi, Chen, Wang, Yeung, Wong and Woo 2015, arXiv 1506.04214, eq. 3. Keras and Flax have
    no peepholes. Keras starts the bias of the forget gate at 1, and Flax adds 1 in each step.
    """

    peepholes: bool = True
    W: jax.Array = array("taps", "features", "4 * hidden", initializer=kernel_init)
    U: jax.Array = array("recurrent_taps", "hidden", "4 * hidden", initializer=kernel_init)
    b: jax.Array = vector("4 * hidden")
    p_i: jax.Array | None = _peephole()
    p_f: jax.Array | None = _peephole()
    p_o: jax.Array | None = _peephole()
    h: jax.Array = state("space", "hidden")
    c: jax.Array = state("space", "hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        a = self.convolved(x, self.W) + self.mixed(h, self.U) + self.b
        a_i, a_f, a_g, a_o = jnp.split(a, 4, axis=-1)
        i = sigmoid(total(a_i, scaled(self.p_i, c)))
        f = sigmoid(total(a_f, scaled(self.p_f, c)))
        c = f * c + i * jnp.tanh(a_g)
        o = sigmoid(total(a_o, scaled(self.p_o, c)))
        return self.State(o * jnp.tanh(c), c)
