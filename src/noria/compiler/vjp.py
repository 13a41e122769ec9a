"""One step and its pull-back, differentiated equation by equation.

The reverse loop carries cotangents of the state only. An equation that reads a parameter is a
`ParameterUse`: the reverse loop stacks the cotangent of its result, and the gradient of the
parameter is one contraction over time and batch, after the loop::

    loop      a_t = f(p, z_t)                            p a parameter, z_t of the state
    reverse   g_t = dL/da_t                              stacked
    after     dL/dp = sum over t of (df/dp)(z_t)^T g_t   the pull-back of f, mapped over time

A backend with accumulators sums it in the reverse loop (`noria.compiler.accumulate`).
`noria.compiler.residuals` divides the equations between the two loops and the code after.
"""

from dataclasses import replace

import jax
import jax.tree_util as jtu

from noria.compiler.contractions import canonical_contractions
from noria.compiler.equation_vjp import EquationVJP, equation_vjps, zeros_of
from noria.compiler.levels import STATE
from noria.compiler.param_use import ParameterUse
from noria.compiler.residuals import StepVJP, divide
from noria.compiler.split import Split
from noria.ir.graph import Atom, Env, Equation, Graph, Value, is_inexact, is_literal, values_of
from noria.ir.passes import cse, dce, dependence, inlined, inputs_of
from noria.ir.primitives import LIGHT


def differentiate(split: Split, *, knows_cotangents: bool = False) -> StepVJP:
    """Differentiate one step with respect to the state, hoisted values, and parameters.

    ``knows_cotangents`` is as in `noria.compiler.residuals.divide`.
    """
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
    graph = _canonical(Graph((), tuple(atoms), (*tape.forward, *tape.reverse)))
    outputs, parts, of_state, of_hoisted = jtu.tree_unflatten(tree, graph.outputs)
    return divide(
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
        knows_cotangents=knows_cotangents,
    )


def _active(graph: Graph) -> list[Equation]:
    """The equations through which derivatives pass.

    A primitive without a derivative may follow ``stop_gradient``; it is not differentiated.
    """
    return [
        e for e in graph.equations if e.name != "stop_gradient" and any(map(is_inexact, e.outputs))
    ]


def _canonical(graph: Graph) -> Graph:
    """A graph without common subexpressions, and with products in the form of a step.

    The pull-backs of parameters, which are not summed here, are dead code. All inputs count as
    state: a weight is not transposed in each step.
    """
    graph = cse(graph, LIGHT)
    inputs = inputs_of(graph.equations, graph.outputs)
    graph = dce(replace(graph, inputs=tuple(inputs)))
    return canonical_contractions(graph, dict.fromkeys(inputs, STATE))


class _Tape:
    """Reverse-mode differentiation of a loop body, equation by equation (Wengert 1964).

    ``forward`` computes the body under new names, and the residuals of each equation. ``reverse``
    computes the cotangents of the inputs from the ``seeds``, the cotangents of the inexact outputs.
    A cotangent of a parameter is not summed here: each equation that reads one is in ``uses``.
    """

    def __init__(self, split: Split):
        loop, differentiable = split.loop, split.differentiable
        moves = dependence(_active(split.prologue), dict.fromkeys(differentiable, 1))
        self.loop, self.shared = loop, frozenset(split.shared)
        self.parameters = differentiable & self.shared
        self.hoisted = {v for v in split.hoisted if moves.get(v) and is_inexact(v)}
        inputs = (*self.parameters, *self.hoisted, *filter(is_inexact, split.state))
        self._depends = dependence(_active(loop), dict.fromkeys(inputs, 1))
        self._names: dict[Value, Atom] = {}
        self._recorded: list[tuple[Equation, EquationVJP, dict[Value, Atom]]] = []
        self.seeds = [Value(v.aval) for v in loop.outputs if is_inexact(v)]
        self.forward: list[Equation] = []
        self.reverse: list[Equation] = []
        self.cotangent: dict[Value, Atom] = {}
        self.uses: list[tuple[Equation, EquationVJP, list[Atom]]] = []
        self.constants: Env = {}

    def now(self, atom: Atom) -> Atom:
        """The atom of ``forward`` that replaces an atom of the loop."""
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
        """The positions of the inputs with respect to which an equation is differentiated."""
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
            made, zeros = zeros_of(value, None)
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
