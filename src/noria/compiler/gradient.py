"""The loop with a reverse loop of its own, which carries cotangents of the state and nothing else.

Where parameters enter an equation of the loop there is a contact. The reverse loop stacks the cotangent of what the
contact gave; the gradient of its parameters is then one contraction over time and batch, after the loop. That holds
for any equation, since the contraction is the equation's own pull-back, taken over all steps at once::

    loop      a_t = f(p, z_t)                            a contact: p a parameter, z_t of the state
    reverse   g_t = dL/da_t                              stacked
    after     dL/dp = sum over t of (df/dp)(z_t)^T g_t   the pull-back of f, mapped over time while p is not

What is kept for the reverse loop is chosen by `noria.compiler.frontier`: the values from which it can be computed
without a product and with the fewest bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.custom_derivatives import SymbolicZero

from noria.compiler.frontier import LIGHT, TRANSCENDENTAL, frontier, is_heavy
from noria.compiler.graph import (
    Equation,
    Graph,
    Known,
    cut_out,
    dependence,
    evaluate,
    graph_of,
    is_inexact,
    is_literal,
    share,
    size_in_bytes,
    struct,
    substitute,
    values_of,
)
from noria.compiler.split import Split, narrow

SHARED, FORWARD, REVERSE = range(3)


@dataclass(frozen=True, eq=False)
class Contact:
    """An equation of the loop into which parameters enter.

    ``parameters`` are those of its inputs whose cotangents are asked for. ``operands`` are the derivative's values for its
    inputs, ``None`` for those that are the same at each step; ``cotangents`` those of its inexact outputs.
    """

    equation: Equation
    parameters: tuple[Any, ...]
    operands: tuple[Any, ...]
    cotangents: tuple[Any, ...]

    def pull_back(self, known: Known, varying: Known, axes: tuple[int, ...]) -> Known:
        """The cotangents of the parameters: the equation's pull-back over all steps at once."""
        outputs = [v for v in self.equation.outputs if is_inexact(v)]
        arrays = [varying.get(g) for g in self.cotangents if not is_literal(g)]
        if all(a is None for a in arrays):
            return {}
        local: Known = {}
        for value, operand in zip(self.equation.inputs, self.operands, strict=True):
            if operand is not None:
                local[value] = jnp.asarray(operand.val) if is_literal(operand) else varying[operand]
        graph = cut_out([self.equation], outputs, values_of(self.equation.inputs))

        def contact(parameters: list[Any]) -> list[Any]:
            return evaluate(graph, known | _named(self.parameters, parameters), local, axes)

        values, pull = jax.vjp(contact, [known[v] for v in self.parameters])
        (found,) = pull([_or_zeros(a, value) for a, value in zip(arrays, values, strict=True)])
        return _named(self.parameters, found)


@dataclass(frozen=True, eq=False)
class Derivative:
    """One step and its pull-back.

    =========== ====================================== ================================================================
    ``forward`` shared, lifted, state                  next state, emitted, ``saved``
    ``reverse`` shared, lifted, ``saved``, cotangents  cotangents of the state, ``stacked``
    ``recover`` shared, lifted, ``saved``              operands of the contacts that were cheaper to compute again
    =========== ====================================== ================================================================

    ``cotangents`` are the values for the cotangents of the loop's inexact outputs, ``of_lifted`` those of what is
    lifted, ``None`` where nobody asked. ``constants`` are arrays that derivative rules close over.
    """

    split: Split
    forward: Graph
    reverse: Graph
    recover: Graph
    saved: tuple[Any, ...]
    stacked: tuple[Any, ...]
    contacts: tuple[Contact, ...]
    cotangents: tuple[Any, ...]
    of_lifted: tuple[Any, ...]
    constants: Known


