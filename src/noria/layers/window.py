"""The steps of the input that each step of an output is computed from."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from noria._errors import check_sizes
from noria.masking import as_counts


class Window(NamedTuple):
    """Windows of equal form, at equal distances.

    ::

        window k = steps  k * stride - left + j * dilation,  0 <= j < kernel_size

    Attributes:
        kernel_size: steps in a window.
        stride: steps from one window to the next.
        dilation: steps from one step in a window to the next.
        left: padding before the first step. It is negative if the first window starts later.
        right: padding behind the last step.
    """

    kernel_size: int
    stride: int
    dilation: int
    left: int
    right: int

    @property
    def span(self) -> int:
        """Steps from the first to the last one of a window, both included."""
        return (self.kernel_size - 1) * self.dilation + 1

    @property
    def _excess(self) -> int:
        return self.left + self.right - self.span + 1

    @property
    def keeps_time(self) -> bool:
        """Whether each block of ``stride`` steps has one window, and a rest at most one."""
        return 1 - self.stride <= self._excess <= 0

    @property
    def streams(self) -> bool:
        """Whether no window looks beyond its block of ``stride`` steps."""
        return self.keeps_time and self.left >= self.span - self.stride

    def count(self, steps: Any) -> Any:
        """The number of windows in a sequence of so many steps, an integer or a symbol."""
        number = (steps - 1 + self._excess) // self.stride + 1
        return number if self.keeps_time else max(0, number) if steps else 0

    def counts(self, lengths: Any) -> Any:
        """The numbers of windows in sequences of ``lengths`` steps, an integer array."""
        lengths = as_counts(lengths)
        number = (lengths - 1 + self._excess) // self.stride + 1
        return jnp.where(lengths > 0, jnp.maximum(number, 0), 0)

    def places(self, number: Any) -> Any:
        """``(number, kernel_size)``: the places of the steps of each window behind the padding."""
        starts = jnp.arange(number, dtype=jnp.int32) * self.stride
        return starts[:, None] + np.arange(0, self.span, self.dilation, dtype=np.int32)


def window_of(call: str, kernel_size: Any, stride: Any, dilation: Any, padding: Any) -> Window:
    """The window of a layer; ``padding`` is a name or a pair of numbers."""
    check_sizes(call, kernel_size=kernel_size, stride=stride, dilation=dilation)
    kernel_size, stride, dilation = int(kernel_size), int(stride), int(dilation)
    reach = (kernel_size - 1) * dilation
    named = {
        "causal": (reach - stride + 1, 0),
        "same": (reach // 2, reach - reach // 2),
        "valid": (0, 0),
    }
    if isinstance(padding, str) and padding in named:
        return Window(kernel_size, stride, dilation, *named[padding])
    if not isinstance(padding, tuple | list) or not _is_pair(padding):
        raise ValueError(
            f"{call}: padding is {padding!r}; expected 'causal', 'same', 'valid', or a pair "
            "(left, right) of whole numbers of at least 0, the steps to add on both sides."
        )
    return Window(kernel_size, stride, dilation, *map(int, padding))


def _is_pair(padding: Any) -> bool:
    return len(padding) == 2 and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in padding
    )
