"""Cells with one gate between the old state and a candidate."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.initializers import orthogonal


class MGUCell(VectorCell):
    """The minimal gated unit: one gate resets the state and updates it.

    ::

        f  = sigmoid(W_f x + U_f h + b_f)
        n  = tanh(W_n x + U_n (f * h) + b_n)
        h' = (1 - f) * h + f * n

    Args:
        variant: which inputs the gate has: 0 for all, 1 without ``W_f x``, 2 without ``W_f x`` and
            ``b_f``, 3 for ``b_f`` alone.

    Source: Zhou et al. 2016, arXiv 1603.09420, eqs. 5 to 7; variants of Heck and Salem 2017, arXiv
    1701.03452. Flax linen and RecurrentLayers.jl exchange ``f`` and ``1 - f``.
    """

    variant: int = 0
    W_f: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.variant == 0)
    U_f: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.variant < 3)
    b_f: jax.Array | None = vector("hidden", when=lambda cell: cell.variant != 2)
    W_n: jax.Array = matrix("hidden", "in")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("MGUCell", "variant", self.variant, (0, 1, 2, 3))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        f = sigmoid(total(times(self.W_f, x), times(self.U_f, h), self.b_f))
        n = jnp.tanh(self.W_n @ x + self.U_n @ (f * h) + self.b_n)
        return (1 - f) * h + f * n


class SGRNCell(VectorCell):
    """The simple gated recurrent network: one gate, and one input matrix for gate and candidate.

    ::

        p  = W x
        f  = sigmoid(p + U h + b)
        h' = tanh((1 - f) * p + f * h)

    Source: Zu and Wei 2020, doi 10.1049/gtd2.12056. In torchrecurrent and LuxRecurrentLayers.jl
    the candidate has the bias, too.
    """

    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.W @ x
        f = sigmoid(p + self.U @ h + self.b)
        return jnp.tanh((1 - f) * p + f * h)


class LightRUCell(VectorCell):
    """The light recurrent unit: a candidate of the input alone, and one gate.

    ::

        n  = tanh(W_n x)
        f  = sigmoid(W_f x + U_f h + b_f)
        h' = (1 - f) * h + f * n

    Source: Ye et al. 2024, doi 10.3390/electronics13163204. Neither the paper nor
    RecurrentLayers.jl has a bias in the candidate.
    """

    W_n: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        n = jnp.tanh(self.W_n @ x)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        return (1 - f) * h + f * n


class MinimalRNNCell(VectorCell):
    """The minimal RNN: the input goes into the space of the state, and one gate mixes the two.

    ::

        z  = tanh(W x + b_z)
        u  = sigmoid(U h + V z + b_u)
        h' = u * h + (1 - u) * z

    Source: Chen 2017, arXiv 1711.06788. RecurrentLayers.jl computes the gate from the ``z`` of the
    step before.
    """

    W: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    U: jax.Array = matrix("hidden", "hidden")
    V: jax.Array = matrix("hidden", "hidden")
    b_u: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = jnp.tanh(self.W @ x + self.b_z)
        u = sigmoid(self.U @ h + self.V @ z + self.b_u)
        return u * h + (1 - u) * z


class UGRNNCell(VectorCell):
    """The update gate RNN: one gate between the old state and a candidate without a reset.

    ::

        c  = tanh(W_c x + U_c h + b_c)
        g  = sigmoid(W_g x + U_g h + b_g)
        h' = g * h + (1 - g) * c

    The bias ``b_g`` starts at 1.

    Source: Collins, Sohl-Dickstein and Sussillo 2016, arXiv 1611.09913.
    """

    W_c: jax.Array = matrix("hidden", "in")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_c: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "in")
    U_g: jax.Array = matrix("hidden", "hidden")
    b_g: jax.Array = vector("hidden", 1)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        c = jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        g = sigmoid(self.W_g @ x + self.U_g @ h + self.b_g)
        return g * h + (1 - g) * c


class JANETCell(VectorCell):
    """JANET, "just another network": an LSTM with the forget gate alone.

    ::

        s  = W_f x + U_f h + b_f
        c  = tanh(W_c x + U_c h + b_c)
        h' = sigmoid(s) * h + (1 - sigmoid(s - beta)) * c

    ``b_f`` starts at 1. The paper draws it for the longest dependency of the data, ``T`` steps:
    ``init={"b_f": nr.initializers.chrono(T)}``.

    Args:
        beta: how much more input than a coupled gate lets in; 0 couples the two.

    Source: van der Westhuizen and Lasenby 2018, arXiv 1804.04849. The other libraries keep the
    state twice, as ``h`` and ``c``.
    """

    beta: float = 1.0
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden", 1)
    W_c: jax.Array = matrix("hidden", "in")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        s = self.W_f @ x + self.U_f @ h + self.b_f
        c = jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        return sigmoid(s) * h + (1 - sigmoid(s - self.beta)) * c


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
        centred = a - jnp.mean(a)
        return centred / jnp.sqrt(jnp.mean(centred * centred) + 1e-5)
