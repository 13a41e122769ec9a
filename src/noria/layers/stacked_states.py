"""States of stacks in the order of PyTorch and ONNX: layers and directions along one axis."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import describe
from noria._types import State
from noria.cells.lstm import LSTMState
from noria.layers.base import Layer


def stack_states(state: State) -> Any:
    """The states of a stack of recurrent layers as PyTorch and ONNX have them.

    ::

        result[layer * directions + direction] = state of that layer and direction

    Args:
        state: the state of a `Chain` or a `Bidirectional` of LSTM, GRU and RNN layers, or of one
            layer. Layers without a state are left out.

    Returns:
        An array ``(layers * directions, batch, hidden)``, without ``batch`` for one example; for
        LSTMs an `LSTMState` of two such arrays. Its dtype is that of the states.

    Raises:
        ValueError: if the states differ in kind, shape or dtype, or there is none.

    It is ``h_n``, or the pair ``(h_n, c_n)``, of PyTorch's layers, and ``Y_h`` and ``Y_c`` of
    ONNX. Direction 0 is forward, direction 1 backward.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> net = nr.Chain(nr.LSTM(2, 4, key=jax.random.key(0), num_layers=3), nr.Dropout(0.1))
        >>> state, _ = nr.inference(net).scan(None, jnp.ones((5, 6, 2)))
        >>> nr.stack_states(state).c.shape
        (3, 5, 4)
    """
    parts = _parts(state)
    found = [describe(part) for part in parts]
    if not parts or len({*found}) > 1:
        raise ValueError(
            f"stack_states: the states are {', '.join(dict.fromkeys(found)) or 'none'}; "
            "expected states of one kind, shape and dtype. Pass a part: stack_states(state[0:2])."
        )
    return jtu.tree_map(lambda *leaves: jnp.stack(leaves), *parts)


def unstack_states(layer: Layer, stacked: Any) -> State:
    """The state of a model from one array, or a pair, in the order of PyTorch and ONNX.

    Args:
        layer: the `Chain`, `Bidirectional` or recurrent layer that the state is for.
        stacked: ``(layers * directions, batch, hidden)``, without ``batch`` for one example; for
            LSTMs a pair ``(h, c)`` of such arrays, of the dtype of the parameters.

    Returns:
        The state, as ``scan`` and ``step`` take it.

    Raises:
        ValueError: if the number of states, or their size, does not fit the layer.
        TypeError: for one array where a pair is expected, or the reverse.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> net = nr.GRU(2, 4, key=jax.random.key(0), num_layers=3)
        >>> state = nr.unstack_states(net, jnp.zeros((3, 5, 4)))
        >>> len(state), state[0].shape
        (3, (5, 4))
    """
    like = layer.initial_state()
    parts, structure = jtu.tree_flatten(like, is_leaf=_is_pair)
    call = f"unstack_states({layer.label})"
    is_pair = any(map(_is_pair, parts))
    if is_pair != (isinstance(stacked, Sequence) and len(stacked) == 2):
        raise TypeError(
            f"{call}: the states are {describe(stacked)}; expected "
            f"{'a pair (h, c) of arrays' if is_pair else 'one array'}."
        )
    arrays = [*map(jnp.asarray, stacked)] if is_pair else [jnp.asarray(stacked)]
    for n, array in enumerate(arrays):
        sizes = {jnp.shape(part[n] if _is_pair(part) else part) for part in parts}
        if array.ndim < 2 or array.shape[0] != len(parts) or {array.shape[-1:]} != sizes:
            own = ", ".join(map(str, sorted(sizes)))
            raise ValueError(
                f"{call}: the states are {describe(stacked)}; expected ({len(parts)}, batch, "
                f"hidden), one for each layer and direction, where one has the shape {own}."
            )
    rows = [
        LSTMState(*(array[n] for array in arrays)) if is_pair else arrays[0][n]
        for n in range(len(parts))
    ]
    state: State = jtu.tree_unflatten(structure, rows)
    return state


def _is_pair(part: Any) -> bool:
    return isinstance(part, LSTMState)


def _parts(state: State) -> list[LSTMState | jax.Array]:
    """The states of all layers and directions, layer by layer."""
    return jtu.tree_leaves(state, is_leaf=_is_pair)
