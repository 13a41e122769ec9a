"""Layers around the recurrence: verbs, masks, states."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import CELLS, assert_close, cotangents, make_cell, random

import noria as nr

LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 1, 0, 0, 1]], bool)


def keys(n: int):
    return jax.random.split(jax.random.key(0), n)


@functools.cache
def stack() -> nr.Chain:
    """One of everything that streams."""
    k = keys(6)
    return nr.Chain(
        nr.Dense(3, 4, jnp.tanh, key=k[0]),
        nr.LSTM(4, 4, key=k[1], learn_initial_state=True),
        nr.LayerNorm(4),
        nr.Dropout(0.5, inference=True),
        jnp.sin,
        nr.Residual(nr.GRU(4, 4, key=k[2])),
        eqx.nn.MLP(4, 2, 8, 1, key=k[3]),
        nr.Recurrence(lambda h, x: 0.5 * h + x, initial_state=jnp.ones(2)),
        nr.Conv1d(2, 4, 3, dilation=2, groups=2, key=k[4]),
        nr.Concat(nr.MeanPool1d(3, stride=1, size=4)),
        nr.Parallel("concat", nr.RNN(8, 2, key=k[5]), nr.MaxPool1d(2, stride=1, size=8), jnp.tanh),
    )


@functools.cache
def both_ways() -> nr.Chain:
    k = keys(3)
    return nr.Chain(
        nr.Dense(3, 4, key=k[0]), nr.Bidirectional(nr.GRU(4, 3, key=k[1]), nr.LSTM(4, 2, key=k[2]))
    )


def test_a_chain_streams_as_one_layer():
    net, xs = stack(), np.asarray(random(0, 3, 5, 3))
    scan, step = eqx.filter_jit(net.scan), eqx.filter_jit(net.step)
    state, ys = scan(None, xs, resets=RESETS)
    carried, outputs = net.initial_state(), []
    for t in range(5):
        carried, y = step(carried, xs[:, t], resets=np.asarray(RESETS)[:, t])
        outputs.append(y)
    assert_close(np.stack(outputs, 1), ys, 1e-12)
    assert_close(carried, state, 1e-12)
    first, head = scan(None, xs[:, :2])
    second, tail = scan(first, xs[:, 2:])
    assert_close((second, np.concatenate([head, tail], 1)), scan(None, xs), 1e-12)
    assert_close(eqx.filter_jit(net)(first, xs[:, 2:]), tail, 0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [stack, both_ways])
def test_padding_of_nan_changes_nothing_in_a_model(make):
    """Outputs, final states and every gradient, against each sequence alone."""
    net = make()
    xs = random(0, 3, 5, 3)
    valid = jnp.arange(5) < LENGTHS[:, None]
    clean = jnp.where(valid[..., None], xs, 0)
    dirty = jnp.where(valid[..., None], xs, jnp.nan)
    pull = eqx.filter_jit(lambda net, xs: cotangents(net, None, xs, lengths=LENGTHS))
    results = [pull(net, x) for x in (clean, dirty)]
    assert_close(jtu.tree_leaves(results[0]), jtu.tree_leaves(results[1]), 0)
    (state, ys), (_, _, dxs) = results[1]
    assert not np.asarray(ys)[~np.asarray(valid)].any()
    assert not np.asarray(dxs)[~np.asarray(valid)].any()
    for n, length in enumerate(LENGTHS.tolist()):
        if length:
            alone, y = eqx.filter_jit(net.scan)(None, xs[n, :length])
            assert_close(ys[n, :length], y, 1e-12)
            assert_close(jtu.tree_map(lambda leaf, n=n: leaf[n], state), alone, 1e-12)


@pytest.mark.parametrize("make", [stack, both_ways])
def test_resets_equal_separate_sequences_in_a_model(make):
    """For a bidirectional layer too: both directions start anew at the boundary."""
    net, xs = make(), random(0, 5, 3)
    run = eqx.filter_jit(net)
    ys = run(xs, resets=jnp.array([True, False, False, True, False]))
    assert_close(ys, np.concatenate([run(xs[:3]), run(xs[3:])]), 1e-12)


@pytest.mark.parametrize("make", [stack, both_ways])
def test_vmap_jit_and_the_batch_agree(make):
    net, xs = make(), random(0, 3, 5, 3)
    expected = net(xs, lengths=LENGTHS)
    mapped = jax.vmap(lambda xs, length: net(xs, lengths=length))(xs, LENGTHS)
    assert_close(mapped, expected, 1e-12)
    # Equinox's MLP keeps its activation as a leaf, which only `equinox.filter_jit` takes.
    assert_close(
        eqx.filter_jit(lambda net, xs, n: net(xs, lengths=n))(net, xs, LENGTHS), expected, 1e-12
    )


@pytest.mark.covered(1)
@pytest.mark.parametrize("forward", CELLS)
@pytest.mark.parametrize("backward", CELLS)
def test_bidirectional_is_two_recurrences(forward, backward):
    f, b = make_cell(forward), make_cell(backward, hidden_size=2)
    xs = random(0, 3, 5, 3)
    state, ys = nr.Bidirectional(f, b).scan(None, xs, lengths=LENGTHS)
    forward_state, fs = nr.Recurrence(f).scan(None, xs, lengths=LENGTHS)
    backward_state, bs = nr.Recurrence(b, reverse=True).scan(None, xs, lengths=LENGTHS)
    assert_close(ys, jnp.concatenate([fs, bs], -1), 0)
    assert_close(state, (forward_state, backward_state), 0)


def test_bidirectional_starts_at_the_true_end():
    """The backward half of a padded example is that of the example reversed by hand."""
    f, b = make_cell("gru"), make_cell("gru")
    xs = random(0, 1, 5, 3)
    _, bs = nr.Bidirectional(f, b, merge="pair")(xs, lengths=jnp.array([3]))
    by_hand = nr.Recurrence(b)(xs[0, :3][::-1])[::-1]
    assert_close(bs[0, :3], by_hand, 1e-12)


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("concat", lambda f, b: jnp.concatenate([f, b], -1)),
        ("sum", lambda f, b: f + b),
        ("mean", lambda f, b: (f + b) / 2),
        ("product", lambda f, b: f * b),
        ("pair", lambda f, b: (f, b)),
    ],
)
def test_bidirectional_merges(merge, expected):
    f, b = nr.Recurrence(make_cell("gru")), nr.Recurrence(make_cell("rnn"))
    xs = random(0, 5, 3)
    backward = nr.Recurrence(make_cell("rnn"), reverse=True)
    assert_close(nr.Bidirectional(f, b, merge=merge)(xs), expected(f(xs), backward(xs)), 1e-12)


def test_bidirectional_may_share_its_parameters():
    cell, xs = make_cell("gru"), random(0, 5, 3)
    shared = nr.Bidirectional(cell)
    assert nr.count_parameters(shared) == nr.count_parameters(cell)
    assert_close(shared(xs), nr.Bidirectional(cell, cell)(xs), 0)
    gradient = nr.grad(lambda layer: (layer(xs) ** 2).sum())(shared)
    twice = nr.grad(lambda layer: (layer(xs) ** 2).sum())(nr.Bidirectional(cell, cell))
    assert_close(gradient.forward.cell.U, twice.forward.cell.U + twice.backward.cell.U, 1e-12)


def test_bidirectional_takes_a_state_for_each_direction():
    layer, xs = nr.Bidirectional(make_cell("rnn"), make_cell("lstm")), random(0, 3, 5, 3)
    given = (random(1, 4), jtu.tree_map(lambda s: s + 1, layer.initial_state()[1]))
    assert_close(layer(given, xs)[..., :4], nr.Recurrence(make_cell("rnn"))(given[0], xs), 0)
    assert_close(
        layer(given, xs)[..., 4:], nr.Recurrence(make_cell("lstm"), reverse=True)(given[1], xs), 0
    )


def test_a_chain_is_a_sequence_of_layers():
    net = stack()
    assert len(net) == 11
    assert isinstance(net[0], nr.Dense)
    assert [layer.label for layer in net][4] == "sin"
    assert_close(net[:2](random(0, 5, 3)), net[1](net[0](random(0, 5, 3))), 0)


def test_dense_takes_any_leading_axes():
    dense = nr.Dense(3, 2, jnp.tanh, key=keys(1)[0], bias=jax.nn.initializers.normal(1.0))
    xs = random(0, 2, 4, 5, 3)
    expected = np.tanh(np.asarray(xs) @ np.asarray(dense.W).T + np.asarray(dense.b))
    for x, y in ((xs, expected), (xs[0], expected[0]), (xs[0, 0, 0], expected[0, 0, 0])):
        np.testing.assert_allclose(dense(x), y, rtol=1e-12)
    assert nr.Dense(3, 2, key=keys(1)[0], bias=False).b is None
    bound = (6 / 5) ** 0.5
    wide = nr.Dense(3, 2, key=keys(1)[0]).W
    assert np.abs(wide).max() <= bound


def test_embedding_looks_up_rows_and_their_gradient():
    embedding = nr.Embedding(5, 3, key=keys(1)[0])
    tokens = jnp.array([[1, 1, 4], [0, 2, 2]])
    np.testing.assert_array_equal(
        embedding(tokens), np.asarray(embedding.table)[np.asarray(tokens)]
    )
    assert embedding(jnp.array(2)).shape == (3,)
    gradient = nr.grad(lambda e: e(tokens, lengths=jnp.array([3, 1])).sum())(embedding)
    assert gradient.table[:, 0].tolist() == [1, 2, 0, 0, 1]
    out_of_range = jax.jit(lambda t: embedding(t))(jnp.array([5, -1, 4]))
    assert np.isnan(np.asarray(out_of_range)).all(1).tolist() == [True, True, False]
    net = nr.Chain(embedding, nr.GRU(3, 2, key=keys(1)[0]))
    _, y = net.step(net.initial_state(), jnp.array([1, 2]))
    assert_close(y, net(jnp.array([[1], [2]]))[:, 0], 1e-12)


def test_norms_are_equinox_ones_at_every_step():
    xs = random(0, 2, 5, 3)
    for ours, theirs in (
        (nr.LayerNorm(3), eqx.nn.LayerNorm(3)),
        (nr.RMSNorm(3), eqx.nn.RMSNorm(3)),
    ):
        assert_close(ours(xs), jax.vmap(jax.vmap(theirs))(xs), 1e-12)
        assert nr.count_parameters(ours) == nr.count_parameters(theirs)


def test_dropout_drops_scales_and_keeps_out_of_inference():
    xs = jnp.ones((50, 40, 30))
    ys = np.asarray(nr.Dropout(0.25)(xs, key=keys(1)[0]))
    assert set(np.unique(ys)) == {0.0, 1 / 0.75}
    assert abs(ys.mean() - 1) < 0.01
    assert_close(nr.Dropout(0.25, inference=True)(xs), xs, 0)
    assert_close(nr.Dropout(0.0)(xs), xs, 0)


def test_dropout_over_time_has_one_mask_for_a_sequence_and_another_for_the_next():
    dropout, key = nr.Dropout(0.5, axis="time"), keys(1)[0]
    ys = np.asarray(dropout(jnp.ones((4, 6, 20)), key=key))
    assert (ys == ys[:, :1]).all()
    assert not (ys[0] == ys[1]).all()
    _, step = dropout.step(None, jnp.ones((4, 20)), key=key)
    np.testing.assert_array_equal(step, ys[:, 0])
    fresh = np.asarray(nr.Dropout(0.5)(jnp.ones((4, 6, 20)), key=key))
    assert not (fresh == fresh[:, :1]).all()


def test_per_step_gives_each_step_a_key_of_its_own():
    layer = nr.PerStep(eqx.nn.Dropout(0.5))
    ys = np.asarray(layer(jnp.ones((3, 4, 50)), key=keys(1)[0]))
    assert not (ys[:, 0] == ys[:, 1]).all()
    assert_close(nr.inference(layer)(jnp.ones((3, 50))), jnp.ones((3, 50)), 0)


def test_last_picks_the_last_valid_output():
    ys = random(0, 3, 5, 2)
    expected = np.stack([ys[0, 4], np.zeros(2), ys[2, 2]])
    assert_close(nr.last(ys, LENGTHS), expected, 0)
    assert_close(nr.last(ys), ys[:, -1], 0)
    assert_close(nr.last(ys[2], 3), ys[2, 2], 0)
    assert_close(jax.vmap(nr.last)(ys, LENGTHS), expected, 0)
    dirty = jnp.where((jnp.arange(5) < LENGTHS[:, None])[..., None], ys, jnp.nan)
    gradient = jax.grad(lambda ys: nr.last(ys, LENGTHS).sum())(dirty)
    assert gradient.sum() == 4
    assert np.isfinite(gradient).all()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_lengths_of_any_integer_type_count_long_sequences(dtype):
    """An int8 wraps around at 127."""
    layer, lengths = nr.GRU(3, 2, key=keys(1)[0]), np.array([100], dtype)
    xs = jnp.ones((1, 300, 3)).at[:, 100:].set(jnp.nan)
    for other in (nr.Residual(jnp.sin), nr.PerStep(jnp.cos), nr.Dropout(inference=True)):
        assert_close(other(xs, lengths=lengths)[:, 100:], jnp.zeros((1, 200, 3)), 0)
    ys = layer(xs, lengths=lengths)
    assert not np.asarray(ys)[:, 100:].any()
    assert_close(nr.last(ys, lengths), ys[:, 99], 0)
    assert_close(nr.mse(ys, jnp.zeros_like(ys), lengths=lengths), jnp.mean(ys[:, :100] ** 2), 1e-12)
    tokens = np.array([1, 2], np.int8)
    assert nr.Embedding(300, 2, key=keys(1)[0])(tokens).shape == (2, 2)


def test_what_a_plain_function_reads_is_read_at_each_call():
    scale = [1.0]
    layer = nr.Recurrence(lambda h, x: scale[0] * x, initial_state=jnp.zeros(3))
    xs = jnp.ones((2, 3))
    layer(xs)
    scale[0] = 5.0
    assert_close(layer(xs), 5 * xs, 0)
    assert_close(layer(xs), nr.with_backend(layer, "reference")(xs), 0)


def test_layers_by_name_pass_their_options_on():
    key = keys(1)[0]
    layer = nr.LSTM(
        3, 4, key=key, bias=False, reverse=True, learn_initial_state=True, backend="reference"
    )
    assert (layer.cell.b, layer.reverse, layer.backend) == (None, True, "reference")
    assert layer.learned_state.c.shape == (4,)
    assert nr.RNN(3, 4, jax.nn.relu, key=key)(jnp.ones((2, 3))).min() >= 0
    start = random(1, 4)
    assert_close(nr.GRU(3, 4, key=key, initial_state=start).initial_state(), start, 0)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_lengths_past_either_end_act_as_the_end_whatever_their_type(dtype):
    """Under `jax.jit`, where values are not known: an int32 made of 2**31 would be negative."""
    high, low = np.iinfo(dtype).max, np.iinfo(dtype).min
    ys = jnp.arange(1.0, 6.0)[None, :, None].repeat(2, 0)
    count = jax.jit(lambda lengths: nr.Residual(nr.PerStep(jnp.zeros_like))(ys, lengths=lengths))
    assert_close(
        count(np.array([high, low], dtype))[..., 0], jnp.array([[1.0, 2, 3, 4, 5], [0.0] * 5]), 0
    )
    assert jax.jit(nr.last)(ys, np.array([high, low], dtype)).tolist() == [[5], [0]]
    assert (
        nr.last(ys, [3, 0]).tolist()
        == nr.last(ys, (np.int8(3), jnp.asarray(0))).tolist()
        == [[3], [0]]
    )


def test_lengths_may_be_a_list_that_holds_traced_ones():
    layer, xs = nr.Residual(jnp.sin), random(0, 2, 5, 3)
    expected = layer(xs, lengths=jnp.array([2, 5]))
    assert_close(jax.jit(lambda n: layer(xs, lengths=[n, 5]))(2), expected, 0)


def test_whole_numbers_are_checked_before_they_are_narrowed(plain_jax):
    """JAX makes 32 bits of 64, and 3 of 2**32 + 3."""
    embedding = nr.Embedding(10, 2, key=keys(1)[0])
    for number in (2**32 + 3, 1 - 2**32, 2**31):
        with pytest.raises(
            ValueError, match=f"the numbers go from {number} to {number}; expected 0 to 9"
        ):
            embedding(np.array([number]))
        with pytest.raises(
            ValueError, match=f"the targets go from {number} to {number}; expected 0 to 9"
        ):
            nr.cross_entropy(jnp.zeros((1, 10)), np.array([number]))
        with pytest.raises(ValueError, match=f"lengths holds {number}; expected 0 to 5"):
            embedding(np.zeros((1, 5), int), lengths=np.array([number]))
    padded = np.array([[1, 2**32 + 3]])
    assert_close(
        embedding(padded, lengths=[1])[0], jnp.stack([embedding.table[1], jnp.zeros(2)]), 0
    )
    with pytest.raises(
        ValueError,
        match=r"sin: xs holds 4294967299, which does not fit into int32; expected -2147483648 to",
    ):
        nr.PerStep(jnp.sin)(np.array([[2**32 + 3]]))


def test_an_embedding_gives_no_other_row_for_64_bits_under_jit():
    embedding = nr.Embedding(10, 2, key=keys(1)[0])
    rows = jax.jit(lambda numbers: embedding(numbers))(np.array([2**32 + 3, 3, 1 - 2**32]))
    assert np.isnan(rows).all(1).tolist() == [True, False, True]


class Active(nr.cells.WrapperCell):
    """A cell with a term of the loss beside its output."""

    def output(self, state: Any, x: Any, **keywords: Any) -> Any:
        y = super().output(state, x, **keywords)
        return nr.Aux(y, jnp.sum(y**2))


def test_a_chain_collects_what_is_beside_an_output():
    k1, k2, k3 = keys(3)
    cells = [Active(nr.GRUCell(3, 3, key=k, dtype=jnp.float64)) for k in (k1, k2)]
    inner = nr.Residual(nr.Recurrence(cells[1]))
    model = nr.Chain(nr.Recurrence(cells[0]), nr.Chain(inner), nr.Dense(3, 2, key=k3))
    xs, lengths = random(1, 2, 5, 3), jnp.array([5, 3])
    ys, (first, (second,)) = model(xs, lengths=lengths)
    gru = [nr.Recurrence(cell.cell) for cell in cells]
    a = gru[0](xs, lengths=lengths)
    b = gru[1](a, lengths=lengths)
    assert_close(first, jnp.sum(a**2, -1), 1e-12)
    assert_close(second, jnp.sum(b**2, -1), 1e-12)
    assert_close(ys, nr.Chain(nr.Dense(3, 2, key=k3))(a + b, lengths=lengths), 1e-12)
    state = model.initial_state()
    for t in range(3):
        state, step = model.step(state, xs[0, t])
    assert isinstance(step, nr.Aux)
    assert_close(step.y, ys[0, 2], 1e-12)
    plain = nr.Chain(gru[0])(xs)
    assert not isinstance(plain, nr.Aux)
