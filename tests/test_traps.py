"""One test for each way in which libraries of recurrent models have silently gone wrong.

The numbers are those of the public reports: the same slip is impossible or visible here.
"""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import oracles
import pytest
from models import arrays_of, assert_close, make_cell, random

import noria as nr


def test_gru_has_its_inner_bias_and_it_cannot_be_folded():
    """Trap 1: a GRU without b_hn (flax #5594). Ours has it, inside the product with r."""
    cell = make_cell("gru")
    h, x = random(0, 4), random(1, 3)
    folded = nr.GRUCell.from_arrays(cell.W, cell.U, cell.b + cell.b_h)
    assert not np.allclose(cell(h, x), folded(h, x))
    only_gates = cell.b_h.at[8:].set(0)
    inner_zero = nr.GRUCell.from_arrays(cell.W, cell.U, cell.b, only_gates)
    folded = nr.GRUCell.from_arrays(cell.W, cell.U, cell.b + only_gates)
    assert_close(inner_zero(h, x), folded(h, x), 1e-14)


def test_reset_after_and_before_the_product_are_two_cells():
    """Trap 2: both are called GRU. They agree with r = 1 only; each follows its equation."""
    after, h, x = make_cell("gru"), random(0, 4), random(1, 3)
    before = nr.GRUv3Cell.from_arrays(after.W, after.U, after.b, after.b_h)
    assert not np.allclose(after(h, x), before(h, x))
    for cell, oracle in ((after, oracles.gru), (before, oracles.gruv3)):
        assert_close(
            np.asarray(cell(h, x)), oracle(np.asarray(h), np.asarray(x), **arrays_of(cell)), 1e-14
        )
    open_gate = after.b.at[:4].set(50.0)
    assert_close(
        nr.GRUCell.from_arrays(after.W, after.U, open_gate)(h, x),
        nr.GRUv3Cell.from_arrays(after.W, after.U, open_gate)(h, x),
        1e-12,
    )


@pytest.mark.parametrize("cell", [nr.GRUCell, nr.GRUv3Cell])
def test_an_open_update_gate_keeps_the_state(cell):
    """Trap 3: the sense of z. h' = (1 - z) n + z h: z = 1 keeps the state, z = 0 replaces it."""
    W, U, h, x = jnp.ones((12, 3)), jnp.ones((12, 4)), random(0, 4), random(1, 3)
    bias = jnp.zeros(12)
    assert_close(cell.from_arrays(W, U, bias.at[4:8].set(100.0))(h, x), h, 1e-12)
    replaced = cell.from_arrays(W, U, bias.at[4:8].set(-100.0))(h, x)
    assert not np.allclose(replaced, h)


def test_lstm_gates_are_where_the_docstring_says():
    """Trap 4: i and f swapped. i = 0 ignores the input, f = 1 keeps the memory, o = 0 hides it."""
    cell = nr.LSTMCell.from_arrays(jnp.zeros((16, 3)), jnp.zeros((16, 4)), jnp.zeros(16))
    state, x = nr.LSTMState(random(0, 4), random(1, 4)), random(2, 3)

    def with_bias(**gates):
        bias = jnp.zeros((4, 4))
        for gate, value in gates.items():
            bias = bias.at["ifgo".index(gate)].set(value)
        return nr.LSTMCell.from_arrays(cell.W, cell.U, bias.ravel())(state, x)

    assert_close(with_bias(i=-100.0, f=100.0, g=3.0).c, state.c, 1e-12)
    assert_close(with_bias(i=100.0, f=-100.0, g=3.0).c, jnp.full(4, np.tanh(3.0)), 1e-12)
    assert_close(with_bias(o=-100.0).h, jnp.zeros(4), 1e-12)
    assert_close(with_bias(i=-100.0, f=100.0, o=100.0).h, jnp.tanh(state.c), 1e-12)


def test_a_carried_chunk_equals_the_whole_whatever_the_backend():
    """Trap 5: chunked carry unlike the sequential one (minGRU #9)."""
    for backend in ("scan", "reference"):
        layer = nr.Recurrence(make_cell("lstm"), backend=backend)
        xs = random(0, 2, 6, 3)
        state, ys = layer.scan(None, xs)
        carried, pieces = None, []
        for t in range(0, 6, 2):
            carried, piece = layer.scan(carried, xs[:, t : t + 2])
            pieces.append(piece)
        assert_close((carried, jnp.concatenate(pieces, 1)), (state, ys), 1e-13)


@pytest.mark.parametrize("backend", ["scan", "reference"])
def test_a_reset_removes_nan_from_state_and_gradient(backend):
    """Trap 6: multiplication keeps NaN, and a selection may leak it to gradients (jax #20601)."""
    layer = nr.Recurrence(make_cell("gru"), backend=backend)
    xs, poison = random(0, 3, 3), jnp.full(4, jnp.nan)
    resets = jnp.array([True, False, False])
    assert_close(layer.scan(poison, xs, resets=resets), layer.scan(None, xs), 0)
    gradient = jax.grad(lambda layer, xs: layer(poison, xs, resets=resets).sum(), argnums=(0, 1))(
        layer, xs
    )
    clean = jax.grad(lambda layer, xs: layer(xs).sum(), argnums=(0, 1))(layer, xs)
    assert_close(jtu.tree_leaves(gradient), jtu.tree_leaves(clean), 1e-13)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["scan", "reference"])
