"""``prefetch``: a thread that makes the next batches while the model trains on this one."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from noria._errors import check_sizes
from noria._types import Key
from noria.data.epochs import Epochs, Rows


class Prefetched(Epochs):
    """The batches of other data, made ahead in a thread by `prefetch`.

    Args:
        data: an `Epochs`, or anything to iterate over.
        count: batches that are ready at most.

    Attributes:
        data: as passed.

    Examples:
        >>> import numpy as np, noria as nr
        >>> data = nr.data.prefetch(nr.data.batches(np.arange(4), batch_size=2))
        >>> len(data), [column.tolist() for (column,) in data]
        (2, [[0, 1], [2, 3]])
    """

    def __init__(self, data: Iterable[Any], count: int):
        self.data, self._count = data, count

    @property
    def shuffled(self) -> bool:
        """Whether the other data are shuffled."""
        return isinstance(self.data, Epochs) and self.data.shuffled

    @property
    def batch_size(self) -> int | None:
        """That of the other data, or ``None`` if they do not tell."""
        return getattr(self.data, "batch_size", None)

    def __len__(self) -> int:
        """The number of batches in an epoch, if the other data know it."""
        return len(self.data)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return self._ahead(iter(self.data))

    def epoch(
        self, key: Key | None = None, start: int = 0, rows: Rows | None = None
    ) -> Iterator[Any]:
        """The batches of one epoch, in the order given by a key.

        Args:
            key: see `Epochs.epoch`; without meaning for data that are no `Epochs`.
            start: number of the first batch. Data that are no `Epochs` make those before it too.
            rows: see `Epochs.epoch`; for `Epochs` only.

        Returns:
            An iterator over the batches.

        Raises:
            TypeError: for ``rows`` of data that are no `Epochs`.
        """
        if isinstance(self.data, Epochs):
            return self._ahead(self.data.epoch(key, start, rows))
        if rows is not None:
            raise TypeError(
                f"prefetch: data is a {type(self.data).__name__}, which makes whole batches; "
                "expected noria.data.batches, streams or packed, or another noria.data.Epochs."
            )
        return self._ahead(islice(iter(self.data), start, None))

    def _ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        end = object()
        pool = ThreadPoolExecutor(1, "noria-prefetch")  # one thread: the batches stay in order
        try:
            ahead = deque(pool.submit(next, batches, end) for _ in range(self._count))
            while (batch := ahead.popleft().result()) is not end:
                ahead.append(pool.submit(next, batches, end))
                yield batch
        finally:  # a reader that stops early, or Ctrl-C, waits for the batch in work only
            pool.shutdown(cancel_futures=True)


def prefetch(data: Iterable[Any], count: int = 2) -> Prefetched:
    """The same batches, made ahead in a thread.

    Args:
        data: `noria.data.batches`, `noria.data.streams`, `noria.data.packed`, or anything to
            iterate over.
        count: batches that are ready at most.

    Returns:
        A `Prefetched`, with the same batches in the same order. An error of the data is raised at
        the batch that it belongs to.

    Raises:
        TypeError: if ``data`` cannot be iterated over.
        ValueError: if ``count`` is below 1.

    It helps where batches take long to make, as from a disk. PyTorch's ``DataLoader`` uses
    processes, which copy each batch; a thread copies nothing, and NumPy releases the lock of Python
    where it copies much.

    Examples:
        >>> import numpy as np, noria as nr
        >>> data = nr.data.prefetch(nr.data.batches(np.arange(3), batch_size=2), 4)
        >>> [column.tolist() for (column,) in data]
        [[0, 1], [2]]
    """
    check_sizes("prefetch", count=count)
    if not isinstance(data, Iterable):
        raise TypeError(
            f"prefetch: data is a {type(data).__name__}; expected something to iterate over."
        )
    return Prefetched(data, int(count))
