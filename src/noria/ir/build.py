"""Trace Python functions to graphs."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np

from noria._jax import parts_of
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal, struct
from noria.ir.passes import dce, without_empty_parts
from noria.ir.reasons import Reason
from noria.ir.source import located, where

#: Call primitives that are inlined, and the parameter that holds their jaxpr. Calls with a custom
#: derivative rule are kept, because differentiation needs the rule. So are loops and conditionals.
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}


#: Platforms of `jax.lax.platform_dependent` on which JAX runs kernels only, no step of a cell:
#: `jnp.diagonal` has a branch for one.
KERNEL_PLATFORMS = frozenset({"mosaic", "mosaic_gpu", "triton"})


class Unsupported(Exception):
    """The compiler cannot compile a step; the message gives the reason.

    Attributes:
        obstacles: the messages on all that it cannot compile, this one first.
    """

    def __init__(self, *obstacles: str):
        super().__init__(obstacles[0])
        self.obstacles = obstacles


def graph_of(function: Callable[..., Any], *args: Any) -> tuple[Graph, list[Any], Any]:
    """The graph of ``function(*args)``, its closed-over arrays, and the tree of its outputs.

    The inputs of the graph are the closed-over arrays, then the leaves of ``args``.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr, consts = parts_of(closed)
    if closed.effects:
        raise Unsupported(*dict.fromkeys(_side_effects(jaxpr)))
    inputs = (*jaxpr.constvars, *jaxpr.invars)
    equations: list[Equation] = []
    outputs, hidden = _inline(jaxpr, inputs, equations, None)
    graph = Graph((*hidden, *inputs), tuple(outputs), tuple(equations))
    return dce(without_empty_parts(graph)), [*hidden.values(), *consts], jtu.tree_structure(shapes)


def _side_effects(jaxpr: Any, call: Any = None) -> Iterator[str]:
    """The messages on all side effects; ``call`` as for `_inline`."""
    for equation in jaxpr.eqns:
        around = located(equation.source_info.traceback, call)
        if (closed := _inner(equation)) is not None:
            inner, _ = parts_of(closed)
            yield from _side_effects(inner, around)
        else:
            for effect in equation.effects:
                yield Reason.SIDE_EFFECT(effect=effect, where=where(around))


def _inline(
    jaxpr: Any, inputs: Sequence[Atom], equations: list[Equation], source: Any, call: Any = None
) -> tuple[list[Atom], dict[Value, Any]]:
    """Append the equations of ``jaxpr`` on ``inputs``; return outputs and constants of calls.

    ``source`` replaces all tracebacks, and ``call`` the tracebacks without a line of the cell.
    """
    known: dict[Any, Atom] = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))
    hidden: dict[Value, Any] = {}
    outputs: Sequence[Atom]

    def get(atom: Atom) -> Atom:
        return atom if is_literal(atom) else known[atom]

    for equation in jaxpr.eqns:
        arguments = [get(atom) for atom in equation.invars]
        if (closed := _inner(equation)) is not None:
            inner, consts = parts_of(closed)
            arguments = arguments[len(arguments) - len(inner.invars) :]
            values = {Value(jax.typeof(const)): const for const in consts}
            hidden |= values
            arguments = [*values, *arguments]
            around = located(equation.source_info.traceback, call)
            outputs, more = _inline(inner, arguments, equations, source, around)
            hidden |= more
        else:
            outputs = made = tuple(Value(v.aval) for v in equation.outvars)
            origin = source or located(equation.source_info.traceback, call)
            params = {name: _of_python(value) for name, value in equation.params.items()}
            equations.append(Equation(equation.primitive, tuple(arguments), made, params, origin))
        known.update(zip(equation.outvars, outputs, strict=True))
    return [get(atom) for atom in jaxpr.outvars], hidden


def _inner(equation: Any) -> Any:
    """The jaxpr that an equation runs on its last inputs, if it is inlined."""
    name, params = equation.primitive.name, equation.params
    if name in INLINED:
        return params[INLINED[name]]
    # Each branch has names of platforms, or ``None`` for all others.
    platforms = params.get("branches_platforms") or ()
    named = itertools.chain.from_iterable(filter(None, platforms))
    if name == "cond" and None in platforms and KERNEL_PLATFORMS.issuperset(named):
        return params["branches"][platforms.index(None)]
    return None


def _of_python(param: Any) -> Any:
    """A parameter of an equation, with Python's integers: `jnp.pad` passes those of NumPy."""
    if isinstance(param, np.integer):
        return int(param)
    return tuple(map(_of_python, param)) if type(param) is tuple else param


def build(
    function: Callable[..., Any], inputs: Sequence[Atom], source: Any
) -> tuple[list[Equation], list[Atom]]:
    """Trace ``function``, which returns a list, on values of a graph: its equations and outputs."""
    jaxpr, consts = parts_of(jax.make_jaxpr(function)(*map(struct, inputs)))
    equations: list[Equation] = []
    outputs, hidden = _inline(jaxpr, [*consts, *inputs], equations, source)
    assert not hidden
    assert not consts
    return equations, outputs
