"""The step of a cell, traced by JAX, as nodes of ONNX.

The step is that of one example. A value that depends on the state or the input has further axes in
front (a batch, or time and batch); all others are constants, computed here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import call as call_jaxpr
from noria.compiler.canonicalize import unroll
from noria.interop.onnx.equations import Known, Step
from noria.interop.onnx.translations import TRANSLATIONS
from noria.interop.onnx.writer import Writer
from noria.ir.build import Unsupported, graph_of
from noria.ir.graph import Atom, Equation, Graph, is_literal
from noria.ir.primitives import RULES
from noria.ir.source import place


@dataclass
class Translator:
    """Writes equations into a graph.

    Attributes:
        call: the call in messages.
        writer: the graph.
        lead: the number of leading axes of values that vary.
        like: a value that has these axes, from which their sizes are read.
    """

    call: str
    writer: Writer
    lead: int
    like: str
    known: dict[Any, Known] = field(default_factory=dict)

    def graph(self, graph: Graph, inputs: Sequence[Known]) -> list[Known]:
        """The outputs of a graph on values of the model."""
        self.known.update(zip(graph.inputs, inputs, strict=True))
        for equation in graph.equations:
            outputs = self._equation(equation)
            self.known.update(zip(equation.outputs, outputs, strict=True))
        return [self._value(atom) for atom in graph.outputs]

    def _value(self, atom: Atom) -> Known:
        return np.asarray(atom.val, atom.aval.dtype) if is_literal(atom) else self.known[atom]

    def _equation(self, equation: Equation) -> list[Known]:
        given = [self._value(atom) for atom in equation.inputs]
        if not any(isinstance(a, str) for a in given):
            return [np.asarray(a) for a in equation.bind(*map(jnp.asarray, given))]
        if equation.name.startswith(RULES):
            params = equation.params
            return self._inner(params.get("call_jaxpr") or params["fun_jaxpr"], equation, given)
        if equation.name == "cond":
            return self._branches(equation, given)
        function = TRANSLATIONS.get(equation.name)
        if function is None:
            self.fail(equation, f"there is no operator of ONNX for {equation.name}")
        found = function(Step(self, equation), *given)
        return found if isinstance(found, list) else [found]

    def _inner(self, jaxpr: Any, equation: Equation, given: Sequence[Known]) -> list[Known]:
        """The equations inside of an equation."""
        avals = [
            jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)
            for atom in equation.inputs[len(equation.inputs) - len(given) :]
        ]
        graph, closed, _ = trace(self.call, lambda *args: call_jaxpr(jaxpr, *args), *avals)
        return self.graph(graph, [*closed, *given])

    def _branches(self, equation: Equation, given: list[Known]) -> list[Known]:
        """All branches of a condition, of which each example takes its own."""
        which, *rest = given
        branches = equation.params["branches"]
        if not isinstance(which, str):
            return self._inner(branches[int(np.clip(which, 0, len(branches) - 1))], equation, rest)
        found = [self._inner(branch, equation, rest) for branch in branches]
        return [
            self._chosen(equation, which, cases, len(output.aval.shape))
            for *cases, output in zip(*found, equation.outputs, strict=True)
        ]

    def _chosen(self, equation: Equation, which: str, cases: list[Known], rank: int) -> Known:
        axes = self.writer.ints(*range(self.lead, self.lead + rank))
        which = self.writer.add("Unsqueeze", which, axes) if rank else which
        chosen = self.name(cases[-1])
        for n, case in reversed([*enumerate(cases[:-1])]):
            number = self.writer.constant(np.asarray(n, equation.inputs[0].aval.dtype))
            # A number below the first branch takes the first, as in JAX.
            test = self.writer.add("LessOrEqual", which, number)
            chosen = self.writer.add("Where", test, self.name(case), chosen)
        return chosen

    def fail(self, equation: Equation, reason: str) -> NoReturn:
        raise ValueError(f"{self.call}: {reason} ({place(equation)}).")

    def name(self, known: Known) -> str:
        """The name of a value; a constant keeps its shape, without the leading axes."""
        return known if isinstance(known, str) else self.writer.constant(known)

    def varying(self, known: Known) -> str:
        """The name of a value with the leading axes; a constant is repeated."""
        if isinstance(known, str):
            return known
        lead = self.writer.add("Shape", self.like, start=0, end=self.lead)
        one = self.writer.constant(known.reshape((1,) * self.lead + known.shape))
        if not known.ndim:
            return self.writer.add("Expand", one, lead)
        shape = self.writer.add("Concat", lead, self.writer.ints(*known.shape), axis=0)
        return self.writer.add("Expand", one, shape)


def trace(call: str, function: Callable[..., Any], *args: Any) -> tuple[Graph, list[Any], Any]:
    """The graph of a function of one example, its constants, and the tree of its outputs.

    Raises:
        ValueError: for a function with side effects, or one that computes with complex numbers.
    """
    try:
        graph, closed, tree = graph_of(function, *args)
    except Unsupported as error:
        raise ValueError(f"{call}: {error}") from error
    graph = unroll(graph)
    for equation in graph.equations:
        for value in equation.outputs:
            if jnp.issubdtype(value.aval.dtype, jnp.complexfloating):
                raise ValueError(
                    f"{call}: runtimes of ONNX have no complex numbers ({place(equation)})."
                )
    return graph, [np.asarray(a) for a in closed], tree
