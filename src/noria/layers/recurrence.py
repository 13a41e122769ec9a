"""``Recurrence``: a cell run over whole sequences."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_dtype, check_key, describe
from noria._jax import looks_at_residuals
from noria._types import Key, State
from noria.backends.base import Problem
from noria.cells.base import cell_name, needs_key, takes_key
from noria.compiler.select import Options, is_listening, run_locally, run_single_step
from noria.compiler.trace import tree_spec
from noria.ir.evaluate import of_one, spread
from noria.layers.base import Layer
from noria.layers.checks import (
    check_cell,
    check_options,
    strip_weak_type,
)
from noria.layers.compiled import dependence_of
from noria.masking import check_lengths, keep_valid, where
from noria.module import as_pytree


class Recurrence(Layer, trainable=("cell", "learned_state")):
    """Runs a cell over whole sequences.

    ::

        h_t = cell(h_{t-1}, x_t)            h_0 = initial_state()
        y_t = cell.output(h_t, x_t)         by default the first array of h_t

        reverse:     h_t = cell(h_{t+1}, x_t)
        resets_t:    h_{t-1} is replaced by initial_state() before step t
        t > length:  h_t = h_{t-1},  y_t = 0

    Args:
        cell: a `Cell`, or any function ``(state, x) -> state`` of one example and one step. Arrays
            that a plain function closes over are constants; write a `Cell` to train them.
        initial_state: state of one example before the first step, not trained; the cell's by
            default. A plain function needs one.
        reverse: run from the last step to the first. Outputs keep the positions of their inputs.
        learn_initial_state: train the initial state, starting from ``initial_state`` or the cell's.
        backend: which code runs the loop. ``"auto"`` chooses, and `noria.explain` gives the reason.

            * ``"native"``: compiles the cell's loop to machine code, on CPUs.
            * ``"scan"``: compiles it to one `jax.lax.scan`.
            * ``"associative"``: a parallel scan, for a next state that is affine and element-wise
              in the state.
            * ``"chunkwise"``: products over chunks of steps, for a state of matrices that is linear
              in them: linear attention, state-space duality, delta rules.
            * ``"plain"``: `jax.lax.scan` over the unchanged cell; has forward-mode derivatives.
            * ``"reference"``: a Python loop, the definition of the others.
        save: the residuals that the forward pass stores for the gradient. ``"gates"`` stores all
            residuals; ``"states"`` stores the states and recomputes the rest, many steps at once.
            It needs a fraction of the memory and one product more.
        checkpoint: store the state every so many steps, and repeat the steps between for the
            gradient. ``"sqrt"`` is the square root of the number of steps, and memory grows with
            it.

    Attributes:
        cell: the cell, as a pytree.
        fixed_state: the initial state that is not trained, or ``None``.
        learned_state: the initial state that is trained, or ``None``.
        reverse: as passed.
        backend: as passed.
        save: as passed.
        checkpoint: as passed.

    Shapes:
        ``xs`` is ``(time, in)`` or ``(batch, time, in)``; the outputs are ``(time, out)`` or
        ``(batch, time, out)``. A state has the shapes of one example, which broadcast over the
        batch, or a leading ``batch`` axis. All arrays have the dtype of the parameters. See `Layer`
        for ``lengths``, ``resets`` and ``key``.

    Raises:
        TypeError: if the cell is not callable, needs a key and gets none, or changes the dtype of
            its state.
        ValueError: if a shape does not fit, an option is not one of its choices, or the initial
            state differs in structure from the cell's.

    PyTorch's layers return ``(ys, state)`` from the call, Keras' the state with ``return_state``.
    Here ``layer(xs)`` returns the outputs and ``layer.scan(state, xs)`` both. Flux calls
    ``layer(xs, state)``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> layer = nr.Recurrence(lambda h, x: 0.9 * h + x, initial_state=jnp.zeros(2))
        >>> state, ys = layer.scan(None, jnp.ones((4, 3, 2)), lengths=jnp.array([3, 1, 0, 2]))
        >>> ys.shape, state[2].tolist()
        ((4, 3, 2), [0.0, 0.0])
    """

    cell: Any
    fixed_state: State
    learned_state: State
    reverse: bool = eqx.field(static=True)
    backend: str = eqx.field(static=True)
    save: str = eqx.field(static=True)
    checkpoint: int | str | None = eqx.field(static=True)

    def __init__(
        self,
        cell: Callable[..., Any],
        initial_state: State = None,
        reverse: bool = False,
        *,
        learn_initial_state: bool = False,
        backend: str = "auto",
        save: str = "gates",
        checkpoint: int | str | None = None,
    ):
        check_cell(cell)
        self.cell = as_pytree(cell)
        call = f"Recurrence({cell_name(cell)})"
        check_options(call, backend, save, checkpoint)
        if initial_state is None and not hasattr(self.cell, "initial_state"):
            raise ValueError(f"{call}: a plain function has no initial state; pass initial_state=.")
        if initial_state is None and learn_initial_state:
            initial_state = self.cell.initial_state()
        state = jtu.tree_map(strip_weak_type, initial_state)
        if hasattr(self.cell, "initial_state") and state is not None:
            own = jtu.tree_map(strip_weak_type, self.cell.initial_state())
            if tree_spec(state) != tree_spec(own):
                raise ValueError(
                    f"{call}: initial_state is {describe(state)}; "
                    f"expected {describe(own)}, the state of one example. "
                    "A state for each example of a batch is passed to the call: layer(state, xs)."
                )
        self.fixed_state = None if learn_initial_state else state
        self.learned_state = state if learn_initial_state else None
        self.reverse = bool(reverse)
        self.backend = backend
        self.save, self.checkpoint = save, checkpoint

    def initial_state(self) -> State:
        if self.learned_state is not None:
            return self.learned_state
        if self.fixed_state is not None:
            return self.fixed_state
        return jtu.tree_map(strip_weak_type, self.cell.initial_state())

    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
    ) -> tuple[State, Any]:
        xs, batch, time = self._sequence(xs)
        if lengths is not None:
            lengths = check_lengths(self.label, lengths, (*batch, time), len(batch))
        if resets is not None:
            resets = self._resets(resets, (*batch, time))
            if self.reverse:  # the boundary before step t is crossed on the way from t to t - 1
                resets = jnp.concatenate(
                    [resets[..., 1:], jnp.zeros_like(resets[..., :1])], axis=-1
                )
        own = self.initial_state()
        start = None if state is None else self._state(state, own, batch)
        keys = self._keys(key, (*batch, time))
        if lengths is not None and looks_at_residuals():
            xs = keep_valid(xs, lengths)  # JAX then looks at what is kept for the gradient too
        problem = Problem(
            self.cell, own, start, xs, lengths, resets, keys, bool(batch), self.reverse, self.label
        )
        shared = None if is_listening() else self._dependence(own, xs, keys, len(batch) + 1)
        try:
            run = run_locally if shared is None else functools.partial(_compiled_run, shared)
            return run(self._options, problem)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                f"{self.label}: forward-mode derivatives (jax.jvp, jax.jacfwd, "
                'jax.hessian) need backend="plain", which '
                "noria.with_backend sets for a whole model; the others have a reverse mode of "
                "their own."
            ) from error

    @property
    def _options(self) -> Options:
        return Options(self.backend, self.save, self.checkpoint)

    def step(
        self, state: State, x: Any, *, resets: Any = None, key: Key | None = None
    ) -> tuple[State, Any]:
        if self.reverse:
            raise ValueError(
                f"{self.label}.step: a reversed layer starts at the end; "
                "call scan with the whole sequence."
            )
        x, batch = self._one_step(x)
        own = self.initial_state()
        state = self._state(state, own, batch)
        if resets is not None:
            state = where(self._resets(resets, batch), own, state)

        keys = self._keys(key, batch)
        problem = Problem(
            self.cell, own, state, x, None, None, keys, bool(batch), False, self.label
        )
        shared = self._dependence(own, x, keys, len(batch))
        if shared is None:
            return run_single_step(Options("plain"), problem)
        return _compiled_step(shared, self._options, problem)

    def _dependence(self, own: State, xs: Any, keys: Key | None, axes: int) -> Hashable | None:
        """Equal for calls that may share a program; ``None`` for a call that must not."""
        return (
            None
            if self.backend == "reference"
            else dependence_of(self.cell, own, of_one(xs, axes), of_one(keys, axes))
        )

    @property
    def label(self) -> str:
        """The layer as its user wrote it: ``GRU(in_size=3)``, ``Recurrence(LeakyCell)``."""
        name, size = cell_name(self.cell), getattr(self.cell, "in_size", None)
        return (
            f"Recurrence({name})"
            if size is None
            else f"{name.removesuffix('Cell')}(in_size={size})"
        )

    # --- Arguments -------------------------------------------------------------------------------

    def _sequence(self, xs: Any) -> tuple[Any, tuple[int, ...], int]:
        """``xs`` as an array, its batch axes and its number of steps."""
        xs = self._arrays("xs", xs, (2, 3), "(time, {}) or (batch, time, {})")
        return xs, xs.shape[:-2], xs.shape[-2]

    def _one_step(self, x: Any) -> tuple[Any, tuple[int, ...]]:
        x = self._arrays("x", x, (1, 2), "({},) or (batch, {})")
        return x, x.shape[:-1]

    def _arrays(self, what: str, xs: Any, ranks: tuple[int, int], form: str) -> jax.Array:
        size = getattr(self.cell, "in_size", None)
        if isinstance(xs, list | tuple):
            raise TypeError(
                f"{self.label}: {what} is a {type(xs).__name__}; "
                f"expected one array, {form.format(size or 'in', size or 'in')}: stack equal steps "
                "with jnp.stack, pad unequal sequences with noria.data.pad."
            )
        array = jnp.asarray(xs)
        if array.ndim not in ranks or size not in (None, array.shape[-1]):
            hint = "; the state comes first: layer(state, xs)" if array.ndim == ranks[0] - 1 else ""
            raise ValueError(
                f"{self.label}: {what} has shape {array.shape}; expected "
                f"{form.format(size or 'in', size or 'in')}{hint}."
            )
        if size is not None:
            check_dtype(self.label, what, array, self.cell.dtype)
        return array

    def _state(self, state: State, own: State, batch: tuple[int, ...]) -> State:
        """The state to start from, with a batch axis where the input has one."""
        state = own if state is None else state
        structure: Any = jtu.tree_structure(own)
        if structure != jtu.tree_structure(state):
            raise ValueError(
                f"{self.label}: the state is {describe(state)}; "
                f"expected {describe(own)}, as initial_state() gives it. "
                "The state comes first: layer(state, xs)."
            )

        def broadcast(leaf: Any, like: jax.Array) -> jax.Array:
            leaf = jnp.asarray(leaf)
            if leaf.shape not in (like.shape, batch + like.shape):
                batched = f" or {batch + like.shape}" if batch else ""
                raise ValueError(
                    f"{self.label}: the state has shape {leaf.shape}; "
                    f"expected {like.shape}{batched}. The state comes first: layer(state, xs)."
                )
            if leaf.dtype != like.dtype:
                raise TypeError(
                    f"{self.label}: the state is {leaf.dtype}; expected {like.dtype}, "
                    "as initial_state() gives it."
                )
            return leaf if leaf.shape == batch + like.shape else spread(leaf, batch)

        return jtu.tree_map(broadcast, state, own)

    def _resets(self, resets: Any, shape: tuple[int, ...]) -> jax.Array:
        array = jnp.asarray(resets)
        if array.dtype != jnp.bool_:
            raise TypeError(
                f"{self.label}: resets is {array.dtype}; "
                "expected booleans, such as resets.astype(bool)."
            )
        if array.shape != shape:
            raise ValueError(
                f"{self.label}: resets has shape {array.shape}; "
                f"expected {shape}, one for each step."
            )
        return array

    def _keys(self, key: Key | None, shape: tuple[int, ...]) -> Key | None:
        """One key for each step, for a cell that takes keys; ``None`` for other cells."""
        if not takes_key(self.cell) or (key is None and not needs_key(self.cell)):
            return None
        check_key(f"{self.label}, whose cell draws random numbers", key)
        return key if key is None or not shape else jax.random.split(key, shape)


@eqx.filter_jit
def _compiled_run(shared: Hashable, options: Options, problem: Problem) -> tuple[State, Any]:
    return run_locally(options, problem)


@eqx.filter_jit
def _compiled_step(shared: Hashable, options: Options, problem: Problem) -> tuple[State, Any]:
    return run_single_step(options, problem)
