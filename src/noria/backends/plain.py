"""The cell as it is in one `jax.lax.scan`: any device, any transformation, forward mode too."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import State
from noria.backends.base import Problem
from noria.cells.base import advance
from noria.ir.evaluate import mapped, narrowed, of_one, widened
from noria.masking import keep_valid, valid_steps, where, without_padding


def run(problem: Problem) -> tuple[State, Any]:
    """The final state and the outputs; see `Problem`."""
    cell, carry, xs, lengths = problem.cell, problem.carry, problem.xs, problem.lengths
    resets, keywords, batched = problem.resets, problem.keywords, problem.batched
    batch = jtu.tree_leaves(xs)[0].shape[: int(batched)]
    context = {} if problem.context is None else {"context": problem.context}
    x, given = of_one((xs, keywords), len(batch) + 1)
    given = given | of_one(context, len(batch))
    one = mapped(eqx.Partial(advance, cell), of_one(carry, len(batch)), x, given)
    put_back = widened(problem.initial_state)  # as in `mapped`

    def step(state: State, inputs: tuple[Any, ...]) -> tuple[State, Any]:
        x, valid, reset, given = inputs
        before = (
            state
            if reset is None
            else where(reset, narrowed(put_back, problem.initial_state), state)
        )
        after, y = one((before, x, given | context), batch)
        return (after if valid is None else where(valid, after, state)), y

    def swap_axes(tree: Any) -> Any:
        return jtu.tree_map(lambda leaf: jnp.moveaxis(leaf, 1, 0), tree) if batched else tree

    valid = None
    if lengths is not None:
        # Padding may contain NaN, which would reach the gradient if the cell saw it.
        xs, keywords = keep_valid(xs, lengths), without_padding(keywords, lengths)
        valid = valid_steps(lengths, jtu.tree_leaves(xs)[0].shape[lengths.ndim])
    state, ys = jax.lax.scan(
        step, carry, swap_axes((xs, valid, resets, keywords)), reverse=problem.reverse
    )
    ys = swap_axes(ys)
    return state, ys if lengths is None else keep_valid(ys, lengths)
