"""The arguments of `noria.ops.chunkwise.matrix_recurrence` at one step, from the form of a step."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.compiler.matrix_form import MatrixForm, MatrixStep, Products, Read
from noria.compiler.products import evaluated
from noria.compiler.split import Split
from noria.ir.graph import Env


def coefficients_of(
    env: Env, step: MatrixStep, matrix: MatrixForm, split: Split
) -> list[jax.Array]:
    """Decay, write, value; feedback, reads and reset, if present; then the offsets."""
    sizes, heads = step.algebra.sizes, matrix.heads
    dtype = split.state[matrix.index].aval.dtype

    def array(products: Products, labels: Sequence[int], over: Sequence[int]) -> jax.Array:
        """The products as vectors over ``over``, one for each combination of ``labels``."""
        found = evaluated(env, products, (*heads, *labels, *over), sizes, dtype)
        lead = found.shape[: len(heads)]
        return found.reshape(*lead, -1, *(sizes[label] for label in over))

    def stacked(arrays: list[jax.Array], width: int) -> jax.Array:
        shape = (*(sizes[label] for label in heads), 0, width)
        return jnp.concatenate(arrays, -2) if arrays else jnp.zeros(shape, dtype)

    decay = evaluated(
        env, matrix.decay, (*heads, matrix.key) if matrix.has_key_decay else heads, sizes, dtype
    )
    found = [decay if matrix.has_key_decay else decay[..., None]]
    ranks = [() if u.rank is None else (u.rank,) for u in matrix.updates]
    updates = list(zip(matrix.updates, ranks, strict=True))
    keys, values = sizes[matrix.key], sizes[matrix.value]
    found.append(stacked([array([(1.0, u.write)], r, [matrix.key]) for u, r in updates], keys))
    found.append(stacked([array(u.value, r, [matrix.value]) for u, r in updates], values))
    if matrix.has_feedback:
        found.append(stacked([array(u.feedback, r, [matrix.key]) for u, r in updates], keys))
    if matrix.reads:
        found.append(stacked([_query(env, step, r, dtype) for r in matrix.reads], keys))
    if matrix.reset:
        found.append(evaluated(env, [(1.0, matrix.reset)], (), sizes, dtype))
    return [*found, *(_offset(env, step, r, dtype) for r in matrix.reads)]


def _query(env: Env, step: MatrixStep, read: Read, dtype: Any) -> jax.Array:
    labels = (*read.heads, *read.extra, read.key)
    found = evaluated(env, read.query, labels, step.algebra.sizes, dtype)
    return found.reshape(*found.shape[: len(read.heads)], -1, found.shape[-1])


def _offset(env: Env, step: MatrixStep, read: Read, dtype: Any) -> jax.Array:
    labels = (*read.heads, *read.extra, read.value)
    found = evaluated(env, read.offset, labels, step.algebra.sizes, dtype)
    return found.reshape(*found.shape[: len(read.heads)], -1, found.shape[-1])
