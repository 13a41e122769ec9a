"""A loop against chunks for h' = A h + x: python benchmarks/constant_matrix.py

A chunked form for a constant matrix runs all chunks at once, as a batch. It needs a power of the
matrix, one product for each chunk, and a second pass with the right start states. The table has
processor time: of the loop, of one pass, and of the power. Chunks pay if twice the pass and the
power together take less than the loop.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

import noria as nr


class Rotated(nr.Cell):
    """A state that an orthogonal matrix turns, with a decay."""

    A: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.A @ h + x

    def initial_state(self) -> jax.Array:
        return jnp.zeros(len(self.A))


def infer(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return layer(xs)


def train(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return nr.value_and_grad(lambda layer, xs: jnp.mean(layer(xs) ** 2))(layer, xs)


def milliseconds(calls: list[Callable[[], Any]], turns: int) -> list[float]:
    """The least processor time of each call, in turns."""
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 1):
        for times, call in zip(found, calls, strict=True):
            start = time.process_time()
            jax.block_until_ready(call())
            if turn:
                times.append(1e3 * (time.process_time() - start))
    return [min(times) for times in found]


def main(
    sizes: Annotated[str, typer.Option(help="Units with commas between.")] = "64,128,256,512",
    batch: Annotated[str, typer.Option(help="Examples with commas between.")] = "1,8",
    steps: Annotated[int, typer.Option(help="Steps.")] = 4096,
    chunks: Annotated[int, typer.Option(help="Chunks of an example.")] = 32,
    turns: Annotated[int, typer.Option(help="Turns of each measurement.")] = 5,
) -> None:
    """Milliseconds of the loop, of one pass over all chunks, and of the power."""
    print("| units | examples | mode | loop | one pass | power |")
    print("|---|---|---|---|---|---|")
    for units in map(int, sizes.split(",")):
        turned = np.linalg.qr(np.random.default_rng(0).normal(size=(units, units)))[0]
        layer = nr.Recurrence(Rotated(jnp.asarray(0.99 * turned, jnp.float32)))
        power = jax.jit(lambda a: jnp.linalg.matrix_power(a, steps // chunks))
        for examples in map(int, batch.split(",")):
            xs = jax.random.normal(jax.random.key(1), (examples, steps, units), jnp.float32)
            parts = xs.reshape(examples * chunks, steps // chunks, units)
            for mode, run in (("inference", infer), ("training", train)):
                calls = [partial(jax.jit(run), layer, some) for some in (xs, parts)]
                found = milliseconds([*calls, partial(power, layer.cell.A)], turns)
                shown = " | ".join(f"{number:.2f}" for number in found)
                print(f"| {units} | {examples} | {mode} | {shown} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
