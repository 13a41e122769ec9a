"""CPU time of matrix memories: ``backend="chunkwise"`` against ``"plain"``, in turns.

    python benchmarks/chunkwise.py [TIME HEADS SIZE [CELL ...]]

The cells are those of ``tests/matrix_memories.py``. Other thresholds can be tried by editing
`noria.ops.chunkwise.Chunking`.
"""

import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noria as nr

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import matrix_memories

WIDTH, TURNS, BACKENDS = 128, 7, ("plain", "chunkwise")


def inference(layer: Any, xs: Any) -> Any:
    return layer(xs)


def training(layer: Any, xs: Any) -> Any:
    return nr.value_and_grad(lambda layer: (layer(xs) ** 2).mean())(layer)


def seconds(call: Any) -> float:
    begin = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - begin


def main(steps: int, heads: int, size: int, *names: str) -> None:
    kinds = [k for k in matrix_memories.CHUNKWISE if not names or k.__name__ in names]
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(1, steps, WIDTH)), jnp.float32)
    for kind in kinds:
        cell = kind.make(heads, size, WIDTH, jnp.float32)
        for function in (inference, training):
            layers = [nr.Recurrence(cell, backend=backend) for backend in BACKENDS]
            calls = [functools.partial(jax.jit(function), layer, xs) for layer in layers]
            for call in calls:
                seconds(call)
            times = np.array([[seconds(call) for call in calls] for _ in range(TURNS)])
            plain, chunks = 1e3 * np.median(times, 0)
            print(
                f"{kind.__name__:16} {function.__name__:10} plain {plain:7.1f} ms, "
                f"chunkwise {chunks:7.1f} ms, ratio {plain / chunks:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    steps, heads, size = (int(a) for a in sys.argv[1:4] or ("2048", "4", "32"))
    main(steps, heads, size, *sys.argv[4:])
