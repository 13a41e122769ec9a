"""The residuals of a step: the values that the forward loop stores for the reverse loop.

The reverse loop carries cotangents of the state only. The residuals are a minimum cut between the
equations of the step and of its pull-back. They are the values with the fewest bytes from which the
reverse loop can be computed. A product with a parameter is never computed again, nor is a product
that is no larger than its operands.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from noria.compiler.min_cut import min_cut
from noria.compiler.param_use import ParameterUse
from noria.compiler.split import Split
from noria.ir.graph import (
    Atom,
    Env,
    Equation,
    Graph,
    Value,
    is_inexact,
    is_literal,
    size_in_bytes,
    values_in,
    values_of,
)
from noria.ir.passes import dependence, extract, is_zero, producers
from noria.ir.primitives import TRANSCENDENTAL, expands, is_heavy

SHARED, FORWARD, REVERSE = range(3)


class ResidualRef(NamedTuple):
    """The place of a residual: array ``stack`` among the arrays that the forward loop stacks.

    With ``carried_from`` it is the state of this number before the step, a `PreviousStep`.
    """

    stack: int
    carried_from: int | None


@dataclass(frozen=True, eq=False)
class StepVJP:
    """One step and its pull-back.

    ================= ======================================= ====================================
    ``forward``       shared, hoisted, state                  next state, emitted, ``residuals``
    ``reverse``       shared, hoisted, residuals, cotangents  cotangents of the state, ``stacked``
    ``rematerialize`` shared, hoisted, residuals              operands of uses, not stored
    ``recompute``     shared, hoisted, state                  ``residuals``
    ================= ======================================= ====================================

    Attributes:
        split: the parts of the step.
        uses: the equations of the loop that read parameters, without accumulated ones.
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
    def streamed(self) -> tuple[Value, ...]:
        """The cotangents of emitted values: arrays of all steps."""
        return self.cotangents[sum(map(is_inexact, self.split.next_state)) :]

    @property
    def states(self) -> tuple[Value, ...]:
        """The states from which, with hoisted values, all residuals can be computed again.

        Those that no step changes are not among them.
        """
        needed = {*self.recompute.inputs, *self.residuals}.difference(self.split.unchanged)
        return tuple(v for v in self.split.state if v in needed)

    @property
    def hoisted(self) -> tuple[Value, ...]:
        """The hoisted values that are needed besides the residuals."""
        needed = {*self.reverse.inputs, *self.rematerialize.inputs}
        return tuple(v for v in self.split.hoisted if v in needed)

    def places(self, previous: bool) -> tuple[tuple[Value, ...], dict[Value, ResidualRef]]:
        """The residuals that the forward loop must store, and the places of all that change.

        Emitted values are not stored again. Nor is the state before a step, if its next state is
        emitted or stored, and the backend reads the ``previous`` step.
        """
        width = len(self.split.state)
        following, emitted = (
            self.forward.outputs[:width],
            self.forward.outputs[width : width + len(self.split.emitted)],
        )
        at = {v: n for n, v in reversed([*enumerate(emitted)]) if not is_literal(v)}
        pairs = zip(self.split.state, values_in(following), strict=True)
        before = dict(pairs) if previous else {}
        there, unchanged = [*at, *self.residuals], self.split.unchanged
        changing = [v for v in self.residuals if v not in unchanged]
        late = [
            v
            for v in changing
            if before.get(v) in there and v not in at and before[v] not in before
        ]
        own = tuple(v for v in changing if v not in at and v not in late)
        at |= {v: len(emitted) + n for n, v in enumerate(own)}
        found = {v: ResidualRef(at[v], None) for v in changing if v not in late}
        found |= {v: ResidualRef(at[before[v]], self.split.state.index(v)) for v in late}
        return own, found


