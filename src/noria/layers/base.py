"""The verbs that every layer and every model of layers has."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import as_given, check_fits, check_numbers
from noria._types import Key, State
from noria.masking import check_lengths, keep_valid, valid_steps, valid_values
from noria.module import Module


class Layer(Module):
    """Something that maps sequences to sequences, whole or step by step, and may carry a state.

    ::

        ys        = layer(xs)                  zero (or the layer's own) initial state
        ys        = layer(state, xs)           state first; the leading argument is optional
        state, ys = layer.scan(state, xs)      outputs and final state; state may be None
        state, y  = layer.step(state, x)       one step
        layer.initial_state()

    ``xs`` is ``(time, in)`` or ``(batch, time, in)``, ``x`` is ``(in,)`` or ``(batch, in)``. Keyword arguments:

    ``lengths``
        ``()`` or ``(batch,)`` whole numbers from 0 to ``time``: the valid steps of each right-padded example. Outputs
        past the end are zero, the final state is the one at the end, and padding changes neither outputs nor
        gradients, whatever it holds.
    ``resets``
        ``(time,)`` or ``(batch, time)`` booleans (in ``step``: ``()`` or ``(batch,)``): true where an episode begins.
        The layer's initial state is put back before that step is taken. A reversed layer meets the same boundary from
        the other side: it starts anew after that step.
    ``key``
        a random key, for layers and cells that draw random numbers.
    """

    def __call__(
        self, *state_and_xs: Any, lengths: Any = None, resets: Any = None, key: Key | None = None
    ) -> Any:
        if len(state_and_xs) not in (1, 2):
            raise TypeError(
                f"{self.label}: called with {len(state_and_xs)} positional arguments; expected layer(xs) or "
                "layer(state, xs)."
            )
        state, xs = (None, *state_and_xs)[-2:]
        return self.scan(state, xs, lengths=lengths, resets=resets, key=key)[1]

    @abc.abstractmethod
    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
    ) -> tuple[State, Any]:
        """Final state and outputs of a whole sequence."""

    @abc.abstractmethod
    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        """Next state and output of one step."""

    @abc.abstractmethod
    def initial_state(self) -> State:
        """The state that ``None`` stands for, of one example; it broadcasts over a batch."""

    @property
    def label(self) -> str:
        """What messages and tables call this layer."""
        return type(self).__name__


class StatelessLayer(Layer):
    """A layer whose output at a step depends on that step alone; its state is ``None``."""

    #: Axes of one step: 1 for a vector of features, 0 for a number.
    FEATURE_AXES: ClassVar[int] = 1

    @abc.abstractmethod
    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        """The layer's function, for any leading axes."""

    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
    ) -> tuple[State, Any]:
        given = self._given(state, xs)
        if lengths is None:
            return None, self.apply(self._checked(given), key)
        batch_axes = given.ndim - 1 - self.FEATURE_AXES
        if batch_axes < 0:
            raise ValueError(
                f"{self.label}: xs has shape {given.shape}, a single step; lengths= goes with sequences."
            )
        lengths = check_lengths(self.label, lengths, given.shape, batch_axes)
        xs = self._checked(given, valid_steps(lengths, given.shape[batch_axes]))
        return None, keep_valid(self.apply(keep_valid(xs, lengths), key), lengths)

    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        return None, self.apply(self._checked(self._given(state, x)), key)

    def initial_state(self) -> State:
        return None

    def check_values(self, values: np.ndarray) -> None:
        """Refuse values that the layer cannot take. They are of the type that the caller gave, not narrowed yet."""
        check_fits(self.label, "xs", values)

    def _given(self, state: State, xs: Any) -> Any:
        if jtu.tree_leaves(state):
            raise ValueError(
                f"{self.label}: it has no state, but was called with one; expected layer(xs)."
            )
        if xs is None or isinstance(xs, list | tuple | dict):
            raise TypeError(f"{self.label}: xs is a {type(xs).__name__}; expected one array.")
        given = as_given(xs)
        check_numbers(self.label, "xs", given)
        return given

    def _checked(self, given: Any, valid: jax.Array | None = None) -> jax.Array:
        """The input as JAX has it. What is known of it is checked first, at its ``valid`` places."""
        if jnp.issubdtype(given.dtype, jnp.integer):
            values = valid_values(given, valid)
            if values is not None:
                self.check_values(values)
        return jnp.asarray(given)
