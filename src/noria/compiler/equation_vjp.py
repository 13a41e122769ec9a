"""The vector-Jacobian product of one equation, as equations.

One call of `jax.vjp` differentiates all equations of a step. Equal equations are differentiated
once: three sigmoids of one shape trace the rule of the sigmoid once. Tracing these rules takes a
quarter of the time of tracing a training step; ``benchmarks/tracing.py`` measures it. So pull-backs
are kept, and later steps with equal equations use them again.
"""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._jax import is_symbolic, settings
from noria.ir.build import build, graph_of
from noria.ir.graph import (
    Atom,
    Env,
    Equation,
    Graph,
    Value,
    env_of,
    is_inexact,
    is_literal,
    struct,
    values_of,
)
from noria.ir.passes import dependence, extract, inlined, inputs_of, is_zero, producers


@dataclass(frozen=True, eq=False)
class EquationVJP:
    """One equation and its pull-back, with new values for inputs and outputs.

    =========== ============================================ =======================================
    ``forward`` ``constants``, inputs of the equation        its outputs, then residuals
    ``reverse`` ``constants``, inputs, residuals, cotangents cotangents of the differentiable inputs
    =========== ============================================ =======================================

    ``constants`` are arrays that a derivative rule closes over. ``cotangents`` belong to the
    inexact outputs. ``gradients`` has ``None`` for a cotangent that is a constant zero; ``reverse``
    has no output for it.
    """

    wrt: tuple[int, ...]
    inputs: tuple[Value, ...]
    cotangents: tuple[Value, ...]
    forward: Graph
    reverse: Graph
    gradients: tuple[Atom | None, ...]
    constants: Env

    def named(self, equation: Equation, inputs: Sequence[Atom]) -> dict[Value, Atom]:
        """Arguments of ``equation`` by the names of the inputs here."""
        pairs = zip(equation.inputs, inputs, strict=True)
        return dict(zip(self.inputs, (a for v, a in pairs if not is_literal(v)), strict=True))

    def computed(self, outputs: Sequence[Atom]) -> dict[Value, Atom]:
        """Values here by the names of outputs and residuals; a rule may return a constant."""
        pairs = zip(self.forward.outputs, outputs, strict=True)
        return {v: atom for v, atom in pairs if not is_literal(v)}

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
        names |= self.computed(outputs)
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
                more, total[value] = zeros_of(value, equation.source)
                equations += more
        outputs = [total[value] for value in parameters]
        return extract(equations, outputs, inputs_of(equations, outputs))


def zeros_of(value: Value, source: object) -> tuple[list[Equation], Atom]:
    """Zeros like a value, and the equations that make them."""
    equations, (zeros,) = build(lambda: [jnp.zeros(value.aval.shape, value.aval.dtype)], [], source)
    return equations, zeros


class _Known:
    """Pull-backs by `_key`. The oldest is dropped when there are too many."""

    #: A pull-back has a few kilobytes, and a step has about ten kinds of equations.
    MOST = 512

    def __init__(self) -> None:
        self._vjps: dict[Hashable, EquationVJP] = {}
        self._lock = threading.Lock()

    def among(self, keys: Sequence[Hashable]) -> dict[Hashable, EquationVJP]:
        with self._lock:
            return {key: self._vjps[key] for key in keys if key in self._vjps}

    def add(self, vjps: dict[Hashable, EquationVJP]) -> None:
        with self._lock:
            self._vjps |= vjps
            while len(self._vjps) > self.MOST:
                del self._vjps[next(iter(self._vjps))]


_known = _Known()


def equation_vjps(kinds: Sequence[tuple[Equation, tuple[int, ...]]]) -> list[EquationVJP]:
    """The pull-backs of equations with respect to some inputs, given by their positions.

    The rules are traced together, and once for all equations that differ in their values only.
    """
    context = settings()
    keys = [_key(*kind, context) or kind[0] for kind in kinds]
    found = _known.among(keys)
    first = dict(reversed([*zip(keys, kinds, strict=True)]))
    new = {key: kind for key, kind in first.items() if key not in found}
    if new:
        traced = dict(zip(new, _trace([*new.values()]), strict=True))
        found |= traced
        _known.add(
            {
                key: vjp
                for key, vjp in traced.items()
                if not (isinstance(key, Equation) or vjp.constants)
            }
        )
    return [found[key] for key in keys]


