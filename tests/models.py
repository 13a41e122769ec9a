"""What several test files build: cells by name, layers, random arrays, and a loss."""

import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import oracles

import noria as nr

#: What ``backend="auto"`` runs for a cell that there is machine code for.
AUTO = (
    "native"
    if jax.default_backend() == "cpu" and os.environ.get("NORIA_BACKEND") != "scan"
    else "scan"
)

#: Every cell of the library, by name: (constructor, oracle of one step in NumPy).
CELLS: dict[str, tuple[Any, Any]] = {
    "rnn": (nr.RNNCell, oracles.rnn),
    "lstm": (nr.LSTMCell, oracles.lstm),
    "gru": (nr.GRUCell, oracles.gru),
    "gruv3": (nr.GRUv3Cell, oracles.gruv3),
}


def to_jax(array: Any, dtype: Any) -> jax.Array:
    """An array of NumPy as one of JAX, which would compile the conversion of each shape."""
    return jax.device_put(np.asarray(array).astype(dtype))


def make_cell(
    name: str, in_size: int = 3, hidden_size: int = 4, *, dtype: Any = jnp.float64, **options: Any
) -> Any:
    """A cell with both biases, all random. NumPy draws them: JAX would compile for each shape."""
    cell, rng = CELLS[name][0], np.random.default_rng(len(name))
    rows = len(cell.GATES) * hidden_size
    bound = (6 / (in_size + rows)) ** 0.5
    weights = [rng.uniform(-bound, bound, (rows, size)) for size in (in_size, hidden_size)]
    biases = [rng.normal(0, 0.5, rows) for _ in range(2)]
    return cell.from_arrays(*(to_jax(a, dtype) for a in (*weights, *biases)), **options)


def arrays_of(cell: Any) -> dict[str, Any]:
    """W, U, b, b_h as NumPy arrays, for the oracles."""
    return {
        name: None if (a := getattr(cell, name)) is None else np.asarray(a)
        for name in ("W", "U", "b", "b_h")
    }


def random_like(tree: Any, seed: int, dtype: Any = jnp.float64) -> Any:
    """A tree of normal numbers with the shapes of ``tree``."""
    rng = np.random.default_rng(seed)
    return jtu.tree_map(lambda leaf: to_jax(rng.normal(size=leaf.shape), dtype), tree)


def random(seed: int, *shape: int, dtype: Any = jnp.float64) -> jax.Array:
    return to_jax(np.random.default_rng(seed).normal(size=shape), dtype)


def poisoned(xs: jax.Array, lengths: Any) -> jax.Array:
    """Sequences with NaN past the end of each example, which nothing may read."""
    if not jnp.issubdtype(xs.dtype, jnp.inexact):
        return xs
    lengths = np.asarray(lengths)
    inside = np.arange(xs.shape[lengths.ndim]) < lengths[..., None]
    step = (1,) * (xs.ndim - inside.ndim)
    return jnp.where(inside.reshape(*inside.shape, *step), xs, jnp.nan)


def noise(tree: Any, seed: int, spread: float = 1.0) -> Any:
    """Normal numbers for real and complex arrays; whole numbers count up, truth values stay."""
    rng = np.random.default_rng(seed)

    def one(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            counts = np.arange(max(1, leaf.size), dtype=leaf.dtype).reshape(leaf.shape)
            return to_jax(np.asarray(leaf) + counts, leaf.dtype)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        numbers = rng.normal(size=leaf.shape)
        if jnp.iscomplexobj(leaf):
            numbers = numbers + 1j * rng.normal(size=leaf.shape)
        return to_jax(spread * numbers, leaf.dtype)

    return jtu.tree_map(one, tree)


def learned(cell: Any, state: Any = None, **options: Any) -> nr.Recurrence:
    """A layer whose initial state is random and learned."""
    state = cell.initial_state() if state is None else state
    return nr.Recurrence(cell, noise(state, 3), learn_initial_state=True, **options)


def ensemble(layer: Any, count: int) -> Any:
    """Copies of a layer with other numbers, stacked along a new first axis of each array."""
    arrays, rest = eqx.partition(layer, eqx.is_array)
    scaled = jtu.tree_map(lambda a: jnp.stack([a * (1 + 0.1 * n) for n in range(count)]), arrays)
    return eqx.combine(scaled, rest)


def sum_of_squares(layer: Any, xs: Any, state: Any = None) -> jax.Array:
    """A loss that depends on all outputs and on the final state."""
    leaves = jtu.tree_leaves(layer.scan(state, xs))
    return sum((jnp.sum(leaf**2) for leaf in leaves), jnp.zeros((), leaves[0].dtype))


def cotangents(layer: Any, state: Any, xs: Any, seed: int = 7, **options: Any) -> tuple[Any, Any]:
    """Values of ``scan``, and its pull-back of random cotangents to parameters, state and input."""
    trained, rest = eqx.partition(layer, eqx.is_inexact_array)

    def run(trained: Any, state: Any, xs: Any) -> Any:
        return eqx.combine(trained, rest).scan(state, xs, **options)

    values, pull = jax.vjp(run, trained, state, xs)
    dtype = jtu.tree_leaves(xs)[0].dtype
    return values, pull(random_like(values, seed, dtype))


def assert_close(a: Any, b: Any, tolerance: float) -> None:
    """Equal structure, and equal numbers relative to the largest of each array."""
    assert str(jtu.tree_structure(a)) == str(jtu.tree_structure(b))
    for x, y in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        scale = max(1.0, np.abs(y).max(initial=0.0))
        np.testing.assert_allclose(x / scale, y / scale, rtol=0, atol=tolerance)