def derive(split: Split, shared_perturbed: Sequence[bool], lifted_perturbed: Sequence[bool]) -> Derivative:
    """Differentiate one step with respect to the state, what is perturbed of the lifted values, and at the contacts."""
    loop = split.loop
    moving = {v for v, p in zip(split.shared, shared_perturbed, strict=True) if p and is_inexact(v)}
    touched = [e for e in loop.equations if moving.intersection(values_of(e.inputs)) and any(map(is_inexact, e.outputs))]
    wanted = [v for v, p in zip(split.lifted, lifted_perturbed, strict=True) if p and is_inexact(v)]
    smooth = [v for v in split.state if is_inexact(v)]
    same = {*split.shared}

    def step(shared: list[Any], lifted: list[Any], state: list[Any], cotangents: list[Any]) -> Any:
        known = dict(zip((*split.shared, *split.lifted, *split.state), (*shared, *lifted, *state), strict=True))

        def tapped(some: list[Any], taps: list[list[Any]]) -> Any:
            """The loop's inexact outputs, where to each output of a contact a tap is added; and all else of interest."""
            tap_of, operands = dict(zip(touched, taps, strict=True)), {}

            def adjust(equation: Equation, inputs: list[Any], outputs: list[Any]) -> list[Any]:
                if equation not in tap_of:
                    return outputs
                operands[equation] = [
                    None if is_literal(v) or v in same else a for v, a in zip(equation.inputs, inputs, strict=True)
                ]
                taps = iter(tap_of[equation])
                return [a + next(taps) if is_inexact(v) else a for v, a in zip(equation.outputs, outputs, strict=True)]

            inputs = known | dict(zip((*smooth, *wanted), some, strict=True))
            outputs = loop([inputs[v] for v in loop.inputs], adjust)
            smooth_outputs = [a for v, a in zip(loop.outputs, outputs, strict=True) if is_inexact(v)]
            return smooth_outputs, (outputs, [operands[e] for e in touched])

        taps = [[jnp.zeros(v.aval.shape, v.aval.dtype) for v in e.outputs if is_inexact(v)] for e in touched]
        _, pull, (outputs, operands) = jax.vjp(tapped, [known[v] for v in (*smooth, *wanted)], taps, has_aux=True)
        return outputs, operands, pull(cotangents)

    args = [list(map(struct, values)) for values in (split.shared, split.lifted, split.state)]
    ends = [struct(v) for v in loop.outputs if is_inexact(v)]
    graph, arrays, tree = graph_of(step, *args, ends)
    hidden, inputs = graph.inputs[: len(arrays)], graph.inputs[len(arrays) :]
    names = (*split.shared, *split.lifted, *split.state)
    graph = share(substitute(graph, dict(zip(inputs, names, strict=False))), LIGHT)
    outputs, operands, (of_inputs, of_taps) = jtu.tree_unflatten(tree, graph.outputs)
    of_lifted = dict(zip(wanted, of_inputs[len(smooth) :], strict=True))
    return _divide(
        split,
        graph.equations,
        outputs,
        [
            Contact(e, tuple(v for v in values_of(e.inputs) if v in moving), tuple(z), tuple(g))
            for e, z, g in zip(touched, operands, of_taps, strict=True)
        ],
        cotangents=inputs[len(names) :],
        of_state=of_inputs[: len(smooth)],
        of_lifted=[of_lifted.get(v) for v in split.lifted],
        constants=dict(zip(hidden, arrays, strict=True)),
    )


def _divide(
    split: Split,
    equations: Sequence[Equation],
    outputs: Sequence[Any],
    contacts: Sequence[Contact],
    *,
    cotangents: Sequence[Any],
    of_state: Sequence[Any],
    of_lifted: Sequence[Any],
    constants: Known,
) -> Derivative:
    """Divide the equations of a step and its pull-back between the two loops."""
    sources = dict.fromkeys((*split.lifted, *split.state), FORWARD) | dict.fromkeys(cotangents, REVERSE)
    levels = dependence(equations, sources)

    def level(value: Any) -> int:
        return levels.get(value, SHARED)

    def level_of(equation: Equation) -> int:
        return max(map(level, values_of(equation.outputs)), default=SHARED)

    def again(equation: Equation) -> int:
        """Bytes that computing an equation once more costs: three quarters of its result if that is slow to compute."""
        costly = level_of(equation) == FORWARD and equation.name in TRANSCENDENTAL
        return 3 * sum(map(size_in_bytes, equation.outputs)) // 4 if costly else 0

    operands = [v for v in values_of(v for c in contacts for v in c.operands if v is not None) if level(v) == FORWARD]
    crossing = frontier(
        equations,
        early=[e for e in equations if level_of(e) == FORWARD and is_heavy(e)],
        late=[e for e in equations if level_of(e) == REVERSE],
        wanted=operands,
        free=lambda v: level(v) != FORWARD,
        again=again,
        latest=True,
    )
    asked = (g for g in (*of_lifted, *(g for c in contacts for g in c.cotangents)) if g is not None)
    streamed = cotangents[sum(map(is_inexact, split.next_state)) :]  # those of what is emitted come stacked already
    stacked = [g for g in values_of(asked) if level(g) == REVERSE and g not in streamed]
    saved = [v for v in crossing if v not in split.lifted]
    same = (*constants, *split.shared)
    return Derivative(
        split,
        forward=cut_out(equations, (*outputs, *saved), (*same, *split.lifted, *split.state)),
        reverse=cut_out(equations, (*of_state, *stacked), (*same, *crossing, *cotangents)),
        recover=cut_out(equations, operands, (*same, *crossing)),
        saved=tuple(saved),
        stacked=tuple(stacked),
        contacts=tuple(contacts),
        cotangents=tuple(cotangents),
        of_lifted=tuple(g if g is not None and level(g) == REVERSE else None for g in of_lifted),
        constants=constants,
    )


