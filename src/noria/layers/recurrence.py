"""``Recurrence``: a cell run over whole sequences."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import describe
from noria._jax import looks_at_residuals
from noria._types import Key, State
from noria.backends.base import Problem
from noria.cells.base import arguments_of, cell_name
from noria.cells.draws import for_call
from noria.compiler.select import Options, is_listening, run_locally, run_single_step
from noria.compiler.trace import tree_spec
from noria.ir.evaluate import of_one
from noria.layers.arguments import keywords_of, of_nonempty
from noria.layers.base import Layer
from noria.layers.checks import (
    check_cell,
    check_options,
    strip_weak_type,
)
from noria.layers.compiled import (
    compiled_run,
    compiled_step,
    dependence_of,
    has_constant_weights,
    whole,
)
from noria.layers.inputs import input_of
from noria.layers.states import check_resets, own_or, with_batch
from noria.masking import check_lengths, keep_valid, where, without_padding
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
            * ``"plain"``: `jax.lax.scan` over the unchanged cell.
            * ``"reference"``: a Python loop, the definition of the others.
        save: the residuals that the forward pass stores for the gradient. ``"gates"`` stores all
            residuals, except that machine code computes matrices of the state again where that is
            faster; ``"states"`` stores the states and recomputes the rest, many steps at once.
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
        for ``lengths``, ``resets`` and ``key``, and `scan` for ``t``, ``dt`` and ``context``.

        A cell without ``in_size`` takes inputs of any form: ``xs`` may be a pytree of arrays
        ``(batch, time, ...)``. With ``in_shape``, the shapes of one step, the batch may be missing.

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

    def initial_state(self, batch: int | None = None) -> State:
        state = self.learned_state if self.fixed_state is None else self.fixed_state
        if state is None:
            state = jtu.tree_map(strip_weak_type, self.cell.initial_state())
        return with_batch(self.label, state, batch)

    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
        t: Any = None,
        dt: Any = None,
        context: Any = None,
    ) -> tuple[State, Any]:
        """The final state and the outputs of whole sequences; see `Layer.scan`.

        Args:
            state: see `Layer.scan`.
            xs: see `Layer.scan`.
            lengths: see `Layer.scan`.
            resets: see `Layer.scan`.
            key: see `Layer.scan`.
            t: ``()`` or ``(batch,)`` integers, the number of the first step, 0 by default. A
                sequence that continues another one passes the number of steps since the last reset.
            dt: ``(time,)`` or ``(batch, time)``, time differences, one for each step.
            context: a pytree of arrays, with a leading ``batch`` axis if ``xs`` has one, which
                every step of an example reads.

        Returns:
            As `Layer.scan`.

        Raises:
            ValueError: see `Layer.scan`.
            TypeError: see `Layer.scan`. Also if the cell takes ``dt`` or ``context`` and none is
                given, or does not take a given ``t``, ``dt`` or ``context``.
        """
        xs, axes = input_of(self.label, self.cell, "xs", xs, time=True)
        batch = axes[:-1]
        if lengths is not None:
            lengths = check_lengths(self.label, lengths, axes, len(batch))
        if resets is not None:
            resets = check_resets(self.label, resets, axes)
        given = {"key": key, "t": t, "dt": dt, "context": context}
        cell = for_call(self.label, self.cell, key)
        keywords, context = keywords_of(self.label, cell, axes, resets, given, time=True)
        context = of_nonempty(context, lengths)
        if resets is not None and self.reverse:
            # The boundary before step t is crossed on the way from t to t - 1.
            resets = jnp.concatenate([resets[..., 1:], jnp.zeros_like(resets[..., :1])], axis=-1)
        own = self.initial_state()
        start = None if state is None else own_or(self.label, state, own, batch)
        if lengths is not None and looks_at_residuals():
            # JAX then looks at the residuals too.
            xs, keywords = keep_valid(xs, lengths), without_padding(keywords, lengths)
        problem = Problem(
            cell,
            own,
            start,
            xs,
            lengths,
            resets,
            keywords,
            context,
            bool(batch),
            self.reverse,
            self.label,
        )
        is_part = is_listening() or has_constant_weights(cell)
        shared = None if is_part else self._dependence(problem, len(axes))
        run = run_locally if shared is None else functools.partial(compiled_run, shared)
        return run(self._options, problem)

    @property
    def _options(self) -> Options:
        return Options(self.backend, self.save, self.checkpoint)

    @whole
    def step(
        self,
        state: State,
        x: Any,
        *,
        resets: Any = None,
        key: Key | None = None,
        t: Any = None,
        dt: Any = None,
        context: Any = None,
    ) -> tuple[State, Any]:
        """The next state and the output of one step, for streaming; see `Layer.step`.

        Args:
            state: see `Layer.step`.
            x: see `Layer.step`.
            resets: see `Layer.step`.
            key: see `Layer.step`.
            t: ``()`` or ``(batch,)`` integers, the number of the step, 0 by default and where an
                episode begins.
            dt: ``()`` or ``(batch,)``, the time difference of the step.
            context: as in `scan`.

        Returns:
            As `Layer.step`.

        Raises:
            ValueError: if a shape does not fit, or the layer is reversed.
            TypeError: see `scan`.
        """
        self._check_streams()
        x, batch = input_of(self.label, self.cell, "x", x, time=False)
        own = self.initial_state()
        state = own_or(self.label, state, own, batch)
        if resets is not None:
            resets = check_resets(self.label, resets, batch)
            state = where(resets, own, state)
        given = {"key": key, "t": t, "dt": dt, "context": context}
        cell = for_call(self.label, self.cell, key)
        keywords, context = keywords_of(self.label, cell, batch, resets, given, time=False)
        problem = Problem(
            cell,
            own,
            state,
            x,
            None,
            None,
            keywords,
            context,
            bool(batch),
            False,
            self.label,
        )
        if has_constant_weights(cell):
            return run_single_step(self._options, problem)
        shared = self._dependence(problem, int(problem.batched))
        if shared is None:
            return run_single_step(Options("plain"), problem)
        return compiled_step(shared, self._options, problem)

    def _check_streams(self) -> None:
        if self.reverse:
            raise ValueError(
                f"{self.label}.step: a reversed layer starts at the end; "
                "call scan with the whole sequence."
            )

    def takes(self) -> frozenset[str]:
        return frozenset(arguments_of(self.cell)) - {"key"}

    def _dependence(self, problem: Problem, axes: int) -> Hashable | None:
        """Equal for calls that may share a program; ``None`` for a call that must not.

        The inputs of ``problem`` have ``axes`` in front.
        """
        if self.backend == "reference":
            return None
        x, keywords = of_one((problem.xs, problem.keywords), axes)
        if problem.context is not None:
            keywords["context"] = of_one(problem.context, int(problem.batched))
        return dependence_of(problem.cell, problem.initial_state, x, keywords)

    @property
    def label(self) -> str:
        """The layer as its user wrote it: ``GRU(in_size=3)``, ``Recurrence(LeakyCell)``."""
        name, size = cell_name(self.cell), getattr(self.cell, "in_size", None)
        return (
            f"Recurrence({name})"
            if size is None
            else f"{name.removesuffix('Cell')}(in_size={size})"
        )
