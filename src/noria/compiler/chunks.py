"""Chunks of steps: hoisted values stay in cache, and a checkpoint stores fewer states."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._flags import choose, put, scatter
from noria._jax import SymbolicZero, aligned, differentiable, is_symbolic
from noria._types import State
from noria.compiler.own_rules import as_differentiated
from noria.ir.cotangents import instantiate
from noria.ir.evaluate import narrowed, widened

#: Bytes of hoisted values up to which all steps are hoisted at once if no derivative is taken.
#: Larger blocks of memory are requested anew in each call, and first access to fresh pages takes as
#: long as the arithmetic (``python benchmarks/tuning.py BUDGET``).
BUDGET = 32 * 2**20

#: ``(state, steps, time) -> (state, stacked)``.
Segment = Callable[[Any, Any, int], tuple[Any, Any]]


def chunk_size(time: int, bytes_a_step: int) -> int:
    """Steps of a chunk: all within the budget, else a quarter of the budget, at least 16."""
    if is_symbolic(time, bytes_a_step) or time * bytes_a_step <= BUDGET:
        return time
    return max(16, BUDGET // 4 // bytes_a_step)


@dataclass(frozen=True)
class Chunks:
    """The division of a sequence into chunks.

    Attributes:
        time: steps of the sequence.
        size: steps of a chunk; the remainder is one more chunk at the end.
        axis: the time axis of all arrays.
        reverse: whether steps are taken from the last to the first.
        mapped: the place where `jax.vmap` puts an axis of stacked arrays, see `results`.
    """

    time: int
    size: int
    axis: int
    reverse: bool
    mapped: int = 0

    @property
    def is_one(self) -> bool:
        return self.size is self.time or bool(self.size >= self.time)

    @property
    def groups(self) -> list[tuple[int, int, int]]:
        """(first step, count, size) of each run of chunks of one size, in the order of the run."""
        count, left = divmod(self.time, self.size)
        found = [(0, count, self.size), (count * self.size, 1, left)]
        found = [group for group in found if group[1] and group[2]]
        return found[::-1] if self.reverse else found

    def take(self, steps: State, start: Any, size: int) -> Any:
        return jtu.tree_map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, start, size, self.axis), steps
        )

    def join(self, groups: list[Any]) -> Any:
        """One array of all steps; each group has its chunks in front, in the order of `groups`."""
        pieces = [jtu.tree_map(self._flat, group) for group in groups]
        pieces = pieces[::-1] if self.reverse else pieces
        return (
            pieces[0]
            if len(pieces) == 1
            else jtu.tree_map(lambda *a: jnp.concatenate(a, self.axis), *pieces)
        )

    def _flat(self, a: jax.Array) -> jax.Array:
        """Merge the first axis, chunks, and the time axis of each chunk."""
        a, axis = jnp.moveaxis(a, 0, self.axis), self.axis
        return a.reshape(*a.shape[:axis], a.shape[axis] * a.shape[axis + 1], *a.shape[axis + 2 :])


def in_chunks(segment: Segment, state: State, steps: State, chunks: Chunks) -> tuple[Any, Any]:
    """Run ``segment`` on each chunk in turn: the final state, and the stacked arrays."""
    if chunks.is_one:
        return segment(state, steps, chunks.time)
    state, _, stacked = _run(segment, state, steps, chunks, lambda state: None)
    return state, stacked


def _run(
    segment: Segment, state: State, steps: State, chunks: Chunks, kept: Callable[[State], Any]
) -> tuple[Any, list[Any], Any]:
    """The final state, what is ``kept`` of those before each chunk, and stacked arrays."""
    starts, stacked = [], []
    for first, count, size in chunks.groups:

        def one(state: State, i: Any, first: int = first, size: int = size) -> Any:
            final, out = segment(state, chunks.take(steps, first + i * size, size), size)
            return final, (kept(state), out)

        state, (before, out) = jax.lax.scan(one, state, jnp.arange(count), reverse=chunks.reverse)
        starts.append(before)
        stacked.append(out)
    return state, starts, chunks.join(stacked)


def results(
    final: list[jax.Array], stacked: list[jax.Array], given: Any, mapped: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Align the axes of `jax.vmap`: in front of states, at ``mapped`` in stacked arrays.

    Loops of `jax.lax.scan` put the axis after time, native loops put it in front.
    """
    axes = [0] * len(final) + [mapped] * len(stacked)
    found = aligned([*final, *stacked], axes, jtu.tree_leaves(given))
    return found[: len(final)], found[len(final) :]