def test_length_zero_is_the_initial_state_and_zero_outputs(reverse, backend):
    """Trap 7: torch raises, others take the last step. Steps past the end are not taken here."""
    layer = nr.Recurrence(make_cell("lstm"), reverse=reverse, backend=backend)
    start = nr.LSTMState(random(1, 2, 4), random(2, 2, 4))
    xs, lengths = jnp.full((2, 3, 3), jnp.nan), jnp.array([0, 0])
    for resets in (None, jnp.ones((2, 3), bool)):
        state, ys = layer.scan(start, xs, lengths=lengths, resets=resets)
        assert_close(state, start, 0)
        assert not np.asarray(ys).any()
    assert not np.asarray(nr.last(xs, lengths)).any()
    gradient = jax.grad(lambda layer: layer(start, xs, lengths=lengths).sum())(layer)
    assert not any(np.asarray(leaf).any() for leaf in jtu.tree_leaves(gradient))


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_two_biases_are_one_sum_except_inside_a_gru(name):
    """Trap 8: b = b_ih + b_hh for RNN and LSTM (flax #3746)."""
    cell = make_cell(name)
    merged = type(cell).from_arrays(cell.W, cell.U, cell.b + cell.b_h)
    state, x = cell.initial_state(), random(1, 3)
    assert_close(cell(state, x), merged(state, x), 1e-14)


def test_dropout_says_which_mask_it_draws():
    """Trap 9: per element or per sequence, as the argument says; masks differ between examples."""
    key, ones = jax.random.key(0), jnp.ones((2, 5, 40))
    fresh, fixed = (
        np.asarray(nr.Dropout(0.5, axis=axis)(ones, key=key)) for axis in (None, "time")
    )
    assert (fixed == fixed[:, :1]).all()
    assert not (fresh == fresh[:, :1]).all()
    assert not (fixed[0] == fixed[1]).all()
    assert not (fresh[0] == fresh[1]).all()


def test_lengths_are_never_ignored():
    """Trap 10: a reference that ignores lengths. A longer example does not change a shorter one."""
    for backend in ("scan", "reference"):
        layer = nr.Recurrence(make_cell("gru"), backend=backend)
        xs = random(0, 1, 6, 3)
        short = layer.scan(None, xs, lengths=jnp.array([4]))
        other = layer.scan(None, xs.at[:, 4:].add(9.0), lengths=jnp.array([4]))
        assert_close(short, other, 0)
        assert not np.allclose(layer(xs)[:, 4:], 0)


def test_forget_bias_is_a_number_in_the_parameters_and_not_in_the_step():
    """Trap 11: Keras and others have 1, torch and Flux 0; some add it in each forward pass."""
    plain, biased = (nr.LSTMCell(3, 4, key=jax.random.key(0), forget_bias=f) for f in (0.0, 1.0))
    assert np.reshape(np.asarray(biased.b), (4, 4)).sum(1).tolist() == [0, 4, 0, 0]
    assert not np.asarray(plain.b).any()
    state, x = plain.initial_state(), random(0, 3)
    assert_close(nr.LSTMCell.from_arrays(plain.W, plain.U, biased.b)(state, x), biased(state, x), 0)


@pytest.mark.parametrize("cell", [nr.RNNCell, nr.LSTMCell, nr.GRUCell, nr.GRUv3Cell])
def test_orthogonal_initialisation_is_per_gate(cell):
    """Trap 12 (cleanrl #358): JAX's initialiser serves too: it sees one block at a time."""
    for init in (nr.initializers.orthogonal(), jax.nn.initializers.orthogonal()):
        made = cell(3, 5, key=jax.random.key(0), recurrent_init=init)
        blocks = np.split(np.asarray(made.U), len(cell.GATES))
        for block in blocks:
            np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-12)
        assert len(blocks) == 1 or not np.allclose(blocks[0], blocks[1])


def test_batched_and_single_results_agree_to_rounding():
    """Trap 13 (pytorch #32023): to 1e-6 in float32, to 1e-13 in float64."""
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.float64, 1e-13)):
        layer = nr.Recurrence(make_cell("gru", 20, 30, dtype=dtype))
        xs = random(0, 8, 12, 20, dtype=dtype)
        assert_close(layer(xs), jnp.stack([layer(x) for x in xs]), tolerance)


def test_a_target_of_another_shape_is_not_broadcast():
    """(batch, time, 1) against (batch, time) would average over all pairs."""
    with pytest.raises(ValueError, match="Nothing is broadcast"):
        nr.mse(jnp.zeros((4, 5, 1)), jnp.zeros((4, 5)))


def test_the_initial_state_is_not_trained_unless_asked():
    """Flux #807: a state given to a layer is a number, one argument makes it a parameter."""
    cell, h0 = make_cell("rnn"), random(0, 4)
    xs = random(1, 3, 3)
    loss = lambda layer: layer(xs).sum()  # noqa: E731
    fixed = nr.grad(loss)(nr.Recurrence(cell, h0))
    assert fixed.fixed_state is None
    learned = nr.grad(loss)(nr.Recurrence(cell, h0, learn_initial_state=True))
    assert np.asarray(learned.learned_state).any()
