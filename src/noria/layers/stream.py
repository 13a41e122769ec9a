"""``stream``: a compiled stepper for Python, which keeps the state of its model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import check_key, check_sizes
from noria._types import Key, State
from noria.layers.base import Layer
from noria.layers.chain import Chain
from noria.layers.dense import Embedding
from noria.layers.one_kernel import step_in_one_kernel
from noria.layers.packed_dense import packed
from noria.layers.prepared import Prepared, check_can_be_constant
from noria.layers.states import check_resets, own_or
from noria.masking import as_counts, where
from noria.module import inference

if TYPE_CHECKING:
    from noria.backends.native.direct import DirectStep

#: In place of a state whose memory is given away, or that lies in the buffers of a `DirectStep`.
_LOST: Any = object()
_INSIDE: Any = object()


class Stream:
    """A model that is stepped from Python, with its state inside; made by `stream`.

    ::

        y  = stream(x)            one step
        ys = stream.steps(xs)     many steps in one call, the same outputs
        stream.reset()            all streams begin anew
        stream.reset(where)       those where it is true
        stream.state              a copy; it can be set

    A batch of streams is as many sequences that know nothing of each other; NaN in one does not
    reach another one. Two threads may use two streams. A call of a thread while another one is in
    a call of the same stream is an error.

    A call that fails before it runs, on a wrong shape for example, changes nothing. One that fails
    while it runs loses the state, since its memory is used again for the next one; later calls
    then say so until `reset` is called or `state` is set.

    Args:
        model: see `stream`.
        batch: see `stream`.
        state: see `stream`.
        key: see `stream`.

    Raises:
        ValueError: for a ``batch`` below 1, or a state that does not fit.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> stream = nr.stream(nr.GRU(3, 4, key=jax.random.key(0)), batch=2)
        >>> xs = jnp.ones((2, 5, 3))
        >>> first = stream(xs[:, 0])
        >>> rest = stream.steps(xs[:, 1:])
        >>> rest.shape
        (2, 4, 4)
        >>> stream.reset(jnp.array([True, False]))
        >>> again = stream(xs[:, 0])
        >>> bool((again[0] == first[0]).all()), bool((again[1] == first[1]).all())
        (True, False)
    """

    def __init__(self, model: Layer, batch: int | None, state: State, key: Key | None):
        if batch is not None:
            check_sizes(f"stream({model.label})", batch=batch)
        self._model, self._axes = model, () if batch is None else (int(batch),)
        self._first = own_or(self._label, None, model.initial_state(), self._axes)
        self._state: State = _LOST
        self._direct: DirectStep | None = None
        self._tried: tuple[Any, Any] | None = None
        self._t = jnp.zeros(self._axes, jnp.int32) if "t" in model.takes() else None
        self._key = key
        # The shortest call has few arguments; each costs some tenths of a microsecond.
        self._short = None if self._t is not None or key is not None else _program(self._plain)
        self._one, self._many = _program(self._step), _program(self._scan)
        self._back = _program(self._put_back)
        self.state = self._first if state is None else state

    def __call__(self, x: Any, **inputs: Any) -> Any:
        """The output of the next step.

        Args:
            x: see `Layer.step`; ``(batch, in)`` for a batch of streams. For a NumPy array all
                outputs are such. If one kernel computes the whole step, such a call does not go
                through JAX, and takes a microsecond and the time of the kernel.
            **inputs: ``resets``, ``dt`` and ``context``; see `Recurrence.step`.

        Returns:
            The output of `Layer.step`. JAX may still compute it when the call returns; reading its
            values waits. A NumPy array is computed.

        Raises:
            ValueError: see `Layer.step`.
            TypeError: see `Layer.step`; for ``t``, which the stream counts.
            RuntimeError: if there is no state, since a call failed, or another thread is in one.
        """
        if not isinstance(x, np.ndarray | np.generic):
            return self._by_jax(x, inputs)
        direct = None if inputs else self._direct_for(x)
        if direct is None:
            return jtu.tree_map(np.array, self._by_jax(x, inputs))
        state, self._state = self._state, _LOST
        if state is not _INSIDE:
            direct.load(self._unless_lost(state))
        try:
            return direct(x)
        finally:
            self._state = _INSIDE

    def steps(self, xs: Any, *, lengths: Any = None, resets: Any = None, **inputs: Any) -> Any:
        """The outputs of many steps in one call, which costs less than as many calls.

        Args:
            xs: see `Layer.scan`; ``(batch, time, in)`` for a batch of streams.
            lengths: see `Layer.scan`: each stream takes so many steps, 0 allowed.
            resets: see `Layer.scan`.
            **inputs: ``dt`` and ``context``; see `Recurrence.scan`.

        Returns:
            The outputs of `Layer.scan`.

        Raises:
            ValueError: see `Layer.scan`.
            TypeError: see `Layer.scan`; for ``t``, which the stream counts.
            RuntimeError: see `__call__`.
        """
        state = self._taken()
        inputs |= {"lengths": lengths, "resets": resets}
        try:
            found = self._many(state, self._t, self._key, xs, inputs)
            self._state, self._t, self._key, ys = found
        except BaseException as error:
            self._keep(state, error)
            raise
        return ys

    def reset(self, where: Any = None) -> None:
        """Begin anew with the initial state of the model.

        Args:
            where: ``(batch,)`` booleans, the streams that begin anew; all of them by default.

        Raises:
            ValueError: if the shape does not fit.
            TypeError: if it is not boolean.
            RuntimeError: see `__call__`; never without ``where``.
        """
        if where is None:
            self._state = _copy(self._first)
            self._t = None if self._t is None else jnp.zeros_like(self._t)
            return
        where = check_resets(f"{self._label}.reset", where, self._axes)
        state = self._taken()
        try:
            self._state, self._t = self._back(state, self._t, where)
        except BaseException as error:
            self._keep(state, error)
            raise

    @property
    def state(self) -> State:
        """A copy of the state, as `Layer.step` takes it; set it to go on from there."""
        state = self._taken()
        self._state = state
        return _copy(state)

    @state.setter
    def state(self, state: State) -> None:
        own = self._model.initial_state()
        self._state = _copy(own_or(self._label, state, own, self._axes))

    @property
    def t(self) -> jax.Array | None:
        """The number of the next step of each stream, for cells that take ``t``; it can be set."""
        return self._t

    @t.setter
    def t(self, t: Any) -> None:
        if self._t is None:
            raise TypeError(f"{self._label}: t was set, but none of its cells takes it.")
        self._t = jnp.broadcast_to(as_counts(t), self._axes)

    def __repr__(self) -> str:
        return self._label

    # --- State -----------------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        return f"stream({self._model.label}{''.join(f', batch={n}' for n in self._axes)})"

    def _taken(self) -> State:
        """The state, whose memory the caller gives away."""
        state, self._state = self._state, _LOST
        if state is _INSIDE:
            assert self._direct is not None
            return self._direct.read()
        return self._unless_lost(state)

    def _unless_lost(self, state: State) -> State:
        if state is _LOST:
            raise RuntimeError(
                f"{self._label}: it has no state, because a call failed while it ran, or another "
                "thread is in a call; expected one thread a stream. Call reset(), or set state."
            )
        return state

    def _keep(self, state: State, error: BaseException) -> None:
        """Take a state back after a call that failed, unless its memory has been used again."""
        if any(leaf.is_deleted() for leaf in jtu.tree_leaves(state)):
            error.add_note(f"{self._label}: the state is lost; call reset(), or set state.")
        else:
            self._state = state

    # --- Programs --------------------------------------------------------------------------------

    def _by_jax(self, x: Any, inputs: dict[str, Any]) -> Any:
        """The output of a step, and the state after it, by a program of JAX."""
        state = self._taken()
        try:
            if self._short is not None and not inputs:
                self._state, y = self._short(state, x)
            else:
                found = self._one(state, self._t, self._key, x, inputs)
                self._state, self._t, self._key, y = found
        except BaseException as error:
            self._keep(state, error)
            raise
        return y

    def _direct_for(self, x: Any) -> "DirectStep | None":
        """The step that does not go through JAX, if there is one for this input."""
        if self._direct is None and self._tried != (x.shape, x.dtype):
            if self._short is not None and jax.default_backend() == "cpu":
                self._direct = self._made_direct(x)
            self._tried = x.shape, x.dtype
        direct = self._direct
        if direct is None or jax.config.jax_debug_nans:  # type: ignore[attr-defined]
            return None
        return direct if x.shape == direct.shape and x.dtype == direct.dtype else None

    def _made_direct(self, x: Any) -> "DirectStep | None":
        from noria.backends.native.direct import direct_step

        model, axes = self._model, len(self._axes)
        if not (isinstance(model, Chain) and type(model[0]) is Embedding and len(model) > 1):
            return direct_step(self._plain, self.state, x)
        jax.eval_shape(self._plain, self.state, x)  # the errors of a wrong input
        table, rest = model[0].table, Chain(*model.layers[1:])

        def step(state: State, x: Any) -> tuple[State, Any]:
            after, y = step_in_one_kernel(rest, state[1:], x, axes)
            return (state[0], *after), y

        return direct_step(step, self.state, x, table)

    def _plain(self, state: State, x: Any) -> Any:
        after, y = step_in_one_kernel(self._model, state, x, len(self._axes))
        return self._alike(state, after, x), y

    def _step(self, state: State, t: Any, key: Key | None, x: Any, inputs: dict[str, Any]) -> Any:
        self._check_inputs(inputs)
        key, now = _next(key)
        counted = {} if t is None else {"t": t}
        after, y = packed(self._model).step(state, x, key=now, **counted, **inputs)
        state = self._alike(state, after, x)
        if t is not None:
            resets = inputs.get("resets")
            t = (t if resets is None else jnp.where(resets, 0, t)) + 1
        return state, t, key, y

    def _scan(self, state: State, t: Any, key: Key | None, xs: Any, inputs: dict[str, Any]) -> Any:
        self._check_inputs(inputs)
        key, now = _next(key)
        counted = {} if t is None else {"t": t * self._model.stride}
        after, ys = packed(self._model).scan(state, xs, key=now, **counted, **inputs)
        state = self._alike(state, after, xs)
        return state, None if t is None else self._counted(t, xs, inputs), key, ys

    def _alike(self, before: State, after: State, x: Any) -> State:
        """The state after a step, which has as many streams as before."""
        if jtu.tree_map(jnp.shape, after) != jtu.tree_map(jnp.shape, before):
            raise ValueError(
                f"{self._label}: x has shape {jtu.tree_map(jnp.shape, x)}, with an axis of more "
                "streams than there are; expected stream(model, batch=...)."
            )
        return after

    def _counted(self, t: jax.Array, xs: Any, inputs: dict[str, Any]) -> jax.Array:
        """The number of the step behind many steps: since the last reset, if there is one."""
        time = jtu.tree_leaves(xs)[0].shape[len(self._axes)] // self._model.stride
        lengths, resets = inputs["lengths"], inputs["resets"]
        steps = time if lengths is None else as_counts(self._model.output_lengths(lengths))
        if resets is None:
            return t + steps
        index = jnp.arange(time, dtype=jnp.int32)
        begins = self._model.output_resets(jnp.asarray(resets))
        if lengths is not None:
            begins = begins & (index < steps[..., None])
        last = jnp.max(jnp.where(begins, index, -1), axis=-1, initial=-1)
        return jnp.where(last < 0, t + steps, steps - last)

    def _put_back(self, state: State, t: Any, which: jax.Array) -> Any:
        return where(which, self._first, state), None if t is None else jnp.where(which, 0, t)

    def _check_inputs(self, inputs: dict[str, Any]) -> None:
        if "t" in inputs:
            raise TypeError(
                f"{self._label}: t was given; expected a call without it, or stream.t=."
            )


def _program(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that uses the memory of its first argument, the state, for the next one."""
    return jax.jit(function, donate_argnums=0)


