"""Checks of arguments. A message gives the call, the argument, the expectation, and advice."""

from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._jax import Tracer


def as_given(array: Any) -> Any:
    """``array`` as a NumPy or JAX array of the dtype that it has.

    `jnp.asarray` would narrow it to 32 bits before its values are checked.
    """
    traced = any(isinstance(leaf, Tracer) for leaf in jtu.tree_leaves(array))
    ours = traced or isinstance(array, jax.Array) or hasattr(array, "__jax_array__")
    return jnp.asarray(array) if ours else np.asarray(array)


def known(array: Any) -> np.ndarray | None:
    """The values of ``array``, or ``None`` if it is traced, as under `jax.jit`, or empty."""
    given = as_given(array)
    if isinstance(given, Tracer):
        return None
    values = np.asarray(given)
    return values if values.size else None


def check_numbers(call: str, what: str, array: Any) -> None:
    """Reject an array of anything but numbers and booleans.

    NumPy makes an array of objects of a table with a column of dates, for example.
    """
    if getattr(array.dtype, "kind", "") in "OSUMm":
        raise TypeError(
            f"{call}: {what} is an array of {array.dtype}; expected numbers. "
            "Leave out text and dates, or convert with .astype(float)."
        )


def check_fits(call: str, what: str, values: np.ndarray) -> None:
    """Reject integers that do not fit into the dtype to which JAX narrows them."""
    narrow = jax.dtypes.canonicalize_dtype(values.dtype)
    if narrow == values.dtype or not np.issubdtype(values.dtype, np.integer) or not values.size:
        return
    low, high, info = values.min(), values.max(), np.iinfo(narrow)
    if low < info.min or high > info.max:
        bad = low if low < info.min else high
        raise ValueError(
            f"{call}: {what} holds {bad}, which does not fit into {narrow}; "
            f"expected {info.min} to {info.max}, or 64 bits enabled: "
            "jax.config.update('jax_enable_x64', True)."
        )


def need_matplotlib(call: str) -> None:
    """Raise `ImportError` if it is not installed."""
    if find_spec("matplotlib") is None:
        raise ImportError(f"{call} needs matplotlib; install it with: pip install 'noria[plot]'.")


def check_key(call: str, key: Any) -> None:
    """Accept one random key, typed or raw; common mistakes are an int seed and a missing key."""
    if isinstance(key, jax.Array):
        typed = bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key))
        if (typed and key.ndim == 0) or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
        came = f"{key.dtype}{list(key.shape)}"
    else:
        came = "None" if key is None else f"a {type(key).__name__}"
    raise TypeError(
        f"{call}: key is {came}; expected one JAX random key, such as key=jax.random.key(0)."
    )


def check_sizes(call: str, **sizes: Any) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{call}: {name} is {size!r}; expected a whole number of at least 1.")


def check_choice(call: str, name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{call}: {name} is {value!r}; expected one of {', '.join(map(repr, choices))}."
        )


def check_step(call: str, what: str, array: Any, size: int, dtype: Any, hint: str = "") -> None:
    """Check the last axis and the dtype of one step or one state."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(
            f"{call}: {what} is a {type(array).__name__}; "
            f"expected an array of shape ({size},){hint}."
        )
    if array.ndim == 0 or array.shape[-1] != size:
        raise ValueError(
            f"{call}: {what} has shape {tuple(array.shape)}; "
            f"expected ({size},) or (batch, {size}){hint}."
        )
    check_dtype(call, what, array, dtype)


def check_dtype(call: str, what: str, array: Any, dtype: Any) -> None:
    if jax.dtypes.canonicalize_dtype(array.dtype) != dtype:
        raise TypeError(
            f"{call}: {what} is {array.dtype}, but the parameters are {jnp.dtype(dtype)}; "
            f"nothing is promoted silently. Convert {what} with "
            f".astype({jnp.dtype(dtype).name!r}), or the model with noria.cast."
        )


def describe(tree: Any) -> str:
    """Structure, shapes and dtypes in one line: ``LSTMState(h=float32[5], c=float32[5])``."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields = (f"{n}={describe(v)}" for n, v in zip(tree._fields, tree, strict=True))
        return f"{type(tree).__name__}({', '.join(fields)})"
    if isinstance(tree, tuple | list):
        return f"{type(tree).__name__}({', '.join(map(describe, tree))})"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, dict):
        return str({name: describe(value) for name, value in tree.items()})
    return type(tree).__name__
