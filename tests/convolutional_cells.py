"""Cells with convolutional states, in one to three dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from models import noise

import noria as nr

#: Letters of spatial axes.
SPACE = "DHW"


class ConvolutionalCell(nr.Cell):
    """An LSTM or a GRU whose products are convolutions.

    Args:
        size: the size of the state along each spatial axis.
        features: features of the state, and of the input.
        kernel: taps along each spatial axis.
        last: whether features are the last axis of state and input.
        groups: groups of features.
        dilation: distance of the taps.
        wrap: whether space is a torus; else the border is padded with zeros.
        gru: whether the cell is a GRU.
    """

    W: jax.Array
    U: jax.Array
    b: jax.Array
    size: tuple[int, ...] = eqx.field(static=True)
    last: bool = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    dilation: int = eqx.field(static=True)
    wrap: bool = eqx.field(static=True)
    gru: bool = eqx.field(static=True)

    def __init__(
        self,
        size: tuple[int, ...],
        features: tuple[int, int] = (3, 2),
        kernel: int = 3,
        dtype: Any = jnp.float64,
        *,
        last: bool = False,
        groups: int = 1,
        dilation: int = 1,
        wrap: bool = False,
        gru: bool = False,
    ) -> None:
        own, given = features
        rows, taps = (3 if gru else 4) * own, (kernel,) * len(size)
        shapes = [(rows, given, *taps), (rows, own // groups, *taps), (rows,)]
        if last:
            shapes = [(*shape[2:], shape[1], shape[0]) for shape in shapes[:2]] + [shapes[2]]
        zeros = [jnp.zeros(shape, dtype) for shape in shapes]
        scale = (own * kernel ** len(size)) ** -0.5
        self.W, self.U, self.b = noise(zeros, 1, scale)
        self.size, self.last, self.groups = size, last, groups
        self.dilation, self.wrap, self.gru = dilation, wrap, gru

    def convolved(self, a: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
        letters = SPACE[-len(self.size) :]
        specs = f"N{letters}C", f"{letters}IO", f"N{letters}C"
        if not self.last:
            specs = f"NC{letters}", f"OI{letters}", f"NC{letters}"
        taps = kernel.shape[: len(self.size)] if self.last else kernel.shape[2:]
        reach = [self.dilation * (n - 1) for n in taps]
        around = [(n // 2, n - n // 2) for n in reach]
        if self.wrap:
            one = [(0, 0)]
            a = jnp.pad(a, [*around, *one] if self.last else [*one, *around], mode="wrap")
            around = [(0, 0)] * len(around)
        dilation = (self.dilation,) * len(taps)
        return jax.lax.conv_general_dilated(
            a[None], kernel, (1,) * len(taps), around, None, dilation, specs, groups
        )[0]

    def gates(self, h: jax.Array, x: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        axis = -1 if self.last else 0
        b = self.b if self.last else self.b.reshape(-1, *[1] * len(self.size))
        count = 3 if self.gru else 4
        return (
            jnp.split(self.convolved(x, self.W) + b, count, axis),
            jnp.split(self.convolved(h, self.U, self.groups), count, axis),
        )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        if self.gru:
            (r, z, n), (rh, zh, nh) = self.gates(state, x)
            z = jax.nn.sigmoid(z + zh)
            return z * state + (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + rh) * nh)
        h, c = state
        i, f, g, o = (a + b for a, b in zip(*self.gates(h, x), strict=True))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def initial_state(self) -> Any:
        rows = self.b.shape[0] // (3 if self.gru else 4)
        shape = (*self.size, rows) if self.last else (rows, *self.size)
        zeros = jnp.zeros(shape, self.b.dtype)
        return zeros if self.gru else (zeros, zeros)

    def input_shape(self) -> tuple[int, ...]:
        given = self.W.shape[-2] if self.last else self.W.shape[1]
        return (*self.size, given) if self.last else (given, *self.size)


def _cell(*args: Any, **options: Any) -> Callable[[], ConvolutionalCell]:
    return partial(ConvolutionalCell, *args, **options)


CELLS: dict[str, Callable[[], ConvolutionalCell]] = {
    "lstm_1d": _cell((9,)),
    "lstm_2d": _cell((5, 6)),
    "lstm_2d_last": _cell((5, 6), last=True),
    "lstm_3d": _cell((3, 4, 3), (2, 1)),
    "lstm_3d_last": _cell((3, 4, 3), (2, 1), last=True),
    "gru_1d_last": _cell((9,), last=True, gru=True),
    "gru_2d": _cell((5, 6), gru=True),
    "even_kernel": _cell((5, 6), kernel=2),
    "one_tap": _cell((5, 6), kernel=1),
    "wide": _cell((18, 20), (2, 1), kernel=5),
    "groups": _cell((5, 6), (4, 2), groups=2),
    "groups_last": _cell((5, 6), (4, 2), groups=2, last=True),
    "dilated": _cell((7, 8), dilation=2),
    "dilated_last": _cell((7, 8), dilation=3, last=True),
    "torus": _cell((5, 6), wrap=True),
    "torus_last": _cell((5, 6), wrap=True, last=True, gru=True),
}
