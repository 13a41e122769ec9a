"""Measure attention to a memory that is the context: python benchmarks/attention.py

A GRU reads its input and what it attends to. The weights of the entries are a softmax of products
of a query and the keys (``product``; Luong et al. 2015, arXiv 1508.04025), or of ``v tanh(k + q)``
(``additive``; Bahdanau et al. 2015, arXiv 1409.0473). Calls of three backends take turns. Printed
are the median milliseconds of ``auto``, the medians of the others divided by it, and the temporary
memory of each program in megabytes.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import typer

import noria as nr

BACKENDS = ("auto", "scan", "plain")
#: Examples, steps, units, entries of the memory.
SHAPES = (16, 128, 128, 50), (1, 512, 64, 50), (8, 64, 256, 30)
TURNS = 9


class Attending(nr.Cell):
    """A GRU with attention to a memory."""

    gru: nr.GRUCell
    query: jax.Array
    keys: jax.Array

    def __init__(self, size: int, *, key: jax.Array):
        k1, k2, k3 = jax.random.split(key, 3)
        self.gru = nr.GRUCell(2 * size, size, key=k1)
        self.query = jax.random.normal(k2, (size, size)) / size**0.5
        self.keys = jax.random.normal(k3, (size, size)) / size**0.5

    def scores(self, keys: jax.Array, query: jax.Array) -> jax.Array:
        return keys @ query

    def __call__(self, h: Any, x: Any, *, context: Any) -> Any:  # type: ignore[override]
        weights = jax.nn.softmax(self.scores(context @ self.keys, self.query @ h))
        return self.gru(h, jnp.concatenate([x, weights @ context]))

    def initial_state(self) -> Any:
        return self.gru.initial_state()


class Additive(Attending):
    """The same with a layer for the scores."""

    weight: jax.Array

    def __init__(self, size: int, *, key: jax.Array):
        super().__init__(size, key=key)
        self.weight = jax.random.normal(key, (size,)) / size**0.5

    def scores(self, keys: jax.Array, query: jax.Array) -> jax.Array:
        return jnp.tanh(keys + query) @ self.weight


def run(layer: nr.Recurrence, memory: jax.Array, xs: jax.Array) -> jax.Array:
    return layer(xs, context=memory)


def loss(layer: nr.Recurrence, memory: jax.Array, xs: jax.Array) -> jax.Array:
    return jnp.mean(run(layer, memory, xs) ** 2)


MODES: dict[str, Any] = {"inference": run, "training": jax.grad(loss, argnums=(0, 1, 2))}


def row(function: Any, cell: nr.Cell, memory: jax.Array, xs: jax.Array) -> str:
    """Three ratios, and the memory of three programs."""
    layers = [nr.Recurrence(cell, backend=backend) for backend in BACKENDS]
    programs: list[Any] = [jax.jit(function).lower(a, memory, xs).compile() for a in layers]
    turns = []
    for _ in range(TURNS):
        times = []
        for program, layer in zip(programs, layers, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(layer, memory, xs))
            times.append(time.perf_counter() - start)
        turns.append(times)
    auto, *others = map(statistics.median, zip(*turns[1:], strict=True))
    ratios = [f"{other / auto:.2f}" for other in others]
    sizes = [f"{p.memory_analysis().temp_size_in_bytes / 1e6:.1f}" for p in programs]
    return " | ".join([f"{1e3 * auto:.2f}", *ratios, ", ".join(sizes)])


def main() -> None:
    print("| scores | batch, time, units, entries | mode | auto, ms | scan | plain | memory, MB |")
    print("|" + "---|" * 7)
    for batch, steps, size, entries in SHAPES:
        k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
        xs = jax.random.normal(k1, (batch, steps, size))
        memory = jax.random.normal(k2, (batch, entries, size))
        for name, kind in (("product", Attending), ("additive", Additive)):
            for mode, function in MODES.items():
                shape = f"{batch}, {steps}, {size}, {entries}"
                found = row(function, kind(size, key=k3), memory, xs)
                print(f"| {name} | {shape} | {mode} | {found} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
