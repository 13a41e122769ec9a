"""More cells near the long short-term memory: gates from elsewhere, and inputs that gate states."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import each, forget_one
from noria.initializers import identity, normal, orthogonal

#: Glorot's bound for each matrix of a stack.
_each_glorot = jax.nn.initializers.glorot_uniform(in_axis=-1, out_axis=-2, batch_axis=0)


class MILSTMCell(VectorCell):
    """The long short-term memory with multiplicative integration of input and state.

    ::

        i, f, g, o = four parts of  alpha * (W x) * (U h) + beta_1 * (U h) + beta_2 * (W x) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    ``alpha``, ``beta_1`` and ``beta_2`` are vectors; they start at 1.

    Source: Wu et al. 2016, arXiv 1606.06630, the general form. RecurrentLayers.jl has the product
    alone, the paper's simple form.
    """

    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    alpha: jax.Array = vector("4 * hidden", 1)
    beta_1: jax.Array = vector("4 * hidden", 1)
    beta_2: jax.Array = vector("4 * hidden", 1)
    b: jax.Array = vector("4 * hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        w, u = self.W @ x, self.U @ h
        a = self.alpha * w * u + self.beta_1 * u + self.beta_2 * w + self.b
        i, f, g, o = jnp.split(a, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(c), c)


class EALSTMCell(VectorCell):
    """The entity-aware long short-term memory: static inputs choose what is written.

    ::

        x_d, x_s = x                                    dynamic inputs first, then static ones
        i  = sigmoid(W_i x_s + b_i)
        f  = sigmoid(W_f x_d + U_f h + b_f)
        g  = tanh(W_g x_d + U_g h + b_g)
        o  = sigmoid(W_o x_d + U_o h + b_o)
        c' = f * c + i * g
        h' = o * tanh(c')

    ``x_s`` has to be the same at all steps of an example for the paper's model.

    Args:
        static_size: how many of the inputs, the last ones, are static.

    Raises:
        ValueError: if there are no dynamic inputs.

    Source: Kratzert et al. 2019, arXiv 1907.08456. The initial values are those of the authors'
    code: orthogonal ``W``, the identity for ``U``, and 5 for ``b_f``. neuralhydrology computes the
    input gate once, from an argument of its own.
    """

    static_size: int = size(default=1)
    W_i: jax.Array = matrix("hidden", "static", orthogonal())
    b_i: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in - static", orthogonal())
    W_g: jax.Array = matrix("hidden", "in - static", orthogonal())
    W_o: jax.Array = matrix("hidden", "in - static", orthogonal())
    U_f: jax.Array = matrix("hidden", "hidden", identity())
    U_g: jax.Array = matrix("hidden", "hidden", identity())
    U_o: jax.Array = matrix("hidden", "hidden", identity())
    b_f: jax.Array = vector("hidden", 5)
    b_g: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.in_size <= self.static_size:
            raise ValueError(
                f"{self._call}: static_size is {self.static_size}; expected less than in_size: "
                "x is the dynamic inputs, then the static ones."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        x_d, x_s = x[: -self.static_size], x[-self.static_size :]
        i = sigmoid(self.W_i @ x_s + self.b_i)
        f = sigmoid(self.W_f @ x_d + self.U_f @ h + self.b_f)
        g = jnp.tanh(self.W_g @ x_d + self.U_g @ h + self.b_g)
        o = sigmoid(self.W_o @ x_d + self.U_o @ h + self.b_o)
        c = f * c + i * g
        return self.State(o * jnp.tanh(c), c)


def _forget_row(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A row for each of four gates: 1 in the second, else 0."""
    del key
    return jnp.zeros(shape, dtype).at[1].set(1)


