"""Cells around any other cell that drop features or weights at random.

The base and other wrappers are in `wrappers`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import describe
from noria._types import Key, State
from noria.cells.base import Cell, cell_name, emit, next_state
from noria.cells.draws import for_call
from noria.cells.products import (
    Around,
    check_products,
    chosen,
    entries,
    mapped,
    matrix_of,
    replaced,
    with_matrices,
)
from noria.cells.wrappers import (
    WrapperCell,
    check_cell,
    check_drawn,
    own_key,
    with_output,
    zero_step,
)


def _is_rate(rate: Any) -> bool:
    return isinstance(rate, int | float) and 0 <= rate < 1


class MaskedState(NamedTuple):
    """State of a cell whose masks are drawn at the first step of a sequence.

    Attributes:
        cell: the state of the inner cell.
        masks: booleans, true where a number is kept.
        drawn: ``()``, whether the masks are drawn: false before the first step.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_dropout import MaskedState
        >>> MaskedState(jnp.zeros(3), (jnp.ones(3, bool),), jnp.ones((), bool)).cell.shape
        (3,)
    """

    cell: State
    masks: tuple[jax.Array, ...]
    drawn: jax.Array


def undrawn(cell: State, shapes: list[Any]) -> MaskedState:
    """A state before the first step."""
    masks = tuple(jnp.zeros(shape, bool) for shape in shapes)
    return MaskedState(cell, masks, jnp.zeros((), bool))


def draw_masks(key: Key, keep: list[float], shapes: list[Any]) -> tuple[jax.Array, ...]:
    keys = jax.random.split(key, len(keep))
    return tuple(jax.random.bernoulli(*each) for each in zip(keys, keep, shapes, strict=True))


def masks_of_sequence(state: MaskedState, key: Key, keep: list[float]) -> tuple[jax.Array, ...]:
    """The masks of the state, or new ones at the first step."""
    new = draw_masks(key, keep, [mask.shape for mask in state.masks])
    pairs = zip(state.masks, new, strict=True)
    return tuple(jnp.where(state.drawn, old, one) for old, one in pairs)


def dropped(mask: jax.Array, rate: float, numbers: jax.Array) -> jax.Array:
    return jnp.where(mask, numbers / (1 - rate), jnp.zeros_like(numbers))


class VariationalDropout(WrapperCell):
    """Drops the same features of the input and of the state at all steps of a sequence.

    ::

        m_x ~ Bernoulli(1 - in_rate),    m_h ~ Bernoulli(1 - rate)        once for a sequence
        h'  = cell(h, x)    with  m_x * x / (1 - in_rate)  for x
                            and   U (m_h * h / (1 - rate))  for each product  U h

    In inference ``h' = cell(h, x)``. Only products with the state are changed: ``z * h`` of a GRU
    is not.

    Args:
        cell: a cell with ``in_size`` and products ``U h`` of matrices and its state.
        rate: probability that a feature of the state is dropped, at least 0 and below 1.
        in_rate: the same for a feature of ``x``; ``rate`` by default.
        matrices: names of the matrices ``U``; all that multiply the state by default.
        inference: whether nothing is dropped. `noria.inference` and `noria.training` set it for a
            whole model.

    Attributes:
        cell: as passed.
        rate: as passed.
        in_rate: a number.
        matrices: the names.
        inference: as passed.

    The masks are part of the state, a `MaskedState`: each example has its own, and a sequence that
    is continued keeps them. A reset begins a sequence, with new masks.

    Raises:
        TypeError: if ``cell`` is no cell, or uses a matrix otherwise than in a product with a
            vector; in training mode, if no key is passed.
        ValueError: for a rate out of range, a cell without ``in_size``, unknown or missing
            ``matrices``, or matrices with unequal numbers of columns.

    Source: Gal and Ghahramani 2016, arXiv 1512.05287, tied weights: all gates share the masks. The
    paper does not scale in training, and drops in inference too to sample. Keras has both rates as
    ``dropout`` and ``recurrent_dropout``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_dropout import VariationalDropout
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Recurrence(VariationalDropout(nr.GRUCell(2, 3, key=k1), 0.25))
        >>> layer(jnp.ones((5, 2)), key=k2).shape
        (5, 3)
    """

    rate: float = eqx.field(static=True)
    in_rate: float = eqx.field(static=True)
    matrices: tuple[str, ...] = eqx.field(static=True)
    inference: bool = eqx.field(static=True)

    def __init__(
        self,
        cell: Cell,
        rate: float,
        in_rate: float | None = None,
        *,
        matrices: tuple[str, ...] | None = None,
        inference: bool = False,
    ):
        check_cell("VariationalDropout", cell)
        in_rate = rate if in_rate is None else in_rate
        call = f"VariationalDropout({cell_name(cell)}, rate={rate}, in_rate={in_rate})"
        if not (_is_rate(rate) and _is_rate(in_rate)):
            raise ValueError(f"{call}: expected probabilities, at least 0 and below 1.")
        if getattr(x := zero_step(call, cell), "ndim", 0) != 1:
            raise ValueError(f"{call}: x is {describe(x)}; expected a vector.")
        self.cell, self.rate, self.in_rate, self.inference = cell, rate, in_rate, bool(inference)
        self.matrices = chosen(call, cell, matrices, "h") if rate else ()
        if len(sizes := {matrix_of(cell, name).shape[1] for name in self.matrices}) > 1:
            raise ValueError(
                f"{call}: the matrices {', '.join(self.matrices)} have {sorted(sizes)} columns; "
                "expected equal numbers. Choose some with matrices=."
            )
        check_products(call, self, self.matrices)

    def __call__(
        self, state: MaskedState, x: Any, *, key: Key | None = None, **keywords: Any
    ) -> State:
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
        cell, masks, drawn = self.cell, state.masks, state.drawn
        if self._drops:
            check_drawn("VariationalDropout", key)
            masks = masks_of_sequence(state, key, [1 - self.in_rate, 1 - self.rate][: len(masks)])
            cell, x = self._masked(masks, x)
            drawn = jnp.ones_like(drawn)
        after, emitted = next_state(cell, state.cell, x, keywords)
        return with_output(MaskedState(after, masks, drawn), emitted)

    def initial_state(self) -> State:
        shapes: list[Any] = [(self.in_size,)]
        shapes += [matrix_of(self.cell, name).shape[1:] for name in self.matrices[:1]]
        return undrawn(self.cell.initial_state(), shapes)

    def output(self, state: MaskedState, x: Any, **keywords: Any) -> Any:
        cell, x = self._masked(state.masks, x) if self._drops else (self.cell, x)
        return emit(cell, state.cell, x, keywords)

    @property
    def _drops(self) -> bool:
        return not self.inference and bool(self.rate or self.in_rate)

    def _masked(self, masks: tuple[jax.Array, ...], x: jax.Array) -> tuple[Cell, jax.Array]:
        """The cell and the input with masks."""

        def masked(name: str) -> Around:
            return Around(
                matrix_of(self.cell, name), before=lambda h: dropped(masks[1], self.rate, h)
            )

        cell = with_matrices(self.cell, {name: masked(name) for name in self.matrices})
        return cell, dropped(masks[0], self.in_rate, x)


class DropConnect(WrapperCell):
    """Drops recurrent weights, the same ones at all steps and in all examples of a call.

    ::

        M  ~ Bernoulli(1 - rate)                           once for a call of a layer
        h' = cell(h, x)  with  M * U / (1 - rate)  for U   in training
        h' = cell(h, x)                                    in inference

    Args:
        cell: a cell with recurrent matrices.
        rate: probability that a weight is dropped, at least 0 and below 1.
        matrices: names of the matrices ``U``; all that multiply the state by default.
        inference: whether nothing is dropped. `noria.inference` and `noria.training` set it for a
            whole model.

    Attributes:
        cell: as passed.
        rate: as passed.
        matrices: the names.
        inference: as passed.

    The layer draws with its key before the first step, so the loop runs as without dropout. The
    masks belong to the call: a reset keeps them. Another call with the same key has the same masks,
    so pass the same key to each ``step`` of a sequence. Under `jax.vmap` over keys, each example
    has its own masks and weights.

    Raises:
        TypeError: if ``cell`` is no cell; in training mode, if no key is passed.
        ValueError: for a rate out of range, or unknown or missing ``matrices``.

    Source: Wan et al. 2013, ICML, for layers; Merity et al. 2018, arXiv 1708.02182, for recurrent
    weights, with one mask for a batch, as here. Wan et al. draw masks for each example, and average
    over masks in inference.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_dropout import DropConnect
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Recurrence(DropConnect(nr.LSTMCell(2, 3, key=k1), 0.5))
        >>> layer(jnp.ones((5, 2)), key=k2).shape
        (5, 3)
    """

    rate: float = eqx.field(static=True)
    matrices: tuple[str, ...] = eqx.field(static=True)
    inference: bool = eqx.field(static=True)

    def __init__(
        self,
        cell: Cell,
        rate: float,
        *,
        matrices: tuple[str, ...] | None = None,
        inference: bool = False,
    ):
        check_cell("DropConnect", cell)
        call = f"DropConnect({cell_name(cell)}, rate={rate})"
        if not _is_rate(rate):
            raise ValueError(f"{call}: expected a probability, at least 0 and below 1.")
        self.cell, self.rate, self.inference = cell, rate, bool(inference)
        self.matrices = chosen(call, cell, matrices, "h")

    def for_call(self, key: Key) -> "DropConnect":
        """The cell of one call of a layer: some weights are zero.

        Args:
            key: random key.

        Returns:
            A copy with other weights, in inference mode.
        """
        keys = jax.random.split(key, len(self.matrices) + 1)
        cell = for_call("DropConnect", self.cell, keys[-1])
        if self.inference:
            return replaced(self, cell=cell)

        def drop(key: Key, name: str) -> Any:
            matrix = matrix_of(cell, name)
            mask = jax.random.bernoulli(key, 1 - self.rate, entries(matrix).shape)
            return mapped(lambda U: dropped(mask, self.rate, U), matrix)

        pairs = zip(keys[:-1], self.matrices, strict=True)
        matrices = {name: drop(key, name) for key, name in pairs}
        return replaced(self, cell=with_matrices(cell, matrices), inference=True)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        """The next state; see `WrapperCell`.

        Args:
            state: the state before the step.
            x: the input of the step.
            **keywords: ``key``, ``t``, ``dt`` and ``context``, if the inner cell takes them.

        Returns:
            ``state`` after the step, or ``(state, y)``.

        Raises:
            TypeError: in training mode, if nothing was drawn.
        """
        if not self.inference and self.rate:
            raise TypeError(
                "DropConnect: in training mode it needs a key: layer(xs, key=key); "
                "a single step, cell.for_call(key); inference, noria.inference(model)."
            )
        return super().__call__(state, x, **keywords)
