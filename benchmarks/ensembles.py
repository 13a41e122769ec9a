"""Measure `jax.vmap` over LSTMs: python benchmarks/ensembles.py

Three programs take turns: the machine code for all models at once, one call of it after the other
(`jax.lax.map`), and plain JAX. Printed are medians of the wall time, and in brackets the processor
time of the whole process. Pin it to one core (``taskset -c 0``) to leave out the threads.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noria as nr

MODELS = 16
#: Examples, steps, features and units.
SHAPES = (8, 32, 16, 32), (16, 64, 64, 128)
TURNS, SECONDS = 15, 0.05


def loss(layer: Any, xs: jax.Array) -> jax.Array:
    return jnp.mean(layer(xs) ** 2)


MODES: dict[str, Callable[..., Any]] = {
    "inference": lambda layer, xs: layer(xs),
    "training": jax.grad(loss),
}


def one_by_one(one: Callable[..., Any]) -> Callable[..., Any]:
    return lambda layers, xs: jax.lax.map(lambda pair: one(*pair), (layers, xs))


def seconds(run: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Wall time and processor time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        found = run()
    jax.block_until_ready(found)
    return (time.perf_counter() - wall) / calls, (time.process_time() - processor) / calls


def compare(one: Callable[..., Any], layers: Any, xs: jax.Array) -> list[Any]:
    """Seconds of the machine code for all models, for one after the other, and of plain JAX."""
    both, plain = jax.jit(jax.vmap(one)), nr.with_backend(layers, "plain")
    runs = [
        functools.partial(both, layers, xs),
        functools.partial(jax.jit(one_by_one(one)), layers, xs),
        functools.partial(both, plain, xs),
    ]
    for run in runs:
        jax.block_until_ready(run())
    calls = [max(1, int(SECONDS / seconds(run, 1)[0])) for run in runs]
    turns = [[seconds(run, n) for run, n in zip(runs, calls, strict=True)] for _ in range(TURNS)]
    return [np.median(some, 0) for some in zip(*turns, strict=True)]


def main() -> None:
    print("| batch, time, in, hidden | mode | native, ms | one by one | plain |")
    print("|---|---|---|---|---|")
    for batch, steps, features, units in SHAPES:
        make = functools.partial(nr.LSTM, features, units)
        layers = jax.vmap(lambda key, make=make: make(key=key))(
            jax.random.split(jax.random.key(0), MODELS)
        )
        xs = jax.random.normal(jax.random.key(1), (MODELS, batch, steps, features))
        for mode, one in MODES.items():
            native, *others = compare(one, layers, xs)
            found = [other / native for other in others]
            ratios = " | ".join(f"{wall:.2f} ({processor:.2f})" for wall, processor in found)
            shape = f"{batch}, {steps}, {features}, {units}"
            print(f"| {shape} | {mode} | {1e3 * native[0]:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