def _next(key: Key | None) -> tuple[Key | None, Key | None]:
    return (None, None) if key is None else tuple(jax.random.split(key))


def _copy(tree: Any) -> Any:
    """Arrays of their own: those of a state are given away in each call."""
    return jtu.tree_map(jnp.copy, tree)


def stream(
    model: Layer, batch: int | None = None, *, state: State = None, key: Key | None = None
) -> Stream:
    """A compiled stepper for use from Python: it keeps the state, and packs the weights once.

    ::

        state, y = model.step(state, x)    of the model in the mode of `inference`

    The arrays of the model are constants of one compiled program, as in `prepare`. The state stays
    on the device, and each call gives the memory of the old state to the new one.

    Args:
        model: a layer, or a model of layers, that can be stepped.
        batch: the number of streams that are stepped together; ``None`` for one, without an axis.
        state: the state to start from, of one stream or with a ``batch`` axis; by default
            `Layer.initial_state`, which `Stream.reset` puts back in any case.
        key: random key, for cells that draw random numbers; each call draws others.

    Returns:
        A `Stream`.

    Raises:
        TypeError: if ``model`` is not a layer, its arrays are traced, or ``key`` is not a key.
        ValueError: for a ``batch`` below 1, a state that does not fit, or a model that needs whole
            sequences.

    PyTorch and Keras pass states by hand, or keep them in a ``stateful`` layer; onnxruntime keeps
    none.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> model = nr.Chain(nr.LSTM(3, 8, key=k1), nr.Dense(8, 1, key=k2))
        >>> stream = nr.stream(model)
        >>> ys = jnp.stack([stream(x) for x in jnp.ones((5, 3))])
        >>> bool(jnp.allclose(ys, model(jnp.ones((5, 3))), atol=1e-6))
        True
    """
    check_can_be_constant("stream", model)
    if key is not None:
        check_key(f"stream({model.label})", key)
    model = model.held.layer if isinstance(model, Prepared) else inference(model)
    model._check_streams()
    return Stream(model, batch, state, key)
