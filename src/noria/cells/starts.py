"""Initialisers that several cells share."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Initializer, Key
from noria.initializers import uniform


def between(low: float, high: float) -> Initializer:
    """U(low, high)."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


def uniform_by_columns(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(-1 / sqrt(n), 1 / sqrt(n)) for n columns."""
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def normal_by_columns(gain: float = 1.0) -> Initializer:
    """N(0, gain^2 / n) for n columns."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * (gain * shape[-1] ** -0.5)

    return init


def each(init: Initializer) -> Initializer:
    """``init`` for each matrix of a stack."""

    def draw(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.stack([init(k, shape[1:], dtype) for k in jax.random.split(key, shape[0])])

    return draw


def forget_one(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Biases of four gates, i f g o: 1 in the second quarter, else 0."""
    del key
    hidden = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


def logarithm(init: Initializer) -> Initializer:
    """The logarithms of what ``init`` draws."""
    return lambda key, shape, dtype=jnp.float32: jnp.log(init(key, shape, dtype))


def over_inputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n), where n is the product of all sizes but the first."""
    return jax.random.normal(key, shape, dtype) * math.prod(shape[1:]) ** -0.5


def lecun_uniform(gain: float = 1.0) -> Initializer:
    """U(-b, b) with b = gain * sqrt(3 / n), where n is the last size: variance gain^2 / n."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return uniform(gain * (3 / shape[-1]) ** 0.5)(key, shape, dtype)

    return init


each_glorot = jax.nn.initializers.glorot_uniform(in_axis=-1, out_axis=-2, batch_axis=0)
