"""The forms of data that `fit` accepts, and the batches of arrays made from them."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import check_numbers
from noria._types import Key
from noria.data.ragged import Batches


def check_data(what: str, data: Any, epochs: int) -> None:
    """Reject unsuitable data before the first step."""
    if hasattr(data, "shape") or isinstance(data, Mapping):
        raise TypeError(
            f"fit: {what} is a {type(data).__name__}; expected noria.data.batches(...), "
            "a list of batches, or a tuple of arrays as one batch of everything: (xs, ys), "
            "or (xs,)."
        )
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise TypeError(
            f"fit: {what} is a {type(data).__name__}; expected something to iterate over."
        )
    if epochs > 1 and _passes_once(data):
        raise ValueError(
            f"fit: {what} is a {type(data).__name__}, which can be gone through once, "
            f"and epochs is {epochs}; expected a list of batches, "
            "or an object whose __iter__ starts again."
        )


def _passes_once(data: Any) -> bool:
    """Whether it is a generator or another iterator of Python, which can be consumed once.

    An iterator of another class may start again in its ``__iter__``, as some loaders do.
    """
    if not isinstance(data, Iterator):
        return False
    method = type(data).__iter__
    return method is Iterator.__iter__ or not inspect.isfunction(method)


def length(data: Any) -> int | None:
    """The number of batches, or ``None`` if it is not known."""
    if _is_one_batch(data):
        return 1
    try:
        return len(data)
    except TypeError:  # no length, or one that it does not know, as a loader of a stream
        return None


def batches(data: Any, key: Key | None) -> Iterator[tuple[Any, ...]]:
    """One epoch: tuples of arrays. ``key`` shuffles a `Batches` that was made with a key."""
    if _is_one_batch(data):
        data = [data]
    for batch in data.epoch(key) if isinstance(data, Batches) and data.shuffled else data:
        if isinstance(batch, Iterator):
            raise TypeError(
                f"fit: a batch is a {type(batch).__name__}; expected a tuple of arrays, "
                "such as (xs, ys)."
            )
        columns = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        ready = tuple(jtu.tree_map(_as_array, column) for column in columns)
        if examples(ready) == 0:
            shapes = [np.shape(leaf) for leaf in jtu.tree_leaves(ready)]
            raise ValueError(
                f"fit: a batch has no examples, its arrays have shapes {shapes}; leave it out."
            )
        yield ready


def examples(batch: tuple[Any, ...]) -> int:
    """The number of examples in a batch: the first axis of its first array, or 1 without axes."""
    leaves = jtu.tree_leaves(batch)
    shape = np.shape(leaves[0]) if leaves and hasattr(leaves[0], "shape") else ()
    return shape[0] if shape else 1


def _is_one_batch(data: Any) -> bool:
    """Whether ``data`` is one batch of everything: a tuple of arrays."""
    return isinstance(data, tuple) and any(hasattr(column, "shape") for column in data)


def _as_array(leaf: Any) -> Any:
    """An array of another library as one that JAX accepts; other objects are unchanged."""
    if isinstance(leaf, Mapping):  # a mapping that JAX does not know
        return {name: jtu.tree_map(_as_array, value) for name, value in leaf.items()}
    if isinstance(leaf, jax.Array) or not (
        hasattr(leaf, "__array__") or hasattr(leaf, "__dlpack__")
    ):
        return leaf
    array = leaf if isinstance(leaf, np.ndarray | np.generic) else _converted(leaf)
    check_numbers("fit", "a batch", array)
    return array


def _converted(leaf: Any) -> Any:
    try:
        return np.asarray(leaf)
    except Exception as error:
        try:  # a type that NumPy lacks, or memory of an accelerator
            return jnp.from_dlpack(leaf)
        except Exception:
            raise TypeError(
                f"fit: a batch holds a {type(leaf).__name__} that cannot be read as an array: "
                f"{error} Expected NumPy or JAX arrays, or tensors on the CPU that need no "
                "gradient."
            ) from error