def _key(equation: Equation, wrt: Sequence[int], context: Hashable) -> Hashable | None:
    """A key of the pull-back of an equation; ``None`` if the equation is traced on its own.

    The pull-back of a primitive of JAX depends on its parameters, the types of its inputs, and the
    settings of JAX. A derivative rule of the user may read more. It can belong to another
    primitive, or to a function or jaxpr in a parameter.
    """
    is_of_jax = getattr(jax.lax, f"{equation.name}_p", None) is equation.primitive
    is_plain = is_of_jax and all(map(_is_plain, equation.params.values()))
    if not is_plain or any(is_symbolic(*a.aval.shape) for a in equation.inputs):
        return None
    atoms = tuple(
        (np.asarray(a.val).tobytes(), a.aval) if is_literal(a) else a.aval for a in equation.inputs
    )
    params = tuple(sorted(equation.params.items()))
    return equation.primitive, params, atoms, tuple(wrt), context


def _is_plain(value: Any) -> bool:
    """Whether a parameter is a whole number, a name, a dtype, or a tuple of such.

    Values that compare equal must mean the same, so floats do not count: ``0.0 == -0.0``.
    """
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | np.integer | str | np.dtype | Enum)


def _trace(kinds: Sequence[tuple[Equation, tuple[int, ...]]]) -> list[EquationVJP]:
    args = [[struct(a) for a in e.inputs if not is_literal(a)] for e, _ in kinds]
    ends = [[struct(v) for v in e.outputs if is_inexact(v)] for e, _ in kinds]

    def pulled(arrays: list[list[Any]], cotangents: list[list[Any]]) -> Any:
        given = []
        for (equation, _), some in zip(kinds, arrays, strict=True):
            rest = iter(some)
            given.append([a.val if is_literal(a) else next(rest) for a in equation.inputs])

        def function(chosen: list[list[Any]]) -> Any:
            return _bound(kinds, given, chosen)

        chosen = [[g[n] for n in wrt] for (_, wrt), g in zip(kinds, given, strict=True)]
        _, pull, outputs = jax.vjp(function, chosen, has_aux=True)
        return outputs, pull(cotangents)[0]

    graph, arrays, tree = graph_of(pulled, args, ends)
    constants = env_of(graph.inputs[: len(arrays)], arrays)
    rest = iter(graph.inputs[len(arrays) :])
    inputs = [tuple(next(rest) for _ in some) for some in args]
    cotangents = [tuple(next(rest) for _ in some) for some in ends]
    found = zip(*jtu.tree_unflatten(tree, graph.outputs), strict=True)
    return [
        _part(graph, wrt, names, ends, outputs, gradients, constants)
        for (_, wrt), names, ends, (outputs, gradients) in zip(
            kinds, inputs, cotangents, found, strict=True
        )
    ]


def _bound(
    kinds: Sequence[tuple[Equation, tuple[int, ...]]],
    given: list[list[Any]],
    chosen: list[list[Any]],
) -> tuple[list[list[Any]], list[list[Any]]]:
    """The inexact outputs of each equation, and all its outputs."""
    smooth, everything = [], []
    for (equation, wrt), inputs, some in zip(kinds, given, chosen, strict=True):
        inputs = [*inputs]
        for n, array in zip(wrt, some, strict=True):
            inputs[n] = array
        outputs = equation.bind(*inputs)
        pairs = zip(equation.outputs, outputs, strict=True)
        smooth.append([a for v, a in pairs if is_inexact(v)])
        everything.append(outputs)
    return smooth, everything


def _part(
    graph: Graph,
    wrt: tuple[int, ...],
    inputs: tuple[Value, ...],
    cotangents: tuple[Value, ...],
    outputs: Sequence[Atom],
    gradients: Sequence[Atom],
    constants: Env,
) -> EquationVJP:
    """The pull-back of one equation, out of the graph of all."""
    maker = producers(graph.equations)
    kept = tuple(None if is_zero(g, maker) else g for g in gradients)
    wanted = [g for g in kept if g is not None]
    given = (*constants, *inputs, *cotangents)
    equations = extract(graph.equations, (*outputs, *wanted), given).equations
    depends = dependence(equations, dict.fromkeys(cotangents, 1))
    late = [e for e in equations if any(depends[v] for v in e.outputs)]
    early = [e for e in equations if e not in late]
    made = [v for e in early for v in e.outputs]
    reverse = extract(late, wanted, (*given, *made))
    residuals = [v for v in values_of((*reverse.inputs, *wanted)) if v in made]
    forward = extract(early, (*outputs, *residuals), given)
    used = {v: constants[v] for v in (*forward.inputs, *reverse.inputs) if v in constants}
    return EquationVJP(wrt, inputs, cotangents, forward, reverse, kept, used)
