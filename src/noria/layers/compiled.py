"""Calls of a layer outside of `jax.jit`, compiled once and again if the cell reads other values.

A cell is Python code. It may read a global variable or an attribute of an object. A program
compiled at the first call would keep the old value. Therefore the cell is traced for one step in
each call, and a program is used again only if the trace is the same. Noria's cells are not traced
again: they compute from their fields only.
"""

import functools
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._jax import Literal, Tracer, is_known, is_recording, parts_of
from noria._types import State
from noria.backends.base import Problem
from noria.backends.environment import Environment, environment
from noria.cells.base import advance
from noria.compiler.select import Options, run_locally, run_single_step
from noria.module import iterate_modules

S = TypeVar("S", bound=Callable[..., Any])

#: The final state, and outputs.
Run = tuple[State, Any]


def dependence_of(cell: Callable[..., Any], state: State, x: Any, keywords: Any) -> Hashable | None:
    """Equal for two calls that may share a program; ``None`` if the call cannot share one.

    Args:
        cell: the cell of a layer.
        state: one example's state; shapes and dtypes suffice.
        x: one step of the input, likewise.
        keywords: the arguments of the cell by name, likewise.
    """
    if computes_from_its_fields(cell):
        return environment()
    arrays, rest = eqx.partition(cell, eqx.is_array)

    def step(keywords: Any, arrays: Any, state: State, x: Any) -> Run:
        return advance(eqx.combine(arrays, rest), state, x, keywords)

    return dependence_of_function(step, keywords, arrays, state, x)


def dependence_of_function(
    function: Callable[..., Any], fixed: Any, *given: Any
) -> Hashable | None:
    """Equal for two calls that may share a program; ``None`` if the call cannot share one.

    Args:
        function: of ``fixed`` and ``given``.
        fixed: arrays that the function is not differentiated by.
        *given: pytrees of arrays; shapes and dtypes suffice.
    """

    def derivative(cotangents: Any, fixed: Any, *given: Any) -> Any:
        # Integers and booleans have none.
        return eqx.filter_vjp(partial(function, fixed), *given)[1](
            eqx.filter(cotangents, eqx.is_inexact_array)
        )

    content = _Content()
    try:
        jaxpr, outputs = jax.make_jaxpr(function, return_shape=True)(fixed, *given)
        found = [content.of(jaxpr)]
        if content.has_own_derivative:
            found.append(_Content().of(jax.make_jaxpr(derivative)(outputs, fixed, *given)))
    except Exception:  # the layer raises an error of the cell again, with a note
        return None
    return environment(), *found


def has_constant_weights(cell: Any) -> bool:
    """Whether a program is traced in which all arrays of a cell are constants.

    Then the layer must be a part of this program. A compiled function inside of it would take the
    arrays as arguments, and could not pack them once.
    """
    leaves = [leaf for leaf in jtu.tree_leaves(cell) if isinstance(leaf, jax.Array)]
    return bool(leaves) and all(map(is_known, leaves)) and is_recording()


@eqx.filter_jit
def compiled_run(shared: Hashable, options: Options, problem: Problem) -> Run:
    """`run_locally` as a program; ``shared`` is from `dependence_of`."""
    return run_locally(options, problem)


@eqx.filter_jit
def compiled_step(shared: Hashable, options: Options, problem: Problem) -> Run:
    """`run_single_step` as a program; ``shared`` is from `dependence_of`."""
    return run_single_step(options, problem)


# --- whole steps --------------------------------------------------------------------------------


def whole(step: S) -> S:
    """A decorator of ``step``: outside of `jax.jit` it is one compiled program, checks included.

    This saves most of the time of a short call, for a whole model too. All parts of the layer must
    be code of Noria, JAX or Equinox, which compute from their fields. Layer and arguments must
    consist of arrays, the arguments of the program. Otherwise the step runs as it is written.
    """

    @functools.wraps(step)
    def run(layer: Any, state: State, x: Any, **keywords: Any) -> Run:
        own, structure = jtu.tree_flatten(layer)
        others, form = jtu.tree_flatten((state, x, keywords))
        kinds = {*map(type, own)}, {*map(type, others)} - {np.ndarray}
        program = None
        if all(map(_is_concrete, kinds[0] | kinds[1])):
            program = _whole_program(environment(), step, structure, form)
        if program is None:
            found: Run = step(layer, state, x, **keywords)
            return found
        if not _is_floating(getattr(x, "dtype", None)):
            layer._check_known(x)
        return program(own, others)

    return cast(S, run)


