"""A gradient of which one loop is native and the other a scan, under every order of transforms.

Which of the two loops has machine code follows from the version of JAX: a new primitive in a
derivative sends one of them to the scan. Here each is sent there on purpose, on every version.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import assert_close, random, random_like

import noria as nr
from noria.backends import loop_backend
from noria.backends.base import LoopCall
from noria.bench import cells

MODELS, BATCH, TIME, SIZE = 3, 2, 3, 2
KEYS = jax.random.split(jax.random.key(0), MODELS)


@pytest.fixture(params=["forward on scan", "reverse on scan"])
def loops(request, monkeypatch):
    """Which of the two loops of a gradient run as a scan; inference is native."""
    native = loop_backend("native")
    obstacles = type(native).obstacles
    seen = []

    def mixed(self: Any, call: LoopCall) -> tuple[str, ...]:
        # Only the forward loop of a gradient stores residuals; only the reverse loop accumulates.
        way = "forward" if call.residuals else "reverse" if call.accumulators else "inference"
        seen.append(way)
        return ("the test",) if request.param == f"{way} on scan" else obstacles(self, call)

    jax.clear_caches()  # of equal layers that were run in another way
    monkeypatch.setattr(type(native), "obstacles", mixed)
    yield request.param
    jax.clear_caches()
    assert {"inference", "reverse"} <= {*seen}


def transformed(layers: nr.Recurrence, xs: jax.Array, lengths: Any) -> dict[str, Any]:
    """Values and gradients of stacked ``layers`` on ``xs`` of ``(models, batch, time, in)``."""
    first = jtu.tree_map(lambda a: a[0], layers)
    options = {} if lengths is None else {"lengths": lengths}

    def run(layer: nr.Recurrence, xs: jax.Array) -> Any:
        return layer.scan(None, xs, **options)

    def loss(function: Callable[..., Any], layer: Any, xs: Any) -> jax.Array:
        found = function(layer, xs)
        weights = random_like(found, 3, jnp.float64)
        return sum(
            (a * w).sum() for a, w in zip(*map(jtu.tree_leaves, (found, weights)), strict=True)
        )

    runs = {
        "plain": (run, (first, xs[0])),
        "inputs": (jax.vmap(run, (None, 0)), (first, xs)),
        "weights": (jax.vmap(run, (0, None)), (layers, xs[0])),
        "both": (jax.vmap(run), (layers, xs)),
        "two axes": (jax.vmap(jax.vmap(run, (None, 0)), (0, None)), (layers, xs)),
        "last axis": (jax.vmap(run, (0, 3), 2), (layers, jnp.moveaxis(xs, 0, 3))),
    }
    found = {}
    for name, (function, args) in runs.items():
        found[name] = function(*args)
        # Inside of a jit of its own, where JAX batches a program that it has traced before.
        found[f"grad of vmap, {name}"] = jax.grad(partial(loss, jax.jit(function)), argnums=(0, 1))(
            *args
        )
    grad = jax.grad(partial(loss, run), argnums=(0, 1))
    found["vmap of grad, inputs"] = jax.vmap(grad, (None, 0))(first, xs)
    found["vmap of grad, both"] = jax.vmap(grad)(layers, xs)
    return found


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("make", "options", "lengths"),
    [
        (nr.RNN, {"checkpoint": 2, "learn_initial_state": True}, None),
        (nr.LSTM, {"reverse": True}, [TIME, 1]),
        (nr.GRU, {}, None),
        (nr.GRUv3, {"save": "states"}, [0, 2]),
    ],
    ids=["RNN, checkpoint", "reversed LSTM, lengths", "GRU", "GRUv3, states, lengths"],
)
def test_loops_agree_under_every_transformation(loops, make, options, lengths):
    layers = eqx.filter_vmap(lambda key: make(SIZE, 2, key=key, **options))(KEYS)
    xs = random(1, MODELS, BATCH, TIME, SIZE)
    lengths = None if lengths is None else np.array(lengths)
    results = [
        jax.jit(
            lambda *args, b=backend: transformed(nr.with_backend(args[0], b), args[1], lengths)
        )(layers, xs)
        for backend in ("native", "plain")
    ]
    for name, found in results[0].items():
        # A layer on another backend has other static fields, so leaves are compared.
        assert_close(jtu.tree_leaves(found), jtu.tree_leaves(results[1][name]), 1e-9)


LAYERS = {cell.__name__: cell for cell in (nr.RNN, nr.LSTM, nr.GRU, nr.GRUv3)}


@pytest.mark.parametrize(
    "name", [*LAYERS, "lnlstm", "peephole", "mgu", "indrnn", "leaky", "mingru"]
)
def test_cells_of_the_benchmarks_run_natively_both_ways(name):
    """Whatever this version of JAX uses for their derivatives."""
    layer = (
        LAYERS[name](3, 4, key=KEYS[0], dtype=jnp.float32)
        if name in LAYERS
        else nr.Recurrence(cells.make(name, 3, 4))
    )
    page = nr.explain(layer, random(0, 2, 3, 3, dtype=jnp.float32))
    assert page.backend == "native"
    assert "scan" not in page.reason


@pytest.mark.parametrize("backend", ["auto", "scan"])
def test_an_inner_loop_is_written_out(backend):
    """Versions of JAX name its operands differently: constant, carried, stacked."""
    weights = random(2, 3, 3)

    def cell(h: Any, x: Any) -> Any:
        rounds = jnp.stack([x, 2 * x])
        h, sums = jax.lax.scan(
            lambda h, a: (jnp.tanh(weights @ h + a), h.sum()), h, rounds, reverse=True
        )
        return jax.lax.fori_loop(0, 2, lambda k, h: jnp.sin(h) + sums[0], h)

    layer, xs = nr.Recurrence(cell, jnp.ones(3), backend=backend), random(3, 2, 3, 3)
    layers = layer, nr.with_backend(layer, "plain")
    found, expected = (
        jax.value_and_grad(lambda xs, ran=ran: (ran(xs) ** 2).sum())(xs) for ran in layers
    )
    assert_close(found, expected, 1e-12)
    assert "scan" not in nr.explain(layer, xs).reason or backend == "scan"
