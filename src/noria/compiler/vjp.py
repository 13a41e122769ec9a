"""One step and its pull-back, divided between a forward loop, a reverse loop, and the code after.

The reverse loop carries cotangents of the state only. An equation that reads a parameter is a
`ParameterUse`: the reverse loop stacks the cotangent of its result, and the gradient of the
parameter is one contraction over time and batch, after the loop::

    loop      a_t = f(p, z_t)                            p a parameter, z_t of the state
    reverse   g_t = dL/da_t                              stacked
    after     dL/dp = sum over t of (df/dp)(z_t)^T g_t   the pull-back of f, mapped over time

A backend with accumulators sums it in the reverse loop (`noria.compiler.accumulate`). Residuals,
which the forward loop keeps for the reverse loop, are a minimum cut: the values from which the
reverse loop can be computed without a product, and with the fewest bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria.compiler.equation_vjp import EquationVJP, equation_vjps, is_zero
from noria.compiler.min_cut import min_cut
from noria.compiler.param_use import ParameterUse
from noria.compiler.split import Split
from noria.ir.build import build
from noria.ir.graph import (
    Atom,
    Env,
    Equation,
    Graph,
    Value,
    is_inexact,
    is_literal,
    size_in_bytes,
    values_of,
)
from noria.ir.passes import cse, dependence, extract, inlined
from noria.ir.primitives import LIGHT, TRANSCENDENTAL, is_heavy

SHARED, FORWARD, REVERSE = range(3)


class ResidualRef(NamedTuple):
    """Where a residual is found: in array ``stack`` of all that the forward loop stacks.

    With ``carried_from`` it is the state of this number, read one step late.
    """

    stack: int
    carried_from: int | None


@dataclass(frozen=True, eq=False)
class StepVJP:
    """One step and its pull-back.

    ================= ======================================= ====================================
    ``forward``       shared, hoisted, state                  next state, emitted, ``residuals``
    ``reverse``       shared, hoisted, residuals, cotangents  cotangents of the state, ``stacked``
    ``rematerialize`` shared, hoisted, residuals              operands of uses not worth storing
    ``recompute``     shared, hoisted, state                  ``residuals``
    ================= ======================================= ====================================

    Attributes:
        split: the parts of the step.
        uses: the equations of the loop that read parameters, but for those that are accumulated.
        cotangents: the inputs of ``reverse`` for cotangents of the loop's inexact outputs.
        of_hoisted: the cotangents of the hoisted values, ``None`` for zero.
        constants: arrays that derivative rules close over.
        accumulators: parameters whose gradients the reverse loop sums, each with the number of its
            operands, which are the last outputs of ``reverse``.
        accumulates_prologue: whether these include gradients by way of hoisted values.
    """

    split: Split
    forward: Graph
    reverse: Graph
    rematerialize: Graph
    recompute: Graph
    residuals: tuple[Value, ...]
    stacked: tuple[Value, ...]
    uses: tuple[ParameterUse, ...]
    cotangents: tuple[Value, ...]
    of_hoisted: tuple[Atom | None, ...]
    constants: Env
    accumulators: tuple[tuple[Value, int], ...] = ()
    accumulates_prologue: bool = False

    @property
    def states(self) -> tuple[Value, ...]:
        """The states from which, with hoisted values, all residuals can be computed again."""
        needed = {*self.recompute.inputs, *self.residuals}
        return tuple(v for v in self.split.state if v in needed)

    @property
    def hoisted(self) -> tuple[Value, ...]:
        """The hoisted values that are needed besides the residuals."""
        needed = {*self.reverse.inputs, *self.rematerialize.inputs}
        return tuple(v for v in self.split.hoisted if v in needed)

    def stored(self, previous: bool) -> tuple[tuple[Value, ...], dict[Value, ResidualRef]]:
        """The residuals that the forward loop must store, and where all of them are found.

        What is emitted is not stored again. Nor is the state before a step, if its next state is
        emitted or stored, and the backend reads the ``previous`` step.
        """
        width = len(self.split.state)
        following, emitted = (
            self.forward.outputs[:width],
            self.forward.outputs[width : width + len(self.split.emitted)],
        )
        at = {v: n for n, v in reversed([*enumerate(emitted)]) if not is_literal(v)}
        before = dict(zip(self.split.state, following, strict=True)) if previous else {}
        there = [*at, *self.residuals]
        late = [
            v
            for v in self.residuals
            if before.get(v) in there and v not in at and before[v] not in before
        ]
        own = tuple(v for v in self.residuals if v not in at and v not in late)
        at |= {v: len(emitted) + n for n, v in enumerate(own)}
        found = {v: ResidualRef(at[v], None) for v in self.residuals if v not in late}
        found |= {v: ResidualRef(at[before[v]], self.split.state.index(v)) for v in late}
        return own, found


def differentiate(split: Split) -> StepVJP:
    """Differentiate one step with respect to the state, hoisted values, and parameters."""
    tape = _Tape(split)
    tape.run_forward()
    tape.run_reverse()
    outputs = [tape.now(v) for v in split.loop.outputs]
    uses = [
        (e, vjp, [None if is_literal(v) or v in tape.shared else tape.now(v) for v in e.inputs], g)
        for e, vjp, g in tape.uses
    ]
    of_state = [tape.gradient(v) for v in split.state if is_inexact(v)]
    of_hoisted = [tape.cotangent.get(v) if v in tape.hoisted else None for v in split.hoisted]
    found = outputs, [(operands, g) for _, _, operands, g in uses], of_state, of_hoisted
    atoms, tree = jtu.tree_flatten(found)
    graph = cse(Graph((), tuple(atoms), (*tape.forward, *tape.reverse)), LIGHT)
    outputs, parts, of_state, of_hoisted = jtu.tree_unflatten(tree, graph.outputs)
    return _divide(
        split,
        graph.equations,
        outputs,
        [
            ParameterUse.made(
                e, vjp, [v for v in values_of(e.inputs) if v in tape.parameters], z, g
            )
            for (e, vjp, _, _), (z, g) in zip(uses, parts, strict=True)
        ],
        cotangents=tape.seeds,
        of_state=of_state,
        of_hoisted=of_hoisted,
        constants=tape.constants,
    )


class _Tape:
    """Reverse-mode differentiation of a loop body, equation by equation (Wengert 1964).

    ``forward`` computes the body again, under new names, and the residuals of each equation;
    ``reverse`` leads from the ``seeds``, the cotangents of the inexact outputs, back to the inputs.
    A cotangent of a parameter is not summed here: each equation that reads one is in ``uses``.
    """

    def __init__(self, split: Split):
        loop, differentiable = split.loop, split.differentiable
        moves = dependence(split.prologue.equations, dict.fromkeys(differentiable, 1))
        self.loop, self.shared = loop, frozenset(split.shared)
        self.parameters = differentiable & self.shared
        self.hoisted = {v for v in split.hoisted if moves.get(v) and is_inexact(v)}
        inputs = (*self.parameters, *self.hoisted, *filter(is_inexact, split.state))
        self._depends = dependence(loop.equations, dict.fromkeys(inputs, 1))
        self._names: dict[Value, Atom] = {}
        self._recorded: list[tuple[Equation, EquationVJP, dict[Value, Atom]]] = []
        self.seeds = [Value(v.aval) for v in loop.outputs if is_inexact(v)]
        self.forward: list[Equation] = []
        self.reverse: list[Equation] = []
        self.cotangent: dict[Value, Atom] = {}
        self.uses: list[tuple[Equation, EquationVJP, list[Atom]]] = []
        self.constants: Env = {}

    def now(self, atom: Atom) -> Atom:
        """The value of ``forward`` that stands for a value of the loop."""
        return atom if is_literal(atom) else self._names.get(atom, atom)

    def run_forward(self) -> None:
        wrt = {e: self._differentiable_inputs(e) for e in self.loop.equations}
        kinds = [(e, some) for e, some in wrt.items() if some]
        vjps = {e: vjp for (e, _), vjp in zip(kinds, equation_vjps(kinds), strict=True)}
        for equation in self.loop.equations:
            vjp = vjps.get(equation)
            inputs = [self.now(atom) for atom in equation.inputs]
            if vjp is None:
                self.forward.append(replace(equation, inputs=tuple(inputs)))
                continue
            names = vjp.named(equation, inputs)
            made, outputs = inlined(vjp.forward, names, equation.source)
            self.forward += made
            self._names.update(zip(equation.outputs, outputs, strict=False))
            names |= vjp.computed(outputs)
            self._recorded.append((equation, vjp, names))
            self.constants |= vjp.constants

    def _differentiable_inputs(self, equation: Equation) -> tuple[int, ...]:
        """The positions of the inputs of which inexact outputs depend."""
        if not any(map(is_inexact, equation.outputs)):
            return ()
        inputs = enumerate(equation.inputs)
        return tuple(n for n, atom in inputs if self._is_differentiable(atom))

    def _is_differentiable(self, atom: Atom) -> bool:
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

    def gradient(self, value: Value) -> Atom:
        """The cotangent of a value, zeros if there is none."""
        if value not in self.cotangent:
            made, (zeros,) = build(
                lambda: [jnp.zeros(value.aval.shape, value.aval.dtype)], [], None
            )
            self.reverse += made
            return zeros
        return self.cotangent[value]

    def _add(self, atom: Atom, gradient: Atom, source: object) -> None:
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
    outputs: Sequence[Atom],
    uses: Sequence[ParameterUse],
    *,
    cotangents: Sequence[Value],
    of_state: Sequence[Atom],
    of_hoisted: Sequence[Atom | None],
    constants: Env,
) -> StepVJP:
    """Divide the equations of a step and its pull-back between the two loops."""
    inputs = dict.fromkeys((*split.hoisted, *split.state), FORWARD)
    levels = dependence(equations, inputs | dict.fromkeys(cotangents, REVERSE))
    maker = {v: equation for equation in equations for v in equation.outputs}

    def level_of(equation: Equation) -> int:
        return max((levels.get(v, SHARED) for v in equation.outputs), default=SHARED)

    wanted = [*of_hoisted, *(g for use in uses for g in use.cotangents)]
    asked = list(values_of(g for g in wanted if g is not None))
    shared = (*constants, *split.shared)
    operands = _operands(asked, uses, levels, maker, shared)
    crossing = min_cut(
        equations,
        early=[e for e in equations if level_of(e) == FORWARD and is_heavy(e)],
        late=[e for e in equations if level_of(e) == REVERSE],
        wanted=operands,
        free=lambda v: levels.get(v, SHARED) != FORWARD,
        recompute_cost=lambda e: _recompute_cost(e) if level_of(e) == FORWARD else 0,
        prefer_early=True,
    )
    # Cotangents of emitted values come stacked already.
    streamed = cotangents[sum(map(is_inexact, split.next_state)) :]
    stacked = [g for g in asked if levels.get(g, SHARED) == REVERSE and g not in streamed]
    residuals = tuple(v for v in crossing if v not in split.hoisted)
    given = (*shared, *split.hoisted, *split.state)
    return StepVJP(
        split,
        forward=extract(equations, (*outputs, *residuals), given),
        reverse=extract(equations, (*of_state, *stacked), (*shared, *crossing, *cotangents)),
        rematerialize=extract(equations, operands, (*shared, *crossing)),
        recompute=extract(equations, residuals, given),
        residuals=residuals,
        stacked=tuple(stacked),
        uses=tuple(uses),
        cotangents=tuple(cotangents),
        of_hoisted=tuple(None if g is None or is_zero(g, maker) else g for g in of_hoisted),
        constants=constants,
    )


def _operands(
    asked: Sequence[Value],
    uses: Sequence[ParameterUse],
    levels: dict[Value, int],
    maker: dict[Value, Equation],
    shared: Sequence[Value],
) -> list[Value]:
    """The values of the forward loop that the contractions after the reverse loop read."""
    # A rule may give a cotangent that does not depend on the one it was given.
    early = [g for g in asked if levels.get(g, SHARED) != REVERSE and not is_zero(g, maker)]
    read = values_of((*(v for use in uses for v in use.operands if v is not None), *early))
    return [v for v in read if levels.get(v, SHARED) == FORWARD or v in maker or v in shared]


def _recompute_cost(equation: Equation) -> int:
    """Bytes that the minimum cut charges for computing an equation again.

    A transcendental is computed again only if that saves more than three quarters of its size.
    """
    if equation.name not in TRANSCENDENTAL:
        return 0
    return 3 * sum(map(size_in_bytes, equation.outputs)) // 4
