"""Parameter uses: equations of the loop, and their pull-backs for one step or all steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria.compiler.equation_vjp import EquationVJP
from noria.ir.build import graph_of
from noria.ir.cotangents import or_zeros
from noria.ir.evaluate import evaluate
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
from noria.ir.passes import extract, substitute, users


@dataclass(frozen=True, eq=False)
class ParameterUse:
    """An equation of the loop that reads parameters.

    Attributes:
        equation: the equation.
        parameters: the inputs with a requested cotangent.
        operands: the values of its inputs in the forward loop. ``None`` for an input that is the
            same at each step, and for one that the pull-back does not read.
        cotangents: the cotangents of its inexact outputs, ``None`` for zero.
        step: the pull-back at one step, from operands and cotangents to the cotangents of the
            parameters; ``None`` if it closes over arrays.
    """

    equation: Equation
    parameters: tuple[Value, ...]
    operands: tuple[Atom | None, ...]
    cotangents: tuple[Atom | None, ...]
    step: Graph | None

    @classmethod
    def made(
        cls,
        equation: Equation,
        vjp: EquationVJP,
        parameters: Sequence[Value],
        operands: Sequence[Atom | None],
        cotangents: Sequence[Atom],
    ) -> "ParameterUse":
        """A use without the operands that the pull-back does not read."""
        inputs = [v if o is None else o for v, o in zip(equation.inputs, operands, strict=True)]
        step = (
            None if vjp.constants else vjp.of_parameters(equation, parameters, inputs, cotangents)
        )
        needed = {*values_of(inputs)} if step is None else {*users(step.equations, step.outputs)}
        kept = [o if o is None or is_literal(o) or o in needed else None for o in operands]
        return cls(equation, tuple(parameters), tuple(kept), tuple(cotangents), step)

    def pull_back(self, known: Env, varying: Env, axes: tuple[int, ...]) -> Env:
        """The cotangents of the parameters: the equation's pull-back over all steps at once."""
        outputs = [v for v in self.equation.outputs if is_inexact(v)]
        arrays = [cotangent_array(g, varying, axes) for g in self.cotangents]
        if all(a is None for a in arrays):
            return {}
        local: Env = {}
        for value, operand in zip(self.equation.inputs, self.operands, strict=True):
            if operand is not None:
                local[value] = jnp.asarray(operand.val) if is_literal(operand) else varying[operand]
        unused = [v for v in values_of(self.equation.inputs) if v not in known and v not in local]
        known = known | {v: jnp.zeros(v.aval.shape, v.aval.dtype) for v in unused}
        graph = extract([self.equation], outputs, values_of(self.equation.inputs))

        def outputs_of(parameters: list[Any]) -> list[Any]:
            return evaluate(graph, known | env_of(self.parameters, parameters), local, axes)

        values, pull = jax.vjp(outputs_of, [known[v] for v in self.parameters])
        (found,) = pull([or_zeros(a, value) for a, value in zip(arrays, values, strict=True)])
        return env_of(self.parameters, found)


def pull_back_of_a_step(graph: Graph, parameters: Sequence[Atom]) -> Graph | None:
    """The pull-back of a graph, from its inputs and cotangents to the cotangents of parameters.

    ``None`` if it closes over arrays.
    """

    def pull(arrays: list[Any], cotangents: list[Any]) -> Any:
        here = env_of(graph.inputs, arrays)

        def outputs_of(some: list[Any]) -> list[Any]:
            return evaluate(graph, here | env_of(parameters, some), {}, ())

        return jax.vjp(outputs_of, [here[v] for v in parameters])[1](cotangents)[0]

    found, arrays, _ = graph_of(
        pull, list(map(struct, graph.inputs)), list(map(struct, graph.outputs))
    )
    if arrays:
        return None
    found = substitute(found, dict(zip(found.inputs, graph.inputs, strict=False)))
    return replace(found, inputs=(*graph.inputs, *found.inputs[len(graph.inputs) :]))


def cotangent_array(
    cotangent: Atom | None, varying: Env, axes: tuple[int, ...]
) -> jax.Array | None:
    """The array of a cotangent that may be a number; ``None`` for zero, as in ``varying``."""
    if cotangent is None:
        return None
    if not is_literal(cotangent):
        array: jax.Array | None = varying[cotangent]
        return array
    return jnp.full(axes, cotangent.val, cotangent.aval.dtype) if np.any(cotangent.val) else None
