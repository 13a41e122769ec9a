"""Scatters to positions that are constants, in terms of slices and concatenations.

::

    x.at[2:4].set(u)    concatenate(x[0:2], u, x[4:])
    x.at[2:4].add(u)    concatenate(x[0:2], x[2:4] + u, x[4:])

Positions may repeat. The last one of them is set, and each of them is added.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria.ir.evaluate import evaluated_now
from noria.ir.graph import Equation

#: How each scatter combines an element with an update; setting one combines nothing.
_COMBINE: dict[str, Callable[..., Any] | None] = {
    "scatter": None,
    "scatter-add": jax.lax.add,
    "scatter-max": jax.lax.max,
    "scatter-min": jax.lax.min,
    "scatter-mul": jax.lax.mul,
}
SCATTERS = frozenset(_COMBINE)

#: Positions and updates up to which runs are looked for, to keep tracing short
#: (``python benchmarks/tuning.py MOST_POSITIONS``).
MOST_POSITIONS = 2**16


def scattered(equation: Equation, indices: np.ndarray, most: int) -> Callable[..., Any] | None:
    """A scatter as a function of operand and updates; ``None`` if it has more than ``most`` runs.

    Args:
        equation: the scatter.
        indices: its positions.
        most: runs of neighbours, in the order of the operand.
    """
    operand, _, updates = (v.aval for v in equation.inputs)
    combine = _COMBINE[equation.name]
    is_apply = combine is None and equation.params["update_jaxpr"] is not None
    if is_apply or not 0 < max(operand.size, updates.size) <= MOST_POSITIONS or not operand.size:
        return None
    rounds: Iterator[np.ndarray] = iter(())
    if updates.size:
        rounds = _rounds(_positions(equation, indices), operand.size, once=combine is None)
    cuts = [[*_runs(sources)] for sources in rounds]
    if sum(map(len, cuts)) > most:
        return None

    def result(x: jax.Array, _: Any, updates: jax.Array) -> list[jax.Array]:
        flat, given = x.reshape(-1), updates.reshape(-1)
        for runs in cuts:
            parts = []
            for first, last, source in runs:
                part = jax.lax.slice(flat, (first,), (last,))
                if source >= 0:
                    new = jax.lax.slice(given, (source,), (source + last - first,))
                    part = new if combine is None else combine(part, new)
                parts.append(part)
            flat = jnp.concatenate(parts)
        return [flat.reshape(x.shape)]

    return result


def _positions(equation: Equation, indices: np.ndarray) -> np.ndarray:
    """For each update the element of the operand that it goes to; -1 if it is dropped.

    The pull-back of a sum of the updates at these positions reads them again.
    """
    operand, _, updates = (v.aval for v in equation.inputs)
    params = {k: equation.params[k] for k in ("dimension_numbers", "mode", "unique_indices")}

    def added(some: jax.Array) -> jax.Array:
        at = jnp.asarray(indices)
        return jax.lax.scatter_add(jnp.zeros(operand.shape, jnp.float32), at, some, **params)

    def read(numbers: jax.Array) -> jax.Array:
        (found,) = jax.vjp(added, jnp.zeros(updates.shape, jnp.float32))[1](numbers)
        return found

    numbers = np.arange(1, operand.size + 1, dtype=np.float32).reshape(operand.shape)
    return np.asarray(evaluated_now(read, numbers)).astype(np.int64).reshape(-1) - 1


def _rounds(positions: np.ndarray, size: int, *, once: bool) -> Iterator[np.ndarray]:
    """For each element the update it gets, or -1: in one round the last one, or all in several."""
    left = np.flatnonzero(positions >= 0)
    if once:
        left = left[::-1]
    while len(left):
        places, first = np.unique(positions[left], return_index=True)
        sources = np.full(size, -1)
        sources[places] = left[first]
        left = np.delete(left, first)
        yield sources
        if once:
            return


def _runs(sources: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Runs of neighbours: first element, end, and the first update, or -1 without any."""
    step = np.diff(sources)
    is_same = np.where(sources[1:] >= 0, (step == 1) & (sources[:-1] >= 0), step == 0)
    ends = np.flatnonzero(~is_same) + 1
    bounds = [0, *ends.tolist(), len(sources)]
    for first, last in pairwise(bounds):
        yield first, last, int(sources[first])
