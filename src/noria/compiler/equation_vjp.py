"""The vector-Jacobian product of one equation, as equations.

`jax.vjp` of the equation is traced once for each kind of equation: a step with three sigmoids of one
shape traces the rule of the sigmoid once. That is most of what differentiating a step costs.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria.ir.build import build, graph_of
from noria.ir.graph import Atom, Env, Equation, Graph, Value, env_of, is_inexact, is_literal, struct
from noria.ir.passes import dependence, extract, inlined, inputs_of


@dataclass(frozen=True, eq=False)
class EquationVJP:
    """One equation and its pull-back, with names of their own.

    =========== ============================================ ==========================================
    ``forward`` ``constants``, inputs of the equation        its outputs, then residuals
    ``reverse`` ``constants``, inputs, residuals, cotangents cotangents of the differentiable inputs
    =========== ============================================ ==========================================

    ``constants`` are arrays that a derivative rule closes over. ``cotangents`` are those of the
    inexact outputs. An output of ``reverse`` is ``None`` where the cotangent is zero as written.
    """

    wrt: tuple[int, ...]
    inputs: tuple[Value, ...]
    cotangents: tuple[Value, ...]
    forward: Graph
    reverse: Graph
    gradients: tuple[Atom | None, ...]
    constants: Env

    def named(self, equation: Equation, inputs: Sequence[Atom]) -> dict[Any, Atom]:
        """Arguments of ``equation`` by the names of the inputs here."""
        pairs = zip(equation.inputs, inputs, strict=True)
        return dict(zip(self.inputs, (a for v, a in pairs if not is_literal(v)), strict=True))

    def of_parameters(
        self,
        equation: Equation,
        parameters: Sequence[Value],
        inputs: Sequence[Atom],
        cotangents: Sequence[Atom],
    ) -> Graph:
        """From ``inputs`` and ``cotangents`` of an equation to the cotangents of its parameters."""
        names = self.named(equation, inputs)
        equations, outputs = inlined(self.forward, names, equation.source)
        names |= dict(zip(self.forward.outputs, outputs, strict=True))
        names |= dict(zip(self.cotangents, cotangents, strict=True))
        made, gradients = inlined(self.reverse, names, equation.source)
        equations += made
        rest = iter(gradients)
        total: dict[Any, Atom] = {}
        for n, gradient in zip(self.wrt, self.gradients, strict=True):
            g = None if gradient is None else next(rest)
            value = equation.inputs[n]
            if g is not None and value in parameters:
                if value in total:
                    more, (g,) = build(lambda a, b: [a + b], [total[value], g], equation.source)
                    equations += more
                total[value] = g
        for value in parameters:
            if value not in total:
                more, (total[value],) = build(partial(_zeros, value), [], equation.source)
                equations += more
        outputs = [total[value] for value in parameters]
        return extract(equations, outputs, inputs_of(equations, outputs))


def _zeros(value: Value) -> list[jax.Array]:
    return [jnp.zeros(value.aval.shape, value.aval.dtype)]


class EquationVJPs:
    """Pull-backs of equations, traced once for all that differ in their values only."""

    def __init__(self) -> None:
        self._traced: dict[Hashable, EquationVJP] = {}

    def of(self, equation: Equation, wrt: Sequence[int]) -> EquationVJP:
        """The pull-back with respect to some inputs, given by their positions."""
        key = _key(equation, wrt)
        if key is None:
            return _trace(equation, wrt)
        if key not in self._traced:
            self._traced[key] = _trace(equation, wrt)
        return self._traced[key]


def _key(equation: Equation, wrt: Sequence[int]) -> Hashable:
    """Equal for equations with the same pull-back; ``None`` for one that is traced on its own."""
    atoms = [
        (np.asarray(a.val).tobytes(), a.aval) if is_literal(a) else a.aval for a in equation.inputs
    ]
    params = tuple(sorted(equation.params.items()))
    if any(callable(value) or hasattr(value, "eqns") for _, value in params):
        return None
    key = equation.primitive, params, tuple(atoms), tuple(wrt)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _trace(equation: Equation, wrt: Sequence[int]) -> EquationVJP:
    values = [n for n, atom in enumerate(equation.inputs) if not is_literal(atom)]

    def pulled(arrays: list[Any], cotangents: list[Any]) -> Any:
        given = [a.val if is_literal(a) else None for a in equation.inputs]
        for n, array in zip(values, arrays, strict=True):
            given[n] = array

        def function(some: list[Any]) -> Any:
            inputs = list(given)
            for n, array in zip(wrt, some, strict=True):
                inputs[n] = array
            outputs = equation.bind(*inputs)
            smooth = [a for v, a in zip(equation.outputs, outputs, strict=True) if is_inexact(v)]
            return smooth, outputs

        _, pull, outputs = jax.vjp(function, [given[n] for n in wrt], has_aux=True)
        return outputs, pull(cotangents)[0]

    args = [struct(equation.inputs[n]) for n in values]
    ends = [struct(v) for v in equation.outputs if is_inexact(v)]
    graph, arrays, tree = graph_of(pulled, args, ends)
    hidden = graph.inputs[: len(arrays)]
    inputs = graph.inputs[len(arrays) : len(arrays) + len(args)]
    cotangents = graph.inputs[len(arrays) + len(args) :]
    outputs, gradients = jtu.tree_unflatten(tree, graph.outputs)
    maker = {v: e for e in graph.equations for v in e.outputs}
    gradients = tuple(None if is_zero(g, maker) else g for g in gradients)
    wanted = [g for g in gradients if g is not None]
    depends = dependence(graph.equations, dict.fromkeys(cotangents, 1))
    late = [e for e in graph.equations if any(depends[v] for v in e.outputs)]
    early = [e for e in graph.equations if e not in late]
    reverse = extract(late, wanted, [*graph.inputs, *(v for e in early for v in e.outputs)])
    made = {v for e in early for v in e.outputs}
    residuals = [v for v in (*reverse.inputs, *wanted) if not is_literal(v) and v in made]
    forward = extract(early, (*outputs, *dict.fromkeys(residuals)), (*hidden, *inputs))
    constants = env_of(hidden, arrays)
    return EquationVJP(tuple(wrt), inputs, cotangents, forward, reverse, gradients, constants)


def is_zero(atom: Atom, maker: dict[Value, Equation]) -> bool:
    """Whether a value is zero as written: a literal zero, or one that is broadcast."""
    while not is_literal(atom):
        equation = maker.get(atom)
        if equation is None or equation.name != "broadcast_in_dim":
            return False
        atom = equation.inputs[0]
    return not np.any(atom.val)
