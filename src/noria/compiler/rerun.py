"""Gradients whose forward loop runs again, and reads the cotangents of the outputs.

The pull-back of a read-out ``y = q S`` needs the state: ``dL/dq = S dL/dy``. If the reverse loop
computes it, the matrices of all steps must be stored. But it needs no cotangent of the state. So in
the backward pass the forward loop runs once more, with ``dL/dy`` as one more input, and emits
``dL/dq``, a vector. If nothing else in the reverse loop needs the matrices, none is stored::

    forward     S' = g S + k v^T,  y = q S'           as in inference
    backward    S' = g S + k v^T,  dq = S' dy         forward in time, again
                dS = g dS' + q dy^T, ...              in reverse

That holds for linear attention and RetNet, whose decay has no gradient.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.tree_util as jtu

from noria.backends.base import Sizes
from noria.compiler.save_policies import STORE_ALL, residuals_of
from noria.ir.cotangents import Cotangents, Ends, PullPrologue, instantiate
from noria.ir.graph import env_of, is_inexact

if TYPE_CHECKING:  # executors run their forward loops again
    from noria.compiler.executors import LoopExecutor, Outputs


def rerunning(executor: "LoopExecutor") -> "LoopExecutor | None":
    """The executor of such a gradient; ``None`` if it would store half of the bytes or more."""
    found = replace(executor, save=STORE_ALL, training=None, runs_again=True)
    is_less = 2 * found.residual_bytes < executor.residual_bytes
    return found if is_less and not found.gradient.notes else None


def run_again(
    executor: "LoopExecutor",
    moved: Any,
    sizes: Sizes,
    parameters: list[jax.Array],
    steps: list[jax.Array],
    state: list[jax.Array],
) -> tuple["Outputs", jtu.Partial]:
    """The results, and their pull-back.

    ``moved`` has truth values: the parameters and the steps that have a derivative.
    """
    split, loop = executor.split, executor.inference
    env = env_of(split.parameters, parameters) | executor.gradient.vjp.constants
    found = loop(sizes, env, executor.with_prologue(loop.prologue, sizes, env, steps, moved), state)
    hoisted, pull_prologue = executor.prologue_vjp(sizes, env, steps)

    def pull(
        arrays: list[jax.Array],
        steps: list[jax.Array],
        hoisted: list[jax.Array],
        state: list[jax.Array],
        pull_prologue: PullPrologue,
        cotangents: Ends,
    ) -> Cotangents:
        env = env_of(names, arrays)
        values = env_of(split.steps, steps) | env_of(split.hoisted, hoisted)
        of_final, of_emitted = cotangents
        of_emitted = [*map(instantiate, of_emitted)]
        given = [g for v, g in zip(split.emitted, of_emitted, strict=True) if is_inexact(v)]
        streamed = env_of(executor.gradient.vjp.streamed, given)
        again = executor.gradient.forward(sizes, env, values | streamed, state)
        values |= residuals_of(executor, state, [*again.emitted, *again.residuals])
        return executor.pull(sizes, env, values, pull_prologue, (of_final, of_emitted))

    names = tuple(env)
    arrays = [*env.values()], steps, [hoisted[v] for v in split.hoisted], state
    results = executor.results(found.carry, found.emitted, (parameters, steps, state))
    return results, jtu.Partial(pull, *arrays, pull_prologue)
