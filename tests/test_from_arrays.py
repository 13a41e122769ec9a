"""``from_arrays`` of cells and layers, and states in the order of PyTorch and ONNX."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from cell_checks import cell_of
from models import assert_close, random

import noria as nr
from noria.cells.catalogue import catalogue, class_of

KEY = jax.random.key(0)
W, U = jnp.ones((12, 3)), jnp.ones((12, 4))
ANY: Any = nr


@pytest.mark.sampled(17)
@pytest.mark.parametrize("key", catalogue())
def test_a_cell_of_the_catalogue_equals_the_one_of_its_arrays(key):
    """Sizes follow from the shapes; those that do not are asked for."""
    cls: Any = class_of(catalogue()[key])
    cell = cell_of(cls)
    arrays = {name: getattr(cell, name) for name in cls._parameters}
    settings = {name: getattr(cell, name) for name in cls._settings}
    sizes = {name: getattr(cell, name) for name in cls._sizes}
    found = cls.from_arrays(**arrays, **settings, **sizes)
    assert_close(jtu.tree_leaves(found), jtu.tree_leaves(cell), 0)
    assert str(jtu.tree_structure(found)) == str(jtu.tree_structure(cell))
    try:
        read = cls.from_arrays(**arrays, **settings)
    except ValueError as error:
        if "does not follow from the shapes" not in str(error):
            raise
    else:
        assert {name: getattr(read, name) for name in sizes} == sizes


def test_layers_of_arrays():
    """They equal those that drew the same arrays, and need no key."""
    dense = nr.Dense(3, 4, jnp.tanh, key=KEY)
    norm = nr.LayerNorm(3, eps=1e-3)
    rms = nr.RMSNorm(3, use_bias=False)
    table = nr.Embedding(5, 4, key=KEY)
    lstm = nr.LSTM(3, 4, key=KEY, reverse=True, peepholes=True, proj_size=2)
    cell: Any = lstm.cell
    pairs = [
        (dense, nr.Dense.from_arrays(dense.W, dense.b, jnp.tanh)),
        (norm, nr.LayerNorm.from_arrays(np.ones(3), np.zeros(3), eps=1e-3)),
        (rms, nr.RMSNorm.from_arrays(jnp.ones(3))),
        (table, nr.Embedding.from_arrays(table.table)),
        (
            lstm,
            nr.LSTM.from_arrays(cell.W, cell.U, cell.b, p=cell.p, W_r=cell.W_r, reverse=True),
        ),
    ]
    for expected, found in pairs:
        assert str(jtu.tree_structure(found)) == str(jtu.tree_structure(expected))
        assert_close(jtu.tree_leaves(found), jtu.tree_leaves(expected), 0)
    assert nr.Dense.from_arrays(dense.W)(jnp.ones(3)).shape == (4,)
    relu = nr.RNN.from_arrays(W[:4], U[:4], activation=jax.nn.relu)
    assert relu(jnp.ones((2, 3))).tolist() == [[3.0] * 4, [15.0] * 4]


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a matrix is missing": (
        lambda: nr.GRUCell.from_arrays(W),
        TypeError,
        r"GRUCell.from_arrays: U is missing; expected the arrays W, U, and perhaps b, b_h",
    ),
    "an unknown array": (
        lambda: nr.GRUCell.from_arrays(W, U, c=W),
        TypeError,
        r"unknown name 'c'; expected the arrays W, U, and perhaps b, b_h, or a size or setting: ",
    ),
    "an argument of the constructor": (
        lambda: nr.LSTMCell.from_arrays(jnp.ones((16, 3)), jnp.ones((16, 4)), forget_bias=1.0),
        TypeError,
        r"unknown name 'forget_bias'",
    ),
    "an array twice": (
        lambda: nr.GRUCell.from_arrays(W, U, W=W),
        TypeError,
        r"W was given twice, by position and by name",
    ),
    "too many": (
        lambda: nr.GRUCell.from_arrays(W, U, None, None, W),
        TypeError,
        r"5 arrays by position; expected at most W, U, b, b_h",
    ),
    "rows that no size gives": (
        lambda: nr.LSTMCell.from_arrays(jnp.ones((13, 3)), jnp.ones((13, 4))),
        ValueError,
        r"hidden_size does not follow from the shapes: W is \(13, 3\), expected \(4 \* hid",
    ),
    "sizes that differ": (
        lambda: nr.LSTMCell.from_arrays(jnp.ones((16, 3)), jnp.ones((16, 5))),
        ValueError,
        r"U has shape \(16, 5\); expected \(16, 4\) to go with W",
    ),
    "a size that differs": (
        lambda: nr.GRUCell.from_arrays(W, U, hidden_size=5),
        ValueError,
        r"W has shape \(12, 3\); expected \(3 \* 5, in\)",
    ),
    "whole numbers": (
        lambda: nr.GRUCell.from_arrays(W.astype(int), U.astype(int)),
        TypeError,
        r"W is int\d\d; expected a floating dtype",
    ),
    "a projection without its matrix": (
        lambda: nr.LSTMCell.from_arrays(jnp.ones((16, 3)), jnp.ones((16, 2)), proj_size=2),
        TypeError,
        r"W_r is missing; a cell of these settings has it",
    ),
    "an array that a setting leaves out": (
        lambda: ANY.cells.MGUCell.from_arrays(
            W_f=U[:4], U_f=U[:4], W_n=U[:4], U_n=U[:4], b_n=jnp.ones(4), variant=1
        ),
        TypeError,
        r"W_f was given, but a cell of these settings has none",
    ),
    "a vector as a dense matrix": (
        lambda: nr.Dense.from_arrays(jnp.ones(3)),
        ValueError,
        r"Dense.from_arrays: W has shape \(3,\); expected \(out, in\)",
    ),
    "a bias that does not fit": (
        lambda: nr.Dense.from_arrays(W, jnp.ones(3)),
        ValueError,
        r"b has shape \(3,\); expected \(12,\)",
    ),
    "a bias of another dtype": (
        lambda: nr.Dense.from_arrays(W, jnp.ones(12, jnp.float16)),
        TypeError,
        r"b is float16; expected float64 as the other array is",
    ),
    "an empty table": (
        lambda: nr.Embedding.from_arrays(jnp.ones((0, 3))),
        ValueError,
        r"table has shape \(0, 3\); expected \(count, size\)",
    ),
    "a norm of nothing": (
        lambda: nr.LayerNorm.from_arrays(),
        TypeError,
        r"LayerNorm.from_arrays: weight and bias are None; expected one of them, \(size,\)",
    ),
    "a norm of two sizes": (
        lambda: nr.LayerNorm.from_arrays(jnp.ones(3), jnp.ones(4)),
        ValueError,
        r"bias has shape \(4,\); expected \(3,\)",
    ),
    "states of two sizes": (
        lambda: nr.stack_states((jnp.ones(3), jnp.ones(4))),
        ValueError,
        r"stack_states: the states are float64\[3\], float64\[4\]; expected states of one kind",
    ),
    "no states": (lambda: nr.stack_states((None, None)), ValueError, "the states are none"),
    "one array for LSTMs": (
        lambda: nr.unstack_states(nr.LSTM(3, 4, key=KEY), jnp.ones((1, 4))),
        TypeError,
        r"unstack_states\(LSTM\(in_size=3\)\): the states are .*; expected a pair \(h, c\)",
    ),
    "a pair for a GRU": (
        lambda: nr.unstack_states(nr.GRU(3, 4, key=KEY), (jnp.ones((1, 4)),) * 2),
        TypeError,
        r"expected one array",
    ),
    "too few states": (
        lambda: nr.unstack_states(nr.GRU(3, 4, key=KEY, num_layers=2), jnp.ones((3, 5, 4))),
        ValueError,
        r"expected \(2, batch, hidden\), one for each layer and direction, where one has .* \(4,\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_says_what_is_wrong(name):
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        call()


def test_states_in_the_order_of_layers_and_directions():
    """Layer by layer, forward before backward; layers without a state are left out."""
    keys = jax.random.split(KEY, 4)
    net = nr.Chain(
        nr.Bidirectional(nr.LSTM(3, 4, key=keys[0]), nr.LSTM(3, 4, key=keys[1])),
        jnp.tanh,
        nr.Bidirectional(nr.LSTM(8, 4, key=keys[2]), nr.LSTM(8, 4, key=keys[3])),
        nr.Dense(8, 1, key=KEY),
    )
    state, _ = net.scan(None, random(0, 2, 5, 3))
    stacked = nr.stack_states(state)
    assert stacked.h.shape == stacked.c.shape == (4, 2, 4)
    assert_close(stacked.c[1], state[0][1].c, 0)
    assert_close(stacked.h[2], state[2][0].h, 0)
    again = nr.unstack_states(net, tuple(stacked))
    assert_close(again, state, 0)
    assert_close(net.scan(again, random(1, 2, 5, 3)), net.scan(state, random(1, 2, 5, 3)), 0)


def test_states_with_a_projection_and_of_one_example():
    net = nr.LSTM(3, 4, key=KEY, num_layers=2, proj_size=2)
    stacked = nr.stack_states(net.initial_state())
    assert (stacked.h.shape, stacked.c.shape) == ((2, 2), (2, 4))
    assert_close(nr.unstack_states(net, stacked), net.initial_state(), 0)