def checkpointed(
    segment: Callable[..., tuple[list[jax.Array], list[jax.Array]]],
    chunks: Chunks,
    own_rules: bool,
    changes: list[bool],
) -> Callable[
    [list[jax.Array], list[jax.Array], list[jax.Array]], tuple[list[jax.Array], list[jax.Array]]
]:
    """``(parameters, steps, state) -> (state, stacked)``, storing only the state before each chunk.

    ``segment(parameters, steps, state, time)`` runs one chunk. The gradient runs it again and
    differentiates it, the last chunk first. ``own_rules`` is `have_own_rules` of its graphs. An
    array of the state without a flag in ``changes`` is the same at all steps, and stored once.
    """

    def forward(moved: Any, *arrays: list[jax.Array]) -> Any:
        return *with_pull_back(segment, chunks, own_rules, changes, moved, *arrays), None

    def infer(
        parameters: list[jax.Array], steps: list[jax.Array], state: list[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        found = in_chunks(lambda s, x, t: segment(parameters, x, s, t), state, steps, chunks)
        return results(*found, (parameters, steps, state), chunks.mapped)

    return differentiable(infer, forward, (0, chunks.mapped))


def with_pull_back(
    segment: Callable[..., tuple[list[jax.Array], list[jax.Array]]],
    chunks: Chunks,
    own_rules: bool,
    changes: list[bool],
    moved: Any,
    parameters: list[jax.Array],
    steps: list[jax.Array],
    state: list[jax.Array],
) -> tuple[tuple[list[jax.Array], list[jax.Array]], jtu.Partial]:
    """The results of `checkpointed`, and their pull-back.

    ``moved`` has truth values: the parameters and the steps that have a derivative.
    """

    def advance(state: Any, steps: Any, time: int) -> Any:
        if not own_rules:
            return segment(parameters, steps, state, time)
        flags = *moved[:2], [eqx.is_inexact_array(a) for a in state]
        return as_differentiated(partial(segment, time=time), flags, parameters, steps, state)

    final, starts, stacked = _run(advance, state, steps, chunks, lambda s: choose(s, changes))
    stays = [not flag for flag in changes]

    def pull(
        parameters: list[jax.Array],
        steps: list[jax.Array],
        starts: list[Any],
        unchanged: list[jax.Array],
        cotangents: Any,
    ) -> Any:
        def whole(changing: list[Any]) -> list[Any]:
            return put(scatter(unchanged, stays), changes, changing)

        return _pull(segment, chunks, parameters, steps, starts, whole, cotangents)

    found = results(final, stacked, (parameters, steps, state), chunks.mapped)
    return found, jtu.Partial(pull, parameters, steps, starts, choose(state, stays))


def _pull(
    segment: Any,
    chunks: Chunks,
    parameters: list[jax.Array],
    steps: list[jax.Array],
    starts: list[Any],
    whole: Callable[[list[Any]], list[Any]],
    cotangents: Any,
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """Cotangents of parameters, steps and state. Each chunk runs again, the last one first.

    ``whole`` makes a state of the arrays in ``starts``.
    """
    of_parameters, of_steps, of_state = (
        [eqx.is_inexact_array(a) for a in arrays]
        for arrays in (parameters, steps, whole(starts[0]))
    )
    of_final, of_stacked = cotangents
    given = [not isinstance(g, SymbolicZero) and g.dtype != jax.dtypes.float0 for g in of_stacked]
    own, parameters = (
        choose(parameters, of_parameters),
        widened(parameters),
    )  # so is their sum over chunks
    carry = (
        [instantiate(g) for g in choose(of_final, of_state)],
        [jnp.zeros_like(a) for a in choose(parameters, of_parameters)],
    )
    pieces, wanted = [], choose(of_stacked, given)
    for (first, count, size), before in list(zip(chunks.groups, starts, strict=True))[::-1]:

        def one(carry: Any, piece: Any, first: int = first, size: int = size) -> Any:
            (of_final, total), (i, changing) = carry, piece
            state = whole(changing)
            x, of_stacked = chunks.take((steps, wanted), first + i * size, size)

            def chunk(some_parameters: Any, some_x: Any, some_state: State) -> Any:
                final, stacked = segment(
                    put(parameters, of_parameters, some_parameters),
                    put(x, of_steps, some_x),
                    put(state, of_state, some_state),
                    size,
                )
                return choose(final, of_state), choose(stacked, given)

            some = choose(parameters, of_parameters), choose(x, of_steps), choose(state, of_state)
            _, pull = jax.vjp(chunk, *some)
            more, of_x, of_final = pull((of_final, of_stacked))
            return (of_final, [a + b for a, b in zip(total, more, strict=True)]), of_x

        carry, of_x = jax.lax.scan(
            one, carry, (jnp.arange(count), before), reverse=not chunks.reverse
        )
        pieces.append(of_x)
    of_state_0, total = carry
    of_x = chunks.join(pieces[::-1])
    return (
        scatter(narrowed(total, own), of_parameters),
        scatter(of_x, of_steps),
        scatter(of_state_0, of_state),
    )
