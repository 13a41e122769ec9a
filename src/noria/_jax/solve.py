"""A primitive: systems of linear equations, with any matrix or a positive definite one."""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from noria._jax.mapped_axes import mapped_along
from noria._jax.mesh_axes import varying, varying_axes

_solve = Primitive("noria_solve")


def solve(matrix: Any, right: Any, *, positive: bool) -> Any:
    """The solutions ``x`` of ``matrix @ x[k] = right[k]``.

    The axes are ``(..., n, n)`` and ``(..., k, n)``. With ``positive``, the method is Cholesky's:
    if a matrix is not positive definite, all numbers of its solutions are NaN. Derivatives are then
    those along symmetric matrices.
    """
    right = varying(right, varying_axes(matrix))
    return _solve.bind(varying(matrix, varying_axes(right)), right, positive=positive)


def _by_lapack(matrix: Any, right: Any, *, positive: bool) -> Any:
    columns = jnp.swapaxes(right, -1, -2)
    of_one = partial(jax.scipy.linalg.solve, assume_a="pos" if positive else "gen")
    for _ in range(right.ndim - 2):
        of_one = jax.vmap(of_one)
    return jnp.swapaxes(of_one(matrix, columns), -1, -2)


def _jvp(arrays: Sequence[Any], tangents: Sequence[Any], *, positive: bool) -> Any:
    """``A dx = db - dA x``"""
    (matrix, _), (of_matrix, of_right) = arrays, tangents
    found, moved = solve(*arrays, positive=positive), ad.instantiate_zeros(of_right)
    if not isinstance(of_matrix, ad.Zero):
        moved = moved - _products(of_matrix, found)
    return found, solve(matrix, moved, positive=positive)


def _products(matrix: Any, vectors: Any) -> Any:
    """Of one vector without its axis: native code is a twelfth faster (training of MesaNet)."""
    exactly = jax.lax.Precision.HIGHEST
    if vectors.shape[-2] == 1:
        one = jnp.einsum("...ij,...j->...i", matrix, vectors[..., 0, :], precision=exactly)
        return one[..., None, :]
    return jnp.einsum("...ij,...kj->...ki", matrix, vectors, precision=exactly)


def _mapped(arrays: Sequence[Any], axes: Sequence[int | None], *, positive: bool) -> Any:
    pairs = [*zip(arrays, axes, strict=True)]
    size = next(a.shape[n] for a, n in pairs if n is not None)
    return solve(*(mapped_along(a, n, 0, size) for a, n in pairs), positive=positive), 0


def _transposed(cotangent: Any, matrix: Any, right: Any, *, positive: bool) -> list[Any]:
    turned = matrix if positive else jnp.swapaxes(matrix, -1, -2)
    return [None, solve(turned, cotangent, positive=positive)]


_solve.def_impl(jax.jit(_by_lapack, static_argnames="positive"))
_solve.def_abstract_eval(lambda matrix, right, *, positive: right)
mlir.register_lowering(_solve, mlir.lower_fun(_by_lapack, multiple_results=False))
ad.primitive_jvps[_solve] = _jvp
ad.primitive_transposes[_solve] = _transposed
batching.primitive_batchers[_solve] = _mapped
