"""One step and its pull-back, divided between a forward loop, a reverse loop, and what follows the loops.

Where parameters enter an equation of the loop there is a contact. The reverse loop stacks the cotangent of what the
contact gave; the gradient of its parameters is then one contraction over time and batch, after the loop. That holds
for any equation, since the contraction is the equation's own pull-back, taken over all steps at once::

    loop      a_t = f(p, z_t)                            a contact: p a parameter, z_t of the state
    reverse   g_t = dL/da_t                              stacked
    after     dL/dp = sum over t of (df/dp)(z_t)^T g_t   the pull-back of f, mapped over time while p is not

A backend that can sum while it loops is given that sum as a *total* of the reverse loop: the pull-back of one step gives an outer
product, or a value, and the loop sums it over all steps and examples (`summed`).

What is kept for the reverse loop is chosen by `noria.compiler.min_cut`: the values from which it can be computed
without a product and with the fewest bytes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria.compiler.equation_vjp import EquationVJP, EquationVJPs, is_zero
from noria.compiler.min_cut import LIGHT, TRANSCENDENTAL, is_heavy, min_cut
from noria.compiler.param_use import ParameterUse, pull_back_of_a_step
from noria.compiler.split import Split
from noria.ir.build import build
from noria.ir.graph import (
    Env,
    Equation,
    Graph,
    Value,
    is_inexact,
    is_literal,
    size_in_bytes,
    values_of,
)
from noria.ir.passes import cse, dependence, extract, inlined, inputs_of, substitute, toposort

SHARED, FORWARD, REVERSE = range(3)

#: Numbers up to which the cotangent of one step, if it is no outer product, is summed up in the loop.
WIDEST = 2**14


class Source(NamedTuple):
    """Where a saved value is found: in array ``stack`` of what the forward loop stacks, there one step before if it is the ``state``."""

    stack: int
    state: int | None


@dataclass(frozen=True, eq=False)
class Derivative:
    """One step and its pull-back.

    =========== ====================================== ================================================================
    ``forward`` shared, lifted, state                  next state, emitted, ``saved``
    ``reverse`` shared, lifted, ``saved``, cotangents  cotangents of the state, ``stacked``
    ``recover`` shared, lifted, ``saved``              operands of the contacts that were cheaper to compute again
    ``again``   shared, lifted, state                  ``saved``
    =========== ====================================== ================================================================

    ``cotangents`` are the values for the
    cotangents of the loop's inexact outputs, ``of_lifted`` those of what is lifted, ``None`` where nobody asked. ``constants``
    are arrays that derivative rules close over. ``totals`` are the parameters whose gradients the reverse loop sums up, and of
    how many operands each is, which are the last outputs of ``reverse``; with ``sums_before`` that includes what parameters get
    from what is lifted.
    """

    split: Split
    forward: Graph
    reverse: Graph
    recover: Graph
    again: Graph
    saved: tuple[Any, ...]
    stacked: tuple[Any, ...]
    contacts: tuple[ParameterUse, ...]
    cotangents: tuple[Any, ...]
    of_lifted: tuple[Any, ...]
    constants: Env
    totals: tuple[tuple[Any, int], ...] = ()
    sums_before: bool = False

    @property
    def states(self) -> tuple[Any, ...]:
        """The states from which, with what is lifted, all that is saved can be computed again."""
        return tuple(v for v in self.split.state if v in self.again.inputs or v in self.saved)

    def sources(self, shifts: bool) -> tuple[tuple[Any, ...], dict[Any, Source]]:
        """What of ``saved`` the forward loop must store, and where all of it is found afterwards.

        What is emitted need not be stored again; nor, for a backend that ``shifts``, the state before a step, if the next
        state is emitted or stored.
        """
        width = len(self.split.state)
        following, emitted = (
            self.forward.outputs[:width],
            self.forward.outputs[width : width + len(self.split.emitted)],
        )
        at = {v: n for n, v in reversed([*enumerate(emitted)]) if not is_literal(v)}
        before = dict(zip(self.split.state, following, strict=True)) if shifts else {}
        there = [*at, *self.saved]
        moved = [
            v
            for v in self.saved
            if before.get(v) in there and v not in at and before[v] not in before
        ]
        own = tuple(v for v in self.saved if v not in at and v not in moved)
        at |= {v: len(emitted) + n for n, v in enumerate(own)}
        found = {v: Source(at[v], None) for v in self.saved if v not in moved}
        found |= {v: Source(at[before[v]], self.split.state.index(v)) for v in moved}
        return own, found

    def batch_major(self, sources: dict[Any, Source]) -> set[Any]:
        """What the reverse loop reads of the caller's arrays and of outputs of the layer, and those of its results that go to the caller."""
        split = self.split
        streams = self.cotangents[sum(map(is_inexact, split.next_state)) :]
        smooth = [
            passed_on
            for v, passed_on in zip(split.emitted, split.passed_on, strict=True)
            if is_inexact(v)
        ]
        found = {*split.steps, *compress(streams, smooth)}
        emitted = [n for n, is_passed_on in enumerate(split.passed_on) if is_passed_on]
        found |= {v for v, source in sources.items() if source.stack in emitted}
        of_steps = compress(self.of_lifted, (v in split.steps for v in split.lifted))
        return found | {*values_of(g for g in of_steps if g is not None)}

    @property
    def lifted(self) -> tuple[Any, ...]:
        """What is needed of the lifted values besides what is saved."""
        return tuple(
            v for v in self.split.lifted if v in self.reverse.inputs or v in self.recover.inputs
        )


