"""States of one example and of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_sizes, describe
from noria._types import State
from noria.ir.evaluate import spread


def with_batch(label: str, state: State, batch: int | None) -> State:
    """The state of one example, or a copy of it for each example of a batch."""
    if batch is None:
        return state
    check_sizes(f"{label}.initial_state", batch=batch)
    return jtu.tree_map(lambda leaf: spread(jnp.asarray(leaf), (int(batch),)), state)


def own_or(label: str, state: State, own: State, batch: tuple[int, ...]) -> State:
    """A given state, or ``own`` if it is ``None``, with a batch axis where the input has one."""
    state = own if state is None else state
    structure: Any = jtu.tree_structure(own)
    if structure != jtu.tree_structure(state):
        raise ValueError(
            f"{label}: the state is {describe(state)}; "
            f"expected {describe(own)}, as initial_state() gives it. "
            "The state comes first: layer(state, xs)."
        )

    def broadcast(leaf: Any, like: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if leaf.shape not in (like.shape, batch + like.shape):
            batched = f" or {batch + like.shape}" if batch else ""
            raise ValueError(
                f"{label}: the state has shape {leaf.shape}; "
                f"expected {like.shape}{batched}. The state comes first: layer(state, xs)."
            )
        if leaf.dtype != like.dtype:
            raise TypeError(
                f"{label}: the state is {leaf.dtype}; expected {like.dtype}, "
                "as initial_state() gives it."
            )
        return leaf if leaf.shape == batch + like.shape else spread(leaf, batch)

    return jtu.tree_map(broadcast, state, own)


def check_resets(label: str, resets: Any, shape: tuple[int, ...]) -> jax.Array:
    """``resets`` as an array of booleans, checked against its ``shape``."""
    array = jnp.asarray(resets)
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"{label}: resets is {array.dtype}; expected booleans, such as resets.astype(bool)."
        )
    if array.shape != shape:
        raise ValueError(
            f"{label}: resets has shape {array.shape}; expected {shape}, one for each step."
        )
    return array
