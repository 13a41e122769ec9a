"""The question of most tests of a backend: does a layer give what another backend gives, in values and all cotangents?"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from models import assert_close

import noria as nr

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def noise(tree: Any, seed: int, spread: float = 1.0) -> Any:
    """Normal numbers in the place of all that is real or complex; whole numbers count up, truth values stay."""
    rng = np.random.default_rng(seed)

    def one(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return leaf + jnp.arange(max(1, leaf.size), dtype=leaf.dtype).reshape(leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        numbers = rng.normal(size=leaf.shape)
        if jnp.iscomplexobj(leaf):
            numbers = numbers + 1j * rng.normal(size=leaf.shape)
        return jnp.asarray(spread * numbers, leaf.dtype)

    return jtu.tree_map(one, tree)


def pulled(function: Callable[..., Any], *args: Any) -> tuple[Any, list[Any]]:
    """Values of a function, and its pull-back of random cotangents to all that can have one."""
    smooth, rest = eqx.partition(args, eqx.is_inexact_array)

    def one(smooth: Any) -> Any:
        return eqx.partition(function(*eqx.combine(smooth, rest)), eqx.is_inexact_array)

    values, pull, others = jax.vjp(one, smooth, has_aux=True)
    return eqx.combine(values, others), jtu.tree_leaves(pull(noise(values, 7)))


def pulled_at_once(function: Callable[..., Any], *args: Any) -> tuple[Any, list[Any]]:
    """The same as one program, which is made anew by each call."""
    arrays, rest = eqx.partition(args, eqx.is_array)
    return jax.jit(lambda arrays: pulled(function, *eqx.combine(arrays, rest)))(arrays)


def scanned(layer: Any, xs: Any, state: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """Values of ``scan``, and cotangents of parameters, learned state, passed state and input."""

    def run(layer: Any, state: Any, xs: Any) -> Any:
        return layer.scan(state, xs, **options)

    # The definition compiles longer, once unrolled, than it takes operation by operation.
    call = pulled if layer.backend == "reference" else pulled_at_once
    return call(run, layer, state, xs)


def check_native(layer: Any, xs: Any, state: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """Machine code gives what the scan gives; and what that is."""
    found = scanned(nr.with_backend(layer, "native"), xs, state, **options)
    assert_close(
        found, by_scan(layer, xs, state, **options), TOLERANCE[str(jtu.tree_leaves(found)[0].dtype)]
    )
    return found


#: Results of scans: each is computed once, whatever the machine code is made for.
_BY_SCAN: dict[Any, tuple[Any, list[Any]]] = {}


def by_scan(layer: Any, xs: Any, state: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """`scanned` of the scan."""
    layer = nr.with_backend(layer, "scan")
    leaves, structure = jtu.tree_flatten((layer, xs, state, options))
    key = (
        structure,
        *(
            (a.shape, str(a.dtype), np.asarray(a).tobytes()) if eqx.is_array(a) else a
            for a in leaves
        ),
    )
    if key not in _BY_SCAN:
        _BY_SCAN[key] = scanned(layer, xs, state, **options)
    return _BY_SCAN[key]
