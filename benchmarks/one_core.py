"""LSTM and GRU of 256 to 512 units with few rows on one core, beside onnxruntime.

    taskset -c 0 python benchmarks/one_core.py

One step of a stream, or a sequence of 32 steps of a prepared layer; NumPy arrays in and out, and
weights are constants in both. Each line has the median times of three turns in microseconds, each
library in a process of its own, and their ratio. The last column compares a step of a sequence with
a step of onnxruntime, for who passes the whole sequence at once.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

Program = Callable[[], Any]

#: Cells, steps, units and rows.
GRID = ("lstm", "gru"), (1, 32), (256, 384, 512), (1, 4, 8)


def ours(cell: str, units: int, rows: int, steps: int) -> Program:
    import jax

    import noria as nr

    layer = {"lstm": nr.LSTM, "gru": nr.GRU}[cell](units, units, key=jax.random.key(0))
    if steps == 1:
        stream, x = nr.stream(layer, rows), np.ones((rows, units), np.float32)
        return lambda: stream(x)
    fast, xs = nr.prepare(layer), np.ones((rows, steps, units), np.float32)
    return lambda: np.asarray(fast(xs))


def theirs(cell: str, units: int, rows: int, steps: int) -> Program:
    import onnxruntime

    from noria.bench.grid import Shape, Work
    from noria.bench.peers.onnx_runtime import build

    mode = "step" if steps == 1 else "inference"
    model, _ = build(Work(cell, mode, Shape(steps, rows, units, units)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    states = [one.name for one in session.get_inputs() if one.name != "X"]
    feeds = dict.fromkeys(states, np.zeros((1, rows, units), np.float32))
    feeds["X"] = np.ones((steps, rows, units), np.float32)
    return lambda: session.run(None, feeds)


def median(program: Program) -> float:
    """The median of 15 turns of 20 ms, in microseconds for a call."""
    for _ in range(2):
        program()
    began = time.perf_counter()
    program()
    calls = max(3, int(0.02 / (time.perf_counter() - began)))
    times = []
    for _ in range(15):
        began = time.perf_counter()
        for _ in range(calls):
            program()
        times.append(1e6 * (time.perf_counter() - began) / calls)
    return statistics.median(times)


def main() -> None:
    if sys.argv[1:]:
        way, cell, *sizes = sys.argv[1:]
        units, rows, steps = map(int, sizes)
        print(median({"ours": ours, "theirs": theirs}[way](cell, units, rows, steps)))
        return
    print("| cell | steps | units | rows | onnxruntime | Noria | ratio | to its steps |")
    print("|---|---|---|---|---|---|---|---|")
    one_step: dict[Any, float] = {}
    for cell, steps, units, rows in product(*GRID):
        sizes = [cell, *map(str, (units, rows, steps))]
        turns = [
            [
                float(subprocess.check_output([sys.executable, __file__, way, *sizes], text=True))
                for way in ("theirs", "ours")
            ]
            for _ in range(3)
        ]
        peer, own = map(statistics.median, zip(*turns, strict=True))
        line = f"{cell} | {steps} | {units} | {rows} | {peer:.0f} | {own:.0f} | {peer / own:.2f}"
        step = one_step.setdefault((cell, units, rows), peer)
        print(f"| {line} | {step * steps / own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
