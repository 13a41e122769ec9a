"""Noria, on a backend; ``"plain"`` is an ordinary `jax.lax.scan`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

import noria as nr
from noria.bench import cells
from noria.bench.grid import Work
from noria.bench.peers import Task, Unsupported


def make(work: Work, backend: str, prepared: bool = False) -> Task:
    """With ``prepared``, the weights are constants of `noria.prepare`."""
    layer: nr.Layer = nr.Recurrence(
        cells.make(work.cell, work.shape.inputs, work.shape.hidden), backend=backend
    )
    weights = sum(leaf.size for leaf in jtu.tree_leaves(layer) if leaf.ndim == 2)
    if prepared and work.mode == "training":
        raise Unsupported("a prepared model has no weights to train")
    if prepared:
        layer = nr.prepare(layer)
    if work.mode == "step":
        state, x = layer.initial_state(), jnp.asarray(work.inputs()[0])
        if work.shape.batch == 1:
            x = x[0]
        else:
            state = jtu.tree_map(lambda a: jnp.zeros((work.shape.batch, *a.shape), a.dtype), state)
        step = layer.step if prepared else jax.jit(lambda state, x: layer.step(state, x))
        return Task(lambda: step(state, x)[1].block_until_ready(), weights)
    if prepared:
        xs = jnp.asarray(work.inputs(time_major=False))
        return Task(lambda: jax.block_until_ready(layer.scan(None, xs)), weights)
    return Task(
        call(work, lambda layer, xs: layer.scan(None, xs)[::-1], layer, time_major=False), weights
    )


def call(
    work: Work, run: Callable[..., Any], model: Any, time_major: bool = True
) -> Callable[[], Any]:
    """``run(model, xs) -> (outputs, state)`` of a JAX library, compiled, or its gradient."""
    xs = jnp.asarray(work.inputs(time_major))

    def loss(model: Any, xs: Any) -> Any:
        ys, state = run(model, xs)
        return jnp.mean(ys**2), state

    function = jax.jit(run if work.mode == "inference" else jax.value_and_grad(loss, has_aux=True))
    return lambda: jax.block_until_ready(function(model, xs))


def matmul(size: int) -> Callable[[], Any]:
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, a))
