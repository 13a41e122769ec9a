"""Cells with two gates or more in the place of a GRU, each with its own way to write.

Cells whose candidate has a reset or another inner step are in ``gates_inner``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import total
from noria.initializers import orthogonal


class ATRCell(VectorCell):
    """The addition-subtraction twin-gated network: both gates come from the same two products.

    ::

        p  = W x
        q  = U h
        i  = sigmoid(p + q)
        f  = sigmoid(p - q)
        h' = i * p + f * h

    There are no biases.

    Source: Zhang et al. 2018, arXiv 1810.12546.
    """

    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.W @ x
        q = self.U @ h
        return sigmoid(p + q) * p + sigmoid(p - q) * h


class STARCell(VectorCell):
    """The stackable recurrent cell: one gate, and a tanh around the whole update.

    ::

        k  = sigmoid(W_x x + W_h h + b_k)
        z  = tanh(W_z x + b_z)
        h' = tanh((1 - k) * h + k * z)

    All matrices start orthogonal.

    Source: Turkoglu et al. 2019, arXiv 1911.11033. The authors' code has the gate for keeping
    instead, shifted as in `JANETCell`, with a chrono-initialised bias.
    """

    W_x: jax.Array = matrix("hidden", "in", orthogonal())
    W_h: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_k: jax.Array = vector("hidden")
    W_z: jax.Array = matrix("hidden", "in", orthogonal())
    b_z: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        k = sigmoid(self.W_x @ x + self.W_h @ h + self.b_k)
        z = jnp.tanh(self.W_z @ x + self.b_z)
        return jnp.tanh((1 - k) * h + k * z)


class CFNCell(VectorCell):
    """The chaos-free network: without an input the state goes to zero.

    ::

        t  = sigmoid(U_t h + V_t x + b_t)
        e  = sigmoid(U_e h + V_e x + b_e)
        h' = t * tanh(h) + e * tanh(W x)

    ``t`` and ``e`` are the paper's theta and eta. ``b_t`` starts at 1 and ``b_e`` at -1.

    Source: Laurent and von Brecht 2016, arXiv 1612.06212.
    """

    U_t: jax.Array = matrix("hidden", "hidden")
    V_t: jax.Array = matrix("hidden", "in")
    b_t: jax.Array = vector("hidden", 1)
    U_e: jax.Array = matrix("hidden", "hidden")
    V_e: jax.Array = matrix("hidden", "in")
    b_e: jax.Array = vector("hidden", -1)
    W: jax.Array = matrix("hidden", "in")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        t = sigmoid(self.U_t @ h + self.V_t @ x + self.b_t)
        e = sigmoid(self.U_e @ h + self.V_e @ x + self.b_e)
        return t * jnp.tanh(h) + e * jnp.tanh(self.W @ x)


class RANCell(VectorCell):
    """The recurrent additive network: the content is linear in the input.

    ::

        i  = sigmoid(W_i x + U_i h + b_i)
        f  = sigmoid(W_f x + U_f h + b_f)
        c' = i * W_c x + f * c
        h' = activation(c')

    Args:
        activation: the function of the output: tanh, or ``lambda c: c`` for the paper's other
            variant.

    Source: Lee, Levy and Zettlemoyer 2017, arXiv 1705.07393. Some libraries have a bias in the
    content ``W_c x``.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W_c: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        c = i * (self.W_c @ x) + f * c
        return self.State(self.activation(c), c)


class BRCCell(VectorCell):
    """The bistable recurrent cell: each unit sees its own old value alone, and can latch.

    ::

        a  = 1 + tanh(U_a x + w_a * h)
        c  = sigmoid(U_c x + w_c * h)
        h' = c * h + (1 - c) * tanh(U x + a * h)

    ``w_a`` and ``w_c`` start at 1, as in the authors' code. A unit is bistable where ``a`` is above
    1.

    Args:
        bias: whether ``a`` and ``c`` have biases ``b_a`` and ``b_c``, as in the authors' code; the
            paper's equations have none.

    Source: Vecoven, Ernst and Drion 2020, arXiv 2006.05252.
    """

    bias: bool = False
    U_a: jax.Array = matrix("hidden", "in")
    w_a: jax.Array = vector("hidden", 1)
    b_a: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U_c: jax.Array = matrix("hidden", "in")
    w_c: jax.Array = vector("hidden", 1)
    b_c: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U: jax.Array = matrix("hidden", "in")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = 1 + jnp.tanh(total(self.U_a @ x, self.w_a * h, self.b_a))
        c = sigmoid(total(self.U_c @ x, self.w_c * h, self.b_c))
        return c * h + (1 - c) * jnp.tanh(self.U @ x + a * h)


class NBRCCell(VectorCell):
    """The recurrently neuromodulated bistable cell: other units set how bistable a unit is.

    ::

        a  = 1 + tanh(U_a x + W_a h)
        c  = sigmoid(U_c x + W_c h)
        h' = c * h + (1 - c) * tanh(U x + a * h)

    ``W_a`` and ``W_c`` start orthogonal, as in the authors' code.

    Args:
        bias: whether ``a`` and ``c`` have biases ``b_a`` and ``b_c``, as in the authors' code; the
            paper's equations have none.

    Source: Vecoven, Ernst and Drion 2020, arXiv 2006.05252. RecurrentLayers.jl leaves ``W_a h``
    and ``W_c h`` out.
    """

    bias: bool = False
    U_a: jax.Array = matrix("hidden", "in")
    W_a: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_a: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U_c: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_c: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U: jax.Array = matrix("hidden", "in")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = 1 + jnp.tanh(total(self.U_a @ x, self.W_a @ h, self.b_a))
        c = sigmoid(total(self.U_c @ x, self.W_c @ h, self.b_c))
        return c * h + (1 - c) * jnp.tanh(self.U @ x + a * h)


class TGRUCell(VectorCell):
    """The strongly typed GRU, T-GRU: its gates see the last two inputs, and not the state.

    ::

        z  = W_z x + V_z p + b_z
        f  = sigmoid(W_f x + V_f p + b_f)
        o  = tanh(W_o x + V_o p + b_o)
        h' = f * h + z * o
        p' = x

    ``p`` is the input of the step before.

    Source: Balduzzi and Ghifary 2016, arXiv 1602.02218.
    """

    W_z: jax.Array = matrix("hidden", "in")
    V_z: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in")
    V_f: jax.Array = matrix("hidden", "in")
    b_f: jax.Array = vector("hidden")
    W_o: jax.Array = matrix("hidden", "in")
    V_o: jax.Array = matrix("hidden", "in")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    p: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, p = state
        z = self.W_z @ x + self.V_z @ p + self.b_z
        f = sigmoid(self.W_f @ x + self.V_f @ p + self.b_f)
        o = jnp.tanh(self.W_o @ x + self.V_o @ p + self.b_o)
        return self.State(f * h + z * o, x)
