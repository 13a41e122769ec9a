"""Spatiotemporal long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, size, state
from noria.cells.spatial import SpatialCell, kernel_init
from noria.cells.starts import each


class STLSTMCell(SpatialCell):
    """The spatiotemporal long short-term memory, ST-LSTM, of PredRNN.

    ::

        a   = W (*) x + b                     for g, i, f, g2, i2, f2, o
        u   = U (*) h,   v = V (*) m
        c'  = sigmoid(a_f + u_f) * c + sigmoid(a_i + u_i) * tanh(a_g + u_g)
        m'  = sigmoid(a_f2 + v_f) * m + sigmoid(a_i2 + v_i) * tanh(a_g2 + v_g)
        o   = sigmoid(a_o + u_o + O (*) [c', m'])
        h'  = o * tanh([c', m'] P)

    ``(*)`` is a convolution, and ``P`` one with a single tap. Channels are those of the gates, in
    the order of the first line. In a stack each layer has an ``h`` and a ``c``, and ``h'`` is the
    ``x`` of the next one, with the kernels ``W_above``. There is one ``m``: it climbs the layers
    and goes from the last one to the first of the next step. The output is the last ``h'``.

    Args:
        layers: number of layers.

    Source: Wang, Wu, Zhang, Gao, Wang, Yu and Long 2023, arXiv 2103.09504, eq. 2. The authors' code
    has no biases, and adds 1 to the forget gates.
    """

    layers: int = size(default=1)
    W: jax.Array = array("taps", "features", "7 * hidden", initializer=kernel_init)
    W_above: jax.Array | None = array(
        "layers - 1",
        "recurrent_taps",
        "hidden",
        "7 * hidden",
        initializer=each(kernel_init),
        when=lambda cell: cell.layers > 1,
    )
    U: jax.Array = array(
        "layers", "recurrent_taps", "hidden", "4 * hidden", initializer=each(kernel_init)
    )
    V: jax.Array = array(
        "layers", "recurrent_taps", "hidden", "3 * hidden", initializer=each(kernel_init)
    )
    O: jax.Array = array(
        "layers", "recurrent_taps", "2 * hidden", "hidden", initializer=each(kernel_init)
    )
    P: jax.Array = array("layers", "2 * hidden", "hidden", initializer=each(kernel_init))
    b: jax.Array = array("layers", "7 * hidden", initializer=0)
    h: jax.Array = state("layers", "space", "hidden")
    c: jax.Array = state("layers", "space", "hidden")
    m: jax.Array = state("space", "hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, m = state
        hs: list[jax.Array] = []
        cs: list[jax.Array] = []
        for n in range(self.layers):
            if self.W_above is None or n == 0:
                a = self.convolved(x, self.W)
            else:
                a = self.mixed(hs[-1], self.W_above[n - 1])
            a_g, a_i, a_f, a_g2, a_i2, a_f2, a_o = jnp.split(a + self.b[n], 7, axis=-1)
            u_g, u_i, u_f, u_o = jnp.split(self.mixed(h[n], self.U[n]), 4, axis=-1)
            v_g, v_i, v_f = jnp.split(self.mixed(m, self.V[n]), 3, axis=-1)
            cs.append(sigmoid(a_f + u_f) * c[n] + sigmoid(a_i + u_i) * jnp.tanh(a_g + u_g))
            m = sigmoid(a_f2 + v_f) * m + sigmoid(a_i2 + v_i) * jnp.tanh(a_g2 + v_g)
            both = jnp.concatenate([cs[-1], m], axis=-1)
            o = sigmoid(a_o + u_o + self.mixed(both, self.O[n]))
            hs.append(o * jnp.tanh(both @ self.P[n]))
        return self.State(jnp.stack(hs), jnp.stack(cs), m)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """The hidden state of the last layer."""
        found: jax.Array = state.h[-1]
        return found
