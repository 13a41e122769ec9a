"""Checks of what users pass in. A message says the call, what came, what was wanted, and what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import Tracer


def known(array: Any) -> np.ndarray | None:
    """The values of ``array`` where they are known: not under `jax.jit` and its like, nor of an empty array."""
    if isinstance(array, Tracer):
        return None
    values = np.asarray(array)
    return values if values.size else None


def check_key(call: str, key: Any) -> None:
    """A random key, typed or raw; the usual slips are an int seed and a forgotten key."""
    if isinstance(key, jax.Array):
        typed = bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key))
        if (typed and key.ndim == 0) or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
        came = f"{key.dtype}{list(key.shape)}"
    else:
        came = "None" if key is None else f"a {type(key).__name__}"
    raise TypeError(f"{call}: key is {came}; expected one JAX random key, such as key=jax.random.key(0).")


def check_sizes(call: str, **sizes: Any) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{call}: {name} is {size!r}; expected a whole number of at least 1.")


def check_choice(call: str, name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{call}: {name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


def check_step(call: str, what: str, array: Any, size: int, dtype: Any, hint: str = "") -> None:
    """One step or one state: its last axis and its dtype."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(f"{call}: {what} is a {type(array).__name__}; expected an array of shape ({size},){hint}.")
    if array.ndim == 0 or array.shape[-1] != size:
        raise ValueError(f"{call}: {what} has shape {tuple(array.shape)}; expected ({size},) or (batch, {size}){hint}.")
    check_dtype(call, what, array, dtype)


def check_dtype(call: str, what: str, array: Any, dtype: Any) -> None:
    if jax.dtypes.canonicalize_dtype(array.dtype) != dtype:
        raise TypeError(
            f"{call}: {what} is {array.dtype}, but the parameters are {jnp.dtype(dtype)}; nothing is promoted "
            f"silently. Convert {what} with .astype({jnp.dtype(dtype).name!r}), or the model with noria.cast."
        )


def describe(tree: Any) -> str:
    """Structure, shapes and dtypes in one line: ``LSTMState(h=float32[5], c=float32[5])``."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return (
            f"{type(tree).__name__}({', '.join(f'{n}={describe(v)}' for n, v in zip(tree._fields, tree, strict=True))})"
        )
    if isinstance(tree, tuple | list):
        return f"{type(tree).__name__}({', '.join(map(describe, tree))})"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    return type(tree).__name__ if not isinstance(tree, dict) else str({k: describe(v) for k, v in tree.items()})
