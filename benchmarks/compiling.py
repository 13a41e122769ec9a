"""Measure the first call of each layer and its time in LLVM: python benchmarks/compiling.py

This process has not compiled the layer before, so the first call includes tracing, XLA and LLVM.
Kernels on disk are not used.
LLVM compiles one kernel for inference and two for training.
"""

import logging
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

import noria as nr
from noria.bench.cells import make
from noria.bench.grid import CELLS

SHAPES = (100, 16, 64, 64), (64, 128, 512, 512)


class Seconds(logging.Handler):
    """The compile times of LLVM in the log, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if match := re.search(r"LLVM took ([\d.]+) s", record.getMessage()):
            self.found.append(float(match[1]))


def loss(layer: Any, xs: jax.Array) -> Any:
    final, ys = layer.scan(None, xs)
    return jnp.mean(ys**2), final


MODES: dict[str, Any] = {
    "inference": lambda layer, xs: layer.scan(None, xs),
    "training": jax.value_and_grad(loss, has_aux=True),
}


def main() -> None:
    os.environ["NORIA_CACHE"] = "off"
    log, seconds = logging.getLogger("noria.backends.native.runtime.kernels"), Seconds()
    log.setLevel(logging.DEBUG)
    log.addHandler(seconds)
    print(
        "| cell | time, batch, in, hidden | mode | first call, s | LLVM, s, kernel by kernel |\n"
        "|---|---|---|---|---|"
    )
    for name in CELLS:
        for shape in SHAPES:
            steps, batch, features, units = shape
            layer, xs = (
                nr.Recurrence(make(name, features, units)),
                jnp.ones((batch, steps, features)),
            )
            for mode, function in MODES.items():
                seconds.found.clear()
                began = time.perf_counter()
                jax.block_until_ready(jax.jit(function)(layer, xs))
                total = time.perf_counter() - began
                of_llvm = ", ".join(f"{s:.2f}" for s in seconds.found)
                print(
                    f"| {CELLS[name].title} | {', '.join(map(str, shape))} | {mode} | {total:.2f} "
                    f"| {of_llvm} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
