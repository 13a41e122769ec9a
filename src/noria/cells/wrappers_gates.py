"""Cells around any other cell with a gate of the whole update: phased and skipped updates.

The base and other wrappers are in `wrappers`.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_key, describe
from noria._parameters import draw
from noria._types import Aux, Initializer, Key, State
from noria.cells.base import Cell, cell_name, emit, next_state
from noria.cells.wrappers import WrapperCell, check_cell, dtype_of, is_inexact, with_output
from noria.initializers import glorot_uniform


class PhasedState(NamedTuple):
    """State of a `PhasedCell`.

    Attributes:
        cell: the state of the inner cell.
        time: ``()``, the time since the first step, at least float32.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_gates import PhasedState
        >>> float(PhasedState(jnp.zeros(3), jnp.ones(())).time)
        1.0
    """

    cell: State
    time: jax.Array


class PhasedCell(WrapperCell):
    """Updates each unit in a short part of a period of its own, by a gate of the time.

    ::

        phi = mod(time - s, tau) / tau
        k   = 2 phi / r          if phi < r / 2
              2 - 2 phi / r      if r / 2 <= phi < r
              leak * phi         else
        h'  = k * cell(h, x) + (1 - k) * h        for each array of the state

    The time is the sum of ``dt`` up to this step. Without ``dt`` it is the number of steps, from 1.

    Args:
        cell: a cell whose arrays of the state all have the same last axis.
        leak: share of the closed gate that passes, in training; 0 in inference.
        periods: least and greatest period at first, in units of time; their logarithm is uniform.
        ratio: first value of ``r``.
        key: random key for ``tau`` and ``s``.
        inference: whether the leak is 0. `noria.inference` and `noria.training` set it for a whole
            model.

    Attributes:
        cell: as passed.
        tau: ``(hidden,)``, the periods.
        s: ``(hidden,)``, the shifts, uniform in one period at first.
        r: ``(hidden,)``, the open part of each period.
        leak: as passed.
        inference: as passed.

    All three vectors are trained and not bounded; `noria.freeze` keeps one as it is. Arrays of
    integers and booleans are always updated. Put other wrappers that add arrays to the state around
    this one.

    Raises:
        TypeError: if ``cell`` is no cell, or for a missing key.
        ValueError: for a state of other shapes, or settings out of range.

    Source: Neil et al. 2016, arXiv 1610.09513. The new ``h`` of an LSTM reads the ``c`` before the
    gate, as there. The authors' code adds the shift instead, and advises periods from exp(1) to
    exp(5) for sequences of about 1000 steps.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_gates import PhasedCell
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Recurrence(PhasedCell(nr.LSTMCell(2, 3, key=k1), key=k2))
        >>> layer(jnp.ones((5, 2)), dt=jnp.full(5, 0.1)).shape
        (5, 3)
    """

    tau: jax.Array
    s: jax.Array
    r: jax.Array
    leak: float = eqx.field(static=True)
    inference: bool = eqx.field(static=True)

    def __init__(
        self,
        cell: Cell,
        leak: float = 0.001,
        *,
        periods: tuple[float, float] = (1.0, math.exp(3)),
        ratio: float = 0.05,
        key: Key,
        inference: bool = False,
    ):
        check_cell("PhasedCell", cell)
        call = f"PhasedCell({cell_name(cell)}, leak={leak}, periods={periods}, ratio={ratio})"
        check_key(call, key)
        low, high = periods
        if not (0 <= leak <= 1 and 0 < low <= high and 0 < ratio <= 1):
            raise ValueError(
                f"{call}: expected 0 <= leak <= 1, 0 < periods[0] <= periods[1] and 0 < ratio <= 1."
            )
        state, dtype = cell.initial_state(), dtype_of(cell)
        sizes = {jnp.shape(a)[-1:] for a in jtu.tree_leaves(state) if is_inexact(a)}
        if len(sizes) != 1 or sizes == {()}:
            raise ValueError(
                f"{call}: the state is {describe(state)}; expected arrays with the same last axis, "
                "the units. Put wrappers that add to the state around PhasedCell."
            )
        periods_key, shifts_key = jax.random.split(key)
        bounds = math.log(low), math.log(high)
        self.cell, self.leak, self.inference = cell, float(leak), bool(inference)
        self.tau = jnp.exp(jax.random.uniform(periods_key, sizes.pop(), dtype, *bounds))
        self.s = self.tau * jax.random.uniform(shifts_key, self.tau.shape, dtype)
        self.r = jnp.full(self.tau.shape, ratio, dtype)

    def __call__(
        self, state: PhasedState, x: Any, *, dt: jax.Array | None = None, **keywords: Any
    ) -> State:
        """The next state; see `WrapperCell`.

        Args:
            state: `PhasedState` before the step.
            x: the input of the step.
            dt: ``()``, the time since the last step; 1 by default.
            **keywords: ``key``, ``t`` and ``context``, if the inner cell takes them.

        Returns:
            ``state`` after the step, or ``(state, y)``.
        """
        given = keywords if dt is None else {**keywords, "dt": dt}
        after, emitted = next_state(self.cell, state.cell, x, given)
        time = state.time + jnp.asarray(1 if dt is None else dt, state.time.dtype)
        k = self._gate(time)

        def gated(new: jax.Array, old: jax.Array) -> jax.Array:
            if not is_inexact(new):
                return new
            here = k.astype(new.dtype)
            return here * new + (1 - here) * old

        mixed = jtu.tree_map(gated, after, state.cell)
        return with_output(PhasedState(mixed, time), emitted)

    def _gate(self, time: jax.Array) -> jax.Array:
        """How far each unit is open, from 0 to 1."""
        tau, s, r = (a.astype(time.dtype) for a in (self.tau, self.s, self.r))
        phi = jnp.mod(time - s, tau) / tau
        rise = 2 * phi / r
        closed = jnp.zeros_like(phi) if self.inference else self.leak * phi
        opened = jnp.where(phi < r / 2, rise, 2 - rise)
        return jnp.where(phi < r, opened, closed)

    def initial_state(self) -> State:
        own = self.tau.dtype
        wide = jnp.dtype(jnp.float32) if jnp.finfo(own).bits < 32 else own
        return PhasedState(self.cell.initial_state(), jnp.zeros((), wide))

    def output(self, state: PhasedState, x: Any, **keywords: Any) -> Any:
        return emit(self.cell, state.cell, x, keywords)


class SkipState(NamedTuple):
    """State of a `SkipCell`.

    Attributes:
        cell: the state of the inner cell.
        likelihood: ``()``, what the gate of the next step is rounded from, from 0 to 1.
        gate: ``()``, 1 if the last step was an update, else 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_gates import SkipState
        >>> SkipState(jnp.zeros(3), jnp.ones(()), jnp.zeros(())).cell.shape
        (3,)
    """

    cell: State
    likelihood: jax.Array
    gate: jax.Array


class SkipCell(WrapperCell):
    """Updates its state or copies it, as a gate of one bit decides, which it learns.

    ::

        u  = 1 if p >= 0.5, else 0
        s' = u * cell(s, x) + (1 - u) * s
        d  = sigmoid(W_p s' + b_p)
        p' = u * d + (1 - u) * (p + min(d, 1 - p))

    ``p`` is 1 at first, so the first step is an update. The derivative of ``u`` with respect to
    ``p`` is taken as 1 (straight-through). ``s'`` in ``W_p s'`` is all numbers of the state. The
    step computes ``cell(s, x)`` even if it is not used: this saves nothing in time.

    Args:
        cell: any cell.
        key: random key for ``W_p``.
        init: initialiser of ``W_p``, a matrix of one row; Glorot-uniform by default.
        bias: first value of ``b_p``. With 1, as in the authors' code, most steps are updates.
        with_gate: whether the output is ``Aux(y, u)``. The paper adds the sum of all ``u``, times a
            cost, to the loss.

    Attributes:
        cell: as passed.
        W_p: ``(numbers,)``, the weights of the gate; a complex number of the state counts twice.
        b_p: ``()``, the bias of the gate.
        with_gate: as passed.

    Arrays of integers and booleans in the state are copied in the same steps.

    Raises:
        TypeError: if ``cell`` is no cell, or for a missing key.

    Source: Campos et al. 2017, arXiv 1708.06834. The authors' code reads ``c`` of an LSTM alone in
    ``W_p s'``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_gates import SkipCell
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> cell = SkipCell(nr.GRUCell(2, 3, key=k1), key=k2, bias=-1.0, with_gate=True)
        >>> ys, u = nr.Recurrence(cell)(jnp.ones((5, 2)))
        >>> ys.shape, u.tolist()
        ((5, 3), [1.0, 0.0, 0.0, 0.0, 1.0])
    """

    W_p: jax.Array
    b_p: jax.Array
    with_gate: bool = eqx.field(static=True)

    def __init__(
        self,
        cell: Cell,
        *,
        key: Key,
        init: Initializer | None = None,
        bias: float = 1.0,
        with_gate: bool = False,
    ):
        check_cell("SkipCell", cell)
        check_key(f"SkipCell({cell_name(cell)})", key)
        self.cell, self.with_gate = cell, bool(with_gate)
        dtype = dtype_of(cell)
        size = _numbers(cell.initial_state(), dtype).size
        init = glorot_uniform() if init is None else init
        self.W_p = draw(init, key, (1, size), dtype)[0]
        self.b_p = jnp.full((), bias, dtype)

    def __call__(self, state: SkipState, x: Any, **keywords: Any) -> State:
        after, emitted = next_state(self.cell, state.cell, x, keywords)
        p = state.likelihood
        hard = (p >= 0.5).astype(p.dtype)
        u = p + jax.lax.stop_gradient(hard - p)
        chosen = jtu.tree_map(lambda new, old: _chosen(u, new, old), after, state.cell)
        d = jax.nn.sigmoid(self.W_p @ _numbers(chosen, p.dtype) + self.b_p)
        p = u * d + (1 - u) * (p + jnp.minimum(d, 1 - p))
        return with_output(SkipState(chosen, p, u), tuple(self._with_gate(y, u) for y in emitted))

    def initial_state(self) -> State:
        one = jnp.ones((), self.b_p.dtype)
        return SkipState(self.cell.initial_state(), one, one)

    def output(self, state: SkipState, x: Any, **keywords: Any) -> Any:
        return self._with_gate(emit(self.cell, state.cell, x, keywords), state.gate)

    def _with_gate(self, y: Any, u: jax.Array) -> Any:
        return Aux(y, u) if self.with_gate else y


def _chosen(u: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    if not is_inexact(new):
        return jnp.where(u > 0, new, old)
    u = u.astype(new.dtype)
    return u * new + (1 - u) * old


def _numbers(state: State, dtype: Any) -> jax.Array:
    """The floating numbers of a state in one vector, real and imaginary parts."""
    leaves = [jnp.ravel(leaf) for leaf in jtu.tree_leaves(state) if is_inexact(leaf)]
    parts = [part for a in leaves for part in ([a.real, a.imag] if jnp.iscomplexobj(a) else [a])]
    return jnp.concatenate([part.astype(dtype) for part in parts])
