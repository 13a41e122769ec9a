"""Unitary recurrent network."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu

from noria.cells.declare import array, matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, wide
from noria.cells.starts import between, each
from noria.initializers import glorot_uniform


class URNNCell(VectorCell):
    """The unitary recurrent network, uRNN: a complex state that keeps its length.

    ::

        W  = D_3 R_2 F^-1 D_2 Pi R_1 F D_1
        h' = modrelu(W h + V x)
        y  = [Re h', Im h']                                  the output

        D = diag(exp(i theta)),  R = 1 - 2 v v^* / (v^* v)
        modrelu(z) = relu(|z| + b) z / |z|

    ``F`` is the Fourier transform, ``Pi`` a fixed permutation: that which sorts the fixed vector
    ``order``. Rows of ``theta`` are for the three ``D``. ``V`` and ``v`` have their real and
    imaginary parts along the first axis. A state costs n log n.

    Source: Arjovsky, Shah and Bengio 2016, arXiv 1511.06464, eqs. 6 to 8. The paper also trains the
    initial state.
    """

    theta: jax.Array = array(3, "hidden", initializer=between(-math.pi, math.pi))
    v_1: jax.Array = matrix(2, "hidden", between(-1, 1))
    v_2: jax.Array = matrix(2, "hidden", between(-1, 1))
    order: jax.Array = vector("hidden", between(0, 1), trained=False)
    V: jax.Array = array(2, "hidden", "in", initializer=each(glorot_uniform()))
    b: jax.Array = vector("hidden", between(-0.01, 0.01))
    h: jax.Array = state("hidden", is_complex=True)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        D_1, D_2, D_3 = (
            complex_like(jnp.cos(theta), jnp.sin(theta), h) for theta in wide(self.theta)
        )
        z = _reflected(self.v_1, jnp.fft.fft(D_1 * h))
        z = D_2 * z[jnp.argsort(self.order)]
        z = D_3 * _reflected(self.v_2, jnp.fft.ifft(z))
        z = z + complex_like(self.V[0] @ x, self.V[1] @ x, h)
        return _modrelu(z, wide(self.b))

    def output(self, h: jax.Array, x: jax.Array) -> Any:
        """Real and imaginary parts."""
        return jnp.concatenate([h.real, h.imag]).astype(x.dtype)


def _times(factor: jax.Array, z: jax.Array) -> jax.Array:
    """A real number times a complex one."""
    return jax.lax.complex(factor * z.real, factor * z.imag)


def _reflected(v: jax.Array, z: jax.Array) -> jax.Array:
    u = complex_like(v[0], v[1], z)
    length = (u.real * u.real + u.imag * u.imag).sum()
    return z - u * _times(2 / length, (u.conj() * z).sum())


def _modrelu(z: jax.Array, b: jax.Array) -> jax.Array:
    """A number of length 0 stays."""
    square = z.real * z.real + z.imag * z.imag
    length = jnp.sqrt(jnp.where(square > 0, square, 1))
    return _times(jnp.where(square > 0, relu(length + b) / length, 0), z)
