"""Steps per second of ``fit`` beside a plain loop around `jax.jit`, epoch by epoch in turns.

python benchmarks/fit.py [--epochs 40] [CASE ...]

The plain loop is what one writes with JAX and Optax: one compiled step of parameters and optimiser
state, and the loss read after each step. Both use the same batches. The first epochs compile and
are left out.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

import noria as nr
from noria.module import partition

KEY = jax.random.key(0)
OPTIMISER = optax.adam(1e-3)
WARM_UP = 3


def vowels() -> tuple[Any, Any, Any]:
    """Japanese Vowels, a GRU of 32 features, batches of 32."""
    train, _ = nr.data.japanese_vowels()
    data = nr.data.batches(train.sequences, train.speakers, batch_size=32, buckets=1)
    k1, k2 = jax.random.split(KEY)
    model = nr.Chain(nr.GRU(12, 32, key=k1), nr.Dense(32, 9, key=k2))

    def loss(model: Any, xs: Any, speakers: Any, lengths: Any) -> jax.Array:
        return nr.cross_entropy(nr.last(model(xs, lengths=lengths), lengths), speakers)

    return model, loss, data


def large() -> tuple[Any, Any, Any]:
    """Two LSTMs of 512 features, 64 sequences of 100 steps."""
    k1, k2, k3 = jax.random.split(KEY, 3)
    xs = np.random.default_rng(0).normal(size=(64, 100, 64)).astype(np.float32)
    layers = nr.LSTM(64, 512, key=k1), nr.LSTM(512, 512, key=k2), nr.Dense(512, 64, key=k3)

    def loss(model: Any, xs: Any, ys: Any) -> jax.Array:
        return nr.mse(model(xs), ys)

    return nr.Chain(*layers), loss, [(xs, xs)] * 2


CASES = {"vowels": vowels, "large": large}


def plain_epoch(model: Any, loss: Callable[..., Any], data: Any) -> Callable[[], float]:
    """A function that runs one epoch of the plain loop and returns its steps per second."""
    trained, rest = partition(model)
    state = OPTIMISER.init(trained)

    @jax.jit
    def step(trained: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(lambda t: loss(eqx.combine(t, rest), *batch))(trained)
        updates, state = OPTIMISER.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state, value

    def epoch() -> float:
        nonlocal trained, state
        started, steps = time.perf_counter(), 0
        for batch in data:
            trained, state, value = step(trained, state, batch)
            float(value)
            steps += 1
        return steps / (time.perf_counter() - started)

    return epoch


def measure(case: str, epochs: int) -> str:
    model, loss, data = CASES[case]()
    plain, found = plain_epoch(model, loss, data), list[float]()
    _, history = nr.fit(
        model,
        loss,
        data,
        optimiser=OPTIMISER,
        epochs=epochs + WARM_UP,
        key=KEY,
        on_epoch=lambda model, history: found.append(plain()),
    )
    fitted = [len(data) / seconds for seconds in history.seconds][WARM_UP:]
    found = found[WARM_UP:]
    ratio = statistics.median(a / b for a, b in zip(fitted, found, strict=True))
    size = nr.count_parameters(model)
    best, beside = max(fitted), max(found)
    return f"| {case}, {size:,} parameters | {best:,.4g} | {beside:,.4g} | {ratio:.2f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    print(f"JAX {jax.__version__}, {platform.machine()}, {len(jax.devices())} device(s)\n")
    print("| case | `fit`, best steps/s | plain `jax.jit`, best steps/s | median ratio |")
    print("|---|---|---|---|")
    for case in given.cases:
        print(measure(case, given.epochs), flush=True)
