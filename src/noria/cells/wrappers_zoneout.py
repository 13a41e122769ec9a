"""Cells around any other cell that keep numbers of its state at random: zoneout and dropout.

The base and other wrappers are in `wrappers`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_choice
from noria._types import Key, State
from noria.cells.base import Cell, cell_name, emit, next_state
from noria.cells.wrappers import (
    WrapperCell,
    check_cell,
    check_drawn,
    is_inexact,
    own_key,
    with_output,
)
from noria.cells.wrappers_dropout import (
    MaskedState,
    draw_masks,
    dropped,
    masks_of_sequence,
    undrawn,
)


def _rates(rate: Any) -> Any:
    return rate if isinstance(rate, int | float) else tuple(jtu.tree_leaves(rate))


class Zoneout(WrapperCell):
    """Keeps each number of the state with a probability, and else updates it.

    ::

        s~ = cell(s, x)
        m  ~ Bernoulli(rate)
        s' = m * s + (1 - m) * s~              in training
        s' = rate * s + (1 - rate) * s~        in inference

    Args:
        cell: any cell.
        rate: probability that a number stays as it is, from 0 to 1. One for all arrays of the
            state, or one for each: ``(0.05, 0.5)`` or ``LSTMState(h=0.05, c=0.5)``.
        inference: whether the expectation is taken. `noria.inference` and `noria.training` set it
            for a whole model.

    Attributes:
        cell: as passed.
        rate: a number, or a tuple of numbers.
        inference: as passed.

    All arrays of the state take part, also those that a wrapper inside adds. So put zoneout inside
    of delays and windows. Arrays of integers and booleans are always updated.

    Raises:
        TypeError: in training mode, if no key is passed.
        ValueError: for a rate out of range, or if there is not one for each array.

    Source: Krueger et al. 2016, arXiv 1606.01305. The masks of ``h`` and ``c`` of an
    LSTM are independent, and the new ``h`` reads the ``c`` before zoneout. Haste holds ``h`` only.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_zoneout import Zoneout
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Recurrence(Zoneout(nr.LSTMCell(2, 3, key=k1), (0.05, 0.5)))
        >>> layer(jnp.ones((5, 2)), key=k2).shape
        (5, 3)
        >>> nr.inference(layer)(jnp.ones((5, 2))).shape
        (5, 3)
    """

    rate: float | tuple[float, ...] = eqx.field(static=True, converter=_rates)
    inference: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self) -> None:
        check_cell("Zoneout", self.cell)
        _check_rates("Zoneout", self.cell, self.rate)

    def __call__(self, state: State, x: Any, *, key: Key | None = None, **keywords: Any) -> State:
        """The next state; see `WrapperCell`.

        Args:
            state: the state before the step.
            x: the input of the step.
            key: random key of the step, needed in training mode.
            **keywords: ``t``, ``dt`` and ``context``, if the inner cell takes them.

        Returns:
            ``state`` after the step, or ``(state, y)``.

        Raises:
            TypeError: in training mode, if ``key`` is no key.
        """
        key, keywords = own_key(self.cell, key, keywords)
        after, emitted = next_state(self.cell, state, x, keywords)
        old, new, structure = (*map(jtu.tree_leaves, (state, after)), jtu.tree_structure(after))
        rates = _rate_of_each(self.rate, new)
        keys: Any = [None] * len(new)
        if not self.inference and any(rates):
            check_drawn("Zoneout", key)
            keys = jax.random.split(key, len(new))
        mixed = [
            _held(rate, key, *pair) for rate, key, *pair in zip(rates, keys, old, new, strict=True)
        ]
        return with_output(jtu.tree_unflatten(structure, mixed), emitted)


def _held(rate: float, key: Key | None, old: jax.Array, new: jax.Array) -> jax.Array:
    """The numbers of one array after zoneout; without a key the expectation."""
    if not rate:
        return new
    if key is None:
        return rate * old + (1 - rate) * new
    return jnp.where(jax.random.bernoulli(key, rate, new.shape), old, new)


def _check_rates(call: str, cell: Cell, rate: Any) -> None:
    """Accept one probability, or one for each array of the state."""
    rates = rate if isinstance(rate, tuple) else (rate,)
    if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in rates):
        raise ValueError(f"{call}(rate={rate!r}): rate is a probability; expected 0 to 1.")
    count = len(jtu.tree_leaves(cell.initial_state()))
    if isinstance(rate, tuple) and len(rates) != count:
        raise ValueError(
            f"{call}(rate={rate!r}): there are {len(rates)} rates; expected one number, "
            f"or {count}, one for each array of the state of {cell_name(cell)}."
        )


def _rate_of_each(rate: Any, arrays: list[Any]) -> list[float]:
    """The rate of each array; 0 for whole numbers and truth values."""
    rates = rate if isinstance(rate, tuple) else (rate,) * len(arrays)
    return [r if is_inexact(a) else 0.0 for r, a in zip(rates, arrays, strict=True)]


class RecurrentDropout(WrapperCell):
    """Drops numbers of the change of the state, so that what is remembered stays.

    ::

        s~ = cell(s, x)
        m  ~ Bernoulli(1 - rate)
        s' = s + m * (s~ - s) / (1 - rate)        in training
        s' = s~                                   in inference

    Args:
        cell: any cell.
        rate: probability that a number stays as it is, at least 0 and below 1. One for all arrays
            of the state, or one for each: ``(0.0, 0.25)`` or ``LSTMState(h=0.0, c=0.25)``.
        per: ``"step"`` draws a mask for each step, ``"sequence"`` one at the first step, for all.
        inference: whether nothing is dropped. `noria.inference` and `noria.training` set it for a
            whole model.

    Attributes:
        cell: as passed.
        rate: a number, or a tuple of numbers.
        per: as passed.
        inference: as passed.

    With ``per="sequence"`` the state is a `MaskedState`. It keeps the masks, so a sequence that is
    continued keeps them too. A reset begins a sequence, with new masks. Arrays of integers and
    booleans are always updated.

    Raises:
        TypeError: if ``cell`` is no cell; in training mode, if no key is passed.
        ValueError: for a rate out of range, if there is not one for each array, or an unknown
            ``per``.

    Source: Semeniuta et al. 2016, arXiv 1603.05118. There, the mask multiplies the candidate, ``g``
    of an LSTM, before the input gate. A wrapper does not see the candidate. It drops the whole
    change: of an LSTM, also what the forget gate takes away; of a GRU, ``z * (n - h)`` instead of
    ``z * n``. The new ``h`` of an LSTM reads the ``c`` before dropout, so give ``c`` alone a rate.
    The paper scales by ``1 - rate`` in inference instead. Zoneout does not scale in training.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_zoneout import RecurrentDropout
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Recurrence(RecurrentDropout(nr.LSTMCell(2, 3, key=k1), (0.0, 0.25)))
        >>> layer(jnp.ones((5, 2)), key=k2).shape
        (5, 3)
    """

    rate: float | tuple[float, ...] = eqx.field(static=True, converter=_rates)
    per: str = eqx.field(static=True, default="step", kw_only=True)
    inference: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self) -> None:
        call = "RecurrentDropout"
        check_cell(call, self.cell)
        _check_rates(call, self.cell, self.rate)
        if 1 in jtu.tree_leaves(self.rate):
            raise ValueError(f"{call}(rate={self.rate!r}): nothing is kept; expected below 1.")
        check_choice(call, "per", self.per, ("step", "sequence"))

    def __call__(self, state: State, x: Any, *, key: Key | None = None, **keywords: Any) -> State:
        """The next state; see `WrapperCell`.

        Args:
            state: the state before the step.
            x: the input of the step.
            key: random key of the step, needed in training mode.
            **keywords: ``t``, ``dt`` and ``context``, if the inner cell takes them.

        Returns:
            ``state`` after the step, or ``(state, y)``.

        Raises:
            TypeError: in training mode, if ``key`` is no key.
        """
        key, keywords = own_key(self.cell, key, keywords)
        before = self._inner(state)
        after, emitted = next_state(self.cell, before, x, keywords)
        old, new, structure = (*map(jtu.tree_leaves, (before, after)), jtu.tree_structure(after))
        rates = _rate_of_each(self.rate, new)
        places = [n for n, rate in enumerate(rates) if rate and not self.inference]
        if not places:
            return with_output(self._outer(after, state), emitted)
        check_drawn("RecurrentDropout", key)
        keep = [1 - rates[n] for n in places]
        if self.per == "sequence":
            masks = masks_of_sequence(state, key, keep)
            state = MaskedState(state.cell, masks, jnp.ones_like(state.drawn))
        else:
            masks = draw_masks(key, keep, [new[n].shape for n in places])
        for n, mask in zip(places, masks, strict=True):
            new[n] = old[n] + dropped(mask, rates[n], new[n] - old[n])
        return with_output(self._outer(jtu.tree_unflatten(structure, new), state), emitted)

    def initial_state(self) -> State:
        own = self.cell.initial_state()
        arrays = jtu.tree_leaves(own)
        rates = _rate_of_each(self.rate, arrays)
        shapes = [a.shape for a, rate in zip(arrays, rates, strict=True) if rate]
        return undrawn(own, shapes) if self.per == "sequence" else own

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return emit(self.cell, self._inner(state), x, keywords)

    def _inner(self, state: State) -> State:
        return state.cell if self.per == "sequence" else state

    def _outer(self, after: State, state: State) -> State:
        return state._replace(cell=after) if self.per == "sequence" else after
