"""Measure tracing and lowering of a training step: python benchmarks/tracing.py

Each layer is measured in a separate process: the first time, and the median of later times with
empty caches. Lowering includes code generation and LLVM. The times are CPU times, which other
processes disturb less than wall-clock times.
"""

import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import noria as nr

LAYERS = ("LSTM", "GRU")
BATCH, TIME, FEATURES, UNITS = 32, 100, 64, 128
REPEATS = 9


def loss(layer: Any, xs: jax.Array) -> jax.Array:
    return jnp.sum(layer(xs) ** 2)


def once(layer: Any, xs: jax.Array) -> tuple[float, float]:
    """CPU time of tracing and of lowering, in milliseconds."""
    jax.clear_caches()
    step = jax.jit(jax.grad(lambda layer, xs: loss(layer, xs)))
    began = time.process_time()
    traced = step.trace(layer, xs)
    middle = time.process_time()
    traced.lower()
    return 1e3 * (middle - began), 1e3 * (time.process_time() - middle)


def measure(name: str) -> None:
    layer = getattr(nr, name)(FEATURES, UNITS, key=jax.random.key(0))
    xs = jnp.zeros((BATCH, TIME, FEATURES))
    first, *rest = (once(layer, xs) for _ in range(1 + REPEATS))
    median = [statistics.median(times) for times in zip(*rest, strict=True)]
    numbers = " | ".join(f"{number:.1f}" for number in (*first, *median))
    print(f"| {name} | {numbers} |", flush=True)


def main() -> None:
    print("| layer | first trace, ms | first lowering | median trace | median lowering |")
    print("|---|---|---|---|---|", flush=True)
    for name in LAYERS:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(sys.argv[1])
    else:
        main()
