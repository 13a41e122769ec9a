"""Recurrent cells with a latent variable at each step: VRNN and RSSM."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import elu, relu, sigmoid, softplus

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell

#: Mean and standard deviation.
Normal = tuple[jax.Array, jax.Array]


class _LatentCell(VectorCell):
    """A gated recurrent unit with a normal latent variable, which has a prior and a posterior."""

    latent_size: int = size(default=30)
    inference: bool = False
    U: jax.Array = matrix("2 * hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("3 * hidden")
    P_h: jax.Array = matrix("hidden", "hidden")
    c_p: jax.Array = vector("hidden")
    P: jax.Array = matrix("2 * latent", "hidden")
    d_p: jax.Array = vector("2 * latent")
    Q_h: jax.Array = matrix("hidden", "hidden")
    c_q: jax.Array = vector("hidden")
    Q: jax.Array = matrix("2 * latent", "hidden")
    d_q: jax.Array = vector("2 * latent")

    def _gated(self, h: jax.Array, a: jax.Array) -> jax.Array:
        """A step of the unit whose input, times its weights, is ``a``."""
        a_r, a_u, a_n = jnp.split(a + self.b, 3)
        u_r, u_u = jnp.split(self.U @ h, 2)
        u = sigmoid(a_u + u_u)
        n = jnp.tanh(a_n + self.U_n @ (sigmoid(a_r + u_r) * h))
        return u * h + (1 - u) * n

    def _drawn(self, normal: Normal, key: Key | None) -> jax.Array:
        mean, deviation = normal
        if key is None or self.inference:
            return mean
        return mean + deviation * jax.random.normal(key, mean.shape, mean.dtype)


def _normal(a: jax.Array, least: float = 0.0) -> Normal:
    mean, raw = jnp.split(a, 2)
    return mean, softplus(raw) + least


def _divergence(q: Normal, p: Normal) -> jax.Array:
    """The Kullback-Leibler divergence of normal numbers, summed."""
    (m, s), (n, t) = q, p
    ratio = (s / t) ** 2
    found: jax.Array = 0.5 * jnp.sum(ratio + ((m - n) / t) ** 2 - 1 - jnp.log(ratio))
    return found


class VRNNCell(_LatentCell):
    """The variational recurrent network: a latent variable of each input, given the past.

    ::

        e  = relu(X x + c_x)
        z ~ N(m, s),  (m, raw) = Q relu(Q_x e + Q_h h + c_q) + d_q,  s = softplus(raw)
        l  = relu(Z z + c_z)
        y  = [l, h]                                      the output, for a decoder of x
        r  = sigmoid(W_r [e, l] + U_r h + b_r)
        u  = sigmoid(W_u [e, l] + U_u h + b_u)
        h' = u * h + (1 - u) * tanh(W_n [e, l] + U_n (r * h) + b_n)

    The prior is ``N(m, s)`` with ``(m, raw) = P relu(P_h h + c_p) + d_p``. The latent is drawn if
    the step gets a key, as ``layer(xs, key=key)``, and not in inference mode; else it is its mean.
    `divergence` is the term of the loss. Rows of ``W``, ``U`` and ``b`` are those of r, u and n.

    Args:
        latent_size: features of ``z``.
        inference: whether a key is ignored. `noria.inference` and `noria.training` set it for a
            whole model.

    Source: Chung et al. 2015, arXiv 1506.02216, eqs. 5 to 9. The networks have one hidden layer,
    and the state is that of a gated recurrent unit; the paper leaves both open.
    """

    X: jax.Array = matrix("hidden", "in")
    c_x: jax.Array = vector("hidden")
    Q_x: jax.Array = matrix("hidden", "hidden")
    Z: jax.Array = matrix("hidden", "latent")
    c_z: jax.Array = vector("hidden")
    W: jax.Array = matrix("3 * hidden", "2 * hidden")
    h: jax.Array = state("hidden")

    def prior(self, h: jax.Array) -> Normal:
        """Mean and deviation of the latent, given the state before a step."""
        return _normal(self.P @ relu(self.P_h @ h + self.c_p) + self.d_p)

    def posterior(self, h: jax.Array, x: jax.Array) -> Normal:
        """Mean and deviation of the latent, given the state before a step, and its input."""
        e = relu(self.X @ x + self.c_x)
        return _normal(self.Q @ relu(self.Q_x @ e + self.Q_h @ h + self.c_q) + self.d_q)

    def divergence(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The divergence of posterior and prior, given the state before a step, and its input."""
        return _divergence(self.posterior(h, x), self.prior(h))

    def __call__(self, h: jax.Array, x: jax.Array, *, key: Key | None = None) -> Any:
        e = relu(self.X @ x + self.c_x)
        z = self._drawn(self.posterior(h, x), key)
        latent = relu(self.Z @ z + self.c_z)
        after = self._gated(h, self.W @ jnp.concatenate([e, latent]))
        return after, jnp.concatenate([latent, h])


