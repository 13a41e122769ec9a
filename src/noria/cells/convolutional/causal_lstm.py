"""Causal long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, state, vector
from noria.cells.spatial import SpatialCell, kernel_init


class CausalLSTMCell(SpatialCell):
    """The causal long short-term memory of PredRNN++: a second memory that reads the first.

    ::

        a  = W (*) x + b                               for g, i, f, g2, i2, f2, o
        u  = U_h (*) h + U_c (*) c                     for g, i, f
        c' = sigmoid(a_f + u_f) * c + sigmoid(a_i + u_i) * tanh(a_g + u_g)
        v  = V_c (*) c' + V_m (*) m                    for g2, i2, f2
        m' = sigmoid(a_f2 + v_f) * tanh(W_3 (*) m) + sigmoid(a_i2 + v_i) * tanh(a_g2 + v_g)
        o  = tanh(a_o + O (*) [c', m'])
        h' = o * tanh([c', m'] P)

    ``(*)`` is a convolution, and ``P`` one with a single tap. Channels are those of the gates, in
    the order of the first line.

    Source: Wang, Gao, Long, Wang and Yu 2018, arXiv 1804.06300, eq. 1, in a stack of one layer:
    ``m`` is that of the last step. The authors' code does not give ``m`` to g2, gives ``h`` to o,
    and adds 1 to the forget gates.
    """

    W: jax.Array = array("taps", "features", "7 * hidden", initializer=kernel_init)
    U_h: jax.Array = array("recurrent_taps", "hidden", "3 * hidden", initializer=kernel_init)
    U_c: jax.Array = array("recurrent_taps", "hidden", "3 * hidden", initializer=kernel_init)
    V_c: jax.Array = array("recurrent_taps", "hidden", "3 * hidden", initializer=kernel_init)
    V_m: jax.Array = array("recurrent_taps", "hidden", "3 * hidden", initializer=kernel_init)
    W_3: jax.Array = array("recurrent_taps", "hidden", "hidden", initializer=kernel_init)
    O: jax.Array = array("recurrent_taps", "2 * hidden", "hidden", initializer=kernel_init)
    P: jax.Array = matrix("2 * hidden", "hidden")
    b: jax.Array = vector("7 * hidden")
    h: jax.Array = state("space", "hidden")
    c: jax.Array = state("space", "hidden")
    m: jax.Array = state("space", "hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, m = state
        a_g, a_i, a_f, a_g2, a_i2, a_f2, a_o = jnp.split(
            self.convolved(x, self.W) + self.b, 7, axis=-1
        )
        u_g, u_i, u_f = jnp.split(self.mixed(h, self.U_h) + self.mixed(c, self.U_c), 3, axis=-1)
        c = sigmoid(a_f + u_f) * c + sigmoid(a_i + u_i) * jnp.tanh(a_g + u_g)
        v_g, v_i, v_f = jnp.split(self.mixed(c, self.V_c) + self.mixed(m, self.V_m), 3, axis=-1)
        kept = sigmoid(a_f2 + v_f) * jnp.tanh(self.mixed(m, self.W_3))
        m = kept + sigmoid(a_i2 + v_i) * jnp.tanh(a_g2 + v_g)
        both = jnp.concatenate([c, m], axis=-1)
        o = jnp.tanh(a_o + self.mixed(both, self.O))
        return self.State(o * jnp.tanh(both @ self.P), c, m)
