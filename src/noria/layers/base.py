"""The methods that every layer and every model of layers has."""

import abc
import inspect
from collections.abc import Container, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import as_given, check_fits, check_numbers
from noria._types import Key, State
from noria.layers.compiled import whole
from noria.masking import check_lengths, keep_valid, valid_steps, valid_values
from noria.module import Module


class Layer(Module):
    """A map from sequences to sequences, whole or step by step, which may carry a state.

    ::

        ys        = layer(xs)                  zero (or the layer's) initial state
        ys        = layer(state, xs)           state first; the leading argument is optional
        state, ys = layer.scan(state, xs)      outputs and final state; state may be None
        state, y  = layer.step(state, x)       one step
        layer.initial_state()                  of one example, or with batch= of each of a batch

    Subclasses define `scan`, `step` and `initial_state`; a model made of layers is a layer itself.
    A layer with fewer steps in its outputs than in its input also defines `stride`,
    `output_lengths` and `output_resets`.

    PyTorch returns ``(ys, state)`` from the call itself, Keras the state only with
    ``return_state``. Here a call returns the outputs and `scan` returns both, always.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> class Delay(nr.Layer):
        ...     def scan(self, state, xs, *, lengths=None, resets=None, key=None):
        ...         before = self.initial_state() if state is None else state
        ...         return xs[-1], jnp.concatenate([before[None], xs[:-1]])
        ...
        ...     def step(self, state, x, *, resets=None, key=None):
        ...         return x, state
        ...
        ...     def initial_state(self, batch=None):
        ...         return jnp.zeros(1 if batch is None else (batch, 1))
        >>> Delay()(jnp.array([[1.0], [2.0], [3.0]])).tolist()
        [[0.0], [1.0], [2.0]]
    """

    def __call__(
        self,
        *state_and_xs: Any,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
        **inputs: Any,
    ) -> Any:
        """The outputs of whole sequences: ``layer(xs)`` or ``layer(state, xs)``.

        Args:
            *state_and_xs: ``xs``, or the state followed by ``xs``, as in `scan`.
            lengths: see `scan`.
            resets: see `scan`.
            key: see `scan`.
            **inputs: ``t``, ``dt`` and ``context``, for layers whose cells take them; see
                `Recurrence.scan`.

        Returns:
            The outputs of `scan`.

        Raises:
            TypeError: if there are no positional arguments or more than two, or if one of
                ``inputs`` is given that no cell takes.

        Examples:
            >>> import jax.numpy as jnp, noria as nr
            >>> layer = nr.Recurrence(lambda h, x: h + x, initial_state=jnp.zeros(1))
            >>> layer(jnp.ones((3, 1))).ravel().tolist()
            [1.0, 2.0, 3.0]
            >>> layer(jnp.array([5.0]), jnp.ones((3, 1))).ravel().tolist()
            [6.0, 7.0, 8.0]
        """
        if len(state_and_xs) not in (1, 2):
            raise TypeError(
                f"{self.label}: called with {len(state_and_xs)} positional arguments; "
                "expected layer(xs) or layer(state, xs)."
            )
        state, xs = (None, *state_and_xs)[-2:]
        check_inputs(self, inputs)
        return self.scan(state, xs, lengths=lengths, resets=resets, key=key, **inputs)[1]

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
        """The final state and the outputs of whole sequences.

        Args:
            state: the state before the first step, or ``None`` for `initial_state`. Its arrays have
                the shapes of one example, or these after a ``batch`` axis.
            xs: ``(time, in)`` or ``(batch, time, in)``, of the dtype of the parameters.
            lengths: ``()`` or ``(batch,)`` integers from 0 to ``time``, the valid steps of each
                right-padded example. Outputs past the end are zero, and the final state is the
                state at the end. Padding never affects outputs or gradients, even if it is NaN.
            resets: ``(time,)`` or ``(batch, time)`` booleans, true at the first step of an episode.
                The initial state replaces the carried one before that step. In a reversed layer it
                replaces it after that step, which is the same boundary.
            key: random key, for layers and cells that draw random numbers.

        Returns:
            ``(state, ys)``: the state after the last step, and the outputs, ``(time, out)`` or
            ``(batch, time, out)``, each at the position of its input. With a `stride`, ``time`` is
            shorter.

        Raises:
            ValueError: if a shape does not fit, or a length is out of range where its value is
                known. Under `jax.jit` a length is clipped to ``0 .. time``.
            TypeError: if a dtype does not fit, or a key is needed and missing.

        Examples:
            >>> import jax, jax.numpy as jnp, noria as nr
            >>> layer = nr.GRU(2, 4, key=jax.random.key(0))
            >>> state, ys = layer.scan(None, jnp.ones((3, 5, 2)), lengths=jnp.array([5, 0, 2]))
            >>> state.shape, ys.shape
            ((3, 4), (3, 5, 4))
        """

    @abc.abstractmethod
    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        """The next state and the output of one step, for streaming.

        Args:
            state: the state before the step, or ``None`` for `initial_state`.
            x: ``(in,)`` or ``(batch, in)``, of the dtype of the parameters. With a `stride` above
                1, so many steps: ``(stride, in)`` or ``(batch, stride, in)``.
            resets: ``()`` or ``(batch,)`` booleans, true where an episode begins with this step.
            key: random key, for layers and cells that draw random numbers.

        Returns:
            ``(state, y)``: the state after the step, and ``(out,)`` or ``(batch, out)``.

        Raises:
            ValueError: if a shape does not fit, or the layer needs whole sequences.
            TypeError: if a dtype does not fit, or a key is needed and missing.

        Examples:
            >>> import jax, jax.numpy as jnp, noria as nr
            >>> layer = nr.GRU(2, 4, key=jax.random.key(0))
            >>> state, y = layer.step(None, jnp.ones(2))
            >>> state, y = layer.step(state, jnp.zeros(2))
            >>> y.shape
            (4,)
        """

    @abc.abstractmethod
    def initial_state(self, batch: int | None = None) -> State:
        """The state that ``None`` means.

        Args:
            batch: the number of examples; ``None`` for the state of one example, which broadcasts
                over a batch.

        Returns:
            A pytree of arrays, with a leading axis of ``batch`` equal states if it is given;
            ``None`` for a layer without a state.

        Raises:
            ValueError: for a ``batch`` below 1.

        Examples:
            >>> import jax, noria as nr
            >>> gru = nr.GRU(2, 4, key=jax.random.key(0))
            >>> gru.initial_state().shape, gru.initial_state(batch=3).shape
            ((4,), (3, 4))
        """

    @property
    def stride(self) -> int:
        """Steps of the input for each step of the output; `step` takes so many at once."""
        return 1

    def output_lengths(self, lengths: Any) -> Any:
        """The valid steps of the outputs for sequences of so many valid steps.

        `Chain` passes them to the layer that follows; pass them to a loss of its outputs.

        Args:
            lengths: integers of any shape; also a number of steps in ``time``.

        Returns:
            The lengths as given, for a layer with one output for each step; else int32 of the same
            shape.

        Examples:
            >>> import jax, jax.numpy as jnp, noria as nr
            >>> conv = nr.Conv1d(2, 3, 5, stride=4, key=jax.random.key(0))
            >>> conv.output_lengths(jnp.array([8, 7, 3, 0])).tolist()
            [2, 1, 0, 0]
        """
        return lengths

    def output_resets(self, resets: Any) -> Any:
        """The steps of the outputs at which an episode begins.

        Args:
            resets: ``(time,)`` or ``(batch, time)`` booleans, as in `scan`.

        Returns:
            The same for the outputs: the resets as given, for a layer with one output for each
            step.
        """
        return resets

    def takes(self) -> frozenset[str]:
        """Which of ``t``, ``dt`` and ``context`` the cells of this layer take.

        Returns:
            Their names; by default all that are arguments of `scan`.

        Examples:
            >>> import jax.numpy as jnp, noria as nr
            >>> leaky = lambda h, x, *, dt: h + dt * (x - h)
            >>> sorted(nr.Recurrence(leaky, initial_state=jnp.zeros(3)).takes())
            ['dt']
        """
        arguments = inspect.signature(self.scan).parameters
        return frozenset(name for name in ("t", "dt", "context") if name in arguments)

    @property
    def label(self) -> str:
        """The name of this layer in messages and tables."""
        return type(self).__name__

    def _check_known(self, x: Any) -> None:
        """Check the values of a step that is compiled, where they are unknown, beforehand."""

    def _check_streams(self) -> None:
        """Raise an error if the layer needs whole sequences."""


