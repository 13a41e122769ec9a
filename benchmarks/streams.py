"""A call of a stream from Python, beside JAX's cheapest calls, other ways to step, and onnxruntime.

    python benchmarks/streams.py [--quick]

Wall time of a call in microseconds, the least of turns. Weights are constants in a stream and in
onnxruntime; a call of it takes and gives NumPy arrays, the state too.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from noria.bench.grid import Shape, Work

Programs = dict[str, Callable[[], Any]]


def keys(count: int) -> Any:
    return jax.random.split(jax.random.key(0), count)


def cheapest() -> Programs:
    """Calls whose work is nothing: what is left is the call."""
    x, small = jnp.ones(16), jnp.ones(16)
    add, three = jax.jit(lambda x: x + 1), jax.jit(lambda pair, x: (pair, x + 1))
    lstm, gru = (nr.stream(make(16, 16, key=keys(1)[0])) for make in (nr.LSTM, nr.GRU))
    return {
        "JAX: x + 1": lambda: add(x),
        "JAX: 3 arrays in, 3 out": lambda: three((x, small), x),
        "stream, LSTM of 16": lambda: lstm(x),
        "stream, GRU of 16": lambda: gru(x),
    }


def lstm(units: int, streams: int) -> Programs:
    """One LSTM, stepped in all ways."""
    layer, x = nr.LSTM(units, units, key=keys(1)[0]), np.ones((streams, units), np.float32)
    stream, state = nr.stream(layer, streams), layer.initial_state(streams)
    programs: Programs = {
        "stream": lambda: stream(x),
        "layer.step": lambda: layer.step(state, x),
    }
    return programs | onnx(units, streams, x)


def onnx(units: int, streams: int, x: np.ndarray) -> Programs:
    try:
        import onnxruntime

        from noria.bench.peers.onnx_runtime import build
    except ImportError:
        return {}
    model, _ = build(Work("lstm", "step", Shape(1, streams, units, units)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    now = [np.zeros((1, streams, units), np.float32)] * 2

    def run() -> Any:
        y, *now[:] = session.run(None, {"X": x[None], "initial_h": now[0], "initial_c": now[1]})
        return y

    return {"onnxruntime": run}


def model() -> Programs:
    """Two LSTMs and a mask, the first model of DTLN, and chunks of it."""
    k = keys(3)
    net = nr.Chain(
        nr.LSTM(257, 128, key=k[0]),
        nr.LSTM(128, 128, key=k[1]),
        nr.Dense(128, 257, jax.nn.sigmoid, key=k[2]),
    )
    x, xs = np.ones(257, np.float32), np.ones((32, 257), np.float32)
    stream, chunks, state = nr.stream(net), nr.stream(net), net.initial_state()
    return {
        "stream": lambda: stream(x),
        "model.step": lambda: net.step(state, x),
        "stream.steps of 32": lambda: chunks.steps(xs),
    }


def least(programs: Programs, seconds: float) -> dict[str, float]:
    """The least time of each program, in turns of some milliseconds."""
    best = dict.fromkeys(programs, float("inf"))
    repeats = {name: max(1, int(0.004 / once(program))) for name, program in programs.items()}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, program in programs.items():
            best[name] = min(best[name], 1e6 * once(program, repeats[name]))
    return best


def once(program: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds of a call, after one that compiles."""
    jax.block_until_ready(program())
    began = time.perf_counter()
    for _ in range(repeats):
        found = program()
    jax.block_until_ready(found)
    return (time.perf_counter() - began) / repeats


def main(quick: bool) -> None:
    seconds = 0.05 if quick else 2
    sizes = [(128, 1)] if quick else [(u, s) for u in (128, 512) for s in (1, 16, 128)]
    works = {"calls": cheapest(), "DTLN": model()}
    works |= {
        f"LSTM of {units}, {streams} streams": lstm(units, streams) for units, streams in sizes
    }
    for name, programs in works.items():
        found = least(programs, seconds)
        print(name, *(f"{one} {used:.1f}" for one, used in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main("--quick" in sys.argv)
