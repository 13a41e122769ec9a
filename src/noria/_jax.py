"""Everything that Noria uses beyond JAX's public API, in one place.

A new release of JAX can change these without notice, so each has a test in ``tests/test_jax.py``
that names it. Everything else in the package uses documented functions of `jax` only.

====================================== ===========================================================
`Literal`, `Primitive`, `ShapedArray`  parts of jaxprs
`parts_of`, `call`                     jaxprs, with or without arrays of their own
`is_symbolic`                          sizes that `jax.export` leaves open
`bind`, `user_frames`                  an equation bound anew, and the user's lines behind it
`primitive`                            a primitive with all its rules
`aligned`                              results whose mapped axes are known in advance
====================================== ===========================================================
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend import source_info_util
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

__all__ = [
    "Literal",
    "Primitive",
    "ShapedArray",
    "SymbolicZero",
    "Tracer",
    "aligned",
    "bind",
    "call",
    "is_symbolic",
    "parts_of",
    "primitive",
    "user_frames",
]

Literal = jex.Literal
Primitive = jex.Primitive
ShapedArray = jax.core.ShapedArray
Tracer = jax.core.Tracer


# --- jaxprs -----------------------------------------------------------------------------------------------


def parts_of(jaxpr: Any) -> tuple[Any, list[Any]]:
    """A jaxpr, and the arrays that it closes over, in the order of its ``constvars``.

    Before JAX 0.11 a jaxpr with arrays is a ``ClosedJaxpr`` around one without.
    """
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def call(jaxpr: Any, *arrays: Any) -> list[Any]:
    """The outputs of a jaxpr that lacks nothing."""
    return list(jex.jaxpr_as_fun(jaxpr)(*arrays))


def bind(primitive: Any, arrays: Sequence[Any], params: dict[str, Any], source: Any) -> list[Any]:
    """The outputs of an equation for these inputs; ``source`` is where its code comes from."""
    bound = primitive.get_bind_params(params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair in some releases
    with source_info_util.user_context(source):
        outputs = primitive.bind(*functions, *arrays, **params)
    return list(outputs) if primitive.multiple_results else [outputs]


def user_frames(source: Any) -> list[tuple[str, int]]:
    """File and line of each frame that led to an equation, the innermost first."""
    return [] if source is None else [(f.file_name, f.line_num) for f in source.frames]


def is_symbolic(*sizes: Any) -> bool:
    """Whether one of some sizes is a variable of `jax.export.symbolic_shape`, of which less is known."""
    return not all(isinstance(size, int | np.integer) for size in sizes)


# --- primitives -------------------------------------------------------------------------------------------


def primitive(
    name: str,
    *,
    shapes: Callable[..., Sequence[Any]],
    jvp: Callable[..., Any],
    dce: Callable[..., tuple[list[bool], list[bool], dict[str, Any]]],
    batch: Callable[..., Any],
    portable: Callable[..., Sequence[Any]],
    cpu: Callable[..., Sequence[Any]],
) -> Primitive:
    """A primitive with several results. All functions take the parameters of an equation by keyword.

    Args:
        name: of the primitive, as a jaxpr shows it.
        shapes: from the arrays to the shapes and dtypes of the results.
        jvp: from two sequences, arrays and tangents, to the results and their tangents.
        dce: from ``used``, a flag for each result, to flags for the arrays that are still needed
            (the rest are, if these are fewer), flags for the results that stay, and the parameters
            that change.
        batch: from two sequences, arrays and their mapped axes, to results and theirs.
        portable: the results in terms of JAX, for any device.
        cpu: the same for CPUs.
    """
    made = Primitive(name)
    made.multiple_results = True

    def compiled(*arrays: Any, **params: Any) -> list[Any]:
        # Compiled under `jax.disable_jit` too: there is no other implementation.
        with jax.disable_jit(False):
            return list(jax.jit(functools.partial(made.bind, **params))(*arrays))

    def instantiated(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        return jvp(primals, list(map(ad.instantiate_zeros, tangents)), **params)

    made.def_impl(compiled)
    made.def_abstract_eval(lambda *avals, **params: [ShapedArray(s.shape, s.dtype) for s in shapes(*avals, **params)])
    ad.primitive_jvps[made] = instantiated
    pe.dce_rules[made] = functools.partial(_without_dead_code, dce)
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(portable))
    mlir.register_lowering(made, mlir.lower_fun(cpu), platform="cpu")
    return made


def _without_dead_code(dce: Callable[..., Any], used: Sequence[bool], *rest: Any) -> tuple[list[bool], Any]:
    """A rule of `pe.dce_rules`. From JAX 0.12 on it is also told which inputs are live."""
    equation = rest[-1]
    if not any(used):
        return [False] * len(equation.invars), None
    if all(used):
        return [True] * len(equation.invars), equation
    needed, kept, params = dce(list(used), **equation.params)
    needed += [True] * (len(equation.invars) - len(needed))
    return needed, equation.replace(
        invars=list(itertools.compress(equation.invars, needed)),
        outvars=list(itertools.compress(equation.outvars, kept)),
        params={**equation.params, **params},
    )


# --- mapped axes ------------------------------------------------------------------------------------------


def aligned(results: Sequence[Any], axes: Sequence[int], given: Sequence[Any]) -> list[Any]:
    """``results`` as they are. Under `jax.vmap`, result i is mapped along ``axes[i]``.

    That holds if any of ``given``, from which the results were computed, is mapped. A function and
    its `jax.custom_vjp` rule must agree about the axes: inside of `jax.jit`, JAX takes those of the
    function for both, and would exchange axes of the rule's results without a word.
    """
    return list(_aligned.bind(*results, *given, axes=tuple(axes)))


_aligned = Primitive("noria_aligned")
_aligned.multiple_results = True


@_aligned.def_impl
@_aligned.def_abstract_eval
def _(*arrays: Any, axes: tuple[int, ...]) -> list[Any]:
    return list(arrays[: len(axes)])


def _align(arrays: Sequence[Any], mapped: Sequence[int | None], *, axes: tuple[int, ...]) -> Any:
    size = next(a.shape[axis] for a, axis in zip(arrays, mapped, strict=True) if axis is not None)
    moved = [
        jnp.broadcast_to(jnp.expand_dims(a, to), (*a.shape[:to], size, *a.shape[to:]))
        if axis is None
        else jnp.moveaxis(a, axis, to)
        for a, axis, to in zip(arrays, mapped, axes, strict=False)
    ]
    return aligned(moved, axes, arrays[len(axes) :]), axes  # an outer vmap is to find the same


def _unused(used: list[bool], *, axes: tuple[int, ...]) -> tuple[list[bool], list[bool], dict[str, Any]]:
    return used, used, {"axes": tuple(itertools.compress(axes, used))}


ad.primitive_jvps[_aligned] = lambda primals, tangents, *, axes: (
    _aligned.bind(*primals, axes=axes),
    tangents[: len(axes)],
)
batching.primitive_batchers[_aligned] = _align
pe.dce_rules[_aligned] = functools.partial(_without_dead_code, _unused)
mlir.register_lowering(_aligned, lambda ctx, *arrays, axes: arrays[: len(axes)])
