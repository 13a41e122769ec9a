"""The weights of other frameworks in Noria's layout: which block goes where, and which bias.

Gate orders: PyTorch i f g o and r z n, with two biases. Keras i f c o and z r h; its reset-after
GRU has two biases. Flax has one array a gate; the bias of its LSTM is on the recurrent side, and
its GRU has an inner bias of n.
"""

from typing import Any

import jax
import jax.numpy as jnp

import noria as nr

Arrays = dict[str, jax.Array]


def torch_cell(cell: Any, arrays: Arrays, suffix: str = "", **static: Any) -> Any:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return cell.from_arrays(*(arrays[name + suffix] for name in names), **static)


def keras_blocks(array: jax.Array, gates: int, order: list[int]) -> jax.Array:
    """Column blocks to row blocks in another order; vectors keep their axis."""
    blocks = jnp.split(array.T, gates)
    return jnp.concatenate([blocks[n] for n in order])


def keras_cell(case: str, arrays: Arrays) -> Any:
    cases: dict[str, tuple[Any, int, list[int]]] = {
        "simple_rnn": (nr.RNNCell, 1, [0]),
        "lstm": (nr.LSTMCell, 4, [0, 1, 2, 3]),
        "gru_reset_after": (nr.GRUCell, 3, [1, 0, 2]),
        "gru_reset_before": (nr.GRUv3Cell, 3, [1, 0, 2]),
    }
    cell, gates, order = cases[case]
    biases = jnp.atleast_2d(arrays["bias"])
    return cell.from_arrays(
        keras_blocks(arrays["kernel"], gates, order),
        keras_blocks(arrays["recurrent_kernel"], gates, order),
        *(keras_blocks(bias, gates, order) for bias in biases),
    )


def flax_cell(case: str, arrays: Arrays) -> Any:
    if case == "simple":
        return nr.RNNCell.from_arrays(
            arrays["cell_i_kernel"].T, arrays["cell_h_kernel"].T, arrays["cell_i_bias"]
        )
    gates, cell = ("ifgo", nr.LSTMCell) if case == "lstm" else ("rzn", nr.GRUCell)
    W = jnp.concatenate([arrays[f"cell_i{gate}_kernel"].T for gate in gates])
    U = jnp.concatenate([arrays[f"cell_h{gate}_kernel"].T for gate in gates])
    if case == "lstm":
        return cell.from_arrays(
            W, U, None, jnp.concatenate([arrays[f"cell_h{gate}_bias"] for gate in gates])
        )
    b_h = jnp.concatenate([jnp.zeros(W.shape[0] // 3 * 2), arrays["cell_hn_bias"]])
    return cell.from_arrays(
        W, U, jnp.concatenate([arrays[f"cell_i{gate}_bias"] for gate in gates]), b_h
    )


def into(framework: str, case: str, arrays: Arrays, suffix: str = "") -> Any:
    """The Noria cell that computes what this case of this framework does."""
    if framework == "keras":
        return keras_cell(case, arrays)
    if framework == "flax":
        return flax_cell(case, arrays)
    if case.startswith("rnn"):
        return torch_cell(
            nr.RNNCell, arrays, suffix, activation=jax.nn.relu if case == "rnn_relu" else jnp.tanh
        )
    return torch_cell(nr.LSTMCell if "lstm" in case else nr.GRUCell, arrays, suffix)
