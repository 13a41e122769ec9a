"""``Epochs``: data whose batches are a function of a key and a number, so that a run can resume."""

import abc
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax

from noria._errors import check_key
from noria._types import Key

#: Which rows of a batch of so many rows are made.
Rows: TypeAlias = Callable[[int], slice]


class Epochs(abc.ABC):
    """Batches that are gone through again and again, from any batch on.

    ::

        list(data.epoch(key, start=n)) == list(data.epoch(key))[n:]

    An epoch is a function of a key and not of an iterator's state. So `noria.fit` resumes in the
    middle of an epoch, and processes agree on the order. `noria.data.batches` and
    `noria.data.streams` return such objects. A subclass of your own defines ``__len__`` and
    `epoch`.

    Args:
        key: random key that shuffles, differently in each iteration, or ``None`` for one order.

    Raises:
        TypeError: for a key that is not a random key.

    PyTorch's ``Sampler`` and Grain's iterators keep a state instead.

    Examples:
        >>> import numpy as np, noria as nr
        >>> class Blocks(nr.data.Epochs):
        ...     def __len__(self):
        ...         return 3
        ...
        ...     def epoch(self, key=None, start=0, rows=None):
        ...         for n in range(start, 3):
        ...             block = np.full(2, n)
        ...             yield (block if rows is None else block[rows(2)],)
        >>> [block.tolist() for (block,) in Blocks().epoch(start=1)]
        [[1, 1], [2, 2]]
    """

    def __init__(self, key: Key | None = None):
        if key is not None:
            check_key(type(self).__name__.lower(), key)
        self._key, self._epoch = key, 0

    # For subclasses without a constructor.
    _key: Key | None = None
    _epoch = 0

    @property
    def shuffled(self) -> bool:
        """Whether it was made with a key. `noria.fit` then shuffles by its own key."""
        return self._key is not None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        key = None if self._key is None else jax.random.fold_in(self._key, self._epoch)
        self._epoch += 1
        return self.epoch(key)

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of batches in an epoch."""

    @abc.abstractmethod
    def epoch(
        self, key: Key | None = None, start: int = 0, rows: Rows | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """The batches of one epoch, in the order given by a key.

        Args:
            key: random key that shuffles; without it the order is always the same.
            start: number of the first batch; those before it are skipped, not made.
            rows: makes some rows of each batch only: ``rows(n)`` is a slice of its ``n`` rows, and
                is called once for each batch; see `rows_of_process`.

        Returns:
            An iterator over tuples of arrays.
        """


def rows_of_process(index: int | None = None, count: int | None = None) -> Rows:
    """The rows of each batch that one of several processes makes, for loops of your own.

    ::

        rows(n) = slice(n * index // count, n * (index + 1) // count)

    All processes go through the same batches, and each makes its part of the arrays.
    `noria.fit` with ``mesh=`` does this on its own.

    Args:
        index: number of the process, from 0; that of `jax.distributed` by default.
        count: number of processes; that of `jax.distributed` by default.

    Returns:
        A function for ``rows=`` of `Epochs.epoch`.

    Raises:
        ValueError: unless ``0 <= index < count``.

    Examples:
        >>> import numpy as np, noria as nr
        >>> data = nr.data.batches(np.arange(5), batch_size=3)
        >>> [x.tolist() for (x,) in data.epoch(rows=nr.data.rows_of_process(0, 2))]
        [[0], [3]]
        >>> [x.tolist() for (x,) in data.epoch(rows=nr.data.rows_of_process(1, 2))]
        [[1, 2], [4]]
    """
    index = jax.process_index() if index is None else index
    count = jax.process_count() if count is None else count
    if not 0 <= index < count:
        raise ValueError(
            f"rows_of_process(index={index}, count={count}): expected an index from 0 to count - 1."
        )
    return lambda n: slice(n * index // count, n * (index + 1) // count)


def all_rows(n: int) -> slice:
    """Each row of a batch."""
    return slice(0, n)
