"""Convolutional states of random cells: one to three axes of space, and a filter."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Letters of spatial axes.
SPACE = "DHW"


@dataclass(frozen=True)
class Filter:
    """A convolution of a state by a kernel, to the same shape.

    Attributes:
        size: along each spatial axis of the state.
        features: features of the state.
        taps: along each axis of the kernel.
        apart: the distance of taps.
        groups: groups of features.
        last: whether features are the last axis.
        border: ``"zeros"``, ``"wrap"``, or ``"before"``: zeros in front only.
        half: whether every other position is computed, and then repeated.
    """

    size: tuple[int, ...]
    features: int
    taps: tuple[int, ...]
    apart: int
    groups: int
    last: bool
    border: str
    half: bool

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Filter":
        axes = int(rng.integers(1, 4))
        most = (24, 7, 4)[axes - 1]
        groups = int(rng.integers(1, 3))
        return cls(
            tuple(map(int, rng.integers(2, most, axes))),
            groups * int(rng.integers(1, 4)),
            tuple(map(int, rng.integers(1, 4, axes))),
            int(rng.choice([1, 1, 2])),
            groups,
            bool(rng.random() < 0.5),
            str(rng.choice(["zeros", "zeros", "wrap", "before"])),
            bool(rng.random() < 0.2),
        )

    def kernel(self, rng: np.random.Generator) -> np.ndarray:
        shape = (self.features, self.features // self.groups, *self.taps)
        weights = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return weights.transpose(*range(2, weights.ndim), 1, 0) if self.last else weights

    def zeros(self, dtype: Any) -> jax.Array:
        shape = (*self.size, self.features) if self.last else (self.features, *self.size)
        return jnp.zeros(shape, dtype)

    def __call__(self, state: jax.Array, kernel: jax.Array, x: jax.Array) -> jax.Array:
        """The next state, with one number of the input."""
        letters, axes = SPACE[-len(self.size) :], len(self.size)
        specs = f"NC{letters}", f"OI{letters}", f"NC{letters}"
        if self.last:
            specs = f"N{letters}C", f"{letters}IO", f"N{letters}C"
        reach = [self.apart * (n - 1) for n in self.taps]
        around = [(n, 0) if self.border == "before" else (n // 2, n - n // 2) for n in reach]
        a = state
        if self.border == "wrap":
            pairs = [*around, (0, 0)] if self.last else [(0, 0), *around]
            a, around = jnp.pad(a, pairs, mode="wrap"), [(0, 0)] * axes
        stride = 2 if self.half else 1
        found = jax.lax.conv_general_dilated(
            a[None],
            kernel,
            (stride,) * axes,
            around,
            None,
            (self.apart,) * axes,
            specs,
            self.groups,
        )[0]
        if self.half:
            for axis in range(axes):
                n = axis if self.last else axis + 1
                found = jnp.repeat(found, 2, n)
                found = jax.lax.slice_in_dim(found, 0, self.size[axis], axis=n)
        return jnp.tanh(found + 0.5 * state + x)
