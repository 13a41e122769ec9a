"""The policies of a layer's ``save=``: store the gates, or the states only.

`noria.compiler.residuals` chooses the residuals; a policy stores them, or recomputes them.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from noria._flags import choose, put, scatter
from noria._integers import ceil_div
from noria._jax import SymbolicZero, is_symbolic
from noria.backends.base import PreviousStep, Sizes, Unchanged, in_order
from noria.compiler.chunks import Chunks, in_chunks
from noria.compiler.residuals import StepVJP
from noria.ir.cotangents import Cotangents, Ends, PullPrologue, add, instantiate
from noria.ir.evaluate import evaluate, narrowed, widened
from noria.ir.graph import Env, Graph, Value, env_of, is_inexact, size_in_bytes
from noria.ir.passes import extract

if TYPE_CHECKING:  # executors use policies, and policies call back
    from noria.compiler.executors import LoopExecutor


class Stored(NamedTuple):
    """The values stored for the gradient, besides inputs and outputs of the layer.

    Attributes:
        of_steps: the values of each step.
        of_segments: the values before each segment, and
        segment: its steps; 0 if there are no segments.
    """

    of_steps: tuple[Value, ...]
    of_segments: tuple[Value, ...] = ()
    segment: int = 0

    def bytes(self, sizes: Sizes) -> int:
        """Bytes for all examples and steps."""
        each, before = (sum(map(size_in_bytes, values)) for values in self[:2])
        count = ceil_div(sizes.time, self.segment) if self.segment else 0
        return math.prod(sizes.state_axes) * (sizes.time * each + count * before)


class SavePolicy(Protocol):
    """The choice of arrays stored for the gradient, and their use in the reverse loop.

    Attributes:
        keeps_residuals: whether it stores all residuals.
        may_recompute: whether they may be computed again where that is faster, see
            `noria.compiler.segments`.
    """

    @property
    def keeps_residuals(self) -> bool: ...

    @property
    def may_recompute(self) -> bool: ...

    def values(self, vjp: StepVJP, previous: bool) -> tuple[Value, ...]:
        """The values stored besides the emitted ones; ``previous`` as in `StepVJP.places`."""
        ...

    def forward(self, vjp: StepVJP, previous: bool) -> tuple[Graph, int]:
        """The forward loop that stores these values, and the number of residuals among them."""
        ...

    def chunks(self, sizes: Sizes, reverse: bool) -> Chunks:
        """The chunks of steps in which both loops run."""
        ...

    def keep(
        self,
        executor: "LoopExecutor",
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        state: list[jax.Array],
        stacked: list[Any],
    ) -> tuple[Env, PullPrologue | None]:
        """The arrays to keep for the gradient, from the arrays that the forward loop stacked."""
        ...

    def pull(
        self,
        executor: "LoopExecutor",
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        stored: Env,
        pull_prologue: PullPrologue | None,
        cotangents: Ends,
    ) -> Cotangents:
        """Cotangents of parameters, steps and state, from the arrays kept."""
        ...


def residuals_of(executor: "LoopExecutor", state: list[jax.Array], stacked: list[Any]) -> Env:
    """The residuals, from the arrays that the forward loop stacked, and the state before it."""
    _, refs = executor.gradient.vjp.places(executor.backend.reads_previous_step)
    return _unchanged(executor, state) | {
        v: stacked[place] if before is None else PreviousStep(stacked[place], state[before])
        for v, (place, before) in refs.items()
    }


def _unchanged(executor: "LoopExecutor", state: list[jax.Array]) -> Env:
    """The arrays of the state that no step changes."""
    split = executor.split
    given = dict(zip(split.state, state, strict=True))
    return {v: Unchanged(given[v]) for v in split.unchanged}


@dataclass(frozen=True)
class StoreGates:
    """Store the values that the reverse loop needs, as they are computed."""

    may_recompute: bool = True
    keeps_residuals = True

    def values(self, vjp: StepVJP, previous: bool) -> tuple[Value, ...]:
        hoisted = (v for v in vjp.hoisted if v not in vjp.split.steps)
        return (*vjp.places(previous)[0], *hoisted)

    def forward(self, vjp: StepVJP, previous: bool) -> tuple[Graph, int]:
        own, _ = vjp.places(previous)
        outputs = (*vjp.forward.outputs[: len(vjp.split.loop.outputs)], *own)
        return extract(vjp.forward.equations, outputs, vjp.forward.inputs), len(own)

    def chunks(self, sizes: Sizes, reverse: bool) -> Chunks:
        return Chunks(sizes.time, sizes.time, sizes.time_axis, reverse)

    def keep(
        self,
        executor: "LoopExecutor",
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        state: list[jax.Array],
        stacked: list[Any],
    ) -> tuple[Env, PullPrologue | None]:
        found = residuals_of(executor, state, stacked)
        hoisted, pull_prologue = executor.prologue_vjp(sizes, env, steps)
        return found | {v: hoisted[v] for v in executor.gradient.vjp.hoisted}, pull_prologue

    def pull(
        self,
        executor: "LoopExecutor",
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        stored: Env,
        pull_prologue: PullPrologue | None,
        cotangents: Ends,
    ) -> Cotangents:
        assert pull_prologue is not None
        values = env_of(executor.split.steps, steps) | stored
        return executor.pull(sizes, env, values, pull_prologue, cotangents)


@dataclass(frozen=True)
class StoreStates:
    """Store states only. The reverse loop takes chunks of steps, the last chunk first.

    It recomputes all other values from the states, for all steps of a chunk at once.
    """

    keeps_residuals = may_recompute = False

    def values(self, vjp: StepVJP, previous: bool) -> tuple[Value, ...]:
        return vjp.states

    def forward(self, vjp: StepVJP, previous: bool) -> tuple[Graph, int]:
        outputs = (*vjp.forward.outputs[: len(vjp.split.loop.outputs)], *vjp.states)
        return extract(vjp.forward.equations, outputs, vjp.forward.inputs), 0

    def chunks(self, sizes: Sizes, reverse: bool) -> Chunks:
        """Chunks so short that recomputed values take little more memory than the states."""
        time = sizes.time
        size = time if is_symbolic(time) else max(16, math.isqrt(time))
        return Chunks(time, size, sizes.time_axis, reverse)

    def keep(
        self,
        executor: "LoopExecutor",
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        state: list[jax.Array],
        stacked: list[Any],
    ) -> tuple[Env, PullPrologue | None]:
        states = env_of(executor.gradient.vjp.states, stacked[len(executor.split.emitted) :])
        return states | _unchanged(executor, state), None

    def pull(
        self,
        executor: "LoopExecutor",
        sizes: Sizes,
        env: Env,
        steps: list[jax.Array],
        stored: Env,
        pull_prologue: PullPrologue | None,
        cotangents: Ends,
    ) -> Cotangents:
        split, (of_final, of_emitted) = executor.split, cotangents
        own = [env[v] for v in split.parameters]
        parameters = widened(own)  # so are the sums over chunks
        env = env | env_of(split.parameters, parameters)
        inexact = [is_inexact(v) for v in split.state]
        given = [
            is_inexact(v) and not isinstance(g, SymbolicZero)
            for v, g in zip(split.emitted, of_emitted, strict=True)
        ]
        vjp = executor.gradient.vjp
        unchanged = {v: stored[v] for v in split.unchanged}
        stored = {v: a for v, a in stored.items() if v not in unchanged}

        def segment(carry: Any, pieces: Any, time: int) -> tuple[Any, list[Any]]:
            (of_state, total), (steps, arrays, some) = carry, pieces
            part = sizes._replace(time=time)
            hoisted, pull_prologue = executor.prologue_vjp(part, env, steps)
            values = env_of(split.steps, steps) | hoisted | env_of(stored, arrays)
            read = values | {v: in_order(a, part, False) for v, a in unchanged.items()}
            values |= env_of(vjp.residuals, evaluate(vjp.recompute, env, read, part.axes))
            values |= unchanged
            ends = scatter(of_state, inexact), put(of_emitted, given, some)
            of_parameters, of_steps, of_state = executor.pull(
                part, env, values, pull_prologue, ends
            )
            total = [add(g, t) for g, t in zip(of_parameters, total, strict=True)]
            return (choose(of_state, inexact), total), of_steps

        start = [instantiate(g) for g in choose(of_final, inexact)]
        zeros = [
            jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.inexact) else None for a in parameters
        ]
        pieces = steps, [*stored.values()], choose(of_emitted, given)
        chunks = replace(self.chunks(sizes, executor.reverse), reverse=not executor.reverse)
        (of_state, total), of_steps = in_chunks(segment, (start, zeros), pieces, chunks)
        return narrowed(total, own), of_steps, scatter(of_state, inexact)


#: All residuals in any case, for loops inside of others.
STORE_ALL = StoreGates(may_recompute=False)

#: By the names that a layer's ``save=`` may have.
SAVE_POLICIES: dict[str, SavePolicy] = {"gates": StoreGates(), "states": StoreStates()}