class RSSMCell(_LatentCell):
    """The recurrent state space model: a deterministic path, and a latent variable on it.

    ::

        e  = elu(W_z z + W_a a + b_e)                    x = [a, o]: action and observation
        r  = sigmoid(W_r e + U_r h + b_r)
        u  = sigmoid(W_u e + U_u h + b_u)
        h' = u * h + (1 - u) * tanh(W_n e + U_n (r * h) + b_n)
        z' ~ N(m, s),  (m, raw) = Q elu(Q_h h' + Q_o o + c_q) + d_q,  s = softplus(raw) + 0.1
        y  = [h', z']                                    the output

    The prior is ``N(m, s)`` with ``(m, raw) = P elu(P_h h' + c_p) + d_p``. The latent is drawn if
    the step gets a key, as ``layer(xs, key=key)``, and not in inference mode; else it is its mean.
    `divergence` is the term of the loss, and `imagined` a step without an observation. Rows of
    ``W``, ``U`` and ``b`` are those of r, u and n.

    Args:
        latent_size: features of ``z``.
        embed_size: features of the observation ``o``, the last ones of x.
        inference: whether a key is ignored. `noria.inference` and `noria.training` set it for a
            whole model.

    Source: Hafner et al. 2019, arXiv 1811.04551, section 2.3, with the networks of the authors'
    code, PlaNet. DreamerV2 and V3 have categorical latents.
    """

    embed_size: int = size(default=1)
    W_z: jax.Array = matrix("hidden", "latent")
    W_a: jax.Array = matrix("hidden", "in - embed")
    b_e: jax.Array = vector("hidden")
    W: jax.Array = matrix("3 * hidden", "hidden")
    Q_o: jax.Array = matrix("hidden", "embed")
    h: jax.Array = state("hidden")
    z: jax.Array = state("latent")

    def __check_init__(self) -> None:
        if self.embed_size >= self.in_size:
            raise ValueError(f"{self._call}: expected embed_size to be less than in_size.")

    def prior(self, h: jax.Array) -> Normal:
        """Mean and deviation of the latent, given the deterministic state of its step."""
        return _normal(self.P @ elu(self.P_h @ h + self.c_p) + self.d_p, 0.1)

    def posterior(self, h: jax.Array, x: jax.Array) -> Normal:
        """Mean and deviation of the latent, given the deterministic state of its step, and x."""
        seen = x[self.in_size - self.embed_size :]
        return _normal(self.Q @ elu(self.Q_h @ h + self.Q_o @ seen + self.c_q) + self.d_q, 0.1)

    def divergence(self, state: Any, x: jax.Array) -> jax.Array:
        """The divergence of posterior and prior, given the state after a step, and its input."""
        return _divergence(self.posterior(state.h, x), self.prior(state.h))

    def imagined(self, state: Any, action: jax.Array, key: Key | None = None) -> Any:
        """The state after an action without an observation, with a latent of the prior."""
        h = self._moved(state, action)
        return self.State(h, self._drawn(self.prior(h), key))

    def _moved(self, state: Any, action: jax.Array) -> jax.Array:
        h, z = state
        return self._gated(h, self.W @ elu(self.W_z @ z + self.W_a @ action + self.b_e))

    def __call__(self, state: Any, x: jax.Array, *, key: Key | None = None) -> Any:
        h = self._moved(state, x[: self.in_size - self.embed_size])
        return self.State(h, self._drawn(self.posterior(h, x), key))

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """Both parts of the state."""
        return jnp.concatenate(state)
