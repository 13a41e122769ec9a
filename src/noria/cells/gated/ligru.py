"""Light GRU."""

import jax
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import normalized
from noria.initializers import orthogonal


class LiGRUCell(VectorCell):
    """The light GRU: no reset gate, and a candidate with ReLU.

    ::

        z  = sigmoid(W_z x + N(U_z h) + b_z)
        c  = relu(W_c x + N(U_c h) + b_c)
        h' = z * h + (1 - z) * c

    The paper normalises ``W_z x`` and ``W_c x`` over the batch and all steps. A cell sees one
    example and one step, so it has no such norm. Without a norm the state may grow without bound.

    Args:
        norm: ``"none"``, ``N`` is the identity; or ``"layer"``, ``N`` is a layer norm without gain
            and bias: the stabilised SLi-GRU.

    Source: Ravanelli et al. 2018, arXiv 1803.10225; SLi-GRU of Moumen and Parcollet 2023, arXiv
    2302.10144, whose code normalises ``U_z h`` and ``U_c h`` together. RecurrentLayers.jl has tanh
    instead of ReLU.
    """

    norm: str = "none"
    W_z: jax.Array = matrix("hidden", "in")
    U_z: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_z: jax.Array = vector("hidden")
    W_c: jax.Array = matrix("hidden", "in")
    U_c: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("LiGRUCell", "norm", self.norm, ("none", "layer"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = sigmoid(self.W_z @ x + self._normed(self.U_z @ h) + self.b_z)
        c = jax.nn.relu(self.W_c @ x + self._normed(self.U_c @ h) + self.b_c)
        return z * h + (1 - z) * c

    def _normed(self, a: jax.Array) -> jax.Array:
        if self.norm == "none":
            return a
        return normalized(a, 1e-5)
