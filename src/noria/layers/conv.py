"""``Conv1d``: a convolution over time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_key, check_sizes, check_step
from noria._parameters import default_dtype, draw
from noria._types import Initializer, Key
from noria.initializers import glorot_uniform, zeros
from noria.ir.evaluate import spread
from noria.layers.window import window_of
from noria.layers.windowed import WindowedLayer


class Conv1d(WindowedLayer, trainable=("W", "b")):
    """A convolution over time, whose whole sequences and streams give the same outputs.

    ::

        y_k = b + sum_j W[:, :, j] x[k * stride - left + j * dilation],    0 <= j < kernel_size

    Here ``x`` is zero outside of the sequence, and, with ``resets``, outside of the episode.

    Args:
        in_size: features of a step.
        out_size: features of an output.
        kernel_size: steps in a window.
        key: random key for the weights.
        stride: steps from one output to the next. `Layer.step` takes so many steps,
            and gives one output.
        dilation: steps from one step of a window to the next.
        groups: independent convolutions, each of a share of the features.
        padding: zeros before and behind the sequence. ``reach`` is
            ``(kernel_size - 1) * dilation``.

            * ``"causal"``: ``left = reach - (stride - 1)``. Output ``k`` ends with the last step of
              the ``k``-th block of ``stride`` steps, and ``time // stride`` outputs are given.
            * ``"same"``: ``left = reach // 2``, the rest of ``reach`` behind. The window of output
              ``k`` is centred at step ``k * stride``, and ``ceil(time / stride)`` outputs are
              given.
            * ``"valid"``: none. ``(time - reach - 1) // stride + 1`` outputs are given.
            * a pair ``(left, right)``.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser.
        init: initialiser of ``(kernel_size, out, in // groups)``; Glorot-uniform by default, as in
            Flux and Keras.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(out, in // groups, kernel_size)``, the weights.
        b: ``(out,)``, the bias, or ``None``.
        groups: as passed.
        window: the form of a window, with the fields ``kernel_size``, ``stride``, ``dilation``,
            ``left`` and ``right``.

    Shapes:
        ``(time, in)`` or ``(batch, time, in)`` to the same with fewer steps and ``out`` features;
        `Layer.output_lengths` gives their number. With ``lengths`` each example has the outputs
        that it has alone. The state is the last ``left`` steps, ``(left, in)``.

        A layer with ``padding="causal"`` streams, and so does each other one whose windows end
        within their block: ``left >= reach - (stride - 1)``. It can be split at multiples of its
        stride. Steps behind the last whole block are not read by a causal layer, and are not part
        of a state.

        Where it is not 1, resets must be at multiples of the stride. Under `jax.jit` their values
        are unknown, and a reset acts at the start of its block.

    Raises:
        ValueError: for sizes below 1, groups that do not divide both sizes, an unknown padding, or
            an input of the wrong size. In `Layer.step` if the layer does not stream. For resets if
            an episode has more or fewer outputs than its share: ``padding="valid"``.
        TypeError: for a missing key, or an input of another dtype.

    PyTorch's ``Conv1d`` has the features before the steps, and the same weights; its ``padding=p``
    is ``(p, p)`` here. Keras' ``Conv1D`` stores ``(kernel_size, in, out)``. With a stride its
    ``"causal"`` is ``(reach, 0)`` here, and its ``"same"`` depends on the number of steps. Flux'
    ``Conv`` flips the kernel.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> conv = nr.Conv1d(3, 8, 5, stride=2, key=jax.random.key(0))
        >>> xs = jnp.ones((10, 3))
        >>> state, ys = conv.scan(None, xs)
        >>> state.shape, ys.shape
        ((3, 3), (5, 8))
        >>> state, y = conv.step(None, xs[:2])
        >>> bool(jnp.allclose(y, ys[0], atol=1e-6))
        True
    """

    W: jax.Array
    b: jax.Array | None
    groups: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        kernel_size: int,
        *,
        key: Key,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | tuple[int, int] = "causal",
        bias: bool | Initializer = True,
        init: Initializer | None = None,
        dtype: Any = None,
    ):
        call = f"Conv1d(in_size={in_size}, out_size={out_size}, kernel_size={kernel_size})"
        check_sizes(call, in_size=in_size, out_size=out_size, groups=groups)
        self.window = window_of(call, kernel_size, stride, dilation, padding)
        if in_size % groups or out_size % groups:
            raise ValueError(f"{call}: groups is {groups}; expected a divisor of both sizes.")
        self.groups = int(groups)
        check_key(call, key)
        dtype = default_dtype(dtype)
        keys = jax.random.split(key)
        shape = (kernel_size, out_size, in_size // groups)
        matrices = draw(glorot_uniform() if init is None else init, keys[0], shape, dtype)
        self.W = jnp.moveaxis(matrices, 0, -1)
        self.b = (
            None
            if bias is False
            else draw(zeros if bias is True else bias, keys[1], (out_size,), dtype)
        )

    @classmethod
    def from_arrays(
        cls,
        W: Any,
        b: Any = None,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | tuple[int, int] = "causal",
    ) -> "Conv1d":
        """A layer of given arrays.

        Args:
            W: ``(out, in // groups, kernel_size)``, floating.
            b: ``(out,)`` of the same dtype, or ``None``.
            stride: see `Conv1d`.
            dilation: see `Conv1d`.
            groups: see `Conv1d`.
            padding: see `Conv1d`.

        Returns:
            The layer.

        Raises:
            ValueError: if a shape does not fit, or for a wrong option.
            TypeError: if a dtype does not fit.

        Examples:
            >>> import jax.numpy as jnp, noria as nr
            >>> average = nr.Conv1d.from_arrays(jnp.full((1, 1, 4), 0.25))
            >>> average(jnp.array([[4.0], [8.0], [4.0]])).ravel().tolist()
            [1.0, 3.0, 4.0]
        """
        W, call = jnp.asarray(W), "Conv1d.from_arrays"
        if W.ndim != 3:
            raise ValueError(
                f"{call}: W has shape {W.shape}; expected (out, in // groups, kernel_size)."
            )
        if b is not None:
            b = jnp.asarray(b)
            if b.shape != W.shape[:1]:
                raise ValueError(f"{call}: b has shape {b.shape}; expected {W.shape[:1]} as W has.")
            if b.dtype != W.dtype:
                raise TypeError(f"{call}: b is {b.dtype}; expected {W.dtype} as W is.")
        check_sizes(call, groups=groups)
        return cls(
            W.shape[1] * groups,
            *W.shape[::2],
            key=jax.random.key(0),
            stride=stride,
            dilation=dilation,
            groups=groups,
            padding=padding,
            bias=False if b is None else lambda *_: b,
            init=lambda *_: jnp.moveaxis(W, -1, 0),
            dtype=W.dtype,
        )

    @property
    def in_size(self) -> int:
        """Features of a step."""
        return self.W.shape[1] * self.groups

    def _check(self, what: str, xs: jax.Array) -> None:
        check_step(self.label, what, xs, self.in_size, self.W.dtype)

    def _past(self, xs: jax.Array | None) -> jax.Array:
        return jnp.zeros((max(0, self.window.left), self.in_size), self.W.dtype)

    def _of_sequence(self, steps: jax.Array) -> jax.Array:
        *batch, time, features = steps.shape
        ys = jax.lax.conv_general_dilated(
            steps.reshape(-1, time, features) if len(batch) != 1 else steps,
            self.W,
            (self.stride,),
            "VALID",
            rhs_dilation=(self.window.dilation,),
            dimension_numbers=("NWC", "OIW", "NWC"),
            feature_group_count=self.groups,
        )
        return self._with_bias(ys.reshape(*batch, *ys.shape[1:]) if len(batch) != 1 else ys)

    def _of_windows(self, windows: jax.Array) -> jax.Array:
        *lead, kernel_size, _ = windows.shape
        W = self.W.reshape(self.groups, -1, *self.W.shape[1:])
        windows = windows.reshape(*lead, kernel_size, self.groups, -1)
        ys = jnp.einsum("...kgi,goik->...go", windows, W)
        return self._with_bias(ys.reshape(*lead, self.W.shape[0]))

    def _with_bias(self, ys: jax.Array) -> jax.Array:
        return ys if self.b is None else ys + spread(self.b, ys.shape[:-1])

    @property
    def label(self) -> str:
        return f"Conv1d(in_size={self.in_size})"
