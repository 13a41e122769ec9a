"""Compare delays in the native loop with delays outside of it: python benchmarks/delays.py

A ratio above 1 says that the loop is faster with its delays inside. `LoopBackend.keeps_delays` is
the choice. Calls of both programs take turns; the ratio is that of the medians.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from rich.console import Console
from rich.table import Table
from tuning import Line, infer, ratio, train  # type: ignore[attr-defined]  # of this folder

import noria as nr
from noria.backends.native.backend import Native

#: Examples, steps, and features of input and state.
SHAPES = [(8, 200, 64), (1, 1024, 64), (16, 256, 256)]
SECONDS = 0.4


class Convolution(nr.Cell):
    """The last inputs times a kernel: no array of the state needs a loop."""

    kernel: jax.Array

    def __call__(self, window: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.concatenate([window[1:], x[None]])

    def output(self, window: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.silu((self.kernel * window).sum(0))

    def initial_state(self) -> jax.Array:
        return jnp.zeros_like(self.kernel)


class Memory(nr.Cell):
    """A matrix whose key and value are products of the last two inputs."""

    weight: jax.Array

    def __call__(self, state: Any, x: jax.Array) -> Any:
        _, S, before = state
        z = 0.3 * x + 0.7 * before
        S = 0.9 * S + jnp.outer(self.weight @ z, self.weight.T @ z)
        return x @ S, S, x

    def initial_state(self) -> Any:
        zero = jnp.zeros(len(self.weight))
        return zero, jnp.zeros_like(self.weight), zero


def convolved(kernel: jax.Array, state: Any, x: jax.Array) -> Any:
    h, window = state
    window = jnp.concatenate([window[1:], x[None]])
    return jnp.tanh(h / 2 + jax.nn.silu((kernel * window).sum(0))), window


def product(kernel: jax.Array, weight: jax.Array, state: Any, x: jax.Array) -> Any:
    h, window = state
    window = jnp.concatenate([window[1:], x[None]])
    return jnp.tanh(h / 2 + weight @ jax.nn.silu((kernel * window).sum(0))), window


def shifted(weight: jax.Array, state: Any, x: jax.Array) -> Any:
    h, before = state
    return jnp.tanh(h / 2 + weight @ (0.3 * x + 0.7 * before)), x


def layers(size: int) -> dict[str, nr.Recurrence]:
    """The layers to compare."""
    one, two = jax.random.split(jax.random.key(0))
    kernel = jax.random.normal(one, (4, size)) / 4
    weight = jax.random.normal(two, (size, size)) / math.sqrt(size)

    zero, window = jnp.zeros(size), jnp.zeros((4, size))
    return {
        "window of four": nr.Recurrence(Partial(convolved, kernel), (zero, window)),
        "window, product": nr.Recurrence(Partial(product, kernel, weight), (zero, window)),
        "token shift, product": nr.Recurrence(Partial(shifted, weight), (zero, zero)),
        "token shift, matrix": nr.Recurrence(Memory(weight)),
        "window only": nr.Recurrence(Convolution(kernel)),
    }


@contextmanager
def keeps_delays(keeps: bool) -> Iterator[None]:
    """Delays beside a matrix stay only where its gradient stores the matrices."""
    jax.clear_caches()
    stores = mock.patch.object(Native, "recomputes", return_value=False)
    with mock.patch.object(Native, "keeps_delays", keeps), stores if keeps else nullcontext():
        yield


def main() -> None:
    table = Table("layer", "examples, steps, features", "inference", "training")
    for shape in SHAPES:
        xs = jax.random.normal(jax.random.key(1), shape)
        for name, layer in layers(shape[-1]).items():
            outside, inside = partial(keeps_delays, False), partial(keeps_delays, True)
            ratios = [
                ratio(Line(name, function, (layer, xs), outside, inside), SECONDS)
                for function in (infer, train)
            ]
            table.add_row(name, str(shape), *(f"{number:.2f}" for number in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
