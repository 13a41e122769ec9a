"""One step and its pull-back, divided between a forward loop, a reverse loop, and what follows the loops.

Where parameters enter an equation of the loop there is a contact. The reverse loop stacks the cotangent of what the
contact gave; the gradient of its parameters is then one contraction over time and batch, after the loop. That holds
for any equation, since the contraction is the equation's own pull-back, taken over all steps at once::

    loop      a_t = f(p, z_t)                            a contact: p a parameter, z_t of the state
    reverse   g_t = dL/da_t                              stacked
    after     dL/dp = sum over t of (df/dp)(z_t)^T g_t   the pull-back of f, mapped over time while p is not

What is kept for the reverse loop is chosen by `noria.compiler.frontier`: the values from which it can be computed
without a product and with the fewest bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria.compiler.cotangents import or_zeros
from noria.compiler.frontier import LIGHT, TRANSCENDENTAL, frontier, is_heavy
from noria.compiler.split import Split
from noria.graph import (
    Equation,
    Graph,
    Known,
    cut_out,
    dependence,
    evaluate,
    graph_of,
    is_inexact,
    is_literal,
    named,
    share,
    size_in_bytes,
    struct,
    substitute,
    values_of,
)

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
        arrays = [cotangent_array(g, varying, axes) for g in self.cotangents]
        if all(a is None for a in arrays):
            return {}
        local: Known = {}
        for value, operand in zip(self.equation.inputs, self.operands, strict=True):
            if operand is not None:
                local[value] = jnp.asarray(operand.val) if is_literal(operand) else varying[operand]
        graph = cut_out([self.equation], outputs, values_of(self.equation.inputs))

        def contact(parameters: list[Any]) -> list[Any]:
            return evaluate(graph, known | named(self.parameters, parameters), local, axes)

        values, pull = jax.vjp(contact, [known[v] for v in self.parameters])
        (found,) = pull([or_zeros(a, value) for a, value in zip(arrays, values, strict=True)])
        return named(self.parameters, found)


@dataclass(frozen=True, eq=False)
class Derivative:
    """One step and its pull-back.

    =========== ====================================== ================================================================
    ``forward`` shared, lifted, state                  next state, emitted, ``saved``
    ``reverse`` shared, lifted, ``saved``, cotangents  cotangents of the state, ``stacked``
    ``recover`` shared, lifted, ``saved``              operands of the contacts that were cheaper to compute again
    ``again``   shared, lifted, state                  ``saved``
    =========== ====================================== ================================================================

    ``cotangents`` are the values for the cotangents of the loop's inexact outputs, ``of_lifted`` those of what is
    lifted, ``None`` where nobody asked. ``constants`` are arrays that derivative rules close over.
    """

    split: Split
    forward: Graph
    reverse: Graph
    recover: Graph
    again: Graph
    saved: tuple[Any, ...]
    stacked: tuple[Any, ...]
    contacts: tuple[Contact, ...]
    cotangents: tuple[Any, ...]
    of_lifted: tuple[Any, ...]
    constants: Known

    @property
    def states(self) -> tuple[Any, ...]:
        """The states from which, with what is lifted, all that is saved can be computed again."""
        return tuple(v for v in self.split.state if v in self.again.inputs or v in self.saved)

    @property
    def lifted(self) -> tuple[Any, ...]:
        """What is needed of the lifted values besides what is saved."""
        return tuple(v for v in self.split.lifted if v in self.reverse.inputs or v in self.recover.inputs)


def derive(split: Split, shared_perturbed: Sequence[bool], lifted_perturbed: Sequence[bool]) -> Derivative:
    """Differentiate one step with respect to the state, what is perturbed of the lifted values, and at the contacts."""
    loop = split.loop
    moving = {v for v, p in zip(split.shared, shared_perturbed, strict=True) if p and is_inexact(v)}
    touched = [
        e for e in loop.equations if moving.intersection(values_of(e.inputs)) and any(map(is_inexact, e.outputs))
    ]
    wanted = [v for v, p in zip(split.lifted, lifted_perturbed, strict=True) if p and is_inexact(v)]
    smooth = [v for v in split.state if is_inexact(v)]
    same = {*split.shared}

    def step(shared: list[Any], lifted: list[Any], state: list[Any], cotangents: list[Any]) -> Any:
        known = named((*split.shared, *split.lifted, *split.state), (*shared, *lifted, *state))

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

            inputs = known | named((*smooth, *wanted), some)
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
        constants=named(hidden, arrays),
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

    asked = [g for g in (*of_lifted, *(g for c in contacts for g in c.cotangents)) if g is not None]
    streamed = cotangents[sum(map(is_inexact, split.next_state)) :]  # those of what is emitted come stacked already
    # A rule may give a cotangent that does not depend on the one it was given: then it need not come from the loop.
    maker = {v: equation for equation in equations for v in equation.outputs}
    apart = [g for g in values_of(asked) if level(g) != REVERSE and not _is_zero(g, maker)]
    same = (*constants, *split.shared)
    operands = [
        v
        for v in values_of((*(v for c in contacts for v in c.operands if v is not None), *apart))
        if level(v) == FORWARD or v in maker or v in same
    ]
    crossing = frontier(
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
        forward=cut_out(equations, (*outputs, *saved), given),
        reverse=cut_out(equations, (*of_state, *stacked), (*same, *crossing, *cotangents)),
        recover=cut_out(equations, operands, (*same, *crossing)),
        again=cut_out(equations, saved, given),
        saved=saved,
        stacked=tuple(stacked),
        contacts=tuple(contacts),
        cotangents=tuple(cotangents),
        of_lifted=tuple(None if g is None or _is_zero(g, maker) else g for g in of_lifted),
        constants=constants,
    )


def _is_zero(atom: Any, maker: dict[Any, Equation]) -> bool:
    """Whether a value is zero as it is written."""
    if is_literal(atom):
        return not np.any(atom.val)
    equation = maker.get(atom)
    return equation is not None and equation.name == "broadcast_in_dim" and _is_zero(equation.inputs[0], maker)


def cotangent_array(cotangent: Any, varying: Known, axes: tuple[int, ...]) -> Any:
    """The array of a cotangent that may be a number; ``None`` for zero."""
    if not is_literal(cotangent):
        return varying.get(cotangent)
    return jnp.full(axes, cotangent.val, cotangent.aval.dtype) if np.any(cotangent.val) else None
