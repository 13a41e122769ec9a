"""PhyCell, the physical cell of PhyDNet."""

import jax
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.spatial import SpatialCell, kernel_init


class PhyCell(SpatialCell):
    """The physical cell of PhyDNet: a step of a linear differential equation, and a correction.

    ::

        u  = E (*) x + b_E
        p  = h + (F (*) h) c + b_F                      the prediction
        K  = sigmoid(W_u (*) u + W_h (*) h + b_K)
        h' = p + K * (u - p)                            the correction

    ``(*)`` is a convolution. Each of the filters ``F`` stands for a partial derivative of a
    feature, ``c`` for the coefficients of the equation. ``E`` is the last layer of an encoder.

    Args:
        derivatives: number of filters; 49 for all derivatives that kernels of 7 x 7 can have.

    Source: Le Guen and Thome 2020, arXiv 2003.01460, eqs. 5 to 8, and the gate of the authors'
    code, which besides has a group norm between ``F`` and ``c``. The paper adds a loss that keeps
    the moments of the filters at those of derivatives; it is no part of the cell.
    """

    derivatives: int = size(default=49)
    E: jax.Array = array("taps", "features", "hidden", initializer=kernel_init)
    b_E: jax.Array = vector("hidden")
    F: jax.Array = array("recurrent_taps", "hidden", "derivatives", initializer=kernel_init)
    c: jax.Array = matrix("derivatives", "hidden")
    b_F: jax.Array = vector("hidden")
    W_u: jax.Array = array("recurrent_taps", "hidden", "hidden", initializer=kernel_init)
    W_h: jax.Array = array("recurrent_taps", "hidden", "hidden", initializer=kernel_init)
    b_K: jax.Array = vector("hidden")
    h: jax.Array = state("space", "hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        u = self.convolved(x, self.E) + self.b_E
        p = h + self.mixed(h, self.F) @ self.c + self.b_F
        K = sigmoid(self.mixed(u, self.W_u) + self.mixed(h, self.W_h) + self.b_K)
        return p + K * (u - p)
