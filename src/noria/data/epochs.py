"""``Epochs``: data whose batches are a function of a key and a number, so that a run can resume."""

import abc
from collections.abc import Iterator
from typing import Any

import jax

from noria._errors import check_key
from noria._types import Key


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
        ...     def epoch(self, key=None, start=0):
        ...         for n in range(start, 3):
        ...             yield (np.full(2, n),)
        >>> [block.tolist() for (block,) in Blocks().epoch(start=1)]
        [[1, 1], [2, 2]]
    """

    def __init__(self, key: Key | None = None):
        if key is not None:
            check_key(type(self).__name__.lower(), key)
        self._key, self._epoch = key, 0

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
    def epoch(self, key: Key | None = None, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """The batches of one epoch, in the order given by a key.

        Args:
            key: random key that shuffles; without it the order is always the same.
            start: number of the first batch; those before it are skipped, not made.

        Returns:
            An iterator over tuples of arrays.
        """
