"""The one harness for the sentence "backend A equals backend B".

Compared are the values, the final state and all cotangents, for random cotangents of the results.
Of a call with lengths, the input past the end of each sequence is NaN, and no result may be.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from fuzzing.evaluate import evaluated
from models import assert_close, noise, poisoned

import noria as nr

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

#: The values of a function, and the cotangents of all its arguments that have one.
Pulled = tuple[Any, list[Any]]


def pulled(function: Callable[..., Any], *args: Any, seed: int = 7) -> Pulled:
    """Call a function, and pull random cotangents of its results back to its arguments."""
    smooth, rest = eqx.partition(args, eqx.is_inexact_array)

    def one(smooth: Any) -> Any:
        return eqx.partition(function(*eqx.combine(smooth, rest)), eqx.is_inexact_array)

    values, pull, others = jax.vjp(one, smooth, has_aux=True)
    return eqx.combine(values, others), jtu.tree_leaves(pull(noise(values, seed)))


def pulled_at_once(function: Callable[..., Any], *args: Any) -> Pulled:
    """The same as `pulled`, as one program. Each call traces and compiles a new one."""
    arrays, rest = eqx.partition(args, eqx.is_array)
    return jax.jit(lambda arrays: pulled(function, *eqx.combine(arrays, rest)))(arrays)


def scanned(layer: Any, xs: Any, state: Any = None, **options: Any) -> Pulled:
    """Values of ``scan``, and cotangents of parameters, learned state, passed state and input."""

    def run(layer: Any, state: Any, xs: Any) -> Any:
        return layer.scan(state, xs, **options)

    if layer.backend != "reference":
        return pulled_at_once(run, layer, state, xs)
    arrays, rest = eqx.partition((layer, state, xs), eqx.is_array)
    smooth = jtu.tree_leaves(eqx.filter(arrays, eqx.is_inexact_array))
    if any(a.dtype.itemsize < 8 for a in smooth):  # NumPy's functions round otherwise
        return pulled(run, layer, state, xs)
    return evaluated(lambda arrays: pulled(run, *eqx.combine(arrays, rest)), arrays)


def assert_agree(
    layer: Any,
    other: Any,
    xs: Any,
    state: Any = None,
    *,
    tolerance: float | None = None,
    **options: Any,
) -> Pulled:
    """Check that two layers give the same values, final state and cotangents.

    Args:
        layer: the layer to check.
        other: the layer that is right. Its results are computed once for equal arguments.
        xs: the input; with ``lengths`` it is made NaN past the end.
        state: the state to start from, if any.
        tolerance: relative to the largest number of each array; by default follows the dtype.
        **options: keyword arguments of ``scan``.

    Returns:
        What ``layer`` gives.
    """
    if options.get("lengths") is not None:
        xs = jtu.tree_map(lambda a: poisoned(a, options["lengths"]), xs)
    found = scanned(layer, xs, state, **options)
    if options.get("lengths") is not None:
        assert all(np.isfinite(a).all() for a in jtu.tree_leaves(found))
    tolerance = tolerance or TOLERANCE[str(jtu.tree_leaves(found)[0].dtype)]
    assert_close(found, cached(other, xs, state, **options), tolerance)
    return found


def assert_pieces_agree(
    layer: Any, xs: jax.Array, state: Any, resets: jax.Array | None = None
) -> Pulled:
    """Check that two pieces with the carry between them, and single steps, give the whole.

    Args:
        layer: the layer.
        xs: the input, ``(batch, time, ...)``.
        state: the state of each example to start from.
        resets: ``(batch, time)``, if any.

    Returns:
        What the whole sequence gives.
    """

    def options(part: Any) -> dict[str, Any]:
        return {} if resets is None else {"resets": resets[:, part]}

    def whole(layer: Any, state: Any, xs: Any) -> Any:
        return layer.scan(state, xs, **options(slice(None)))

    def pieces(layer: Any, state: Any, xs: Any) -> Any:
        state, first = layer.scan(state, xs[:, :2], **options(slice(2)))
        state, last = layer.scan(state, xs[:, 2:], **options(slice(2, None)))
        return state, jtu.tree_map(lambda *a: jnp.concatenate(a, 1), first, last)

    def steps(layer: Any, state: Any, xs: Any) -> Any:
        ys = []
        for t in range(xs.shape[1]):
            state, y = layer.step(state, xs[:, t], **options(t))
            ys.append(y)
        return state, jtu.tree_map(lambda *a: jnp.stack(a, 1), *ys)

    expected = pulled_at_once(whole, layer, state, xs)
    for run in (pieces, steps):
        assert_close(pulled_at_once(run, layer, state, xs), expected, 1e-10)
    return expected


def check_native(layer: Any, xs: Any, state: Any = None, **options: Any) -> Pulled:
    """Check that machine code gives what the scan gives."""
    native, scan = (nr.with_backend(layer, backend) for backend in ("native", "scan"))
    return assert_agree(native, scan, xs, state, **options)


_CACHED: dict[Any, Pulled] = {}


def cached(layer: Any, xs: Any, state: Any = None, **options: Any) -> Pulled:
    """The same as `scanned`, computed once for equal arguments."""
    leaves, structure = jtu.tree_flatten((layer, xs, state, options))
    key = (structure, *map(_content, leaves))
    if key not in _CACHED:
        _CACHED[key] = scanned(layer, xs, state, **options)
    return _CACHED[key]


def _content(leaf: Any) -> Any:
    if not eqx.is_array(leaf):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes()


def assert_backends_agree(
    function: Callable[..., Any],
    layer: Any,
    *args: Any,
    backends: tuple[str, str] = ("native", "scan"),
    tolerance: float = 1e-10,
) -> Any:
    """Check that ``function(layer, *args)`` gives the same on two backends; what the first gives.

    For functions that take derivatives themselves, or map over layers.
    """
    found, expected = (
        jtu.tree_leaves(jax.jit(function)(nr.with_backend(layer, backend), *args))
        for backend in backends
    )
    assert_close(found, expected, tolerance)
    return found
