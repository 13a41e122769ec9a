"""A primitive: systems of linear equations with symmetric, positive definite matrices."""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from noria._jax.mesh_axes import varying, varying_axes

_solve = Primitive("noria_positive_solve")


def positive_solve(matrix: Any, right: Any) -> Any:
    """The solutions ``x`` of ``matrix @ x[k] = right[k]``, by Cholesky's method.

    The axes are ``(..., n, n)`` and ``(..., k, n)``. If a matrix is not positive definite, all
    numbers of its solutions are NaN. The derivative is the one along symmetric matrices.
    """
    right = varying(right, varying_axes(matrix))
    return _solve.bind(varying(matrix, varying_axes(right)), right)


def _by_cholesky(matrix: Any, right: Any) -> Any:
    columns = jnp.swapaxes(right, -1, -2)
    of_one = partial(jax.scipy.linalg.solve, assume_a="pos")
    for _ in range(right.ndim - 2):
        of_one = jax.vmap(of_one)
    return jnp.swapaxes(of_one(matrix, columns), -1, -2)


def _jvp(arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """``A dx = db - dA x``"""
    (matrix, _), (of_matrix, of_right) = arrays, tangents
    found, moved = positive_solve(*arrays), ad.instantiate_zeros(of_right)
    if not isinstance(of_matrix, ad.Zero):
        moved = moved - _products(of_matrix, found)
    return found, positive_solve(matrix, moved)


def _products(matrix: Any, vectors: Any) -> Any:
    exactly = jax.lax.Precision.HIGHEST
    if vectors.shape[-2] == 1:
        one = jnp.einsum("...ij,...j->...i", matrix, vectors[..., 0, :], precision=exactly)
        return one[..., None, :]
    return jnp.einsum("...ij,...kj->...ki", matrix, vectors, precision=exactly)


def _mapped(arrays: Sequence[Any], axes: Sequence[int | None]) -> Any:
    count = next(a.shape[n] for a, n in zip(arrays, axes, strict=True) if n is not None)
    in_front = [
        jnp.broadcast_to(a, (count, *a.shape)) if n is None else jnp.moveaxis(a, n, 0)
        for a, n in zip(arrays, axes, strict=True)
    ]
    return positive_solve(*in_front), 0


_solve.def_impl(jax.jit(_by_cholesky))
_solve.def_abstract_eval(lambda matrix, right: right)
mlir.register_lowering(_solve, mlir.lower_fun(_by_cholesky, multiple_results=False))
ad.primitive_jvps[_solve] = _jvp
ad.primitive_transposes[_solve] = lambda g, matrix, right: [None, positive_solve(matrix, g)]
batching.primitive_batchers[_solve] = _mapped