def check_taken(label: str, inputs: Iterable[str], taken: Container[str]) -> None:
    """Raise an error for inputs that no cell of a model takes."""
    for name in inputs:
        if name not in taken:
            raise TypeError(
                f"{label}: {name} was given, but none of its cells takes it; expected a cell with "
                f"an argument of this name, (state, x, *, {name}), or a call without {name}=."
            )


def check_inputs(layer: Layer, inputs: dict[str, Any]) -> None:
    """The same for a layer, which is asked only if there are inputs: to ask takes long."""
    if inputs:
        check_taken(layer.label, inputs, layer.takes())


def taken(layer: Layer, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs that the cells of a layer take."""
    names = layer.takes() if inputs else ()
    return {name: array for name, array in inputs.items() if name in names}


class StatelessLayer(Layer):
    """A layer whose output at a step depends on the input of that step only.

    Its state is ``None``.
    """

    #: Axes of one step: 1 for a vector of features, 0 for a scalar.
    FEATURE_AXES: ClassVar[int] = 1

    @abc.abstractmethod
    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        """The function of the layer, for any leading axes.

        Args:
            xs: ``(..., in)``; for an `Embedding` integers ``(...)``.
            key: random key, or ``None``.

        Returns:
            ``(..., out)``.

        Raises:
            ValueError: if a size does not fit.
            TypeError: if a dtype does not fit, or a key is needed and missing.
        """

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
                f"{self.label}: xs has shape {given.shape}, a single step; "
                "lengths= needs sequences."
            )
        lengths = check_lengths(self.label, lengths, given.shape, batch_axes)
        xs = self._checked(given, valid_steps(lengths, given.shape[batch_axes]))
        return None, keep_valid(self.apply(keep_valid(xs, lengths), key), lengths)

    @whole
    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        return None, self.apply(self._checked(self._given(state, x)), key)

    def _check_known(self, x: Any) -> None:
        self._checked(self._given(None, x))

    def initial_state(self, batch: int | None = None) -> State:
        return None

    def check_values(self, values: np.ndarray) -> None:
        """Check integers against the range that the layer takes.

        Args:
            values: known values with the dtype that the caller passed, not narrowed to 32 bits.

        Raises:
            ValueError: if one of them is out of range.
        """
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
        """The input as a JAX array, after a check of the known values at its ``valid`` places."""
        if jnp.issubdtype(given.dtype, jnp.integer):
            values = valid_values(given, valid)
            if values is not None:
                self.check_values(values)
        return jnp.asarray(given)
