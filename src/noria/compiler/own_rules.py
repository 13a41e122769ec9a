"""Functions with a derivative rule of their own, under derivatives of second order.

JAX computes such a function by the code of its rule where it takes the first derivative, and the
second derivative is that of this code::

    f = jax.custom_jvp(jnp.round)
    f.defjvp(lambda x, v: (jnp.round(*x), *v))   f'  = 1, by the rule
                                                 f'' is the derivative of jnp.round and of v

So values that a derivative is taken of are computed as the rule does. Most rules call the function
itself, as the one of `jax.nn.relu`: then the rule applies to each order, and nothing changes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu

from noria._flags import choose, put
from noria._jax import inner_jaxprs
from noria.ir.build import graph_of
from noria.ir.graph import Equation, Graph, struct
from noria.ir.primitives import RULES


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


def _has_own_rule(equation: Equation) -> bool:
    if not equation.name.startswith(RULES):
        return any(map(_has_rules, inner_jaxprs(equation.params)))
    inputs = [*map(struct, equation.inputs)]
    graph, *_ = graph_of(lambda *arrays: jax.vjp(equation.bind, *arrays)[0], *inputs)
    return [e.name for e in graph.equations] != [equation.name]


def _has_rules(jaxpr: Any) -> bool:
    return any(
        e.primitive.name.startswith(RULES) or any(map(_has_rules, inner_jaxprs(e.params)))
        for e in jaxpr.eqns
    )
