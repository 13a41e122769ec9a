"""The loop with a reverse loop of its own, which carries cotangents of the state and nothing else."""

import functools
import itertools
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._jax import SymbolicZero, is_symbolic
from noria.backends.base import LoopBackend, PreviousStep
from noria.compiler.chunks import Chunks, chunk_size, in_chunks, results
from noria.compiler.cotangents import add, arrays_of, choose, instantiate, or_zeros, put, spread
from noria.compiler.param_use import cotangent_array
from noria.compiler.split import Split, narrow
from noria.compiler.vjp import Derivative, derive, summed
from noria.ir.evaluate import evaluate, narrowed, widened
from noria.ir.graph import Env, Graph, env_of, is_inexact, size_in_bytes, values_of
from noria.ir.passes import extract


@dataclass(frozen=True, eq=False)
class Loop:
    """How a loop is run: by which backend, the sizes of the time and batch axes, and the direction."""

    backend: LoopBackend
    axes: tuple[int, ...]
    reverse: bool

    def forward(
        self,
        graph: Graph,
        known: Env,
        state: Sequence[Any],
        steps: Env,
        start: list[Any],
        batch_major: Set[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Run ``graph`` over time, as in `noria.backends.LoopBackend`: the final state, and what is stacked."""
        final, stacked, _ = self.backend.run(
            graph, known, state, steps, start, self.axes, self.reverse, (), batch_major
        )
        return final, stacked

    def back(
        self,
        graph: Graph,
        known: Env,
        state: Sequence[Any],
        steps: Env,
        start: list[Any],
        totals: Sequence[int],
        batch_major: Set[Any],
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """The same against the direction of time, for cotangents; and totals."""
        found: tuple[list[Any], list[Any], list[Any]] = self.backend.run(
            graph, known, state, steps, start, self.axes, not self.reverse, totals, batch_major
        )
        return found


@dataclass(frozen=True, eq=False)
class Recurrent:
    """Lifting and loop as ``(parameters, steps, state) -> (final state, emitted)``, with the derivative above.

    The arguments are arrays for `Split.parameters`, `Split.steps` and the state, those of the steps with the axes time and
    batch in front.

    Attributes:
        split: the parts of a step.
        loop: the loop to run.
        save: ``"gates"`` stores what the reverse loop needs as it is computed. ``"states"`` stores the states only, and
            the reverse loop is preceded by all else computed from them: a chunk of steps at a time, its steps at once.
    """

    split: Split
    loop: Loop
    save: str

    def __call__(
        self, parameters: list[Any], steps: list[Any], state: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        run = jax.custom_vjp(self.infer)
        run.defvjp(self.forward, lambda pull, cotangents: pull(cotangents), symbolic_zeros=True)
        return run(parameters, steps, state)

    def infer(
        self, parameters: list[Any], steps: list[Any], state: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Both, when no derivative is taken: in chunks of steps, if all that is lifted would not stay in cache."""
        split, (time, *batch) = self.split, self.loop.axes
        segment = functools.partial(self._advance, split.loop, env_of(split.parameters, parameters))
        lifted = sum(map(size_in_bytes, split.before.outputs)) * math.prod(batch)
        chunks = Chunks(time, chunk_size(time, lifted), 0, self.loop.reverse)
        return results(*in_chunks(segment, state, steps, chunks), (parameters, steps, state))

    def forward(self, *primals: Any) -> Any:
        """Both, and a function of the cotangents that pulls them back, with what it needs."""
        parameters, steps, state = arrays_of(primals)
        split = self.split
        derivative = derive(split)
        if self.loop.backend.sums is not None:
            derivative = summed(derivative, self.loop.backend.sums)
        known = env_of(split.parameters, parameters) | derivative.constants
        if self.save == "states":
            own, sources = derivative.states, None
            graph = Graph(split.loop.inputs, (*split.loop.outputs, *own), split.loop.equations)
        else:
            own, sources = derivative.sources(self.loop.backend.shifts)
            outputs = (*derivative.forward.outputs[: len(split.loop.outputs)], *own)
            graph = extract(derivative.forward.equations, outputs, derivative.forward.inputs)
        segment = functools.partial(self._advance, graph, known)
        final, stacked = in_chunks(segment, state, steps, self._chunks(self.loop.reverse))
        emitted, pull_lift = stacked[: len(split.emitted)], None
        if sources is None:
            saved = env_of(own, stacked[len(split.emitted) :])
        else:
            saved = {
                v: stacked[place] if before is None else PreviousStep(stacked[place], state[before])
                for v, (place, before) in sources.items()
            }
            lifted, pull_lift = jax.vjp(self._lift, parameters, steps)
            saved |= {
                v: a for v, a in zip(split.lifted, lifted, strict=True) if v in derivative.lifted
            }
        names = tuple(saved)
        batch_major = derivative.batch_major(sources or {})

        def pull(
            known: list[Any], steps: list[Any], saved: list[Any], pull_lift: Any, cotangents: Any
        ) -> Any:
            known_now = env_of((*split.parameters, *derivative.constants), known)
            if self.save == "gates":
                varying = env_of(split.steps, steps) | env_of(names, saved)
                return self._pull(
                    derivative, known_now, varying, pull_lift, cotangents, batch_major
                )
            return self._pull_from_states(
                derivative, known_now, steps, env_of(names, saved), cotangents
            )

        kept = jtu.Partial(pull, [*known.values()], steps, [*saved.values()], pull_lift)
        return results(final, emitted, (parameters, steps, state)), kept

    def _chunks(self, reverse: bool) -> Chunks:
        """Steps that are differentiated at a time: all, or where only states are stored so few that little more is."""
        time = self.loop.axes[0]
        whole = self.save == "gates" or is_symbolic(time)
        return Chunks(time, time if whole else max(16, math.isqrt(time)), 0, reverse)

    def _advance(
        self, graph: Graph, known: Env, state: list[Any], steps: list[Any], time: int
    ) -> tuple[list[Any], list[Any]]:
        """Run ``graph``, the loop or one that gives more, on what is lifted for it."""
        before = self.split.before
        if not self.loop.backend.slices:
            before, graph = narrow(before, graph, [*known])
        loop = replace(self.loop, axes=(time, *self.loop.axes[1:]))
        varying = env_of(self.split.steps, steps)
        varying |= env_of(before.outputs, evaluate(before, known, varying, loop.axes))
        batch_major: set[Any] = set()
        if time == self.loop.axes[0]:  # pieces of time are copied anyway
            emitted = itertools.compress(graph.outputs[len(state) :], self.split.passed_on)
            batch_major = {*self.split.steps, *values_of(emitted)}
        return loop.forward(graph, known, self.split.state, varying, state, batch_major)

    def _lift(self, parameters: list[Any], steps: list[Any]) -> list[Any]:
        """Arrays for `Split.lifted`."""
        varying, before = env_of(self.split.steps, steps), self.split.before
        made = evaluate(before, env_of(self.split.parameters, parameters), varying, self.loop.axes)
        varying |= env_of(before.outputs, made)
        return [varying[v] for v in self.split.lifted]

    def _pull(
        self,
        derivative: Derivative,
        known: Env,
        varying: Env,
        pull_lift: Any,
        cotangents: Any,
        batch_major: Set[Any] = frozenset(),
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Cotangents of parameters, steps and state, ``None`` for zero."""
        split = self.split
        of_shared, of_lifted, of_state = pull_back(
            derivative, self.loop, known, varying, cotangents, batch_major
        )
        of_parameters, of_steps = pull_lift(
            [
                or_zeros(g, jax.ShapeDtypeStruct((*self.loop.axes, *v.aval.shape), v.aval.dtype))
                for v, g in zip(split.lifted, of_lifted, strict=True)
            ]
        )
        if derivative.sums_before:
            of_parameters = [None] * len(of_parameters)
        of_parameters = [
            add(g, of_shared.get(v)) for v, g in zip(split.parameters, of_parameters, strict=True)
        ]
        return of_parameters, [add(g, None) for g in of_steps], of_state

    def _pull_from_states(
        self, derivative: Derivative, known: Env, steps: list[Any], states: Env, cotangents: Any
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """The same, where all but the states is computed again: the steps of a chunk at once, the last chunk first."""
        split, (of_final, of_emitted) = self.split, cotangents
        parameters = widened([known[v] for v in split.parameters])  # so are the sums over chunks
        own, known = (
            [known[v] for v in split.parameters],
            known | env_of(split.parameters, parameters),
        )
        smooth = [is_inexact(v) for v in split.state]
        given = [
            is_inexact(v) and not isinstance(g, SymbolicZero)
            for v, g in zip(split.emitted, of_emitted, strict=True)
        ]

        def segment(carry: Any, pieces: Any, time: int) -> tuple[Any, list[Any]]:
            (of_state, total), (steps, arrays, some) = carry, pieces
            part = replace(self, loop=replace(self.loop, axes=(time, *self.loop.axes[1:])))
            lifted, pull_lift = jax.vjp(part._lift, parameters, steps)
            varying = (
                env_of(split.steps, steps) | env_of(split.lifted, lifted) | env_of(states, arrays)
            )
            varying |= env_of(
                derivative.saved, evaluate(derivative.again, known, varying, part.loop.axes)
            )
            ends = spread(of_state, smooth), put(of_emitted, given, some)
            of_parameters, of_steps, of_state = part._pull(
                derivative, known, varying, pull_lift, ends
            )
            total = [add(g, t) for g, t in zip(of_parameters, total, strict=True)]
            return (choose(of_state, smooth), total), of_steps

        start = [instantiate(g) for g in choose(of_final, smooth)]
        zeros = [
            jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.inexact) else None for a in parameters
        ]
        pieces = steps, [*states.values()], choose(of_emitted, given)
        (of_state, total), of_steps = in_chunks(
            segment, (start, zeros), pieces, self._chunks(not self.loop.reverse)
        )
        return narrowed(total, own), of_steps, spread(of_state, smooth)


def pull_back(
    derivative: Derivative,
    loop: Loop,
    known: Env,
    varying: Env,
    cotangents: tuple[list[Any], list[Any]],
    batch_major: Set[Any],
) -> tuple[Env, list[Any], list[Any]]:
    """The reverse loop, then the contacts: cotangents of what is shared, lifted, and of the state; ``None`` for zero.

    ``known`` holds arrays for the shared values, ``varying`` those for what was saved and lifted, of all steps; ``batch_major`` as
    in `noria.backends.LoopBackend`.
    """
    split = derivative.split
    ends = [
        (v, g)
        for v, g in zip(split.loop.outputs, [*cotangents[0], *cotangents[1]], strict=True)
        if is_inexact(v)
    ]
    width = sum(map(is_inexact, split.next_state))
    given = dict(zip(derivative.cotangents, (g for _, g in ends), strict=True))
    start, streams = list(given)[:width], list(given)[width:]
    for name in streams:
        if isinstance(given[name], SymbolicZero):
            known = known | {name: jnp.zeros(name.aval.shape, name.aval.dtype)}
        else:
            varying = varying | {name: given[name]}
    last = [instantiate(given[name]) for name in start]
    parameters, counts = (
        [v for v, _ in derivative.totals],
        [count for _, count in derivative.totals],
    )
    first, stacked, totals = loop.back(
        derivative.reverse, known, start, varying, last, counts, batch_major
    )
    varying = varying | env_of(derivative.stacked, stacked)
    needed = {
        *derivative.recover.inputs,
        *(v for c in derivative.contacts for v in c.operands if v is not None),
    }
    for value in needed:
        if isinstance(varying.get(value), PreviousStep):
            varying[value] = varying[value].whole(not loop.reverse)
    varying |= env_of(
        derivative.recover.outputs, evaluate(derivative.recover, known, varying, loop.axes)
    )
    of_shared: Env = {}
    for value, gradient in zip(parameters, totals, strict=True):
        of_shared[value] = add(gradient.astype(known[value].dtype), of_shared.get(value))
    for contact in derivative.contacts:
        for value, gradient in contact.pull_back(known, varying, loop.axes).items():
            of_shared[value] = add(gradient, of_shared.get(value))
    of_lifted = [
        None if g is None else cotangent_array(g, varying, loop.axes) for g in derivative.of_lifted
    ]
    of_state = iter(first)
    return of_shared, of_lifted, [next(of_state) if is_inexact(v) else None for v in split.state]
