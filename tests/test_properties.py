"""What must hold exactly, for any cell, any shape and any cut: hypothesis looks for exceptions."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from models import CELLS, assert_close, make_cell, random

import noria as nr

names = st.sampled_from(sorted(CELLS))
times = st.sampled_from([1, 2, 7])
batches = st.sampled_from([1, 3])
seeds = st.integers(0, 2**16)
LAYERS = {(n, r): nr.Recurrence(make_cell(n), reverse=r) for n in CELLS for r in (False, True)}


@given(names, times, batches, seeds, st.data())
def test_a_sequence_may_be_cut_anywhere(name, time, batch, seed, data):
    layer, xs = LAYERS[name, False], random(seed, batch, time, 3)
    cut = data.draw(st.integers(0, time))
    middle, head = layer.scan(None, xs[:, :cut])
    end, tail = layer.scan(middle, xs[:, cut:])
    assert_close((end, jnp.concatenate([head, tail], 1)), layer.scan(None, xs), 1e-13)


@given(names, times, seeds, st.booleans(), st.data())
def test_a_reset_equals_separate_sequences(name, time, seed, reverse, data):
    layer, xs = LAYERS[name, reverse], random(seed, time, 3)
    resets = np.array(data.draw(st.lists(st.booleans(), min_size=time, max_size=time)))
    cuts = [0, *(t for t in range(1, time) if resets[t]), time]
    pieces = [layer(xs[a:b]) for a, b in pairwise(cuts)]
    assert_close(layer(xs, resets=resets), jnp.concatenate(pieces), 1e-13)


@given(
    names,
    times,
    seeds,
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([0.0, np.nan, np.inf, 1e300]),
)
def test_padding_equals_no_padding(name, time, seed, reverse, more, garbage):
    layer, xs = LAYERS[name, reverse], random(seed, 1, time, 3)
    padded = jnp.concatenate([xs, jnp.full((1, more, 3), garbage)], 1)

    def run(layer, xs, **options):
        state, ys = layer.scan(None, xs, **options)
        return jnp.sum(nr.last(ys, **options) ** 2) + sum(
            jnp.sum(s) for s in jtu.tree_leaves(state)
        ), (state, ys)

    gradient_of = jax.grad(run, argnums=(0, 1), has_aux=True)
    (dlayer, dxs), (state, ys) = gradient_of(layer, padded, lengths=jnp.array([time]))
    (dlayer_, dxs_), (state_, ys_) = gradient_of(layer, xs)
    assert_close(state, state_, 1e-13)
    assert_close(ys, jnp.pad(ys_, ((0, 0), (0, more), (0, 0))), 1e-13)
    assert_close(jtu.tree_leaves(dlayer), jtu.tree_leaves(dlayer_), 1e-13)
    assert_close(dxs, jnp.pad(dxs_, ((0, 0), (0, more), (0, 0))), 1e-13)


@given(names, times, seeds, st.booleans(), st.permutations(range(3)))
def test_a_permuted_batch_gives_a_permuted_answer(name, time, seed, reverse, order):
    layer, xs = LAYERS[name, reverse], random(seed, 3, time, 3)
    lengths = jnp.array([time, 0, (time + 1) // 2])
    order = np.array(order)
    state, ys = layer.scan(None, xs, lengths=lengths)
    state_, ys_ = layer.scan(None, xs[order], lengths=lengths[order])
    assert_close((state_, ys_), jtu.tree_map(lambda leaf: leaf[order], (state, ys)), 1e-13)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
    seeds,
)
def test_batches_hold_every_example_once(lengths, batch_size, buckets, seed):
    sequences = [np.full((t, 2), n, np.float32) for n, t in enumerate(lengths)]
    data = nr.data.batches(
        sequences,
        np.arange(len(lengths)),
        batch_size=batch_size,
        buckets=buckets,
        key=jax.random.key(seed),
    )
    seen, shapes = [], set()
    for xs, numbers, counts in data:
        shapes.add(xs.shape)
        for x, number, count in zip(xs, numbers, counts, strict=True):
            assert count == lengths[number]
            assert (x[:count] == number).all()
            assert not x[count:].any()
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(shapes) <= buckets + 1
    assert len(data) == -(-len(lengths) // batch_size)
