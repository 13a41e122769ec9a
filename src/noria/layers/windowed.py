"""Layers whose output at a step is computed from a window of steps."""

import abc
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import as_given, check_numbers, known
from noria._jax import is_symbolic
from noria._types import Key, State
from noria.compiler.sharding import local
from noria.layers.base import Layer
from noria.layers.compiled import whole
from noria.layers.states import check_resets, own_or, with_batch
from noria.layers.window import Window
from noria.masking import check_lengths, keep_valid, valid_steps, where

#: A pytree of arrays ``(*batch, time, ...)``.
Steps = Any


class WindowedLayer(Layer):
    """A function of windows of steps, over whole sequences or in blocks of ``stride`` steps.

    Steps outside of the sequence or of the episode are zeros. The state is the last ``window.left``
    steps; there is none if ``window.left`` is 0, or if a window looks ahead.
    """

    window: Window = eqx.field(static=True)

    @abc.abstractmethod
    def _check(self, what: str, xs: jax.Array) -> None:
        """Check features and dtype of the input."""

    @abc.abstractmethod
    def _past(self, xs: jax.Array | None) -> Steps:
        """The empty past of one example, ``window.left`` steps of the form of ``xs`` if given."""

    def _steps(self, xs: jax.Array, lengths: jax.Array | None) -> Steps:
        """What windows are made of. Past its lengths ``xs`` is zero."""
        return xs

    @abc.abstractmethod
    def _of_sequence(self, steps: Steps) -> jax.Array:
        """The outputs ``(*batch, number, out)`` of all windows of padded ``steps``."""

    @abc.abstractmethod
    def _of_windows(self, windows: Steps) -> jax.Array:
        """The outputs ``(..., out)`` of windows ``(..., kernel_size, ...)``."""

    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
    ) -> tuple[State, Any]:
        xs = self._input("xs", xs, time=True)
        *batch, time = xs.shape[:-1]
        if state is not None and self._has_state and time % self.stride:
            raise ValueError(
                f"{self.label}: xs has {time} steps and continues other ones; expected a multiple "
                f"of its stride, {self.stride}: it does not keep a part of a block."
            )
        if lengths is not None:
            lengths = check_lengths(self.label, lengths, xs.shape, len(batch))
        if resets is not None:
            resets = self._checked_resets(resets, lengths, xs.shape[:-1])
        before = self._before(state, xs)
        return _sequence(None, _Call(self, before, xs, lengths, resets, bool(batch)))

    @whole
    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        self._check_streams()
        x = self._input("x", x, time=self.stride > 1)
        xs = x if self.stride > 1 else x[..., None, :]
        batch = xs.shape[:-2]
        before = self._before(state, xs)
        if resets is not None:
            resets = check_resets(self.label, resets, batch)
            before = where(resets, jtu.tree_map(jnp.zeros_like, before), before)
        return _block(None, _Call(self, before, xs, None, None, bool(batch)))

    def initial_state(self, batch: int | None = None) -> State:
        return with_batch(self.label, self._past(None) if self._has_state else None, batch)

    @property
    def stride(self) -> int:
        return self.window.stride

    def output_lengths(self, lengths: Any) -> Any:
        return self.window.counts(lengths)

    def output_resets(self, resets: Any) -> Any:
        resets = jnp.asarray(resets)
        return self._blocks(resets)[..., : self.window.count(resets.shape[-1])]

    # --- Arguments -------------------------------------------------------------------------------

    @property
    def _has_state(self) -> bool:
        return self.window.streams and self.window.left > 0

    def _check_streams(self) -> None:
        if not self.window.streams:
            raise ValueError(
                f"{self.label}.step: an output reads later steps, or some steps have none; call "
                'scan with whole sequences, or use padding="causal".'
            )

    def _input(self, what: str, xs: Any, time: bool) -> jax.Array:
        if xs is None or isinstance(xs, list | tuple | dict):
            raise TypeError(f"{self.label}: {what} is a {type(xs).__name__}; expected one array.")
        given = as_given(xs)
        check_numbers(self.label, what, given)
        steps = "time" if what == "xs" else str(self.stride)
        if given.ndim not in (1 + time, 2 + time) or (
            what == "x" and time and (given.shape[-2] != self.stride)
        ):
            form = f"{steps}, in" if time else "in,"
            raise ValueError(
                f"{self.label}: {what} has shape {given.shape}; expected ({form}) or "
                f"(batch, {form.rstrip(',')})."
            )
        array = jnp.asarray(given)
        self._check(what, array)
        return array

    def _before(self, state: State, xs: jax.Array) -> Steps:
        """The steps before the first one, of each example."""
        if jtu.tree_leaves(state) and not self._has_state:
            raise ValueError(
                f"{self.label}: it has no state, but was called with one; expected layer(xs)."
            )
        return own_or(self.label, state, self._past(xs), xs.shape[:-2])

    def _checked_resets(self, resets: Any, lengths: Any, shape: tuple[int, ...]) -> jax.Array:
        """The resets within the lengths, in front of blocks only where they are known."""
        resets = check_resets(self.label, resets, shape)
        if not self.window.keeps_time:
            raise ValueError(
                f"{self.label}: resets was given, but an episode of so many steps has another "
                f'number of outputs than its share; expected padding="causal" or "same".'
            )
        if lengths is not None:
            resets = resets & valid_steps(lengths, shape[-1])
        values = known(resets)
        if values is not None and self.stride > 1:
            places = np.nonzero(values)[-1]
            if bad := places[places % self.stride != 0].tolist():
                raise ValueError(
                    f"{self.label}: resets is true at step {bad[0]}; expected multiples of its "
                    f"stride, {self.stride}: an output belongs to one episode."
                )
        return resets

    def _blocks(self, resets: jax.Array) -> jax.Array:
        """Whether an episode begins in each block of ``stride`` steps."""
        *batch, time = resets.shape
        number = -(-time // self.stride)
        padding = [(0, 0)] * len(batch) + [(0, number * self.stride - time)]
        return jnp.pad(resets, padding).reshape(*batch, number, self.stride).any(-1)


class _Call(NamedTuple):
    """The arguments of a layer after their checks; ``before`` has the batch axes of ``xs``."""

    layer: Any
    before: Steps
    xs: jax.Array
    lengths: jax.Array | None
    resets: jax.Array | None
    batched: bool


@local
def _sequence(_: None, call: _Call) -> tuple[State, jax.Array]:
    """The state behind all whole blocks, and the outputs."""
    layer, lengths, axis = call.layer, call.lengths, int(call.batched)
    window: Window = layer.window
    xs = call.xs if lengths is None else keep_valid(call.xs, lengths)
    steps = _padded(window, call.before, layer._steps(xs, lengths), axis)
    if call.resets is None:
        episodes, ys = None, layer._of_sequence(steps)
    else:
        # The number of the episode of each block. The first one is that of the state.
        numbers = jnp.cumsum(layer._blocks(call.resets), axis=-1, dtype=jnp.int32)
        episodes = jnp.pad(numbers, [(0, 0)] * axis + [(1, 0)])
        ys = layer._of_windows(_of_own_episode(window, steps, episodes, call.xs.shape[axis], axis))
    if lengths is not None:
        ys = keep_valid(ys, window.counts(lengths))
    return _after(call, steps, episodes), ys


@local
def _block(_: None, call: _Call) -> tuple[State, jax.Array]:
    """The state behind one block, and its output."""
    layer, axis = call.layer, int(call.batched)
    window: Window = layer.window
    steps = _padded(window, call.before, layer._steps(call.xs, None), axis)

    def first(a: jax.Array) -> jax.Array:
        return jax.lax.slice_in_dim(a, 0, window.span, window.dilation, axis)

    y = layer._of_windows(jtu.tree_map(first, steps))
    return _after(call, steps, None), y


def _padded(window: Window, before: Steps, steps: Steps, axis: int) -> Steps:
    """The steps from the first window to the end of the padding."""
    skipped = (slice(None),) * axis + (slice(max(0, -window.left), None),)

    def pad(past: jax.Array, a: jax.Array) -> jax.Array:
        a = jnp.concatenate([past, a[skipped]], axis) if window.left > 0 else a[skipped]
        behind = [(0, 0)] * a.ndim
        behind[axis] = (0, window.right)
        return jnp.pad(a, behind) if window.right else a

    return jtu.tree_map(pad, before, steps)


def _of_own_episode(
    window: Window, steps: Steps, episodes: jax.Array, time: Any, axis: int
) -> Steps:
    """All windows, ``(*batch, number, kernel_size, ...)``, with zeros for other episodes."""
    number = window.count(time)
    places = window.places(number)
    found = jnp.take(episodes, _block_of(window, places), axis, mode="clip")
    own = found == episodes[..., 1 : number + 1, None]

    def select(a: jax.Array) -> jax.Array:
        windows = jnp.take(a, places, axis)
        return where(own, windows, jnp.zeros_like(windows))

    return jtu.tree_map(select, steps)


def _block_of(window: Window, places: jax.Array) -> jax.Array:
    """The block of each place behind the padding, counted from 1; 0 is the past."""
    step = places - window.left
    return jnp.where(step < 0, 0, step // window.stride + 1)


def _after(call: _Call, steps: Steps, episodes: jax.Array | None) -> State:
    """The last ``window.left`` steps of all whole blocks, and zeros for those of past episodes."""
    window: Window = call.layer.window
    if not call.layer._has_state:
        return None
    axis = int(call.batched)
    time = call.xs.shape[axis]
    if call.lengths is None and episodes is None:
        start, left = time // window.stride * window.stride, window.left
        if is_symbolic(start):
            last = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=left)
        else:  # a slice has machine code
            last = partial(jax.lax.slice_in_dim, start_index=start, limit_index=start + left)
        return jtu.tree_map(lambda a: last(a, axis=axis), steps)
    batch = call.xs.shape[:axis]
    lengths = (
        jnp.full(batch, time, jnp.int32)
        if call.lengths is None
        else jnp.clip(call.lengths, 0, time)
    )
    blocks = (lengths // window.stride)[..., None]
    places = blocks * window.stride + jnp.arange(window.left, dtype=jnp.int32)

    def take(a: jax.Array) -> jax.Array:
        index = places.reshape(places.shape + (1,) * (a.ndim - places.ndim))
        return jnp.take_along_axis(a, index, axis)

    last = jtu.tree_map(take, steps)
    if episodes is None:
        return last
    own = jnp.take_along_axis(episodes, _block_of(window, places), axis) == jnp.take_along_axis(
        episodes, blocks, axis
    )
    return where(own, last, jtu.tree_map(jnp.zeros_like, last))
