"""Cells whose recurrent matrix is orthogonal, or has a bounded effect on the norm of the state.

A matrix that is computed from parameters is computed once a call, not once a step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import wide
from noria.initializers import he_normal, uniform


def modrelu(z: jax.Array, b: jax.Array) -> jax.Array:
    """``sign(z) * relu(|z| + b)``, the modReLU of real numbers."""
    return jnp.sign(z) * relu(jnp.abs(z) + b)


def skew(a: jax.Array, hidden: int) -> jax.Array:
    """The skew-symmetric matrix whose entries above the diagonal are ``a``, row by row."""
    upper = jnp.zeros((hidden, hidden), a.dtype).at[jnp.triu_indices(hidden, 1)].set(a)
    return upper - upper.T


def exponential(A: jax.Array) -> jax.Array:
    """``exp(A)``, computed in at least 32 bits."""
    return jax.scipy.linalg.expm(wide(A)).astype(A.dtype)


def _cayley(A: jax.Array) -> jax.Array:
    """``(I + A)^-1 (I - A)``, computed in at least 32 bits."""
    skew = wide(A)
    one = jnp.eye(A.shape[0], dtype=skew.dtype)
    return jnp.linalg.solve(one + skew, one - skew).astype(A.dtype)


def _reflections_of(u: jax.Array) -> jax.Array:
    """The product of ``I - 2 u_i u_i^T / |u_i|^2`` for the rows of ``u``, first row leftmost.

    It is ``I - u^T T^-1 u``, where ``T`` is upper triangular: ``u u^T`` with half its diagonal.
    """
    rows = wide(u)
    products = rows @ rows.T
    T = jnp.triu(products, 1) + jnp.diag(jnp.diag(products)) / 2
    W = jnp.eye(u.shape[1], dtype=rows.dtype) - rows.T @ jax.scipy.linalg.solve_triangular(T, rows)
    return W.astype(u.dtype)


def rotations(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Entries of a skew-symmetric matrix with 2 x 2 blocks on the diagonal.

    Entries of the blocks are ``-sqrt((1 - cos t) / (1 + cos t))``, with t from U(0, pi / 2).
    """
    hidden = int((1 + (1 + 8 * shape[0]) ** 0.5) / 2 + 0.5)
    rows, columns = jnp.triu_indices(hidden, 1)
    t = jax.random.uniform(key, shape, dtype, 0, jnp.pi / 2)
    block = (columns == rows + 1) & (rows % 2 == 0)
    return jnp.where(block, -jnp.sqrt((1 - jnp.cos(t)) / (1 + jnp.cos(t))), 0)


