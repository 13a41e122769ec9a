"""Measure the thresholds of the native backend: python benchmarks/tuning.py [--quick] [NAME ...]

Without names, all fields of `Tuning` are measured, and the constants of other modules (in capital
letters). There are three kinds of tables:

* A threshold selects one of two methods. Each line is a problem below or above the threshold, with
  the time of the first method divided by the time of the second. The threshold belongs where the
  ratio crosses 1.
* For a size, each line is a value, with the time of the default divided by the time of the value.
  The default is right if no ratio is far above 1.
* For a limit of the compiler, each line is a number of things and the seconds that they take.

The variants of a line alternate, so that a change in the load of the machine affects all of them.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from noria.backends.native.machine import Tuning, using
from noria.backends.native.runtime import team
from noria.compiler import (
    accumulate,
    canonicalize,
    chunks,
    constant_positions,
    constant_scatters,
    linear,
    multilinear,
    peel,
    windows,
)
from noria.ops import linear_recurrence

#: Makes a context.
Setting = Callable[[], AbstractContextManager[Any]]
HUGE = 2**60


def tuned(**values: Any) -> Setting:
    """The default thresholds except for some."""
    return partial(using, replace(Tuning(), **values))


@contextmanager
def constant(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """A context in which a constant of a module has another value."""
    before = getattr(module, name)
    setattr(module, name, value)
    jax.clear_caches()
    try:
        yield
    finally:
        setattr(module, name, before)
        jax.clear_caches()


class Line(NamedTuple):
    """A problem, and the two settings to compare: contexts in which programs are compiled."""

    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    first: Setting
    second: Setting


def infer(layer: Any, xs: jax.Array) -> Any:
    return layer.scan(None, xs)


def step(layer: Any, xs: jax.Array) -> Any:
    return layer.step(None, xs[:, 0])


def stream(layer: Any, xs: jax.Array) -> Any:
    """A program that is compiled without JAX, and takes its input from here."""
    program, x = nr.stream(layer, len(xs)), np.asarray(xs[:, 0])
    program(x)
    return lambda *_: program(x)


train = jax.grad(lambda layer, xs: jnp.mean(layer(xs) ** 2))


# --- problems -------------------------------------------------------------------------------------


def lstm(steps: int, batch: int, inputs: int, units: int) -> tuple[Any, jax.Array]:
    layer = nr.Recurrence(nr.LSTMCell(inputs, units, key=jax.random.key(0)), backend="native")
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, inputs))


def rnn(steps: int, batch: int, inputs: int, units: int) -> tuple[Any, jax.Array]:
    """A step with one product for each operand: its panels are as wide as the threshold allows."""
    layer = nr.Recurrence(nr.RNNCell(inputs, units, key=jax.random.key(0)), backend="native")
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, inputs))


def heads_of(count: int) -> tuple[Any, jax.Array]:
    """A product for each head with its part of a weight."""
    U = jax.random.normal(jax.random.key(0), (count, 32, 32)) / 6

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.einsum("hi,hij->hj", h, U) + x)

    layer = nr.Recurrence(step, jnp.zeros((count, 32)))
    return layer, jax.random.normal(jax.random.key(1), (16, 100, count, 32))


def rows_of_matrices(steps: int, batch: int, rows: int) -> tuple[Any, jax.Array]:
    """A matrix in the state, all of whose rows are multiplied with one weight."""
    W = jax.random.normal(jax.random.key(0), (64, 64)) / 8

    def step(H: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(H @ W + x)

    layer = nr.Recurrence(step, jnp.zeros((rows, 64)))
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, rows, 64))


def state_space(batch: int, units: int) -> tuple[Any, jax.Array]:
    """One step whose coefficients are functions of the parameters."""
    layer = nr.Recurrence(nr.cells.S4DCell(units, units, key=jax.random.key(0)))
    return layer, jax.random.normal(jax.random.key(1), (batch, 1, units))


class Retention(nr.Cell):
    """A matrix for each head, with an outer product and a read-out."""

    W: jax.Array
    heads: int = eqx.field(static=True)

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self._parts(x)
        return 0.9 * S + k[:, :, None] * v[:, None, :]

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("hk,hkv->hv", self._parts(x)[0], S).reshape(-1)

    def initial_state(self) -> jax.Array:
        size = len(self.W) // (3 * self.heads)
        return jnp.zeros((self.heads, size, size))

    def _parts(self, x: jax.Array) -> jax.Array:
        return (self.W @ x).reshape(3, self.heads, -1)


def retention(steps: int, batch: int, heads: int, size: int) -> tuple[Any, jax.Array]:
    width = heads * size
    W = jax.random.normal(jax.random.key(0), (3 * width, width)) / math.sqrt(width)
    xs = jax.random.normal(jax.random.key(1), (batch, steps, width))
    return nr.Recurrence(Retention(W, heads)), xs


def convolution(steps: int, batch: int, features: int, size: int) -> tuple[Any, jax.Array]:
    """A square with some features, which come last, and a kernel of three by three."""
    numbers = "NHWC", "HWIO", "NHWC"
    K = jax.random.normal(jax.random.key(0), (3, 3, features, 4 * features)) / features

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        gates = jax.lax.conv_general_dilated(h[None], K, (1, 1), "SAME", dimension_numbers=numbers)[
            0
        ]
        i, f, g, o = jnp.split(gates, 4, -1)
        return jnp.tanh(i * f + g * o + x)

    layer = nr.Recurrence(step, jnp.zeros((size, size, features)))
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, size, size, features))


def convolved(steps: int, batch: int, taps: int) -> tuple[Any, jax.Array]:
    """A filter along a vector."""
    K = jax.random.normal(jax.random.key(0), (taps,)) / taps
    layer = nr.Recurrence(lambda h, x: jnp.tanh(jnp.convolve(h, K, "same") + x), jnp.zeros(256))
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, 256))


def layer_norm(steps: int, batch: int, inputs: int, units: int) -> tuple[Any, jax.Array]:
    """A step with a hoisted product of a computed value, on the scan."""
    W = jax.random.normal(jax.random.key(0), (units, inputs)) / math.sqrt(inputs)
    layer = nr.Recurrence(
        lambda h, x: jnp.tanh(h + W @ (x / jnp.linalg.norm(x))), jnp.zeros(units), backend="scan"
    )
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, inputs))


class ReadOut(nr.Cell):
    """A decay of two parts, and a read-out that is the sum of a product of each."""

    W: jax.Array

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        a, b = state
        return 0.9 * a - 0.1 * b + self.W @ x, 0.9 * b + 0.1 * a

    def output(self, state: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
        return self.W.T @ state[0] + self.W @ state[1]

    def initial_state(self) -> tuple[jax.Array, ...]:
        return jnp.zeros(len(self.W)), jnp.zeros(len(self.W))


def read_out(steps: int, batch: int, units: int) -> tuple[Any, jax.Array]:
    cell = ReadOut(jax.random.normal(jax.random.key(0), (units, units)) / math.sqrt(units))
    return nr.Recurrence(cell), jax.random.normal(jax.random.key(1), (batch, steps, units))


class Scaled(nr.Cell):
    """A state with a matrix parameter that is no operand of a product."""

    scale: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.sum(self.scale * jnp.tanh(h), axis=0) + x)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.scale.shape[1])


def scaled(steps: int, batch: int, units: int) -> tuple[Any, jax.Array]:
    cell = Scaled(jnp.full((8, units), 0.1))
    return nr.Recurrence(cell), jax.random.normal(jax.random.key(1), (batch, steps, units))


def min_gru(steps: int, batch: int, units: int) -> tuple[Any, jax.Array]:
    W = jax.random.normal(jax.random.key(0), (2 * units, units)) / math.sqrt(units)

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        z, c = jnp.split(W @ x, 2)
        return h + jax.nn.sigmoid(z) * (c - h)

    layer = nr.Recurrence(step, jnp.zeros(units), backend="associative")
    return layer, jax.random.normal(jax.random.key(1), (batch, steps, units))


def window(entries: int) -> tuple[Any, jax.Array]:
    """A step that reads its last inputs, on the scan."""
    K = jax.random.normal(jax.random.key(0), (entries, 64)) / entries

    def step(state: Any, x: jax.Array) -> Any:
        h, w = state
        w = jnp.concatenate([w[1:], x[None]])
        return jnp.tanh(h + (K * w).sum(0)), w

    start = jnp.zeros(64), jnp.zeros((entries, 64))
    layer = nr.Recurrence(step, start, backend="scan")
    return layer, jax.random.normal(jax.random.key(1), (8, 512, 64))


def delay(elements: int) -> tuple[Any, jax.Array]:
    """A step that reads what it made of its last input, on the scan."""
    w = jax.random.normal(jax.random.key(0), (elements // 8,))

    def step(state: Any, x: jax.Array) -> Any:
        h, before = state
        return jnp.tanh(0.5 * h + before), jnp.outer(w, x).reshape(-1)

    layer = nr.Recurrence(step, (jnp.zeros(elements), jnp.zeros(elements)), backend="scan")
    return layer, jax.random.normal(jax.random.key(1), (8, 256, 8))


def gathered(runs: int) -> tuple[Any, jax.Array]:
    """A state whose elements change places, in runs of neighbours."""
    places = np.arange(256).reshape(runs, -1)[::-1].reshape(-1)
    layer = nr.Recurrence(lambda h, x: jnp.tanh(0.9 * h[places] + x), jnp.zeros(256))
    return layer, jax.random.normal(jax.random.key(1), (8, 256, 256))


def rounds(count: int) -> tuple[Any, jax.Array]:
    """A step with an inner loop; a round has three equations."""

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, c: jnp.tanh(0.9 * c + x), h)

    return nr.Recurrence(step, jnp.zeros(64)), jax.random.normal(jax.random.key(1), (8, 64, 64))


DEFAULT = tuned()
NEVER_BLOCK = tuned(small_weight_bytes=HUGE, cached_weight_bytes=HUGE)
ALWAYS_BLOCK = tuned(small_weight_bytes=0, block_examples=HUGE)
UNPACKED, PACKED = (tuned(unpacked_rows=n, unpacked_step_rows=n) for n in (HUGE, 0))
ONE_THREAD, THREADS = tuned(threads=1), tuned(thread_flops=1)
BY_ROWS, BY_FEATURES = (tuned(thread_flops=1, stage_flops=n) for n in (HUGE, 0))
FEW, MANY = (tuned(feature_rows=n, uncached_feature_rows=n) for n in (0, HUGE))
ALONE, SHARED = tuned(direct_flops=HUGE), tuned(direct_flops=1)
ROWS, PIECES = tuned(pieces=0), tuned(pieces=HUGE)
IN_ROWS, EACH_ROW = tuned(row_pieces=1), tuned(row_pieces=HUGE)
SUMMED, CARRIED = tuned(carried_numbers=HUGE), tuned(carried_numbers=1)
BEFORE, IN_STEP = tuned(repeated_numbers=0), tuned(repeated_numbers=HUGE)
TOGETHER, ONE_BY_ONE = tuned(matrix_state_bytes=HUGE), tuned(matrix_state_bytes=0)
NO_WINDOWS, WINDOWS = tuned(window_bytes=0), tuned(window_bytes=HUGE, taps=HUGE)
LEAVES, STAYS = tuned(read_out_examples=HUGE), tuned(read_out_examples=0)
NARROW, WIDE = tuned(few_rows=0), tuned(few_rows=HUGE)
STORED, RECOMPUTED = (tuned(recomputed_ratio=n, stored_bytes=0) for n in (HUGE, 0))
IN_XLA, STEP = tuned(step_rows=0), tuned(step_rows=HUGE)


# --- thresholds -----------------------------------------------------------------------------------


def lines(name: str) -> Iterator[Line]:
    """Problems on both sides of a threshold."""
    if name == "thread_flops":
        for steps in (2, 4, 8, 16, 32, 64):
            flops = 2 * steps * 8 * 4 * 64 * (64 + 64)
            label = f"{flops / 2:,.0f} operations for each of two threads"
            yield Line(label, infer, lstm(steps, 8, 64, 64), ONE_THREAD, THREADS)
    elif name == "stage_flops":
        for units in (32, 64, 96, 128, 256, 512):
            label = f"{2 * 4 * units * units:,} operations of a stage"
            yield Line(label, infer, lstm(50, 1, 16, units), BY_ROWS, BY_FEATURES)
    elif name == "direct_flops":
        for batch in (1, 2, 4, 8, 16, 32):
            flops = 2 * batch * 4 * 128 * (128 + 128)
            label = f"{flops / 2:,.0f} operations of a stream for each of two threads"
            yield Line(label, stream, lstm(1, batch, 128, 128), ALONE, SHARED)
    elif name in ("feature_rows", "uncached_feature_rows"):
        for rows in (1, 2, 4, 6, 8, 12):
            label = f"{rows} rows for each of two threads"
            units = 256 if name == "feature_rows" else 512
            yield Line(label, infer, lstm(32, 2 * rows, units, units), FEW, MANY)
    elif name == "unpacked_rows":
        for batch in (1, 2, 4, 8, 16, 32, 64):
            for units in (128, 512):
                label = f"{batch} rows, {units} units"
                yield Line(label, infer, lstm(1, batch, units, units), PACKED, UNPACKED)
    elif name == "few_rows":
        for batch in (1, 2, 4, 8):
            label = f"{batch} rows"
            yield Line(label, infer, lstm(200, batch, 128, 128), NARROW, WIDE)
    elif name == "unpacked_step_rows":
        for batch in (4, 8, 12, 16, 24, 32):
            for units in (64, 128, 256):
                label = f"{batch} rows, {units} units"
                yield Line(label, step, lstm(1, batch, units, units), PACKED, UNPACKED)
    elif name == "step_rows":
        for batch in (1, 8, 16, 32, 64, 128, 256):
            for units in (32, 128, 512):
                label = f"{batch} rows, {units} units"
                yield Line(label, step, lstm(1, batch, units, units), IN_XLA, STEP)
    elif name == "read_out_examples":
        for batch in (1, 2, 4, 8, 16):
            for mode, function in (("inference", infer), ("training", train)):
                problem = read_out(512, batch, 128)
                yield Line(f"{batch} examples, {mode}", function, problem, LEAVES, STAYS)
    elif name == "pieces":
        for count in (1, 2, 4, 8, 16):
            label = f"{2 * count} pieces"
            yield Line(label, infer, heads_of(count), ROWS, PIECES)
    elif name == "window_bytes":
        for features, size in ((8, 16), (32, 16), (32, 32), (64, 32), (64, 64)):
            label = f"{4 * 9 * features * size * size:,} bytes of windows"
            yield Line(label, infer, convolution(4, 1, features, size), NO_WINDOWS, WINDOWS)
    elif name == "taps":
        for taps in (4, 8, 16, 32, 64):
            yield Line(f"{taps} taps", infer, convolved(50, 4, taps), NO_WINDOWS, WINDOWS)
    elif name == "matrix_state_bytes":
        for heads, size in ((1, 8), (1, 16), (2, 16), (4, 16), (2, 32), (4, 32)):
            label = f"{4 * heads * size * size:,} bytes of matrices"
            problem = retention(64, 16, heads, size)
            yield Line(label, infer, problem, TOGETHER, ONE_BY_ONE)
    elif name == "recomputed_ratio":
        for size in (4, 8, 16, 32, 64):
            label = f"{size} heads of {128 // size} numbers"
            problem = retention(2048, 1, size, 128 // size)
            yield Line(label, train, problem, STORED, RECOMPUTED)
    elif name == "carried_numbers":
        for units in (2, 4, 8, 16, 32, 128, 1024):
            label = f"{8 * units} numbers"
            yield Line(label, train, scaled(200, 8, units), SUMMED, CARRIED)
    elif name == "row_pieces":
        for batch in (8, 16, 32):
            for rows in (2, 4, 8, 16):
                label = f"{rows} rows, {batch} examples"
                yield Line(label, infer, rows_of_matrices(50, batch, rows), EACH_ROW, IN_ROWS)
    elif name == "repeated_numbers":
        for batch in (1, 4, 16, 64):
            label = f"{batch * 64 * 32:,} numbers"
            yield Line(label, step, state_space(batch, 64), IN_STEP, BEFORE)
    elif name == "stored_bytes":
        for steps in (64, 128, 256, 512, 1024, 2048):
            label = f"{2 * 4 * 2 * 64 * 64 * steps:,} bytes of residuals"
            yield Line(label, train, retention(steps, 2, 2, 64), STORED, RECOMPUTED)
    elif name in BORDERS:
        module, counts, problem_of = BORDERS[name]
        never, always = (partial(constant, module, name, value) for value in (0, HUGE))
        for count in counts:
            yield Line(f"{count} of {problem_of.__name__}", train, problem_of(count), never, always)
    else:
        for batch, units in _BLOCKS[name]:
            label = f"{batch} examples, weight of {4 * 4 * units * units:,} bytes"
            yield Line(label, infer, lstm(60, batch, units, units), NEVER_BLOCK, ALWAYS_BLOCK)


#: Numbers of examples and units on both sides of each threshold of time blocks.
_BLOCKS: dict[str, Sequence[tuple[int, int]]] = {
    "small_weight_bytes": [(1, units) for units in (16, 32, 45, 64, 90, 128)],
    "small_weight_examples": [(batch, 90) for batch in (1, 2, 3, 4, 6)],
    "block_examples": [(batch, 256) for batch in (2, 4, 6, 8, 12, 16)],
    "cached_weight_bytes": [(8, units) for units in (128, 256, 310, 400, 512)],
    "uncached_block_examples": [(batch, 512) for batch in (8, 16, 32, 48)],
}

#: Limits that are constants of modules, by name: the module, numbers on both sides, the problem.
BORDERS: dict[str, tuple[ModuleType, Sequence[int], Callable[[int], Any]]] = {
    "MOST_ENTRIES": (windows, (2, 4, 8, 16, 32, 64), window),
    "MOST_ELEMENTS": (peel, (256, 1024, 4096, 16384, 65536), delay),
    "RUNS": (constant_positions, (2, 4, 8, 16, 32, 64), gathered),
    "MOST_EQUATIONS": (canonicalize, (4, 16, 64, 85, 256), rounds),
}

# --- sizes ----------------------------------------------------------------------------------------

#: By name: the values to measure, and the problem.
SIZES: dict[str, tuple[Sequence[Any], Callable[..., Any], Callable[[], Any]]] = {
    "threads": ((1, 2), infer, partial(lstm, 50, 64, 128, 128)),
    "tile_rows": ((1, 2, 4, 6), infer, partial(rnn, 50, 64, 128, 256)),
    "panel_vectors": (((1, 1), (2, 2), (3, 3), (6, 6)), infer, partial(rnn, 200, 1, 128, 256)),
    "prefetch_bytes": (
        (0, 512, 1024, 4096, 8192),
        infer,
        partial(lstm, 20, 16, 512, 512),
    ),
    "prefetched_weight_bytes": (((0, 0), (2**30, 2**30)), infer, partial(lstm, 50, 16, 256, 256)),
    "depth_steps": (((1, 1), (2, 2), (8, 8)), infer, partial(lstm, 50, 16, 256, 256)),
    "block_vectors": ((1, 2, 8), infer, partial(rnn, 100, 8, 128, 128)),
    "elementwise_vectors": ((1, 4), train, partial(lstm, 100, 64, 16, 64)),
    "product_vectors": (
        ((1, 1), (2, 2), (3, 3), (4, 4)),
        infer,
        partial(convolution, 8, 2, 32, 16),
    ),
    "matrix_vectors": ((1, 2, 8), infer, partial(retention, 200, 1, 2, 64)),
    "block_rows": ((64, 128, 2048, 8192), train, partial(lstm, 200, 32, 64, 128)),
    "block_bytes": ((2**15, 2**17, 2**21, 2**23), infer, partial(lstm, 400, 1, 256, 256)),
    "block_weight_ratio": ((1, 2, 8, 2**20), infer, partial(lstm, 32, 4, 768, 768)),
    "update_vectors": ((1, 2, 4), train, partial(lstm, 100, 32, 64, 128)),
    "update_rows": (((2, 2), (4, 4), (8, 8)), train, partial(lstm, 100, 32, 64, 128)),
    "segment_bytes": (
        (2**18, 2**19, 2**20, 2**22, 2**23),
        train,
        partial(retention, 2048, 1, 4, 32),
    ),
    "segment_steps": ((8, 16, 64), train, partial(retention, 256, 16, 2, 64)),
    "staged_bytes": ((2**5, 2**7, 2**13, 2**15), infer, partial(rnn, 400, 64, 8, 8)),
}


#: Constants of modules, by name: the module, and as above.
CONSTANTS: dict[str, tuple[ModuleType, Sequence[Any], Callable[..., Any], Callable[[], Any]]] = {
    "POLLS": (team, (1, 10, 1_000, 10_000), infer, partial(lstm, 100, 1, 16, 256)),
    "BUDGET": (chunks, (2**23, 2**26, 2**28, 2**30), infer, partial(layer_norm, 4000, 8, 64, 128)),
    "WIDEST": (accumulate, (0, 2**10, 2**18), train, partial(scaled, 200, 8, 256)),
    "CHUNK": (linear_recurrence, (16, 64, 1024, 4096), train, partial(min_gru, 4096, 4, 64)),
}


def sizes(name: str) -> Iterator[Line]:
    if name in CONSTANTS:
        module, values, function, problem = CONSTANTS[name]
        settings: list[Setting] = [partial(constant, module, name, value) for value in values]
    else:
        values, function, problem = SIZES[name]
        settings = [tuned(**{name: value}) for value in values]
    for value, setting in zip(values, settings, strict=True):
        yield Line(str(value), function, problem(), DEFAULT, setting)


# --- measuring ------------------------------------------------------------------------------------


def ratio(line: Line, seconds: float) -> float:
    """The ratio of the median times of a problem with the first and the second setting."""
    programs = []
    for setting in (line.first, line.second):
        with setting():
            if line.function is stream:
                programs.append(stream(*line.arguments))
            else:
                programs.append(jax.jit(line.function).lower(*line.arguments).compile())
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for program, found in zip(programs, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(program(*line.arguments))
            found.append(time.perf_counter() - began)
    one, two = map(statistics.median, times)
    return one / two


def sines(count: int) -> float:
    """Seconds of the first run of a step with about this many operations."""

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(count // 2):
            h = jnp.sin(h) * x
        return h

    layer = nr.Recurrence(step, jnp.zeros(16), backend="native")
    began = time.perf_counter()
    jax.block_until_ready(jax.jit(layer)(jnp.ones((8, 2, 16))))
    return time.perf_counter() - began


def coupled(count: int) -> float:
    """Seconds of the first run of so many arrays, each of which reads all, as a parallel scan."""
    scales = jax.random.normal(jax.random.key(0), (count, count, 16)) / count

    def step(state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(sum((a * h for a, h in zip(row, state, strict=True)), x) for row in scales)

    layer = nr.Recurrence(step, (jnp.zeros(16),) * count, backend="associative")
    began = time.perf_counter()
    jax.block_until_ready(jax.jit(layer.scan)(None, jnp.ones((2, 256, 16))))
    return time.perf_counter() - began


def terms(count: int) -> float:
    """Seconds in which `explain` finds that the next matrix is a sum of so many outer products."""
    keys = jax.random.normal(jax.random.key(0), (count, 8)) / count

    def step(S: jax.Array, x: jax.Array) -> jax.Array:
        S = 0.9 * S
        for key in keys:
            S = S + jnp.outer(key, x)
        return S

    return explained(step, jnp.zeros((8, 8)), 8)


def positions(count: int) -> float:
    """Seconds in which `explain` finds the runs of an update at constant positions."""
    places = np.arange(count).reshape(8, -1)[::-1].reshape(-1)
    return explained(lambda h, x: jnp.tanh(h.at[places].add(x)), jnp.zeros(count), count)


def explained(step: Callable[..., Any], start: jax.Array, inputs: int) -> float:
    began = time.perf_counter()
    nr.explain(nr.Recurrence(step, start), jnp.ones((2, inputs)))
    return time.perf_counter() - began


#: Limits of the compiler, by name: where they are, numbers, and the seconds that a number takes.
SECONDS: dict[str, tuple[Any, Sequence[int], Callable[[int], float]]] = {
    "equations": (Tuning(), (800, 1600, 3200, 4000), sines),
    "BLOCK": (linear, (1, 2, 3, 4), coupled),
    "MOST_TERMS": (multilinear, (8, 16, 32, 64, 65), terms),
    "MOST_POSITIONS": (constant_scatters, (2**10, 2**13, 2**16), positions),
}


def main(arguments: Sequence[str]) -> None:
    quick = "--quick" in arguments
    modules = {**CONSTANTS, **BORDERS, **SECONDS}
    names = list(dict.fromkeys([*(field.name for field in fields(Tuning)), *modules]))
    chosen = [name for name in arguments if name != "--quick"] or names
    if unknown := {*chosen} - {*names}:
        sys.exit(f"tuning.py: no threshold {', '.join(sorted(unknown))}; there are {names}")
    print(f"{os.cpu_count()} cores, JAX {jax.__version__}")
    for name in chosen:
        owner = modules[name][0] if name in modules else Tuning()
        print(f"\n{name}: {getattr(owner, name)}", flush=True)
        if name in SECONDS:
            _, counts, seconds_of = SECONDS[name]
            for count in counts[:1] if quick else counts:
                label = f"{count} {seconds_of.__name__}"
                print(f"  {seconds_of(count):8.2f} s  {label}", flush=True)
            continue
        table = [*(sizes if name in SIZES or name in CONSTANTS else lines)(name)]
        for line in table[:: len(table) - 1] if quick else table:
            found = ratio(line, 0.02 if quick else 1.0)
            assert math.isfinite(found)
            print(f"  {found:8.2f}  {line.label}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
