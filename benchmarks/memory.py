"""Measure the memory of many shapes in one process: python benchmarks/memory.py native|plain

Compiles and runs a training step once for each shape. Prints the growth of resident memory and of
the number of memory maps per shape, and the rest after `jax.clear_caches()`. Before each reading
``malloc_trim`` returns free memory of the C library to the system, because it is not part of any
program. Linux only.
"""

import ctypes
import gc
import resource
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

import noria as nr
from noria.backends.native.runtime import kernels

HIDDEN = 8, 12, 16, 24, 32


def used() -> np.ndarray:
    """Resident memory in MiB, and the number of memory maps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return np.array([pages * resource.getpagesize() / 2**20, kernels.memory_maps()[0]])


def step(backend: str, number: int) -> Any:
    """A compiled training step, after one run. Each number selects a different shape."""
    layer = nr.LSTM(4, HIDDEN[number % len(HIDDEN)], key=jax.random.key(0), backend=backend)
    xs = np.ones((2 + number % 7, 3 + number, 4), np.float32)
    compiled = jax.jit(jax.value_and_grad(lambda layer, xs: jnp.sum(layer(xs) ** 2)))
    jax.block_until_ready(compiled(layer, xs))
    return compiled


def main(
    backend: str,
    shapes: Annotated[int, typer.Option(help="How many.")] = 300,
    every: Annotated[
        int, typer.Option(help="Call jax.clear_caches() after so many; 0: only at the end.")
    ] = 0,
) -> None:
    for number in range(2):
        step(backend, number)
    kept, found = [], [used()]
    for number in range(2, shapes + 2):
        kept.append(step(backend, number))
        if every and not number % every:
            kept.clear()
            jax.clear_caches()
        found.append(used())
    memory, maps = np.median(np.diff(found, axis=0), axis=0)
    grown = found[-1] - found[0]
    print(
        f"{backend}: {memory:.2f} MiB and {maps:.0f} maps per shape (medians); "
        f"all: {grown[0]:.0f} MiB, {grown[1]:.0f} maps"
    )
    kept.clear()
    jax.clear_caches()
    left = used() - found[0]
    print(
        f"after jax.clear_caches(): {left[0]:.1f} MiB, {left[1]:.0f} maps, "
        f"{len(kernels.alive())} kernels"
    )


if __name__ == "__main__":
    typer.run(main)
