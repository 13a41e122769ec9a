"""The forms of data that `fit` accepts, and the batches of arrays made from them."""

import inspect
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import check_numbers
from noria._types import Key
from noria.data.epochs import Epochs
from noria.data.prefetch import Prefetched
from noria.train.spread import examples


def check_data(what: str, data: Any, epochs: int) -> None:
    """Reject unsuitable data before the first step."""
    data = _origin(data)
    if advice := _advice(data):
        raise TypeError(f"fit: {what} is a {type(data).__name__} of {_library(data)}; {advice}")
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


def _origin(data: Any) -> Any:
    """The data that `noria.data.prefetch` goes through; all others are their own origin."""
    while isinstance(data, Prefetched):
        data = data.data
    return data


def _library(data: Any) -> str:
    """The library of a class of data, or an empty text."""
    return type(data).__module__.split(".")[0]


def _advice(data: Any) -> str:
    """What to pass instead of an object of another library that holds no batches."""
    bases = {f"{base.__module__}.{base.__name__}" for base in type(data).__mro__}
    if _library(data) in ("pandas", "polars", "pyarrow"):
        return (
            "a table does not say which columns are inputs and which are targets; expected "
            "a tuple of arrays of its columns, or noria.data.batches of them."
        )
    if "torch.utils.data.dataset.Dataset" in bases:
        return (
            "it has single examples; expected batches: "
            "torch.utils.data.DataLoader(dataset, batch_size=...)."
        )
    if _library(data) == "datasets":
        return (
            "it has single examples; expected batches: dataset.with_format('numpy').iter("
            "batch_size=...) in an object whose __iter__ starts again."
        )
    return ""


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


class Batch(NamedTuple):
    """A batch, or the rows of it that one process makes.

    Attributes:
        columns: the arrays.
        rows: examples in the whole batch.
        first: number of the first example in ``columns``.
        source: the state of the source after the batch, if it has one.
    """

    columns: tuple[Any, ...]
    rows: int
    first: int
    source: Any


def batches(
    data: Any,
    key: Key | None,
    start: int = 0,
    source: Any = None,
    rows: Callable[[int], slice] | None = None,
) -> Iterator[Batch]:
    """The batches of an epoch from number ``start`` on.

    Args:
        data: as `fit` takes it.
        key: shuffles data that were made with a key, such as `noria.data.batches`.
        start: number of the first batch.
        source: the state of the source before that batch, if it has one; others are skipped
            through.
        rows: the rows that this process makes of so many, if other processes make the others.
    """
    made: deque[tuple[int, int]] = deque()

    def noted(count: int) -> slice:
        found = slice(0, count) if rows is None else rows(count)
        made.append((count, found.start))
        return found

    iterator = _iterator(data, key, start, source, None if rows is None else noted)
    get_state = getattr(iterator, "get_state", None)
    for batch in iterator:
        if isinstance(batch, Iterator):
            raise TypeError(
                f"fit: a batch is a {type(batch).__name__}; expected a tuple of arrays, "
                "such as (xs, ys)."
            )
        columns = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        ready = tuple(map(_ready, columns))
        if examples(ready) == 0:
            shapes = [np.shape(leaf) for leaf in jtu.tree_leaves(ready)]
            raise ValueError(
                f"fit: a batch has no examples, its arrays have shapes {shapes}; leave it out."
            )
        count, first = made.popleft() if made else (examples(ready), 0)
        yield Batch(ready, count, first, get_state and _to_json(get_state()))


def _iterator(
    data: Any, key: Key | None, start: int, source: Any, rows: Callable[[int], slice] | None
) -> Iterator[Any]:
    if isinstance(data, Epochs):
        only = {} if rows is None else {"rows": rows}  # not every subclass has it
        return data.epoch(key if data.shuffled else None, start, **only)
    if _is_one_batch(data):
        data = [data]
    if hasattr(data, "as_numpy_iterator"):  # tf.data
        data = data.as_numpy_iterator()
    iterator = iter(data)
    if source is None or not hasattr(iterator, "set_state"):
        return itertools.islice(iterator, start, None) if start else iterator
    iterator.set_state(_from_json(source))
    return iterator


def first_batch(data: Any, key: Key | None) -> tuple[Any, ...] | None:
    """The first batch of data that can be looked at without changing them; else ``None``."""
    if isinstance(_origin(data), Epochs | Sequence):
        for batch in batches(data, key):
            return batch.columns
    return None


def _to_json(state: Any) -> Any:
    """The state of an iterator of Grain, a dict or bytes."""
    return {"bytes": state.decode("latin-1")} if isinstance(state, bytes) else state


def _from_json(state: Any) -> Any:
    is_bytes = isinstance(state, dict) and state.keys() == {"bytes"}
    return state["bytes"].encode("latin-1") if is_bytes else state


def _is_one_batch(data: Any) -> bool:
    """Whether ``data`` is one batch of everything: a tuple of arrays."""
    return isinstance(data, tuple) and any(hasattr(column, "shape") for column in data)


def _ready(column: Any) -> Any:
    """A column of a batch with arrays that JAX accepts."""
    if type(column) is np.ndarray and column.dtype.kind in "fiub" and column.dtype.isnative:
        return column  # the usual case, at each step
    return jtu.tree_map(_as_array, column)


def _as_array(leaf: Any) -> Any:
    """A number, or an array of another library, as JAX accepts it."""
    if isinstance(leaf, Mapping):  # a mapping that JAX does not know
        return {name: jtu.tree_map(_as_array, value) for name, value in leaf.items()}
    if isinstance(leaf, jax.Array | bool | int | float | complex):
        return leaf
    if not (hasattr(leaf, "__array__") or hasattr(leaf, "__dlpack__")):
        raise TypeError(
            f"fit: a batch holds a {type(leaf).__name__}; expected arrays of numbers, or numbers. "
            "Leave it out, or encode it: a class as its number."
        )
    array = leaf if isinstance(leaf, np.ndarray | np.generic) else _converted(leaf)
    check_numbers("fit", "a batch", array)
    if isinstance(array, np.ndarray) and not array.dtype.isnative:  # bytes in the order of a file
        return array.astype(array.dtype.newbyteorder("="))
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
