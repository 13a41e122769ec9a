"""Echo state network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import spectral, uniform


class ESNCell(VectorCell):
    """The echo state network: a leaky layer whose weights stay as they are drawn.

    ::

        h' = (1 - leak) * h + leak * activation(input_scale * W x + radius * U h + b)

    No array is trained: only a read-out behind the layer is, by ridge regression for example.
    ``U`` is drawn with the spectral radius 1; ``init={"U": nr.initializers.spectral(1.0, 0.1)}``
    makes it sparse.

    Args:
        radius: the spectral radius of the recurrent matrix.
        leak: the share of the new value; 1 is the network of 2001.
        input_scale: factor of the input weights, which are drawn from U(-1, 1).
        activation: any element-wise function.

    The output feedback of the report is left out. ``b`` is zero unless ``init`` says otherwise.

    Source: Jaeger 2001, GMD report 148; ``leak`` by Jaeger et al. 2007, doi
    10.1016/j.neunet.2007.04.016. ReservoirPy also has a form with the leak inside of the
    activation.
    """

    radius: float = 0.9
    leak: float = 1.0
    input_scale: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in", uniform(1.0), trained=False)
    U: jax.Array = matrix("hidden", "hidden", spectral(1.0), trained=False)
    b: jax.Array = vector("hidden", trained=False)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not 0 < self.leak <= 1:
            raise ValueError(f"ESNCell(leak={self.leak}): expected a number above 0, at most 1.")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = self.input_scale * (self.W @ x) + self.radius * (self.U @ h) + self.b
        return (1 - self.leak) * h + self.leak * self.activation(a)
