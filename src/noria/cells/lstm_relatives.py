"""Gated cells that are near the long short-term memory: momentum, types, highways and mass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid, softmax

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.cells.starts import forget_one
from noria.initializers import identity, normal


class ELSTMCell(VectorCell):
    """The element-wise long short-term memory, whose recurrence has no matrix.

    ::

        f  = sigmoid(F x + w_f * c + b_f)
        z  = tanh(Z x + w_z * c + b_z)
        c' = f * c + (1 - f) * z
        y  = sigmoid(O x + W_o c' + b_o) * c'        the output

    Source: Irie, Gopalakrishnan and Schmidhuber 2023, arXiv 2305.19044. Exact real-time recurrent
    learning is cheap for it. The authors' code of the copy task has ``c'`` as the output.
    """

    F: jax.Array = matrix("hidden", "in", normal(0.1))
    Z: jax.Array = matrix("hidden", "in", normal(0.1))
    O: jax.Array = matrix("hidden", "in", normal(0.1))
    w_f: jax.Array = vector("hidden", normal(0.1))
    w_z: jax.Array = vector("hidden", normal(0.1))
    W_o: jax.Array = matrix("hidden", "hidden", normal(0.1))
    b_f: jax.Array = vector("hidden")
    b_z: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, c: jax.Array, x: jax.Array) -> jax.Array:
        f = sigmoid(self.F @ x + self.w_f * c + self.b_f)
        z = jnp.tanh(self.Z @ x + self.w_z * c + self.b_z)
        return f * c + (1 - f) * z

    def output(self, c: jax.Array, x: jax.Array) -> jax.Array:
        """The gated memory."""
        return sigmoid(self.O @ x + self.W_o @ c + self.b_o) * c


class TLSTMCell(VectorCell):
    """The strongly typed long short-term memory, whose gates see two inputs and no state.

    ::

        z  = W_z x + V_z x_before + b_z
        f  = sigmoid(W_f x + V_f x_before + b_f)
        o  = tanh(W_o x + V_o x_before + b_o)
        c' = f * c + (1 - f) * z
        h  = o * c'        the output

    Source: Balduzzi and Ghifary 2016, arXiv 1602.02218. `TimeAwareLSTMCell` is another T-LSTM.
    """

    W_z: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    V_z: jax.Array = matrix("hidden", "in")
    V_f: jax.Array = matrix("hidden", "in")
    V_o: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    c: jax.Array = state("hidden")
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        c, x_before = state
        z = self.W_z @ x + self.V_z @ x_before + self.b_z
        f = sigmoid(self.W_f @ x + self.V_f @ x_before + self.b_f)
        o = jnp.tanh(self.W_o @ x + self.V_o @ x_before + self.b_o)
        c = f * c + (1 - f) * z
        return self.State(c, x), o * c


class MomentumRNNCell(VectorCell):
    """The simple recurrent network whose input has momentum.

    ::

        v' = mu v + s (W x + b)
        h' = activation(U h + v')

    Args:
        mu: share of the velocity ``v`` that stays.
        s: step size of the input.
        activation: activation of the state.

    Source: Nguyen et al. 2020, arXiv 2006.06919. In the paper the bias is a column of W; the
    authors' code has a second one outside of ``v``. The Adam and RMSprop forms are not here.
    """

    mu: float = 0.6
    s: float = 0.6
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    v: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, v = state
        v = self.mu * v + self.s * (self.W @ x + self.b)
        return self.State(self.activation(self.U @ h + v), v)


class MomentumLSTMCell(VectorCell):
    """The long short-term memory whose input has momentum.

    ::

        v' = mu v + s (W x + b)
        i, f, g, o = four parts of  U h + v'
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
        mu: share of the velocity ``v`` that stays.
        s: step size of the input.

    Source: Nguyen et al. 2020, arXiv 2006.06919. In the paper the bias is a column of W. The
    authors' code has a second one outside of ``v``, an orthogonal ``W`` and a ``U`` with a diagonal
    of ones.
    """

    mu: float = 0.6
    s: float = 0.6
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    v: jax.Array = state("4 * hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, v = state
        v = self.mu * v + self.s * (self.W @ x + self.b)
        i, f, g, o = jnp.split(self.U @ h + v, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(c), c, v)


class NestedLSTMCell(VectorCell):
    """A long short-term memory whose memory is another one.

    ::

        i, f, g, o = four parts of  W x + U h + b
        u  = sigmoid(i) * candidate(g)                  the input of the inner cell
        r  = sigmoid(f) * c                             its output of the step before
        j, k, q, p = four parts of  W_n u + U_n r + b_n
        n' = sigmoid(k) * n + sigmoid(j) * tanh(q)      its memory
        c' = sigmoid(p) * tanh(n')
        h' = sigmoid(o) * tanh(c')

    Args:
        candidate: activation of ``g``.

    Source: Moniz and Krueger 2018, arXiv 1801.10308, with one level of nesting. The forget biases
    start at 1. Ports differ in ``candidate``: tanh or the identity.
    """

    candidate: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    W_n: jax.Array = matrix("4 * hidden", "hidden")
    U_n: jax.Array = matrix("4 * hidden", "hidden")
    b_n: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    n: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, n = state
        i, f, g, o = jnp.split(self.W @ x + self.U @ h + self.b, 4)
        u = sigmoid(i) * self.candidate(g)
        r = sigmoid(f) * c
        j, k, q, p = jnp.split(self.W_n @ u + self.U_n @ r + self.b_n, 4)
        n = sigmoid(k) * n + sigmoid(j) * jnp.tanh(q)
        c = sigmoid(p) * jnp.tanh(n)
        return self.State(sigmoid(o) * jnp.tanh(c), c, n)


class NASCell(VectorCell):
    """The cell that neural architecture search found for language.

    ::

        x1 .. x8 = eight parts of  W x
        h1 .. h8 = eight parts of  U h + b
        l1 = tanh(sigmoid(x1 + h1) * relu(x2 + h2))
        l2 = tanh(sigmoid(x3 + h3) + relu(x4 * h4))
        l3 = tanh(tanh(x5 + h5) * sigmoid(x6 + h6))
        l4 = sigmoid(tanh(x7 + h7) + sigmoid(x8 + h8))
        c' = tanh(l1 + c) * l2
        h' = tanh(c' * tanh(l3 + l4))

    Args:
        bias: whether there is a ``b``.

    Source: Zoph and Le 2016, arXiv 1611.01578; the details follow TensorFlow Addons, whose
    projection is left out.
    """

    bias: bool = False
    W: jax.Array = matrix("8 * hidden", "in")
    U: jax.Array = matrix("8 * hidden", "hidden")
    b: jax.Array | None = vector("8 * hidden", when=lambda cell: cell.bias)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        x1, x2, x3, x4, x5, x6, x7, x8 = jnp.split(self.W @ x, 8)
        h1, h2, h3, h4, h5, h6, h7, h8 = jnp.split(total(self.U @ h, self.b), 8)
        l1 = jnp.tanh(sigmoid(x1 + h1) * relu(x2 + h2))
        l2 = jnp.tanh(sigmoid(x3 + h3) + relu(x4 * h4))
        l3 = jnp.tanh(jnp.tanh(x5 + h5) * sigmoid(x6 + h6))
        l4 = sigmoid(jnp.tanh(x7 + h7) + sigmoid(x8 + h8))
        c = jnp.tanh(l1 + c) * l2
        return self.State(jnp.tanh(c * jnp.tanh(l3 + l4)), c)


#: Glorot's bound for each matrix of a stack.
_each_glorot = jax.nn.initializers.glorot_uniform(in_axis=-1, out_axis=-2, batch_axis=0)


class RecurrentHighwayCell(VectorCell):
    """The recurrent highway network: several gated layers in each step.

    ::

        s_0 = s
        h_l = tanh(R_H[l] s_(l-1) + b_H[l] + W_H x)       for l = 1 .. depth
        t_l = sigmoid(R_T[l] s_(l-1) + b_T[l] + W_T x)    with x for l = 1 only
        c_l = 1 - t_l
        s_l = h_l * t_l + s_(l-1) * c_l
        s'  = s_depth

    Args:
        depth: number of layers in a step; the paper has up to 10.
        coupled: ``False`` for carry gates of their own,
            ``c_l = sigmoid(R_C[l] s_(l-1) + b_C[l] + W_C x)``.

    Source: Zilly et al. 2016, arXiv 1607.03474. The biases ``b_T`` start at -2, and ``b_C`` at 2,
    so that the layers keep most of the state.
    """

    depth: int = size(default=3)
    coupled: bool = True
    W_H: jax.Array = matrix("hidden", "in")
    W_T: jax.Array = matrix("hidden", "in")
    W_C: jax.Array | None = matrix("hidden", "in", when=lambda cell: not cell.coupled)
    R_H: jax.Array = array("depth", "hidden", "hidden", initializer=_each_glorot)
    R_T: jax.Array = array("depth", "hidden", "hidden", initializer=_each_glorot)
    R_C: jax.Array | None = array(
        "depth", "hidden", "hidden", initializer=_each_glorot, when=lambda cell: not cell.coupled
    )
    b_H: jax.Array = matrix("depth", "hidden", 0.0)
    b_T: jax.Array = matrix("depth", "hidden", -2.0)
    b_C: jax.Array | None = matrix("depth", "hidden", 2.0, when=lambda cell: not cell.coupled)
    s: jax.Array = state("hidden")

    def __call__(self, s: jax.Array, x: jax.Array) -> jax.Array:
        for l in range(self.depth):
            sums = []
            for W, R, b in self._gates():
                a = R[l] @ s + b[l]
                sums.append(a if l else a + W @ x)
            h, t = jnp.tanh(sums[0]), sigmoid(sums[1])
            s = h * t + s * (1 - t if self.coupled else sigmoid(sums[2]))
        return s

    def _gates(self) -> Any:
        """The weights of ``h``, ``t`` and, if it has its own, ``c``."""
        gates = [(self.W_H, self.R_H, self.b_H), (self.W_T, self.R_T, self.b_T)]
        return gates if self.coupled else [*gates, (self.W_C, self.R_C, self.b_C)]


def _has_auxiliary(cell: Any) -> bool:
    return bool(cell.in_size > cell.mass_size)


class MassConservingLSTMCell(VectorCell):
    """The mass-conserving long short-term memory: what comes in stays or goes out.

    ::

        x_m, x_a = x                                mass inputs first, then auxiliary ones
        e  = c / sum(abs(c))                        0 for an empty memory
        i  = softmax(W_i x_a + U_i e + b_i)         the shares of a mass input sum to 1
        R  = softmax(W_r x_a + U_r e + b_r)         the shares of a cell of c sum to 1
        o  = sigmoid(W_o x_a + U_o e + b_o)
        m  = R c + i x_m
        c' = (1 - o) * m
        h  = o * m                                  the output

    ``sum(c') + sum(h) = sum(c) + sum(x_m)``. Masses are not to be normalised.

    Args:
        mass_size: how many of the inputs, the first ones, are masses; the rest is auxiliary.
        time_dependent: ``False`` for a constant ``R``, without ``W_r`` and ``U_r``.

    Raises:
        ValueError: if there are more mass inputs than inputs.

    Source: Hoedt et al. 2021, arXiv 2101.05186. As in the authors' code, ``b_r`` starts at the
    identity and ``b_o`` at -3. neuralhydrology feeds the mass to the gates too, and normalises a
    sigmoid for ``i`` and a relu for ``R``.
    """

    mass_size: int = size(default=1)
    time_dependent: bool = True
    W_i: jax.Array | None = matrix("mass * hidden", "in - mass", when=_has_auxiliary)
    W_r: jax.Array | None = matrix(
        "hidden * hidden",
        "in - mass",
        when=lambda cell: cell.time_dependent and _has_auxiliary(cell),
    )
    W_o: jax.Array | None = matrix("hidden", "in - mass", when=_has_auxiliary)
    U_i: jax.Array = matrix("mass * hidden", "hidden")
    U_r: jax.Array | None = matrix(
        "hidden * hidden", "hidden", when=lambda cell: cell.time_dependent
    )
    U_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("mass * hidden")
    b_r: jax.Array = matrix("hidden", "hidden", identity())
    b_o: jax.Array = vector("hidden", -3.0)
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.in_size < self.mass_size:
            raise ValueError(f"{self._call}: expected in_size of at least mass_size.")

    def __call__(self, c: jax.Array, x: jax.Array) -> Any:
        x_m, x_a = x[: self.mass_size], x[self.mass_size :]
        mass, size = jnp.sum(jnp.abs(c)), self.hidden_size
        e = c / jnp.where(mass > 0, mass, 1)
        i = total(times(self.W_i, x_a), self.U_i @ e, self.b_i).reshape(-1, size)
        R = total(times(self.W_r, x_a), times(self.U_r, e), self.b_r.ravel()).reshape(size, size)
        o = sigmoid(total(times(self.W_o, x_a), self.U_o @ e, self.b_o))
        m = softmax(R, axis=0) @ c + x_m @ softmax(i)
        return (1 - o) * m, o * m