def derive(split: Split) -> Derivative:
    """Differentiate one step with respect to the state, what is hoisted, and the parameters."""
    tape = _Tape(split)
    tape.run_forward()
    tape.run_reverse()
    outputs = [tape.now(v) for v in split.loop.outputs]
    uses = [
        (e, vjp, [None if is_literal(v) or v in tape.shared else tape.now(v) for v in e.inputs], g)
        for e, vjp, g in tape.uses
    ]
    of_state = [tape.gradient(v) for v in split.state if is_inexact(v)]
    of_lifted = [tape.cotangent.get(v) if v in tape.hoisted else None for v in split.lifted]
    found = outputs, [(operands, g) for _, _, operands, g in uses], of_state, of_lifted
    atoms, tree = jtu.tree_flatten(found)
    graph = cse(Graph((), tuple(atoms), (*tape.forward, *tape.reverse)), LIGHT)
    outputs, parts, of_state, of_lifted = jtu.tree_unflatten(tree, graph.outputs)
    return _divide(
        split,
        graph.equations,
        outputs,
        [
            ParameterUse.made(e, vjp, [v for v in values_of(e.inputs) if v in tape.parameters], z, g)
            for (e, vjp, _, _), (z, g) in zip(uses, parts, strict=True)
        ],
        cotangents=tape.seeds,
        of_state=of_state,
        of_lifted=of_lifted,
        constants=tape.constants,
    )


class _Tape:
    """Reverse-mode differentiation of a loop body, equation by equation (Wengert 1964).

    ``forward`` computes the body again, under new names, and the residuals of each equation;
    ``reverse`` leads from the ``seeds``, the cotangents of the inexact outputs, back to the inputs.
    A cotangent of a parameter is not summed here: each equation that reads one is in ``uses``.
    """

    def __init__(self, split: Split):
        loop, moving = split.loop, split.moving
        moves = dependence(split.before.equations, dict.fromkeys(moving, 1))
        self.loop, self.shared = loop, frozenset(split.shared)
        self.parameters = moving & self.shared
        self.hoisted = {v for v in split.lifted if moves.get(v) and is_inexact(v)}
        inputs = (*self.parameters, *self.hoisted, *filter(is_inexact, split.state))
        self._depends = dependence(loop.equations, dict.fromkeys(inputs, 1))
        self._names: dict[Any, Any] = {}
        self._vjps = EquationVJPs()
        self._recorded: list[tuple[Equation, EquationVJP, dict[Any, Any]]] = []
        self.seeds = [Value(v.aval) for v in loop.outputs if is_inexact(v)]
        self.forward: list[Equation] = []
        self.reverse: list[Equation] = []
        self.cotangent: dict[Any, Any] = {}
        self.uses: list[tuple[Equation, EquationVJP, list[Any]]] = []
        self.constants: Env = {}

    def now(self, atom: Any) -> Any:
        """The value of ``forward`` that stands for a value of the loop."""
        return atom if is_literal(atom) else self._names.get(atom, atom)

    def run_forward(self) -> None:
        for equation in self.loop.equations:
            inputs = [self.now(atom) for atom in equation.inputs]
            wrt = [n for n, atom in enumerate(equation.inputs) if self._is_differentiable(atom)]
            if not wrt or not any(map(is_inexact, equation.outputs)):
                self.forward.append(replace(equation, inputs=tuple(inputs)))
                continue
            vjp = self._vjps.of(equation, wrt)
            names = vjp.named(equation, inputs)
            made, outputs = inlined(vjp.forward, names, equation.source)
            self.forward += made
            self._names.update(zip(equation.outputs, outputs, strict=False))
            names |= dict(zip(vjp.forward.outputs, outputs, strict=True))
            self._recorded.append((equation, vjp, names))
            self.constants |= vjp.constants

    def _is_differentiable(self, atom: Any) -> bool:
        return not is_literal(atom) and bool(self._depends.get(atom)) and is_inexact(atom)

    def run_reverse(self) -> None:
        for atom, seed in zip(filter(is_inexact, self.loop.outputs), self.seeds, strict=True):
            self._add(atom, seed, None)
        for equation, vjp, names in reversed(self._recorded):
            smooth = [v for v in equation.outputs if is_inexact(v)]
            if not any(v in self.cotangent for v in smooth):
                continue
            given = [self.gradient(v) for v in smooth]
            names = names | dict(zip(vjp.cotangents, given, strict=True))
            made, gradients = inlined(vjp.reverse, names, equation.source)
            self.reverse += made
            found = iter(gradients)
            for n, gradient in zip(vjp.wrt, vjp.gradients, strict=True):
                g = None if gradient is None else next(found)
                if g is not None and equation.inputs[n] not in self.parameters:
                    self._add(equation.inputs[n], g, equation.source)
            if self.parameters.intersection(values_of(equation.inputs)):
                self.uses.append((equation, vjp, given))
        self.uses.reverse()

    def gradient(self, value: Any) -> Any:
        """The cotangent of a value, zeros if there is none."""
        if value not in self.cotangent:
            made, (zeros,) = build(lambda: [jnp.zeros(value.aval.shape, value.aval.dtype)], [], None)
            self.reverse += made
            return zeros
        return self.cotangent[value]

    def _add(self, atom: Any, gradient: Any, source: Any) -> None:
        if is_literal(atom):
            return
        if atom in self.cotangent:
            total = Value(atom.aval)
            terms = (self.cotangent[atom], gradient)
            self.reverse.append(Equation(jax.lax.add_p, terms, (total,), {}, source))
            gradient = total
        self.cotangent[atom] = gradient


