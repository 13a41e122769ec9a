"""Functions with a derivative rule of their own.

JAX computes such a function by the code of its rule where it takes the first derivative, and the
second derivative is that of this code::

    f = jax.custom_jvp(jnp.round)
    f.defjvp(lambda x, v: (jnp.round(*x), *v))   f'  = 1, by the rule
                                                 f'' is the derivative of jnp.round and of v

So values that a derivative is taken of are computed as the rule does. Most rules call the function
itself, as the one of `jax.nn.relu`: then the rule applies to each order, and nothing changes.

A rule of `jax.custom_vjp` may be any function of the cotangent. If it reads parameters only, the
function is computed once, and its cotangent is the sum over all steps. A rule that is not linear,
such as one that clips, would give another gradient then::

    f = jax.custom_vjp(lambda w: w)
    f.defvjp(lambda w: (w, None), lambda _, g: (jnp.clip(g, -1, 1),))
    f(W) @ x    in each step: the sum of the clipped cotangents, not the clipped sum
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.tree_util as jtu

from noria._flags import choose, put
from noria._jax import inner_jaxprs
from noria.compiler.equation_vjp import equation_vjps
from noria.compiler.levels import CONSTANT, CONTEXT
from noria.compiler.multilinear import Algebra, NotMultilinear
from noria.ir.build import Unsupported, graph_of
from noria.ir.graph import Equation, Graph, Value, is_inexact, is_literal, struct
from noria.ir.passes import dependence
from noria.ir.primitives import REVERSE_RULES, RULES
from noria.ir.reasons import Reason
from noria.ir.source import place


def have_own_rules(*graphs: Graph) -> bool:
    """Whether a first derivative computes some function of these graphs by other operations."""
    return any(_has_own_rule(equation) for graph in graphs for equation in graph.equations)


def as_differentiated(function: Callable[..., Any], moved: Any, *arguments: Any) -> Any:
    """``function(*arguments)``, computed as where the derivative by some arrays is taken.

    Args:
        function: from pytrees of arrays to a pytree of arrays.
        moved: pytrees as the arguments, of truth values: the arrays that have a derivative.
        *arguments: the pytrees.
    """
    leaves, tree = jtu.tree_flatten(arguments)
    flags = jtu.tree_leaves(moved)

    def by(some: list[jax.Array]) -> Any:
        return function(*jtu.tree_unflatten(tree, put(leaves, flags, some)))

    return jax.vjp(by, choose(leaves, flags))[0]


def check_rules(graph: Graph, levels: dict[Value, int], fixed: Collection[Value]) -> None:
    """Check that the rules of what is the same in each step are linear in the cotangent.

    Args:
        graph: a step.
        levels: the levels of all values.
        fixed: the inputs without a derivative.

    Raises:
        Unsupported: if one is not, or is not known to be.
    """
    same = (e for e in graph.equations if levels[e.outputs[0]] in (CONSTANT, CONTEXT))
    calls = [e for e in same if _applies(e, REVERSE_RULES)]
    if not calls:
        return
    smooth = dict.fromkeys((v for v in graph.inputs if is_inexact(v) and v not in fixed), 1)
    moves = dependence(graph.equations, smooth)
    obstacles = []
    for call in calls:
        inputs = enumerate(call.inputs)
        wrt = [n for n, v in inputs if not is_literal(v) and is_inexact(v) and moves.get(v)]
        if not _is_linear(call, wrt):
            obstacles.append(Reason.NONLINEAR_RULE(place=place(call)))
    if obstacles:
        raise Unsupported(*dict.fromkeys(obstacles))


def _is_linear(equation: Equation, wrt: Sequence[int]) -> bool:
    """Whether the cotangents of some inputs are sums of products with those of the outputs."""
    try:
        (vjp,) = equation_vjps([(equation, tuple(wrt))])
    except Unsupported:
        raise
    except Exception:  # there is no gradient, and calls need none
        return True
    algebra = Algebra((*vjp.forward.equations, *vjp.reverse.equations), vjp.cotangents)
    try:
        for inner in vjp.reverse.equations:
            algebra.apply(inner)
        gradients = [algebra[g] for g in vjp.gradients if g is not None]
    except NotMultilinear:
        return False
    terms = [term for gradient in gradients for term in gradient.terms]
    return all(term.leaf is not None or algebra.is_zero(term) for term in terms)


def _has_own_rule(equation: Equation) -> bool:
    if not equation.name.startswith(RULES):
        return _applies(equation, RULES)
    inputs = [*map(struct, equation.inputs)]
    graph, *_ = graph_of(lambda *arrays: jax.vjp(equation.bind, *arrays)[0], *inputs)
    return [e.name for e in graph.equations] != [equation.name]


def _applies(equation: Equation, rules: str | tuple[str, ...]) -> bool:
    """Whether an equation is a call with such a rule, or has one inside."""

    def inside(params: Any) -> bool:
        return any(
            e.primitive.name.startswith(rules) or inside(e.params)
            for jaxpr in inner_jaxprs(params)
            for e in jaxpr.eqns
        )

    return equation.name.startswith(rules) or inside(equation.params)