def divide(
    split: Split,
    equations: Sequence[Equation],
    outputs: Sequence[Atom],
    uses: Sequence[ParameterUse],
    *,
    cotangents: Sequence[Value],
    of_state: Sequence[Atom],
    of_hoisted: Sequence[Atom | None],
    constants: Env,
    knows_cotangents: bool = False,
) -> StepVJP:
    """Divide the equations of a step and its pull-back between the two loops.

    With ``knows_cotangents`` the cotangents of emitted values are inputs of the forward loop too,
    and of ``rematerialize``, see `noria.compiler.rerun`.
    """
    streamed = cotangents[sum(map(is_inexact, split.next_state)) :]
    inputs = dict.fromkeys(cotangents, REVERSE)
    inputs |= dict.fromkeys((*split.hoisted, *split.state), FORWARD)
    if knows_cotangents:
        inputs |= dict.fromkeys(streamed, FORWARD)
    levels = dependence(equations, inputs)
    maker = producers(equations)

    def level_of(equation: Equation) -> int:
        return max((levels.get(v, SHARED) for v in equation.outputs), default=SHARED)

    def nonzero(cotangents: Iterable[Atom | None]) -> tuple[Atom | None, ...]:
        return tuple(None if g is None or is_zero(g, maker) else g for g in cotangents)

    def is_stored(equation: Equation) -> bool:
        """Whether an equation is never computed again."""
        constant = any(levels.get(v, SHARED) == SHARED for v in values_of(equation.inputs))
        return is_heavy(equation) and (constant or not expands(equation))

    of_hoisted = nonzero(of_hoisted)
    uses = [replace(use, cotangents=nonzero(use.cotangents)) for use in uses]
    uses = [use for use in uses if any(g is not None for g in use.cotangents)]
    wanted = [*of_hoisted, *(g for use in uses for g in use.cotangents)]
    asked = list(values_of(g for g in wanted if g is not None))
    shared = (*constants, *split.shared)
    operands = _operands(asked, uses, levels, maker, shared)
    # A rule may give a cotangent that reads the forward pass only.
    known_before = [v for v in values_of(of_state) if levels.get(v, SHARED) == FORWARD]
    crossing = min_cut(
        equations,
        early=[e for e in equations if level_of(e) == FORWARD and is_stored(e)],
        late=[e for e in equations if level_of(e) == REVERSE],
        wanted=[*operands, *known_before],
        free=lambda v: levels.get(v, SHARED) != FORWARD,
        recompute_cost=lambda e: _recompute_cost(e) if level_of(e) == FORWARD else 0,
        prefer_early=True,
    )
    # Cotangents of emitted values come stacked already.
    stacked = [g for g in asked if levels.get(g, SHARED) == REVERSE and g not in streamed]
    residuals = tuple(v for v in crossing if v not in split.hoisted and v not in streamed)
    known = streamed if knows_cotangents else ()
    given = (*shared, *split.hoisted, *split.state, *known)
    return StepVJP(
        split,
        forward=extract(equations, (*outputs, *residuals), given),
        reverse=extract(equations, (*of_state, *stacked), (*shared, *crossing, *cotangents)),
        rematerialize=extract(equations, operands, (*shared, *crossing, *known)),
        recompute=extract(equations, residuals, given),
        residuals=residuals,
        stacked=tuple(stacked),
        uses=tuple(uses),
        cotangents=tuple(cotangents),
        of_hoisted=of_hoisted,
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
    # The cotangent that a rule returns may not depend on its argument.
    early = [g for g in asked if levels.get(g, SHARED) != REVERSE]
    read = values_of((*(v for use in uses for v in use.operands if v is not None), *early))
    return [v for v in read if levels.get(v, SHARED) == FORWARD or v in maker or v in shared]


def _recompute_cost(equation: Equation) -> int:
    """Bytes that the minimum cut charges for computing an equation again.

    A transcendental function is computed again only if that saves more than three quarters of the
    size of its result.
    """
    if equation.name not in TRANSCENDENTAL:
        return 0
    return 3 * sum(map(size_in_bytes, equation.outputs)) // 4
