"""Cells with a structured memory: a stack, a history with gaps, a rotation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid, softmax

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import wide
from noria.initializers import identity, orthogonal


class StackRNNCell(VectorCell):
    """A recurrent network with stacks of numbers, which it pushes and pops softly.

    ::

        h' = sigmoid(U x + R h + P top)                 top: the first numbers of each stack s
        for each stack:
            push, pop = softmax(A h')
            s'[0] = push * sigmoid(D h') + pop * s[1]
            s'[i] = push * s[i - 1]      + pop * s[i + 1]

        no_op: push, pop, stay = softmax(A h'),  and  stay * s[i]  is added to  s'[i]

    A stack has a fixed depth. What is pushed out of it is lost, and -1, the number of an empty
    stack, comes in from below.

    Args:
        stacks: number of stacks.
        depth: numbers in each stack.
        top_size: how many numbers of each stack the next state sees.
        no_op: whether a step may leave a stack as it is.
        recurrent: whether there is an ``R``; without it the stacks are the only memory.

    Raises:
        ValueError: if ``top_size`` is larger than ``depth``.

    Source: Joulin and Mikolov 2015, arXiv 1503.01007. In the paper a stack has no limit.
    """

    stacks: int = size(default=10)
    depth: int = size(default=20)
    top_size: int = size(default=2)
    no_op: bool = False
    recurrent: bool = True
    U: jax.Array = matrix("hidden", "in")
    R: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.recurrent)
    P: jax.Array = matrix("hidden", "stacks * top")
    A_push: jax.Array = matrix("stacks", "hidden")
    A_pop: jax.Array = matrix("stacks", "hidden")
    A_stay: jax.Array | None = matrix("stacks", "hidden", when=lambda cell: cell.no_op)
    D: jax.Array = matrix("stacks", "hidden")
    h: jax.Array = state("hidden")
    s: jax.Array = state("stacks", "depth", initializer=-1)

    def __check_init__(self) -> None:
        if self.top_size > self.depth:
            raise ValueError(
                f"{self._call}: top_size is {self.top_size}; expected at most depth={self.depth}."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, s = state
        a = self.U @ x + self.P @ s[:, : self.top_size].ravel()
        h = sigmoid(a if self.R is None else a + self.R @ h)
        scores = [A @ h for A in (self.A_push, self.A_pop, self.A_stay) if A is not None]
        actions = softmax(jnp.stack(scores), axis=0)[:, :, None]
        pushed = jnp.concatenate([sigmoid(self.D @ h)[:, None], s[:, :-1]], axis=1)
        popped = jnp.concatenate([s[:, 1:], jnp.full_like(s[:, :1], -1)], axis=1)
        after = actions[0] * pushed + actions[1] * popped
        return self.State(h, after + actions[2] * s if self.no_op else after)


class MISTCell(VectorCell):
    """The mixed history RNN, MIST: a step sees a mixture of states 1, 2, 4, 8 ... steps ago.

    ::

        a  = softmax(W_a x + U_a h + b_a)               a weight for each delay
        r  = sigmoid(W_r x + U_r h + b_r)
        m  = sum of a[i] * (the state 2^i steps before h'),  i = 0 .. delays - 1
        h' = tanh(W x + U (r * m) + b)

    The second state, ``past``, has the last states, the oldest first; its last row is ``h``.

    Args:
        delays: number of delays.
        longest: number of states that ``past`` keeps, at least ``2 ** (delays - 1)``.

    Raises:
        ValueError: if ``longest`` is too small.

    Source: DiPietro, Rupprecht, Navab and Hager 2017, arXiv 1702.07805. As in the authors' code the
    delays are 1 to 128 by default.
    """

    delays: int = size(default=8)
    longest: int = size(default=128)
    W_a: jax.Array = matrix("delays", "in")
    U_a: jax.Array = matrix("delays", "hidden")
    b_a: jax.Array = vector("delays")
    W_r: jax.Array = matrix("hidden", "in")
    U_r: jax.Array = matrix("hidden", "hidden")
    b_r: jax.Array = vector("hidden")
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    past: jax.Array = state("longest", "hidden")

    def __check_init__(self) -> None:
        if self.longest < 2 ** (self.delays - 1):
            raise ValueError(
                f"{self._call}: longest is {self.longest}; expected at least "
                f"2 ** (delays - 1) = {2 ** (self.delays - 1)}."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, past = state
        a = softmax(self.W_a @ x + self.U_a @ h + self.b_a)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.b_r)
        m = a @ jnp.stack([past[self.longest - 2**i] for i in range(self.delays)])
        h = jnp.tanh(self.W @ x + self.U @ (r * m) + self.b)
        return self.State(h, jnp.concatenate([past[1:], h[None]]))


def _unit(a: jax.Array) -> jax.Array:
    """``a`` at length 1, computed in at least 32 bits; 0 stays 0."""
    numbers = wide(a)
    length = jnp.sqrt(jnp.maximum(jnp.sum(numbers * numbers), 1e-12))
    return (numbers / length).astype(a.dtype)


class RUMCell(VectorCell):
    """The rotational unit of memory: a step rotates the state by an angle that it computes.

    ::

        e  = W_e x + b_e                                the input
        t  = W_t x + U_t h + b_t                        the target
        u  = sigmoid(W_u x + U_u h + b_u)
        n  = relu(e + Rotation(e, t) h)
        h' = u * h + (1 - u) * n

    ``Rotation(e, t)`` takes the direction of ``e`` to that of ``t``, in their plane, and leaves all
    that is orthogonal to both. With ``eta`` the new state is scaled to that length.

    Args:
        eta: length of the state, the time normalisation; 0 for none.

    Source: Dangovski et al. 2017, arXiv 1710.09537, with lambda = 0; `AssociativeRUMCell` has
    lambda = 1. As in the authors' code ``b_t`` and ``b_u`` start at 1, and matrices are orthogonal.
    """

    eta: float = 0.0
    W_e: jax.Array = matrix("hidden", "in", orthogonal())
    b_e: jax.Array = vector("hidden")
    W_t: jax.Array = matrix("hidden", "in", orthogonal())
    U_t: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_t: jax.Array = vector("hidden", 1)
    W_u: jax.Array = matrix("hidden", "in", orthogonal())
    U_u: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_u: jax.Array = vector("hidden", 1)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        e, u, (p, p_to, q, q_to) = self._parts(h, x)
        return self._mixed(h, u, e + h + jnp.dot(p, h) * p_to + jnp.dot(q, h) * q_to)

    def _parts(self, h: jax.Array, x: jax.Array) -> Any:
        """The input, the gate, and the rotation as  I + p_to p^T + q_to q^T."""
        e = self.W_e @ x + self.b_e
        t = self.W_t @ x + self.U_t @ h + self.b_t
        u = sigmoid(self.W_u @ x + self.U_u @ h + self.b_u)
        p, target = _unit(e), _unit(t)
        cos = jnp.dot(p, target)
        across = target - cos * p
        q = _unit(across)
        sin = jnp.dot(q, across)
        return e, u, (p, (cos - 1) * p + sin * q, q, (cos - 1) * q - sin * p)

    def _mixed(self, h: jax.Array, u: jax.Array, a: jax.Array) -> jax.Array:
        h = u * h + (1 - u) * relu(a)
        return self.eta * _unit(h) if self.eta else h


class AssociativeRUMCell(RUMCell):
    """The rotational unit of memory whose rotations accumulate in a matrix.

    ::

        e  = W_e x + b_e                                the input
        t  = W_t x + U_t h + b_t                        the target
        u  = sigmoid(W_u x + U_u h + b_u)
        R' = R Rotation(e, t)
        n  = relu(e + R' h)
        h' = u * h + (1 - u) * n

    ``Rotation`` is that of `RUMCell`. ``R`` starts at the identity.

    Args:
        eta: length of the state, the time normalisation; 0 for none.

    Source: Dangovski et al. 2017, arXiv 1710.09537, with lambda = 1.
    """

    R: jax.Array = state("hidden", "hidden", initializer=identity())

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, R = state
        e, u, (p, p_to, q, q_to) = self._parts(h, x)
        R = R + (R @ p_to)[:, None] * p + (R @ q_to)[:, None] * q
        return self.State(self._mixed(h, u, e + R @ h), R)