def _tenth(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``0.1 / n`` for n columns."""
    del key
    return jnp.full(shape, 0.1 / shape[-1], dtype)


def _normed(a: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """A layer norm of each row, or of a vector."""
    centred = a - jnp.mean(a, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return alpha * centred / jnp.sqrt(variance + 1e-3) + beta


def _each(W: jax.Array, a: jax.Array) -> jax.Array:
    """``W a`` for each gate: a matrix times one vector, as a row of the result."""
    return (W.reshape(-1, W.shape[-1]) @ a).reshape(W.shape[:2])


def _scales(D: jax.Array, z: jax.Array) -> jax.Array:
    """``D z`` for each gate: a matrix times a row of ``z``."""
    return jnp.einsum("ghe,ge->gh", D, z)


class HyperLSTMCell(VectorCell):
    """A long short-term memory whose weights a smaller one scales at each step.

    ::

        k, l = the state of the smaller one, whose input is  x~ = [x, h]
        i^, f^, g^, o^ = LN(W^ x~ + U^ k)               four gates
        l' = sigmoid(f^) * l + sigmoid(i^) * tanh(g^)
        k' = sigmoid(o^) * tanh(LN(l'))

        for each gate of i, f, g, o:
            z_x, z_h, z_b = Z_x k + e_x,  Z_h k + e_h,  Z_b k
            a  = LN((D_x z_x) * (W x) + (D_h z_h) * (U h) + D_b z_b + b)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'))

    Each ``LN`` is a layer norm of one gate, with a gain and a bias of its own, and 1e-3 added to
    the variance. Its bias for a forget gate starts at 1.

    Args:
        hyper_size: features of the smaller memory.
        embedding_size: features of each ``z``.

    Source: Ha, Dai and Le 2016, arXiv 1609.09106, eq. 11, with layer norms. The initial values of
    ``Z``, ``e`` and ``D`` are the paper's: ``D_x z_x`` and ``D_h z_h`` start at 0.1. The authors'
    code computes each ``z`` from ``k'``.
    """

    hyper_size: int = size(default=128)
    embedding_size: int = size(default=4)
    W_hat: jax.Array = array(4, "hyper", "in + hidden", initializer=_each_glorot)
    U_hat: jax.Array = array(4, "hyper", "hyper", initializer=each(orthogonal()))
    alpha_hat: jax.Array = matrix(4, "hyper", 1)
    beta_hat: jax.Array = matrix(4, "hyper", _forget_row)
    alpha_l: jax.Array = vector("hyper", 1)
    beta_l: jax.Array = vector("hyper")
    Z_x: jax.Array = array(4, "embedding", "hyper", initializer=0)
    Z_h: jax.Array = array(4, "embedding", "hyper", initializer=0)
    Z_b: jax.Array = array(4, "embedding", "hyper", initializer=normal(0.01))
    e_x: jax.Array = matrix(4, "embedding", 1)
    e_h: jax.Array = matrix(4, "embedding", 1)
    D_x: jax.Array = array(4, "hidden", "embedding", initializer=_tenth)
    D_h: jax.Array = array(4, "hidden", "embedding", initializer=_tenth)
    D_b: jax.Array = array(4, "hidden", "embedding", initializer=0)
    W: jax.Array = array(4, "hidden", "in", initializer=_each_glorot)
    U: jax.Array = array(4, "hidden", "hidden", initializer=each(orthogonal()))
    b: jax.Array = matrix(4, "hidden", 0)
    alpha: jax.Array = matrix(4, "hidden", 1)
    beta: jax.Array = matrix(4, "hidden", _forget_row)
    alpha_c: jax.Array = vector("hidden", 1)
    beta_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    k: jax.Array = state("hyper")
    l: jax.Array = state("hyper")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, k, l = state
        a_hat = _each(self.W_hat, jnp.concatenate([x, h])) + _each(self.U_hat, k)
        a = _scales(self.D_x, _each(self.Z_x, k) + self.e_x) * _each(self.W, x)
        a = a + _scales(self.D_h, _each(self.Z_h, k) + self.e_h) * _each(self.U, h)
        a = a + _scales(self.D_b, _each(self.Z_b, k)) + self.b
        i, f, g, o = _normed(a, self.alpha, self.beta)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(_normed(c, self.alpha_c, self.beta_c))

        i, f, g, o = _normed(a_hat, self.alpha_hat, self.beta_hat)
        l = sigmoid(f) * l + sigmoid(i) * jnp.tanh(g)
        k = sigmoid(o) * jnp.tanh(_normed(l, self.alpha_l, self.beta_l))
        return self.State(h, c, k, l)


class MogrifierLSTMCell(VectorCell):
    """A long short-term memory whose input and state gate each other some times before the step.

    ::

        round 1, 3, 5 ...:  x = 2 sigmoid(Q h) * x
        round 2, 4, 6 ...:  h = 2 sigmoid(R x) * h
        i, f, g, o = four parts of  W x + U h + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Each round has its own ``Q`` or ``R``. The forget bias starts at 1.

    Args:
        rounds: number of rounds.
        rank: rank of ``Q`` and ``R``, each of which is then a product of two matrices; 0 for full
            matrices.

    Raises:
        ValueError: for a rank below 0.

    Source: Melis, Kocisky and Blunsom 2019, arXiv 1909.01792. Several ports have biases in the
    rounds.
    """

    rounds: int = size(default=5)
    rank: int = 0
    Q: jax.Array | None = array(
        "(rounds + 1) // 2",
        "in",
        "hidden",
        initializer=_each_glorot,
        when=lambda cell: cell.rank < 1,
    )
    R: jax.Array | None = array(
        "rounds // 2",
        "hidden",
        "in",
        initializer=_each_glorot,
        when=lambda cell: cell.rank < 1 and cell.rounds > 1,
    )
    Q_1: jax.Array | None = array(
        "(rounds + 1) // 2",
        "in",
        "rank",
        initializer=_each_glorot,
        when=lambda cell: cell.rank > 0,
    )
    Q_2: jax.Array | None = array(
        "(rounds + 1) // 2",
        "rank",
        "hidden",
        initializer=_each_glorot,
        when=lambda cell: cell.rank > 0,
    )
    R_1: jax.Array | None = array(
        "rounds // 2",
        "hidden",
        "rank",
        initializer=_each_glorot,
        when=lambda cell: cell.rank > 0 and cell.rounds > 1,
    )
    R_2: jax.Array | None = array(
        "rounds // 2",
        "rank",
        "in",
        initializer=_each_glorot,
        when=lambda cell: cell.rank > 0 and cell.rounds > 1,
    )
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(
                f"MogrifierLSTMCell(rank={self.rank}): expected 0 or a rank of at least 1."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        for n in range(self.rounds):
            if n % 2:
                h = 2 * sigmoid(self._product(n // 2, x, self.R, self.R_1, self.R_2)) * h
            else:
                x = 2 * sigmoid(self._product(n // 2, h, self.Q, self.Q_1, self.Q_2)) * x
        i, f, g, o = jnp.split(self.W @ x + self.U @ h + self.b, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(c), c)

    def _product(self, n: int, a: jax.Array, full: Any, left: Any, right: Any) -> jax.Array:
        """A matrix times a vector, where the matrix may be a product."""
        return full[n] @ a if left is None else left[n] @ (right[n] @ a)
