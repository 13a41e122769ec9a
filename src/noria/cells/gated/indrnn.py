"""Independently recurrent network."""

from collections.abc import Callable

import jax

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import between


class IndRNNCell(VectorCell):
    """The independently recurrent network: each unit sees its own old value alone.

    ::

        h' = activation(W x + u * h + b)

    ``u`` starts at U(0, 1). For ``T`` steps the paper keeps ``abs(u)`` below ``2 ** (1 / T)``
    during training; the cell itself does not.

    Args:
        activation: the function of a unit; the paper's experiments have ReLU.

    Source: Li et al. 2018, arXiv 1803.04831. torchrecurrent has tanh and a normal ``u``;
    RecurrentLayers.jl has ReLU, but documents tanh.
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    W: jax.Array = matrix("hidden", "in")
    u: jax.Array = vector("hidden", between(0, 1))
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.activation(self.W @ x + self.u * h + self.b)