# --- the two loops ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Loop:
    """How a loop is run: the backend's own loop, the sizes of the time and batch axes, and the direction."""

    run: Callable[..., Any]
    axes: tuple[int, ...]
    reverse: bool

    def __call__(
        self, graph: Graph, known: Known, state: Sequence[Any], steps: Known, start: list[Any], *, back: bool = False
    ) -> tuple[list[Any], list[Any]]:
        """Run ``graph`` over time; its first outputs are the next ``state``, the others are stacked.

        Arrays of ``steps`` have the axes time and batch in front, those of ``start`` the batch.
        """
        names = [v for v in graph.inputs if v in steps]

        def body(carry: list[Any], step: list[Any]) -> tuple[list[Any], list[Any]]:
            varying = dict(zip(state, carry, strict=True)) | dict(zip(names, step, strict=True))
            outputs = evaluate(graph, known, varying, self.axes[1:])
            return outputs[: len(state)], outputs[len(state) :]

        return self.run(body, start, [steps[v] for v in names], self.axes[0], self.reverse != back)


def recurrent(
    split: Split, inference: Split, loop: Loop, save: str
) -> Callable[[list[Any], list[Any], list[Any]], tuple[list[Any], list[Any]]]:
    """Lifting and loop as ``(parameters, steps, state) -> (final state, emitted)``, with the derivative above.

    Args:
        split: the parts of a step; the arguments are arrays for its ``parameters``, its ``steps`` and the state.
        inference: the same step, perhaps taken apart elsewhere, for when no derivative is taken.
        loop: the loop to run.
        save: ``"gates"`` stores what the reverse loop needs as it is computed. ``"states"`` stores the states only, and
            before the reverse loop computes all else from them, all steps at once.
    """

    def lift(parameters: list[Any], steps: list[Any]) -> list[Any]:
        """Arrays for ``split.lifted``."""
        varying = _named(split.steps, steps)
        made = evaluate(split.before, _named(split.parameters, parameters), varying, loop.axes)
        varying |= _named(split.before.outputs, made)
        return [varying[v] for v in split.lifted]

    def advance(parts: Split, graph: Graph, known: Known, steps: list[Any], state: list[Any]) -> Any:
        """Run ``graph``, the loop of ``parts`` or one that gives more, on what is lifted for it."""
        before, graph = narrow(parts.before, graph, [*known])
        varying = _named(split.steps, steps)
        varying |= _named(before.outputs, evaluate(before, known, varying, loop.axes))
        return loop(graph, known, split.state, varying, state)

    @jax.custom_vjp
    def run(parameters: list[Any], steps: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        return advance(inference, inference.loop, _named(split.parameters, parameters), steps, state)

    def forward(*primals: Any) -> Any:
        (parameters, steps, state), perturbed = _primals(primals)
        shared = [perturbed[0][split.parameters.index(v)] for v in split.shared]
        derivative = derive(split, shared, [any(jtu.tree_leaves(perturbed[:2]))] * len(split.lifted))
        known = _named(split.parameters, parameters) | derivative.constants
        again = cut_out(derivative.forward.equations, derivative.saved, derivative.forward.inputs)
        if save == "gates":
            graph, names = derivative.forward, derivative.saved
        else:
            names = tuple(v for v in split.state if v in again.inputs or v in derivative.saved)
            graph = Graph((*split.loop.inputs,), (*split.loop.outputs, *names), split.loop.equations)
        final, stacked = advance(split, graph, known, steps, state)
        emitted, saved = stacked[: len(split.emitted)], stacked[len(split.emitted) :]
        lifting = jax.vjp(lift, parameters, steps) if save == "gates" else None

        def pull(known: list[Any], steps: list[Any], saved: list[Any], lifting: Any, cotangents: Any) -> Any:
            given = _named((*split.parameters, *derivative.constants), known)
            lifted, pull_lift = lifting or jax.vjp(lift, known[: len(split.parameters)], steps)
            varying = _named(split.lifted, lifted) | _named(names, saved)
            if save == "states":
                varying |= _named(derivative.saved, evaluate(again, given, varying, loop.axes))
            of_shared, of_lifted, of_state = pull_back(derivative, loop, given, varying, cotangents)
            of_parameters, of_steps = pull_lift([_or_zeros(g, a) for g, a in zip(of_lifted, lifted, strict=True)])
            of_parameters = [_add(g, of_shared.get(v)) for v, g in zip(split.parameters, of_parameters, strict=True)]
            return of_parameters, [_add(g, None) for g in of_steps], of_state

        return (final, emitted), jtu.Partial(pull, [*known.values()], steps, saved, lifting)

    run.defvjp(forward, lambda pull, cotangents: pull(cotangents), symbolic_zeros=True)
    return run


def pull_back(self, known: Known, varying: Known, axes: tuple[int, ...]) -> Known:
        """The cotangents of the parameters: the equation's pull-back over all steps at once."""
        outputs = [v for v in self.equation.outputs if is_inexact(v)]
        arrays = [varying.get(g) for g in self.cotangents if not is_literal(g)]
        if all(a is None for a in arrays):
            return {}
        local: Known = {}
        for value, operand in zip(self.equation.inputs, self.operands, strict=True):
            if operand is not None:
                local[value] = jnp.asarray(operand.val) if is_literal(operand) else varying[operand]
        graph = cut_out([self.equation], outputs, values_of(self.equation.inputs))

        def contact(parameters: list[Any]) -> list[Any]:
            return evaluate(graph, known | _named(self.parameters, parameters), local, axes)

        values, pull = jax.vjp(contact, [known[v] for v in self.parameters])
        (found,) = pull([_or_zeros(a, value) for a, value in zip(arrays, values, strict=True)])
        return _named(self.parameters, found)


@dataclass(frozen=True, eq=False)
class Derivative:
    """One step and its pull-back.

    =========== ====================================== ================================================================
    ``forward`` shared, lifted, state                  next state, emitted, ``saved``
    ``reverse`` shared, lifted, ``saved``, cotangents  cotangents of the state, ``stacked``
    ``recover`` shared, lifted, ``saved``              operands of the contacts that were cheaper to compute again
    =========== ====================================== ================================================================

    ``cotangents`` are the values for the cotangents of the loop's inexact outputs, ``of_lifted`` those of what is
    lifted, ``None`` where nobody asked. ``constants`` are arrays that derivative rules close over.
    """

    split: Split
    forward: Graph
    reverse: Graph
    recover: Graph
    saved: tuple[Any, ...]
    stacked: tuple[Any, ...]
    contacts: tuple[Contact, ...]
    cotangents: tuple[Any, ...]
    of_lifted: tuple[Any, ...]
    constants: Known

    @property
    def needed(self) -> set[Any]:
        """The values that must be known for the reverse loop and after it."""
        return {*self.reverse.inputs, *self.recover.inputs}


def derive(split: Split, shared_perturbed: Sequence[bool], lifted_perturbed: Sequence[bool]) -> Derivative:
    """Differentiate one step with respect to the state, what is perturbed of the lifted values, and at the contacts."""
    loop = split.loop
    moving = {v for v, p in zip(split.shared, shared_perturbed, strict=True) if p and is_inexact(v)}
    touched = [e for e in loop.equations if moving.intersection(values_of(e.inputs)) and any(map(is_inexact, e.outputs))]
    wanted = [v for v, p in zip(split.lifted, lifted_perturbed, strict=True) if p and is_inexact(v)]
    smooth = [v for v in split.state if is_inexact(v)]
    same = {*split.shared}

    def step(shared: list[Any], lifted: list[Any], state: list[Any], cotangents: list[Any]) -> Any:
        known = dict(zip((*split.shared, *split.lifted, *split.state), (*shared, *lifted, *state), strict=True))

        def tapped(some: list[Any], taps: list[list[Any]]) -> Any:
            """The loop's inexact outputs, where to each output of a contact a tap is added; and all else of interest."""
            tap_of, operands = dict(zip(touched, taps, strict=True)), {}

            def adjust(equation: Equation, inputs: list[Any], outputs: list[Any]) -> list[Any]:
                if equation not in tap_of:
                    return outputs
                operands[equation] = [
                    None if is_literal(v) or v in same else a for v, a in zip(equation.inputs, inputs, strict=True)
                ]
                taps = iter(tap_of[equation])
                return [a + next(taps) if is_inexact(v) else a for v, a in zip(equation.outputs, outputs, strict=True)]

            inputs = known | dict(zip((*smooth, *wanted), some, strict=True))
            outputs = loop([inputs[v] for v in loop.inputs], adjust)
            smooth_outputs = [a for v, a in zip(loop.outputs, outputs, strict=True) if is_inexact(v)]
            return smooth_outputs, (outputs, [operands[e] for e in touched])

        taps = [[jnp.zeros(v.aval.shape, v.aval.dtype) for v in e.outputs if is_inexact(v)] for e in touched]
        _, pull, (outputs, operands) = jax.vjp(tapped, [known[v] for v in (*smooth, *wanted)], taps, has_aux=True)
        return outputs, operands, pull(cotangents)

    args = [list(map(struct, values)) for values in (split.shared, split.lifted, split.state)]
    ends = [struct(v) for v in loop.outputs if is_inexact(v)]
    graph, arrays, tree = graph_of(step, *args, ends)
    hidden, inputs = graph.inputs[: len(arrays)], graph.inputs[len(arrays) :]
    names = (*split.shared, *split.lifted, *split.state)
    graph = share(substitute(graph, dict(zip(inputs, names, strict=False))), LIGHT)
    outputs, operands, (of_inputs, of_taps) = jtu.tree_unflatten(tree, graph.outputs)
    of_lifted = dict(zip(wanted, of_inputs[len(smooth) :], strict=True))
    return _divide(
        split,
        graph.equations,
        outputs,
        [
            Contact(e, tuple(v for v in values_of(e.inputs) if v in moving), tuple(z), tuple(g))
            for e, z, g in zip(touched, operands, of_taps, strict=True)
        ],
        cotangents=inputs[len(names) :],
        of_state=of_inputs[: len(smooth)],
        of_lifted=[of_lifted.get(v) for v in split.lifted],
        constants=dict(zip(hidden, arrays, strict=True)),
    )


def _divide(
    split: Split,
    equations: Sequence[Equation],
    outputs: Sequence[Any],
    contacts: Sequence[Contact],
    *,
    cotangents: Sequence[Any],
    of_state: Sequence[Any],
    of_lifted: Sequence[Any],
    constants: Known,
) -> Derivative:
    """Divide the equations of a step and its pull-back between the two loops."""
    sources = dict.fromkeys((*split.lifted, *split.state), FORWARD) | dict.fromkeys(cotangents, REVERSE)
    levels = dependence(equations, sources)

    def level(value: Any) -> int:
        return levels.get(value, SHARED)

    def level_of(equation: Equation) -> int:
        return max(map(level, values_of(equation.outputs)), default=SHARED)

    def again(equation: Equation) -> int:
        """Bytes that computing an equation once more costs: three quarters of its result if that is slow to compute."""
        costly = level_of(equation) == FORWARD and equation.name in TRANSCENDENTAL
        return 3 * sum(map(size_in_bytes, equation.outputs)) // 4 if costly else 0

    operands = [v for v in values_of(v for c in contacts for v in c.operands if v is not None) if level(v) == FORWARD]
    crossing = frontier(
        equations,
        early=[e for e in equations if level_of(e) == FORWARD and is_heavy(e)],
        late=[e for e in equations if level_of(e) == REVERSE],
        wanted=operands,
        free=lambda v: level(v) != FORWARD,
        again=again,
        latest=True,
    )
    asked = (g for g in (*of_lifted, *(g for c in contacts for g in c.cotangents)) if g is not None)
    streamed = cotangents[sum(map(is_inexact, split.next_state)) :]  # those of what is emitted come stacked already
    stacked = [g for g in values_of(asked) if level(g) == REVERSE and g not in streamed]
    saved = [v for v in crossing if v not in split.lifted]
    same = (*constants, *split.shared)
    return Derivative(
        split,
        forward=cut_out(equations, (*outputs, *saved), (*same, *split.lifted, *split.state)),
        reverse=cut_out(equations, (*of_state, *stacked), (*same, *crossing, *cotangents)),
        recover=cut_out(equations, operands, (*same, *crossing)),
        saved=tuple(saved),
        stacked=tuple(stacked),
        contacts=tuple(contacts),
        cotangents=tuple(cotangents),
        of_lifted=tuple(g if g is not None and level(g) == REVERSE else None for g in of_lifted),
        constants=constants,
    )


# --- the two loops ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Loop:
    """How a loop is run: the backend's own loop, the sizes of the time and batch axes, and the direction."""

    run: Callable[..., Any]
    axes: tuple[int, ...]
    reverse: bool

    def __call__(
        self, graph: Graph, known: Known, state: Sequence[Any], steps: Known, start: list[Any], *, back: bool = False
    ) -> tuple[list[Any], list[Any]]:
        """Run ``graph`` over time; its first outputs are the next ``state``, the others are stacked.

        Arrays of ``steps`` have the axes time and batch in front, those of ``start`` the batch.
        """
        names = [v for v in graph.inputs if v in steps]

        def body(carry: list[Any], step: list[Any]) -> tuple[list[Any], list[Any]]:
            varying = dict(zip(state, carry, strict=True)) | dict(zip(names, step, strict=True))
            outputs = evaluate(graph, known, varying, self.axes[1:])
            return outputs[: len(state)], outputs[len(state) :]

        return self.run(body, start, [steps[v] for v in names], self.axes[0], self.reverse != back)


#: ``(shared, steps, state) -> (final state, emitted)``, all lists of arrays.
Recurrent = Callable[[list[Any], list[Any], list[Any]], tuple[list[Any], list[Any]]]


def keeping_gates(split: Split, loop: Loop) -> Recurrent:
    """The loop over ``split.shared`` and ``split.lifted``; what the reverse loop needs is stored as it is computed."""

    @jax.custom_vjp
    def run(shared: list[Any], lifted: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        return loop(split.loop, _named(split.shared, shared), split.state, _named(split.lifted, lifted), state)

    def forward(*primals: Any) -> Any:
        (shared, lifted, state), perturbed = _primals(primals)
        derivative = derive(split, *perturbed[:2])
        known, steps = _named(split.shared, shared) | derivative.constants, _named(split.lifted, lifted)
        final, stacked = loop(derivative.forward, known, split.state, steps, state)
        emitted, saved = stacked[: len(split.emitted)], _named(derivative.saved, stacked[len(split.emitted) :])
        steps = {v: a for v, a in steps.items() if v in derivative.needed}
        names = [*known], [*steps, *saved]

        def pull(known: list[Any], steps: list[Any], cotangents: Any) -> Any:
            return pull_back(derivative, loop, _named(names[0], known), _named(names[1], steps), cotangents)

        return (final, emitted), jtu.Partial(pull, [*known.values()], [*steps.values(), *saved.values()])

    run.defvjp(forward, lambda pull, cotangents: pull(cotangents), symbolic_zeros=True)
    return run


def keeping_states(split: Split, loop: Loop) -> Recurrent:
    """Lifting and loop over ``split.parameters`` and ``split.steps``; what is stored is the states.

    Before the reverse loop, all that it needs is computed again from them, all steps at once.
    """

    def lift(parameters: list[Any], steps: list[Any]) -> list[Any]:
        varying = _named(split.steps, steps)
        made = evaluate(split.before, _named(split.parameters, parameters), varying, loop.axes)
        varying |= _named(split.before.outputs, made)
        return [varying[v] for v in split.lifted]

    @jax.custom_vjp
    def run(parameters: list[Any], steps: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        known, lifted = _named(split.parameters, parameters), _named(split.lifted, lift(parameters, steps))
        return loop(split.loop, known, split.state, lifted, state)

    def forward(*primals: Any) -> Any:
        (parameters, steps, state), perturbed = _primals(primals)
        shared = [perturbed[0][split.parameters.index(v)] for v in split.shared]
        derivative = derive(split, shared, [any(jtu.tree_leaves(perturbed[:2]))] * len(split.lifted))
        again = cut_out(derivative.forward.equations, derivative.saved, derivative.forward.inputs)
        kept = tuple(v for v in split.state if v in again.inputs or v in derivative.saved)
        graph = Graph(split.loop.inputs, (*split.loop.outputs, *kept), split.loop.equations)
        known, lifted = _named(split.parameters, parameters), _named(split.lifted, lift(parameters, steps))
        final, stacked = loop(graph, known, split.state, lifted, state)
        emitted, states = stacked[: len(split.emitted)], stacked[len(split.emitted) :]

        def pull(parameters: Any, steps: Any, states: Any, constants: Any, cotangents: Any) -> Any:
            lifted, pull_lift = jax.vjp(lift, parameters, steps)
            known = _named(split.parameters, parameters) | _named(derivative.constants, constants)
            varying = _named(split.lifted, lifted) | _named(kept, states)
            varying |= _named(derivative.saved, evaluate(again, known, varying, loop.axes))
            of_shared, of_lifted, of_state = pull_back(derivative, loop, known, varying, cotangents)
            of_parameters, of_steps = pull_lift([_or_zeros(g, a) for g, a in zip(of_lifted, lifted, strict=True)])
            direct = dict(zip(split.shared, of_shared, strict=True))
            of_parameters = [_add(g, direct.get(v)) for v, g in zip(split.parameters, of_parameters, strict=True)]
            return of_parameters, [_add(g, None) for g in of_steps], of_state

        return (final, emitted), jtu.Partial(pull, parameters, steps, states, [*derivative.constants.values()])

    run.defvjp(forward, lambda pull, cotangents: pull(cotangents), symbolic_zeros=True)
    return run


def pull_back(
    derivative: Derivative, loop: Loop, known: Known, varying: Known, cotangents: tuple[list[Any], list[Any]]
) -> tuple[Known, list[Any], list[Any]]:
    """The reverse loop, then the contacts: cotangents of what is shared, lifted, and of the state; ``None`` for zero.

    ``known`` holds arrays for the shared values, ``varying`` those for what was saved and lifted, of all steps.
    """
    split = derivative.split
    ends = [(v, g) for v, g in zip(split.loop.outputs, [*cotangents[0], *cotangents[1]], strict=True) if is_inexact(v)]
    width = sum(map(is_inexact, split.next_state))
    given = dict(zip(derivative.cotangents, (g for _, g in ends), strict=True))
    start, streams = list(given)[:width], list(given)[width:]
    for name in streams:
        if isinstance(given[name], SymbolicZero):
            known |= {name: jnp.zeros(name.aval.shape, name.aval.dtype)}
        else:
            varying |= {name: given[name]}
    last = [_instantiate(given[name]) for name in start]
    first, stacked = loop(derivative.reverse, known, start, varying, last, back=True)
    varying |= _named(derivative.stacked, stacked)
    varying |= _named(derivative.recover.outputs, evaluate(derivative.recover, known, varying, loop.axes))
    of_shared: Known = {}
    for contact in derivative.contacts:
        for value, gradient in contact.pull_back(known, varying, loop.axes).items():
            of_shared[value] = _add(gradient, of_shared.get(value))
    of_lifted = [None if g is None else varying[g] for g in derivative.of_lifted]
    of_state = iter(first)
    return of_shared, of_lifted, [next(of_state) if is_inexact(v) else None for v in split.state]


def _primals(primals: Any) -> tuple[Any, Any]:
    """What `jax.custom_vjp` hands over with symbolic zeros: the arrays, and whether each is differentiated."""
    is_leaf = lambda p: hasattr(p, "perturbed")  # noqa: E731
    arrays = jtu.tree_map(lambda p: p.value, primals, is_leaf=is_leaf)
    return arrays, jtu.tree_map(lambda p: p.perturbed, primals, is_leaf=is_leaf)


def _named(names: Iterable[Any], arrays: Iterable[Any]) -> Known:
    return dict(zip(names, arrays, strict=True))


def _instantiate(cotangent: Any) -> Any:
    return jnp.zeros(cotangent.shape, cotangent.dtype) if isinstance(cotangent, SymbolicZero) else cotangent


def _or_zeros(cotangent: Any, like: Any) -> Any:
    """A cotangent for ``like``, where ``None`` stands for zero; whole numbers have cotangents without a type."""
    if not jnp.issubdtype(like.dtype, jnp.inexact):
        return np.zeros(like.shape, jax.dtypes.float0)
    return jnp.zeros_like(like) if cotangent is None else cotangent


def _add(a: Any, b: Any) -> Any:
    """The sum of two cotangents, ``None`` where there is none."""
    if a is None or a.dtype == jax.dtypes.float0:
        return b
    return a if b is None else a + b
