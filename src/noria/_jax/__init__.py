"""Everything that Noria uses beyond JAX's public API, in one package.

A new release of JAX can change these without notice, so each has a test in ``tests/test_jax.py``
that names it. Everything else in Noria uses documented functions of `jax` only.

====================================== ===========================================================
`Literal`, `Var`, `Primitive`          parts of jaxprs
`ShapedArray`                          shape and dtype in a jaxpr
`Tracer`, `SymbolicZero`               arguments of a function that JAX traces or differentiates
`parts_of`, `call`                     jaxprs with and without closed-over arrays
`inner_jaxprs`                         the jaxprs of an equation
`is_symbolic`                          sizes that `jax.export` leaves open
`is_known`, `is_recording`             constants of a program that is traced
`looks_at_residuals`, `settings`       the options of JAX
`bind`, `user_frames`                  bind an equation again; the user's lines that led to it
`primitive`                            a primitive with all its rules
`solve`                                systems of linear equations
`differentiable`, `LinearMap`          derivative rules for both modes
`tangent_type`                         the type of the tangents of an array
`Rows`                                 the batch axes of a primitive, for several devices
`aligned`                              results whose mapped axes are known in advance
`everywhere`                           a flag of all examples under `jax.vmap`
`varying_axes`, `varying`, `retyped`   axes of a mesh in the types of arrays
====================================== ===========================================================
"""

from jax.core import ShapedArray as ShapedArray
from jax.core import Tracer as Tracer
from jax.custom_derivatives import SymbolicZero as SymbolicZero
from jax.extend.core import Primitive as Primitive
from jax.extend.core import Var as Var

from noria._jax.derivatives import LinearMap, differentiable, tangent_type
from noria._jax.jaxprs import (
    Literal,
    bind,
    call,
    inner_jaxprs,
    is_known,
    is_recording,
    is_symbolic,
    looks_at_residuals,
    parts_of,
    settings,
    user_frames,
)
from noria._jax.mapped_axes import aligned, everywhere
from noria._jax.mesh_axes import retyped, varying, varying_axes
from noria._jax.partition import Rows
from noria._jax.primitives import primitive
from noria._jax.solve import solve

__all__ = [
    "LinearMap",
    "Literal",
    "Primitive",
    "Rows",
    "ShapedArray",
    "SymbolicZero",
    "Tracer",
    "Var",
    "aligned",
    "bind",
    "call",
    "differentiable",
    "everywhere",
    "inner_jaxprs",
    "is_known",
    "is_recording",
    "is_symbolic",
    "looks_at_residuals",
    "parts_of",
    "primitive",
    "retyped",
    "settings",
    "solve",
    "tangent_type",
    "user_frames",
    "varying",
    "varying_axes",
]
