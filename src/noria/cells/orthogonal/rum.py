"""Rotational unit of memory, Rotational unit of memory with an associative memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import wide
from noria.initializers import identity, orthogonal


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