def _divide(
    split: Split,
    equations: Sequence[Equation],
    outputs: Sequence[Any],
    contacts: Sequence[ParameterUse],
    *,
    cotangents: Sequence[Any],
    of_state: Sequence[Any],
    of_lifted: Sequence[Any],
    constants: Env,
) -> Derivative:
    """Divide the equations of a step and its pull-back between the two loops."""
    sources = dict.fromkeys((*split.lifted, *split.state), FORWARD) | dict.fromkeys(
        cotangents, REVERSE
    )
    levels = dependence(equations, sources)

    def level(value: Any) -> int:
        return levels.get(value, SHARED)

    def level_of(equation: Equation) -> int:
        return max(map(level, values_of(equation.outputs)), default=SHARED)

    def again(equation: Equation) -> int:
        """Bytes that computing an equation once more costs: three quarters of its result if that is slow to compute."""
        costly = level_of(equation) == FORWARD and equation.name in TRANSCENDENTAL
        return 3 * sum(map(size_in_bytes, equation.outputs)) // 4 if costly else 0

    asked = [g for g in (*of_lifted, *(g for c in contacts for g in c.cotangents)) if g is not None]
    streamed = cotangents[
        sum(map(is_inexact, split.next_state)) :
    ]  # those of what is emitted come stacked already
    # A rule may give a cotangent that does not depend on the one it was given: then it need not come from the loop.
    maker = {v: equation for equation in equations for v in equation.outputs}
    apart = [g for g in values_of(asked) if level(g) != REVERSE and not is_zero(g, maker)]
    same = (*constants, *split.shared)
    operands = [
        v
        for v in values_of((*(v for c in contacts for v in c.operands if v is not None), *apart))
        if level(v) == FORWARD or v in maker or v in same
    ]
    crossing = min_cut(
        equations,
        early=[e for e in equations if level_of(e) == FORWARD and is_heavy(e)],
        late=[e for e in equations if level_of(e) == REVERSE],
        wanted=operands,
        free=lambda v: level(v) != FORWARD,
        again=again,
        latest=True,
    )
    stacked = [g for g in values_of(asked) if level(g) == REVERSE and g not in streamed]
    saved = tuple(v for v in crossing if v not in split.lifted)
    given = (*same, *split.lifted, *split.state)
    return Derivative(
        split,
        forward=extract(equations, (*outputs, *saved), given),
        reverse=extract(equations, (*of_state, *stacked), (*same, *crossing, *cotangents)),
        recover=extract(equations, operands, (*same, *crossing)),
        again=extract(equations, saved, given),
        saved=saved,
        stacked=tuple(stacked),
        contacts=tuple(contacts),
        cotangents=tuple(cotangents),
        of_lifted=tuple(None if g is None or is_zero(g, maker) else g for g in of_lifted),
        constants=constants,
    )


