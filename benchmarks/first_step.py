"""Measure the first training step of an LSTM in new processes: python benchmarks/first_step.py

It takes one call of a jitted loss and its gradient: to trace, to compile, to run. Imports of
``noria`` and ``jax`` and the first operation of JAX come before. ``cold`` starts with an empty
directory of kernels, ``cached`` finds them there. Python reads bytecode, as of any installed
package.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp

import noria as nr

BATCH, TIME, UNITS = 16, 100, 64
TURNS = 7

#: Backend of each row of the table. The second one finds the kernels that the first one made.
ROWS = {"cold": "auto", "cached": "auto", "plain": "plain"}


def measure(backend: str) -> None:
    layer = nr.with_backend(nr.LSTM(UNITS, UNITS, key=jax.random.key(0)), backend)
    layer, xs = jax.block_until_ready((layer, jnp.ones((BATCH, TIME, UNITS))))
    step = jax.jit(nr.value_and_grad(lambda layer, xs: jnp.mean(layer(xs) ** 2)))
    began = time.perf_counter()
    jax.block_until_ready(step(layer, xs))
    print(time.perf_counter() - began)


def main() -> None:
    found: dict[str, list[float]] = {row: [] for row in ROWS}
    with tempfile.TemporaryDirectory() as scratch:
        bytecode = os.environ | {"PYTHONPYCACHEPREFIX": f"{scratch}/bytecode"}
        bytecode.pop("PYTHONDONTWRITEBYTECODE", None)
        for turn in range(TURNS + 1):
            environment = bytecode | {"NORIA_CACHE": f"{scratch}/kernels-{turn}"}
            for row, backend in ROWS.items():
                command = [sys.executable, __file__, backend]
                seconds = float(subprocess.check_output(command, env=environment, text=True))
                if turn:  # the first one writes the bytecode
                    found[row].append(seconds)
    print("| | median, s | least, s |\n|---|---|---|")
    for row, times in found.items():
        print(f"| {row} | {statistics.median(times):.2f} | {min(times):.2f} |")


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(sys.argv[1])
    else:
        main()
