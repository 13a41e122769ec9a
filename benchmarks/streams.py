"""A call of a stream from Python, beside JAX's cheapest calls, other ways to step, and onnxruntime.

    python benchmarks/streams.py [--quick]

Wall time of a call in microseconds, the least of turns. Weights are constants in a stream and in
onnxruntime; a call of it takes and gives NumPy arrays, the state too. Each way to step an LSTM has
processes of its own, since the threads of one library keep a core busy for some time after a call.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from noria.bench.grid import Shape, Work

Program = Callable[[], Any]
Programs = dict[str, Program]
Size = tuple[int, int]


def keys(count: int) -> Any:
    return jax.random.split(jax.random.key(0), count)


def cheapest() -> Programs:
    """Calls whose work is nothing: what is left is the call."""
    x, small = jnp.ones(16), jnp.ones(16)
    add, three = jax.jit(lambda x: x + 1), jax.jit(lambda pair, x: (pair, x + 1))
    lstm, gru, other = (
        nr.stream(make(16, 16, key=keys(1)[0])) for make in (nr.LSTM, nr.GRU, nr.GRU)
    )
    of_numpy = np.ones(16, np.float32)
    return {
        "JAX: x + 1": lambda: add(x),
        "JAX: 3 arrays in, 3 out": lambda: three((x, small), x),
        "stream, LSTM of 16": lambda: lstm(x),
        "stream, GRU of 16": lambda: gru(x),
        "the same from NumPy": lambda: other(of_numpy),
    }


def stream(units: int, streams: int) -> Program:
    layer, x = of_size(units, streams)
    program = nr.stream(layer, streams)
    return lambda: program(x)


def step(units: int, streams: int) -> Program:
    layer, x = of_size(units, streams)
    state = layer.initial_state(streams)
    return lambda: layer.step(state, x)


def of_size(units: int, streams: int) -> tuple[nr.Recurrence, np.ndarray]:
    return nr.LSTM(units, units, key=keys(1)[0]), np.ones((streams, units), np.float32)


def onnx(units: int, streams: int) -> Program:
    import onnxruntime

    from noria.bench.peers.onnx_runtime import build

    model, _ = build(Work("lstm", "step", Shape(1, streams, units, units)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    now, x = [np.zeros((1, streams, units), np.float32)] * 2, np.ones((1, streams, units), "f")

    def run() -> Any:
        y, *now[:] = session.run(None, {"X": x, "initial_h": now[0], "initial_c": now[1]})
        return y

    return run


#: The ways to step an LSTM, by name.
WAYS = {"stream": stream, "layer.step": step, "onnxruntime": onnx}


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


def small() -> Programs:
    """A GRU of 64 units and a read-out with more work than JAX does in the calling thread."""
    k = keys(2)
    net = nr.Chain(nr.GRU(8, 64, key=k[0]), nr.Dense(64, 8, key=k[1]))
    stream, x, state = nr.stream(net), np.ones(8, np.float32), net.initial_state()
    return {"stream": lambda: stream(x), "model.step": lambda: net.step(state, x)}


def when_read(programs: Programs, calls: int) -> dict[str, float]:
    """The median time of a call whose results are waited for, as a program in Python does."""
    times = {name: [once(program) for _ in range(calls)] for name, program in programs.items()}
    return {name: 1e6 * statistics.median(some) for name, some in times.items()}


def in_turns(names: Sequence[str], sizes: Sequence[Size], seconds: float, rounds: int) -> None:
    """Each way in a process of its own, one after the other, and that some times."""
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for name in [*names] * rounds:
        command = [sys.executable, __file__, name, str(seconds), json.dumps(sizes)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for n, (units, streams) in enumerate(sizes):
        used = {name: min(turn[n] for turn in turns) for name, turns in found.items()}
        show(f"LSTM of {units}, {streams} streams", used)


def show(name: str, used: dict[str, float]) -> None:
    print(name, *(f"{one} {time:.1f}" for one, time in used.items()), sep="  ", flush=True)


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in WAYS:
        way, seconds, sizes = arguments
        times = [least({way: WAYS[way](*size)}, float(seconds)) for size in json.loads(sizes)]
        print(json.dumps([time[way] for time in times]))
        return
    quick = "--quick" in arguments
    works = {"calls": cheapest(), "DTLN": model(), "GRU and Dense": small()}
    for name, programs in works.items():
        show(name, least(programs, 0.05 if quick else 2))
        show(f"{name}, results read, median", when_read(programs, 20 if quick else 1000))
    names = [n for n in WAYS if n != "onnxruntime" or importlib.util.find_spec("onnxruntime")]
    if quick:
        in_turns(names, [(128, 1)], 0.05, 1)
    else:
        in_turns(names, [(u, s) for u in (128, 512) for s in (1, 16, 128)], 0.5, 3)


if __name__ == "__main__":
    main(sys.argv[1:])