def _half_negative(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``-1`` for the first half of the entries, and 1 for the others."""
    return jnp.where(jnp.arange(shape[0]) < shape[0] // 2, -1, 1).astype(dtype)


def _small(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, (0.1 / n)^2) for n columns."""
    return jax.random.normal(key, shape, dtype) * (0.1 / shape[-1])


def _leaky(z: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.1."""
    return jax.nn.leaky_relu(z, 0.1)


class ExpRNNCell(VectorCell):
    """A recurrent matrix that is the exponential of a skew-symmetric matrix: a rotation.

    ::

        A  = skew-symmetric, with the entries a above the diagonal
        h' = modrelu(W x + exp(A) h, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    Source: Lezcano-Casado and Martinez-Rubio 2019, arXiv 1901.08428. Dynamic trivialisations
    (arXiv 1909.09501) change the basis of ``A`` during training; this cell keeps it.
    """

    W: jax.Array = matrix("hidden", "in", he_normal())
    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    b: jax.Array = vector("hidden", uniform(0.01))
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        U = exponential(skew(self.a, self.hidden_size))
        return modrelu(self.W @ x + U @ h, self.b)


class ScoRNNCell(VectorCell):
    """A recurrent matrix by the scaled Cayley transform: any orthogonal matrix for some ``D``.

    ::

        A  = skew-symmetric, with the entries a above the diagonal
        W  = (I + A)^-1 (I - A) diag(D)
        h' = modrelu(V x + W h, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    ``D`` has the entries 1 and -1 and is not trained. Half of them are -1. The paper tunes the
    share; ``init={"D": 1.0}``, for example, makes all of them 1.

    Source: Helfrich, Willmott and Ye 2018, arXiv 1707.09520.
    """

    V: jax.Array = matrix("hidden", "in")
    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    D: jax.Array = vector("hidden", _half_negative, trained=False)
    b: jax.Array = vector("hidden", uniform(0.01))
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        W = _cayley(skew(self.a, self.hidden_size)) * self.D
        return modrelu(self.V @ x + W @ h, self.b)


class ORNNCell(VectorCell):
    """A recurrent matrix that is a product of Householder reflections.

    ::

        H_i = I - 2 u_i u_i^T / |u_i|^2
        W   = H_1 H_2 ... H_reflections
        h'  = activation(V x + W h + b)

    Row i of ``u`` (from 0) is used from entry i on, as in the paper. Its other entries have no
    effect. With ``reflections`` equal to ``hidden`` each orthogonal matrix of one sign of the
    determinant can be reached.

    Args:
        reflections: number of reflections, at most ``hidden``.
        activation: any element-wise function; leaky ReLU of slope 0.1, as in the authors' code.

    Source: Mhammedi et al. 2017, arXiv 1612.00188.
    """

    reflections: int = size(default=2)
    activation: Callable[[jax.Array], jax.Array] = _leaky
    V: jax.Array = matrix("hidden", "in")
    u: jax.Array = matrix("reflections", "hidden", jax.nn.initializers.normal(1.0))
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.reflections > self.hidden_size:
            raise ValueError(
                f"ORNNCell: reflections is {self.reflections}; "
                f"expected at most hidden_size={self.hidden_size}."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        W = _reflections_of(jnp.triu(self.u))
        return self.activation(self.V @ x + W @ h + self.b)


class GORUCell(VectorCell):
    """The gated orthogonal recurrent unit: a GRU whose candidate has an orthogonal matrix.

    ::

        z  = sigmoid(W_z x + U_z h + b_z)
        r  = sigmoid(W_r x + U_r h + b_r)
        A  = skew-symmetric, with the entries a above the diagonal
        n  = modrelu(W_n x + r * (exp(A) h), b_n)
        h' = z * h + (1 - z) * n

    The paper builds its matrix from rotations of pairs of entries. Here it is ``exp(A)``: all
    rotations of the space, as matrix products are cheaper than many small rotations.

    Source: Jing et al. 2017, arXiv 1706.02761. The initial values are those of the authors' code.
    """

    W_z: jax.Array = matrix("hidden", "in", uniform(0.01))
    U_z: jax.Array = matrix("hidden", "hidden", uniform(0.01))
    b_z: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("hidden", "in", uniform(0.01))
    U_r: jax.Array = matrix("hidden", "hidden", uniform(0.01))
    b_r: jax.Array = vector("hidden", 2.0)
    W_n: jax.Array = matrix("hidden", "in", uniform(0.01))
    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    b_n: jax.Array = vector("hidden", 0.01)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        U = exponential(skew(self.a, self.hidden_size))
        z = sigmoid(self.W_z @ x + self.U_z @ h + self.b_z)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.b_r)
        n = modrelu(self.W_n @ x + r * (U @ h), self.b_n)
        return z * h + (1 - z) * n


class LipschitzRNNCell(VectorCell):
    """A step of a differential equation whose two matrices have a bounded symmetric part.

    ::

        A  = (1 - beta) (M_A + M_A^T) + beta (M_A - M_A^T) - gamma I
        W  = (1 - beta) (M_W + M_W^T) + beta (M_W - M_W^T) - gamma I
        f(h) = A h + tanh(W h + U x + b)
        h' = h + epsilon f(h)                            (Euler)
        h' = h + epsilon f(h + epsilon / 2 f(h))         (midpoint)

    Args:
        beta: the weight of the skew-symmetric part, from 0.5 to 1.
        gamma: what is taken from the diagonal of both matrices.
        epsilon: the size of a step.
        solver: ``"euler"`` or ``"midpoint"``, the Runge-Kutta method of second order.

    Source: Erichson et al. 2021, arXiv 2006.12070. Their code multiplies rows by ``A`` and ``W``,
    which exchanges ``M`` and its transpose.
    """

    beta: float = 0.75
    gamma: float = 0.001
    epsilon: float = 0.03
    solver: str = "euler"
    M_A: jax.Array = matrix("hidden", "hidden", _small)
    M_W: jax.Array = matrix("hidden", "hidden", _small)
    U: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("LipschitzRNNCell", "solver", self.solver, ("euler", "midpoint"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        A, W = self._bounded(self.M_A), self._bounded(self.M_W)
        u = self.U @ x + self.b

        def f(h: jax.Array) -> jax.Array:
            return A @ h + jnp.tanh(W @ h + u)

        if self.solver == "euler":
            return h + self.epsilon * f(h)
        return h + self.epsilon * f(h + self.epsilon / 2 * f(h))

    def _bounded(self, M: jax.Array) -> jax.Array:
        symmetric, skew_part = M + M.T, M - M.T
        one = jnp.eye(self.hidden_size, dtype=M.dtype)
        return (1 - self.beta) * symmetric + self.beta * skew_part - self.gamma * one
