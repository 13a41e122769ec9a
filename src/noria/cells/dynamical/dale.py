"""Excitatory-inhibitory RNN, RNN with short-term plasticity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import relu

from noria._errors import check_key
from noria._types import Initializer, Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _signs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """1 for the first 80 % of the units, -1 for the others."""
    return jnp.where(jnp.arange(shape[0]) < round(0.8 * shape[0]), 1, -1).astype(dtype)


def _balanced(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Gamma numbers of shape 2, so that excitation and inhibition are equal on average.

    With the signs, the spectral radius is 1.5.
    """
    size = shape[0]
    signs = np.asarray(_signs(key, shape))
    positive = signs.sum(where=signs > 0), -signs.sum(where=signs < 0)
    M = np.array(jax.random.gamma(key, 2.0, shape), np.float64) * (1 - np.eye(size))
    M = M * np.where(signs > 0, 1, positive[0] / max(positive[1], 1))
    radius = np.abs(np.linalg.eigvals(M * signs)).max()
    return jnp.asarray(M * (1.5 / radius if radius else 0.0), dtype)


def _inputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(0, 0.1)."""
    return jax.random.uniform(key, shape, dtype, 0, 0.1)


def _gamma(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Gamma numbers of shape 0.25 and scale 1."""
    return jax.random.gamma(key, 0.25, shape, dtype)


def _alternating(even: float, odd: float) -> Initializer:
    """One number for even units, another one for odd units."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.where(jnp.arange(shape[0]) % 2 == 0, even, odd).astype(dtype)

    return init


def _dale(M: jax.Array, D: jax.Array) -> jax.Array:
    """Weights whose columns have the signs of ``D``, without those of a unit to itself."""
    return relu(M) * D * (1 - jnp.eye(M.shape[0], dtype=M.dtype))


def _noise(call: str, key: Key | None, deviation: float, like: jax.Array) -> jax.Array | float:
    """Gaussian noise of one step, or 0 for the deviation 0."""
    if not deviation:
        return 0.0
    check_key(call, key)
    assert key is not None
    return deviation * jax.random.normal(key, like.shape, like.dtype)


class EIRNNCell(VectorCell):
    """A network of excitatory and inhibitory units: the weights of a unit have one sign.

    ::

        U  = relu(M) D                            (without its diagonal)
        h' = (1 - alpha) * h + alpha * (U relu(h) + relu(W) x + b) + sqrt(2 alpha) * noise * N(0, 1)
        y  = relu(h')

    ``D`` is diagonal and fixed: 1 for the first 80 % of the units, -1 for the others.

    Args:
        alpha: the time of a step over the time constant of the units.
        noise: standard deviation of the noise; above 0 the layer needs a ``key``. The paper has
            0.15.

    Source: Song, Yang and Wang 2016, doi 10.1371/journal.pcbi.1004792. The initial weights are
    those of the authors' code pycog: gamma numbers that are balanced, with a spectral radius of
    1.5. The paper also has masks, and trains the initial state.
    """

    alpha: float = 0.2
    noise: float = 0.0
    W: jax.Array = matrix("hidden", "in", _inputs)
    M: jax.Array = matrix("hidden", "hidden", _balanced)
    D: jax.Array = vector("hidden", _signs, trained=False)
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden", initializer=0.1)

    def __call__(self, h: jax.Array, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        xi = _noise("EIRNNCell", key, (2 * self.alpha) ** 0.5 * self.noise, h)
        drive = _dale(self.M, self.D) @ relu(h) + relu(self.W) @ x + self.b
        return (1 - self.alpha) * h + self.alpha * drive + xi

    def output(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """The rates of the units."""
        return relu(state)


class STPRNNCell(VectorCell):
    """A network of excitatory and inhibitory units whose synapses tire and facilitate.

    ::

        a' = clip(a + dt / tau_a * (1 - a) - dt_s * u * a * h)
        u' = clip(u + dt / tau_u * (U - u) + dt_s * U * (1 - u) * h)
        h' = relu((1 - alpha) * h + alpha * (relu(M) D (a' * u' * h) + relu(W) x + b)
                  + sqrt(2 alpha) * noise * N(0, 1))

    ``a`` is the paper's ``x``, what is left of the transmitter, and ``u`` the share that is used;
    both stay between 0 and 1. ``dt_s`` is ``dt`` in seconds and ``alpha`` is ``dt / tau``. Even
    units facilitate: ``tau_a = 200``, ``tau_u = 1500``, ``U = 0.15``. Odd units tire: ``tau_a =
    1500``, ``tau_u = 200``, ``U = 0.45``. ``M`` counts without its diagonal. ``D`` is 1 for the
    first 80 % of the units, -1 for the others. These numbers are not trained.

    Args:
        dt: the time of a step, in ms.
        tau: time constant of the units, in ms.
        noise: standard deviation of the noise; above 0 the layer needs a ``key``. The paper has
            0.5.

    Source: Masse et al. 2019, doi 10.1038/s41593-019-0414-3, with the initial weights of an early
    version of the authors' code: gamma numbers of shape 0.25.
    """

    dt: float = 10.0
    tau: float = 100.0
    noise: float = 0.0
    W: jax.Array = matrix("hidden", "in", _gamma)
    M: jax.Array = matrix("hidden", "hidden", _gamma)
    D: jax.Array = vector("hidden", _signs, trained=False)
    b: jax.Array = vector("hidden")
    tau_a: jax.Array = vector("hidden", _alternating(200, 1500), trained=False)
    tau_u: jax.Array = vector("hidden", _alternating(1500, 200), trained=False)
    U: jax.Array = vector("hidden", _alternating(0.15, 0.45), trained=False)
    h: jax.Array = state("hidden", initializer=0.1)
    a: jax.Array = state("hidden", initializer=1)
    u: jax.Array = state("hidden", initializer=_alternating(0.15, 0.45))

    def __call__(self, state: Any, x: jax.Array, *, key: Key | None = None) -> Any:
        h, a, u = state
        dt, dt_s, alpha = self.dt, self.dt / 1000, self.dt / self.tau
        xi = _noise("STPRNNCell", key, (2 * alpha) ** 0.5 * self.noise, h)
        a, u = (
            jnp.clip(a + dt / self.tau_a * (1 - a) - dt_s * u * a * h, 0, 1),
            jnp.clip(u + dt / self.tau_u * (self.U - u) + dt_s * self.U * (1 - u) * h, 0, 1),
        )
        drive = _dale(self.M, self.D) @ (a * u * h) + relu(self.W) @ x + self.b
        h = relu((1 - alpha) * h + alpha * drive + xi)
        return self.State(h, a, u)