@functools.cache
def _is_concrete(kind: type) -> bool:
    """Whether leaves of a type are arrays with known values."""
    return issubclass(kind, jax.Array) and not issubclass(kind, Tracer)


@functools.cache
def _is_floating(dtype: Any) -> bool:
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


@functools.lru_cache(maxsize=256)
def _whole_program(
    _: Environment, step: Callable[..., Run], structure: Any, form: Any
) -> Callable[..., Run] | None:
    """The program of a layer whose leaves are arrays, unless a part is a user's or the reference.

    Args:
        _: the variables that decide how the layer runs.
        step: the step as it is written.
        structure: the tree of the layer.
        form: the tree of the arguments.
    """
    layer = structure.unflatten([0] * structure.num_leaves)
    for _path, module in iterate_modules(layer):
        # A program would keep the arrays of a prepared layer.
        if getattr(module, "backend", None) == "reference" or module._hides_arrays:
            return None
    if not computes_from_its_fields(layer):
        return None

    def run(own: list[jax.Array], others: list[Any]) -> Run:
        state, x, keywords = form.unflatten(others)
        return step(structure.unflatten(own), state, x, **keywords)

    return jax.jit(run)


# --- the content of a step ----------------------------------------------------------------------


class _NotShared(Exception):
    """A step holds an array from outside, a function, or a side effect."""


def computes_from_its_fields(node: Any) -> bool:
    """Whether a part of a layer is code of Noria, JAX or Equinox, which reads only its fields."""
    if isinstance(node, eqx.Module):
        if not type(node).__module__.startswith(("noria.", "equinox.")):
            return False
    elif callable(node):
        function = getattr(node, "func", node)
        return str(getattr(function, "__module__", "")).startswith(("jax.", "noria."))
    children = jtu.tree_leaves(node, is_leaf=lambda n: n is not node)
    return (len(children) == 1 and children[0] is node) or all(
        map(computes_from_its_fields, children)
    )


class _Content:
    """A jaxpr as nested tuples, equal for jaxprs that differ in the names of variables only."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.has_own_derivative = False

    def of(self, jaxpr: Any) -> Hashable:
        jaxpr, constants = parts_of(jaxpr)
        if constants or jaxpr.effects:
            raise _NotShared
        inputs = tuple(map(self.atom, jaxpr.invars))
        equations = tuple(map(self.equation, jaxpr.eqns))
        return inputs, equations, tuple(map(self.atom, jaxpr.outvars))

    def equation(self, equation: Any) -> Hashable:
        name, params = equation.primitive.name, equation.params
        if name.startswith("custom_"):  # its functions compute the derivative
            self.has_own_derivative = True
            params = {key: value for key, value in params.items() if not callable(value)}
        atoms = tuple(map(self.atom, (*equation.invars, *equation.outvars)))
        return name, atoms, self.parameter(params)

    def atom(self, atom: Any) -> Hashable:
        if isinstance(atom, Literal):
            return str(atom.aval), np.asarray(atom.val).tobytes()
        return str(atom.aval), self.numbers.setdefault(atom, len(self.numbers))

    def parameter(self, value: Any) -> Hashable:
        if isinstance(value, dict):
            return tuple((key, self.parameter(value[key])) for key in sorted(value, key=str))
        if isinstance(value, tuple | list):
            return tuple(map(self.parameter, value))
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            inner = _Content()
            found = inner.of(value)
            self.has_own_derivative |= inner.has_own_derivative
            return found
        if isinstance(value, np.ndarray | jax.Array):
            return str(value.dtype), value.shape, np.asarray(value).tobytes()
        if isinstance(value, jax.sharding.Mesh):  # of a compiled function; it is callable
            return value
        if callable(value) and not isinstance(value, type):
            raise _NotShared
        return repr(value)
