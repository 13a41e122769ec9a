"""Functions of JAX whose value has native code: their derivative has it too, on every version."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends.native.lower.legalize import legalized
from noria.backends.native.lower.supported import UnsupportedEquation
from noria.ir.build import Unsupported, graph_of
from noria.ir.graph import Graph, values_of

X = jnp.linspace(0.1, 0.9, 4)


def functions() -> dict[str, tuple[Callable[..., Any], int]]:
    """Those that take one, two or three vectors and give an array of floating-point numbers."""
    found = {}
    for module in (jnp, jax.lax, jax.nn):
        for name, function in vars(module).items():
            if name.startswith("_") or not callable(function) or inspect.isclass(function):
                continue
            for count in (1, 2, 3):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        result = jax.eval_shape(lambda *args, f=function: f(*args), *[X] * count)
                    if isinstance(result, jax.ShapeDtypeStruct) and jnp.issubdtype(
                        result.dtype, jnp.floating
                    ):
                        found[f"{module.__name__}.{name}"] = function, count
                        break
                except Exception:  # not such a function
                    continue
    return found


def without_code(function: Callable[..., Any], *args: Any) -> set[str]:
    """The primitives of a function that have no native code."""
    graph, _, _ = graph_of(function, *args)
    found = set()
    for equation in graph.equations:
        if not equation.inputs:  # such as iota: made once, before the loop
            continue
        try:
            legalized(Graph(tuple(values_of(equation.inputs)), equation.outputs, (equation,)), [])
        except UnsupportedEquation:
            found.add(equation.name)
    return found


def test_derivatives_have_native_code_where_values_have():
    found = {}
    for name, (function, count) in functions().items():
        args = [X] * count

        def pull(cotangent: Any, *args: Any, function: Callable[..., Any] = function) -> Any:
            return jax.vjp(function, *args)[1](cotangent)

        try:
            if without_code(function, *args):
                continue
            found[name] = without_code(pull, jax.eval_shape(function, *args), *args)
        except (
            Unsupported,
            TypeError,
            ValueError,
            NotImplementedError,
        ):  # no derivative, or none of this kind
            continue
    assert len(found) > 150
    assert not {name: primitives for name, primitives in found.items() if primitives}
