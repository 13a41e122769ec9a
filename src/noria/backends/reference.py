"""The definition: one example after the other, one step after the other, in plain Python.

Slow on purpose and without a trick: the other backends are compared with this one.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import State
from noria.backends.base import Problem
from noria.cells.base import advance
from noria.ir.evaluate import narrowed, of_one, widened


def run(problem: Problem) -> tuple[State, Any]:
    """The final state and the outputs; see `Problem`."""
    cell, own = problem.cell, problem.initial_state
    arrays, rest = eqx.partition((cell, own), eqx.is_array)
    copies = widened(arrays)  # so that cotangents of all steps and examples add up in 32 bits

    def given() -> tuple[Callable[..., Any], State]:
        """The cell and the state that a reset puts back, for one step."""
        found: tuple[Callable[..., Any], State] = eqx.combine(narrowed(copies, arrays), rest)
        return found

    def example(
        state: State, context: Any, xs: Any, length: Any, resets: Any, keywords: Any
    ) -> Any:
        same = {} if context is None else {"context": context}
        return _run_example(given, state, same, xs, length, resets, keywords, problem.reverse)

    sequences = problem.xs, problem.lengths, problem.resets, problem.keywords
    if not problem.batched:
        return example(problem.carry, problem.context, *sequences)
    size = jtu.tree_leaves(problem.xs)[0].shape[0]
    if size == 0:
        one = jax.eval_shape(
            functools.partial(example, own), *of_one((problem.context, *sequences), 1)
        )
        return jtu.tree_map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), one)
    examples = []
    for n in range(size):
        pick = lambda tree, n=n: jtu.tree_map(lambda leaf: leaf[n], tree)  # noqa: E731
        examples.append(example(*map(pick, (problem.carry, problem.context, *sequences))))
    return jtu.tree_map(lambda *leaves: jnp.stack(leaves), *examples)


def _run_example(
    given: Callable[[], tuple[Callable[..., Any], State]],
    state: State,
    same: dict[str, Any],
    xs: Any,
    length: jax.Array | None,
    resets: jax.Array | None,
    keywords: dict[str, Any],
    reverse: bool,
) -> tuple[State, Any]:
    steps = jtu.tree_leaves(xs)[0].shape[0]
    ys: list[Any] = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        valid = True if length is None else t < length
        x = jtu.tree_map(
            lambda leaf, t=t, valid=valid: jnp.where(valid, leaf[t], jnp.zeros_like(leaf[t])), xs
        )
        cell, own = given()
        before = state if resets is None else _where(resets[t], own, state)
        here = {name: array[t] for name, array in keywords.items()} | same
        if "dt" in here:
            here["dt"] = jnp.where(valid, here["dt"], jnp.zeros_like(here["dt"]))
        after, y = advance(cell, before, x, here)
        state = _where(valid, after, state)
        ys[t] = _where(valid, y, jtu.tree_map(jnp.zeros_like, y))
    if steps == 0:
        one = of_one((xs, keywords), 1)
        _, y = jax.eval_shape(
            lambda state, x, here: advance(given()[0], state, x, here | same), state, *one
        )
        return state, jtu.tree_map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), y)
    return state, jtu.tree_map(lambda *leaves: jnp.stack(leaves), *ys)


def _where(condition: Any, if_true: Any, if_false: Any) -> Any:
    return jtu.tree_map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