def summed(derivative: Derivative, sums: Callable[[Equation], bool]) -> Derivative:
    """The same, where the reverse loop itself sums up the gradients of parameters, if ``sums`` allows each equation of that."""
    split = derivative.split
    equations = [*dict.fromkeys((*derivative.reverse.equations, *derivative.recover.equations))]
    totals: list[tuple[Any, int]] = []
    operands: list[Any] = []
    there = {v for e in equations for v in e.outputs} | {
        *derivative.cotangents,
        *derivative.constants,
        *derivative.lifted,
    }
    there |= {
        *derivative.reverse.inputs,
        *derivative.recover.inputs,
        *split.parameters,
        *split.steps,
    }

    def add(parameters: Sequence[Any], step: Graph | None) -> bool:
        found = None if step is None else _summands(step, sums)
        if found is not None and not there.issuperset(
            inputs_of(found[1], [v for some in found[0] for v in some])
        ):
            found = None  # a cotangent that is zero as it is written is not kept
        if found is not None:
            equations.extend(found[1])
            totals.extend((v, len(some)) for v, some in zip(parameters, found[0], strict=True))
            operands.extend(atom for some in found[0] for atom in some)
        return found is not None

    contacts = [
        c
        for c in derivative.contacts
        if any(map(is_literal, c.cotangents)) or not add(c.parameters, c.step)
    ]
    of_lifted, lifting = derivative.of_lifted, _pull_back_of_lifting(derivative)
    sums_before = lifting is not None and add(*lifting)
    if sums_before and not split.moving.intersection(split.steps):
        of_lifted = (None,) * len(of_lifted)
    # What is left is what `Derivative.reverse` and `Derivative.recover` gave for the other contacts and for what is lifted.
    asked = {*values_of(v for c in contacts for v in (*c.operands, *c.cotangents) if v is not None)}
    asked |= {*values_of(g for g in of_lifted if g is not None)}
    stacked = tuple(v for v in derivative.stacked if v in asked)
    of_state = derivative.reverse.outputs[
        : len(derivative.reverse.outputs) - len(derivative.stacked)
    ]
    outputs = (*of_state, *stacked, *operands)
    recovered = tuple(v for v in derivative.recover.outputs if v in asked)
    return replace(
        derivative,
        reverse=extract(toposort(equations), outputs, inputs_of(equations, outputs)),
        recover=extract(derivative.recover.equations, recovered, derivative.recover.inputs),
        stacked=stacked,
        contacts=tuple(contacts),
        of_lifted=of_lifted,
        totals=tuple(totals),
        sums_before=sums_before,
    )


def _pull_back_of_lifting(derivative: Derivative) -> tuple[list[Any], Graph | None] | None:
    """The parameters that what is lifted is made of, and from its cotangents theirs, in one step; ``None`` if there are none."""
    before = derivative.split.before
    of = {
        v: g
        for v, g in zip(derivative.split.lifted, derivative.of_lifted, strict=True)
        if v in before.outputs
    }
    of = {v: g for v, g in of.items() if g is not None}
    parameters = [
        v
        for v in before.inputs
        if v in derivative.split.moving and v in derivative.split.parameters
    ]
    if not parameters or not of:
        return None
    graph = extract(before.equations, list(of), before.inputs)
    parameters = [v for v in parameters if v in graph.inputs]
    step = None if any(map(is_literal, of.values())) else pull_back_of_a_step(graph, parameters)
    if step is not None:
        step = substitute(
            step, dict(zip(step.inputs[len(graph.inputs) :], of.values(), strict=True))
        )
    return parameters, step


def _summands(
    graph: Graph, sums: Callable[[Equation], bool]
) -> tuple[list[tuple[Any, ...]], tuple[Equation, ...]] | None:
    """For each output the operands of its outer product, or itself alone, and what computes them; ``None`` if ``sums`` forbids."""
    maker = {v: equation for equation in graph.equations for v in equation.outputs}
    found = [_factors(atom, maker) for atom in graph.outputs]
    wanted = [atom for some in found for atom in some]
    needed = extract(graph.equations, wanted, inputs_of(graph.equations, wanted)).equations
    wide = any(math.prod(some[0].aval.shape) > WIDEST for some in found if len(some) == 1)
    return None if wide or not all(map(sums, needed)) else (found, needed)


def _factors(atom: Any, maker: dict[Any, Equation]) -> tuple[Any, ...]:
    """The two vectors whose outer product a value is, or the value."""
    equation, turned = maker.get(atom) if not is_literal(atom) else None, False
    while (
        equation is not None
        and equation.name == "transpose"
        and equation.params["permutation"] == (1, 0)
    ):
        turned = not turned
        equation = maker.get(equation.inputs[0])
    if (
        equation is None
        or equation.name != "dot_general"
        or any(v.aval.ndim != 1 for v in equation.inputs)
    ):
        return (atom,)
    if any(equation.params["dimension_numbers"][0]) or any(equation.params["dimension_numbers"][1]):
        return (atom,)
    return equation.inputs[::-1] if turned else equation.inputs
