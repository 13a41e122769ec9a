"""Sums of products of factors as arrays; see `noria.compiler.multilinear`."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.compiler.terms import Factor
from noria.ir.graph import Env, read


def evaluated(
    known: Env,
    terms: Iterable[tuple[float, Sequence[Factor]]],
    labels: Sequence[int],
    sizes: dict[int, int],
    dtype: Any,
) -> jax.Array:
    """The sum of products of factors as an array over ``labels``."""
    shape = tuple(sizes[label] for label in labels)
    total = None
    for coefficient, factors in terms:
        term = _product(known, coefficient, factors, labels, shape, dtype)
        total = term if total is None else total + term
    return jnp.zeros(shape, dtype) if total is None else total


def _product(
    known: Env,
    coefficient: float,
    factors: Sequence[Factor],
    labels: Sequence[int],
    shape: tuple[int, ...],
    dtype: Any,
) -> jax.Array:
    """A mask that spans summed labels is a factor of 0 or 1; others select from the product."""
    operands: list[Any] = [jnp.asarray(coefficient, dtype), []]
    masks = []
    for factor in factors:
        if factor.is_mask and {*factor.labels} <= {*labels}:
            masks.append(factor)
            continue
        array = jnp.asarray(read(known, factor.atom))
        array = ~array if factor.kind == "unless" else array
        array = array.astype(dtype)
        operands += [1 / array if factor.kind == "over" else array, [*factor.labels]]
    present = {label for used in operands[1::2] for label in used}
    names = {label: i for i, label in enumerate(present | {*labels})}
    for i in range(1, len(operands), 2):
        operands[i] = [names[label] for label in operands[i]]
    kept = [label for label in labels if label in present]
    product = jnp.einsum(*operands, [names[label] for label in kept])
    product = _spread(product, kept, labels, shape)
    for mask in masks:
        array = jnp.asarray(read(known, mask.atom))
        order = [label for label in labels if label in mask.labels]
        array = jnp.transpose(array, [mask.labels.index(label) for label in order])
        array = _spread(array, order, labels, shape)
        array = ~array if mask.kind == "unless" else array
        product = jnp.where(array, product, jnp.zeros_like(product))
    return product


def _spread(
    array: jax.Array, present: Sequence[int], labels: Sequence[int], shape: tuple[int, ...]
) -> jax.Array:
    return jax.lax.broadcast_in_dim(array, shape, [labels.index(label) for label in present])
