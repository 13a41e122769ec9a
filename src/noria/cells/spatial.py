"""``SpatialCell``: cells whose input and state are features at the points of a grid."""

from dataclasses import InitVar
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from noria._errors import check_choice, check_dtype, describe
from noria._types import Key, State
from noria.cells import declare
from noria.cells.declared import DeclaredCell

if TYPE_CHECKING:
    from collections.abc import Mapping

#: One number for all axes of space, or one for each.
PerAxis = int | tuple[int, ...]

#: The initialiser of kernels: Glorot-uniform, where each tap counts.
kernel_init = jax.nn.initializers.glorot_uniform()

#: Letters of the axes of space in the layouts of convolutions.
_SPACE = "DHW"

#: The settings that have a number for each axis of space.
_AXES = ("kernel_size", "recurrent_kernel_size", "strides", "dilation")


class SpatialCell(DeclaredCell):
    """A declared cell of images: its input and its state are features at the points of a grid.

    The input of a step is an array ``(*space, features)`` with one, two or three axes of space.
    Features are last, as in Keras and Flax; PyTorch has them first. `noria.Dense` and the norms act
    on the last axis, and XLA's convolutions on CPUs are several times faster in this layout.

    Shapes of declared arrays may have these words::

        features          features of the input
        space             the axes of space of the state
        taps              the axes of a kernel of the input
        recurrent_taps    the axes of a kernel of the state

    Args:
        in_shape: shape of one step of the input, ``(*space, features)``.
        hidden_size: features of the state.
        key: random key for the parameters.
        kernel_size: taps of a kernel of the input, one number or one for each axis of space.
        recurrent_kernel_size: taps of a kernel of the state; ``None`` for ``kernel_size``.
        strides: distance of the points of the state, in points of the input.
        padding: ``"same"`` pads the input with zeros, ``"valid"`` does not.
        dilation: distance of the taps of a kernel of the input.
        init: initialisers, or numbers, by the names of parameters, instead of the declared ones.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Kernels of the state have no strides and no dilation. They pad with zeros, so that the state
    keeps its shape, as in Keras.

    Raises:
        TypeError: for a missing, unknown or wrong argument.
        ValueError: for a size below 1, or a kernel that is larger than an input without padding.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells import array, state
        >>> class Diffusion(nr.cells.SpatialCell):
        ...     W: jax.Array = array("taps", "features", "hidden", initializer=0.1)
        ...     U: jax.Array = array("recurrent_taps", "hidden", "hidden", initializer=0.1)
        ...     h: jax.Array = state("space", "hidden")
        ...
        ...     def __call__(self, h, x):
        ...         return self.convolved(x, self.W) + self.mixed(h, self.U)
        >>> cell = Diffusion((8, 8, 3), 4, strides=2, key=jax.random.key(0))
        >>> nr.Recurrence(cell)(jnp.ones((5, 8, 8, 3))).shape
        (5, 4, 4, 4)
    """

    in_shape: tuple[int, ...] = declare.size(kw_only=False, axes=True)
    hidden_size: int = declare.size(kw_only=False)
    kernel_size: PerAxis = 3
    recurrent_kernel_size: PerAxis | None = None
    strides: PerAxis = 1
    padding: str = "same"
    dilation: PerAxis = 1
    if TYPE_CHECKING:  # arguments of the constructor
        key: InitVar[Key]
        init: InitVar[Mapping[str, declare.Init] | None] = None
        dtype: InitVar[Any] = None

    def __check_init__(self) -> None:
        if not 2 <= len(self.in_shape) <= 4:
            raise ValueError(
                f"{self._call}: expected in_shape=(*space, features) with one to three axes of "
                "space."
            )
        check_choice(self._call, "padding", self.padding, ("same", "valid"))
        for name in _AXES:
            if getattr(self, name) is not None:
                self._check_axes(name)
        if min(self.space) < 1:
            raise ValueError(
                f"{self._call}: kernel_size={self.kernel_size} with dilation={self.dilation} is "
                'larger than the input; expected a smaller kernel, or padding="same".'
            )

    def _check_axes(self, name: str) -> None:
        given, axes = getattr(self, name), len(self.in_shape) - 1
        each = self._per_axis(given)
        whole = all(type(one) is int and one >= 1 for one in each)
        if len(each) != axes or not whole:
            raise ValueError(
                f"{self._call}: {name} is {given!r}; expected a whole number of at least 1, or "
                f"{axes}, one for each axis of space."
            )

    def _per_axis(self, given: PerAxis) -> tuple[int, ...]:
        return given if isinstance(given, tuple) else (given,) * (len(self.in_shape) - 1)

    @property
    def features(self) -> int:
        """Features of the input."""
        return self.in_shape[-1]

    @property
    def taps(self) -> tuple[int, ...]:
        """The axes of a kernel of the input."""
        return self._per_axis(self.kernel_size)

    @property
    def recurrent_taps(self) -> tuple[int, ...]:
        """The axes of a kernel of the state."""
        given = self.recurrent_kernel_size
        return self._per_axis(self.kernel_size if given is None else given)

    @property
    def space(self) -> tuple[int, ...]:
        """The axes of space of the state."""
        return tuple(
            -(-n // stride)
            if self.padding == "same"
            else (n - (taps - 1) * apart - 1) // stride + 1
            for n, taps, stride, apart in zip(
                self.in_shape,
                self.taps,
                self._per_axis(self.strides),
                self._per_axis(self.dilation),
                strict=False,
            )
        )

    def convolved(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """A convolution of the input: with the strides, the padding and the dilation of the cell.

        Args:
            x: ``(*space, features)``.
            kernel: ``(*taps, features, channels)``.

        Returns:
            ``(*space, channels)``, with the points of the state.
        """
        strides, dilation = self._per_axis(self.strides), self._per_axis(self.dilation)
        return _convolution(x, kernel, strides, self.padding, dilation)

    def mixed(self, h: jax.Array, kernel: jax.Array) -> jax.Array:
        """A convolution of the state, which keeps its points.

        Args:
            h: ``(*space, hidden)``.
            kernel: ``(*recurrent_taps, hidden, channels)``, or any other number of taps.

        Returns:
            ``(*space, channels)``.
        """
        ones = (1,) * len(self.space)
        return _convolution(h, kernel, ones, "same", ones)

    def _check(self, state: State, x: Any) -> None:
        super()._check(state, x)
        if jnp.shape(x) != self.in_shape:
            raise ValueError(
                f"{self._call}: x is {describe(x)}; expected {self.in_shape}, one step of one "
                "example, features last. nr.Recurrence or jax.vmap adds a batch."
            )
        check_dtype(self._call, "x", x, self.dtype)


def _convolution(
    a: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: str,
    dilation: tuple[int, ...],
) -> jax.Array:
    letters = _SPACE[-len(strides) :]
    layouts = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(
        a[None], kernel, strides, padding.upper(), None, dilation, layouts
    )[0]
