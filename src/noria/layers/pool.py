"""Pooling over time: ``MaxPool1d`` and ``MeanPool1d``."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from noria._errors import check_dtype, check_sizes
from noria._parameters import default_dtype
from noria.ir.evaluate import widened
from noria.layers.window import window_of
from noria.layers.windowed import WindowedLayer
from noria.masking import valid_steps


class PoolState(NamedTuple):
    """Past steps, and which of them there are.

    Attributes:
        past: ``(left, features)``.
        there: ``(left,)`` booleans.
    """

    past: jax.Array
    there: jax.Array


class PoolLayer(WindowedLayer, trainable=()):
    """Each feature of the steps of a window as one number."""

    past: jax.Array | None

    def __init__(
        self,
        kernel_size: int,
        stride: int | None,
        padding: str | tuple[int, int],
        size: int | None,
        dtype: Any,
    ):
        call = f"{type(self).__name__}(kernel_size={kernel_size})"
        stride = kernel_size if stride is None else stride
        self.window = window_of(call, kernel_size, stride, 1, padding)
        if max(self.window.left, self.window.right) >= kernel_size:
            raise ValueError(
                f"{call}: padding is {padding!r}; expected less than the window on either side."
            )
        if size is not None:
            check_sizes(call, size=size)
        left = max(0, self.window.left)
        self.past = None if size is None else jnp.zeros((left, size), default_dtype(dtype))

    def _check(self, what: str, xs: jax.Array) -> None:
        if not jnp.issubdtype(xs.dtype, jnp.floating):
            raise TypeError(f"{self.label}: {what} is {xs.dtype}; expected floating numbers.")
        if self.past is None:
            return
        if xs.shape[-1] != self.past.shape[-1]:
            raise ValueError(
                f"{self.label}: {what} has {xs.shape[-1]} features; expected "
                f"{self.past.shape[-1]}, as size= says."
            )
        check_dtype(self.label, what, xs, self.past.dtype)

    def _past(self, xs: jax.Array | None) -> PoolState:
        if xs is None and self.past is None:
            raise ValueError(
                f"{self.label}: its windows overlap, so a stream carries past steps, of features "
                f"that it does not know; expected size=: {type(self).__name__}(..., size=features)."
            )
        left = max(0, self.window.left)
        past = jnp.zeros((left, xs.shape[-1]), xs.dtype) if xs is not None else self.past
        assert past is not None
        return PoolState(past, jnp.zeros(left, bool))

    def _steps(self, xs: jax.Array, lengths: jax.Array | None) -> PoolState:
        there = (
            jnp.ones(xs.shape[:-1], bool) if lengths is None else valid_steps(lengths, xs.shape[-2])
        )
        return PoolState(xs, there)

    def _over(self, xs: jax.Array) -> dict[str, tuple[int, ...]]:
        """Arguments of `jax.lax.reduce_window` for windows over the steps of ``xs``."""
        ones = (1,) * (xs.ndim - 2)
        return {
            "window_dimensions": (*ones, self.window.kernel_size, 1),
            "window_strides": (*ones, self.stride, 1),
        }

    @property
    def label(self) -> str:
        return f"{type(self).__name__}(kernel_size={self.window.kernel_size})"


class MaxPool1d(PoolLayer, trainable=()):
    """The largest value of each feature in a window of steps.

    ::

        y_k = max_j x[k * stride - left + j],    0 <= j < kernel_size

    Steps outside of the sequence or of the episode do not count.

    Args:
        kernel_size: steps in a window.
        stride: steps from one output to the next; ``kernel_size`` by default.
        padding: see `Conv1d`; a pair is below ``kernel_size`` on both sides.
        size: features of a step. Only a stream with windows that overlap needs it, for
            `Layer.initial_state`.
        dtype: floating dtype of that state; JAX's default, float32.

    Attributes:
        past: ``(left, size)`` zeros, not trained, or ``None`` without ``size``.
        window: see `Conv1d`.

    Shapes:
        ``(time, features)`` or ``(batch, time, features)`` to the same with fewer steps, of the
        dtype of the input. See `Conv1d` for lengths, resets and streams. The state is the past
        steps ``(left, features)`` and which of them there are, ``(left,)``; ``None`` if windows do
        not overlap.

    Raises:
        ValueError: see `Conv1d`; in `Layer.initial_state` if ``size`` is needed and missing.
        TypeError: for an input of another dtype.

    PyTorch's ``MaxPool1d`` and Keras' ``MaxPooling1D`` give the same where no padding is needed:
    ``padding="valid"``, and ``"causal"`` without overlap.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.MaxPool1d(2)(jnp.array([[1.0], [3.0], [2.0], [0.0], [9.0]])).ravel().tolist()
        [3.0, 2.0]
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        *,
        padding: str | tuple[int, int] = "causal",
        size: int | None = None,
        dtype: Any = None,
    ):
        super().__init__(kernel_size, stride, padding, size, dtype)

    def _of_sequence(self, steps: PoolState) -> jax.Array:
        xs = _or(steps, -np.inf)
        return jax.lax.reduce_window(xs, -np.inf, jax.lax.max, padding="VALID", **self._over(xs))

    def _of_windows(self, windows: PoolState) -> jax.Array:
        return jnp.max(_or(windows, -np.inf), axis=-2)


class MeanPool1d(PoolLayer, trainable=()):
    """The mean of each feature in a window of steps.

    ::

        y_k = mean_j x[k * stride - left + j],    0 <= j < kernel_size

    Steps outside of the sequence or of the episode do not count.

    Args:
        kernel_size: see `MaxPool1d`.
        stride: see `MaxPool1d`.
        padding: see `MaxPool1d`.
        size: see `MaxPool1d`.
        dtype: see `MaxPool1d`.

    Attributes:
        past: see `MaxPool1d`.
        window: see `Conv1d`.

    Shapes:
        As `MaxPool1d`.

    Raises:
        ValueError: see `MaxPool1d`.
        TypeError: see `MaxPool1d`.

    PyTorch's ``AvgPool1d`` counts padding as zeros, unless ``count_include_pad=False``. Keras'
    ``AveragePooling1D`` does not count it.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> average = nr.MeanPool1d(3, stride=1)  # of the last three steps
        >>> average(jnp.array([[1.0], [3.0], [2.0], [7.0]])).ravel().tolist()
        [1.0, 2.0, 2.0, 4.0]
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        *,
        padding: str | tuple[int, int] = "causal",
        size: int | None = None,
        dtype: Any = None,
    ):
        super().__init__(kernel_size, stride, padding, size, dtype)

    def _of_sequence(self, steps: PoolState) -> jax.Array:
        xs = widened(_or(steps, 0))
        there = steps.there[..., None].astype(xs.dtype)
        total, count = (
            jax.lax.reduce_window(a, 0.0, jax.lax.add, padding="VALID", **self._over(a))
            for a in (xs, there)
        )
        return (total / jnp.maximum(count, 1)).astype(steps.past.dtype)

    def _of_windows(self, windows: PoolState) -> jax.Array:
        xs = widened(_or(windows, 0))
        count = jnp.sum(windows.there, axis=-1, dtype=xs.dtype)[..., None]
        return (jnp.sum(xs, axis=-2) / jnp.maximum(count, 1)).astype(windows.past.dtype)


def _or(steps: PoolState, other: float) -> jax.Array:
    """The steps, with another number for those that there are not."""
    return jnp.where(steps.there[..., None], steps.past, jnp.asarray(other, steps.past.dtype))
