"""Contiguous rows for truncated backpropagation: what they hold, where they start anew."""

from itertools import pairwise

import jax
import numpy as np
import pytest

import noria as nr


def row_of(batches, column, row):
    return np.concatenate([batch[column][row] for batch in batches])


def test_rows_are_contiguous_and_targets_are_the_next_steps():
    series = np.stack([np.arange(47), -np.arange(47)], 1).astype(np.float32)
    data = nr.data.streams(series, batch_size=3, size=5)
    found = list(data)
    assert len(found) == len(data) == 3
    assert data.left_out == 46 - 45
    for row in range(3):
        first = row * 15
        np.testing.assert_array_equal(row_of(found, 0, row), series[first : first + 15])
        np.testing.assert_array_equal(row_of(found, 1, row), series[first + 1 : first + 16])
        assert np.flatnonzero(row_of(found, 2, row)).tolist() == [0]
    assert found[0][0].dtype == np.float32
    assert found[0][2].dtype == bool


def test_each_series_starts_anew_and_no_target_crosses_to_another():
    """Against a plain loop over the pairs of neighbouring values."""
    lengths = [4, 1, 9, 2, 30, 0, 3]
    series = [100 * n + np.arange(length) for n, length in enumerate(lengths)]
    pairs = [(a, b, n == 0) for one in series for n, (a, b) in enumerate(pairwise(one))]
    found = list(nr.data.streams(series, batch_size=2, size=4))
    used = len(found) * 4
    assert used == len(pairs) // 8 * 4
    for row in range(2):
        expected = pairs[row * used : (row + 1) * used]
        assert row_of(found, 0, row).tolist() == [a for a, _, _ in expected]
        assert row_of(found, 1, row).tolist() == [b for _, b, _ in expected]
        starts = [start or n == 0 for n, (_, _, start) in enumerate(expected)]
        assert row_of(found, 2, row).tolist() == starts


def test_targets_of_ones_own_and_several_horizons():
    xs, ys = np.arange(20), np.arange(20) ** 2
    for x, y, starts in nr.data.streams(xs, ys, batch_size=2, size=5):
        np.testing.assert_array_equal(y, x**2)
        assert starts.shape == (2, 5)
    for x, y, _ in nr.data.streams(xs, batch_size=2, size=4, horizon=[1, 3]):
        assert y.shape == (2, 4, 2)
        np.testing.assert_array_equal(y, np.stack([x + 1, x + 3], -1))


def test_an_epoch_is_a_function_of_its_key_and_can_begin_at_any_batch():
    series = [np.arange(n) + 1000 * n for n in (40, 17, 25)]
    data = nr.data.streams(series, batch_size=2, size=7, key=jax.random.key(0))
    key = jax.random.key(3)
    whole = list(data.epoch(key))
    for start in (0, 2, len(data)):
        rest = list(data.epoch(key, start))
        assert len(rest) == len(data) - start
        for a, b in zip(rest, whole[start:], strict=True):
            for one, other in zip(a, b, strict=True):
                np.testing.assert_array_equal(one, other)
    first, second = list(data), list(data)
    assert any((a[0] != b[0]).any() for a, b in zip(first, second, strict=True))
    again = nr.data.streams(series, batch_size=2, size=7, key=jax.random.key(0))
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True))


def test_windows_with_a_carried_state_equal_one_long_scan():
    k1, k2 = jax.random.split(jax.random.key(0))
    series = np.asarray(jax.random.normal(k1, (25, 2), np.float32))
    layer = nr.LSTM(2, 3, key=k2, dtype=np.float32)
    whole = layer(series[None, :24])
    state, parts = None, []
    for xs, _, starts in nr.data.streams(series, batch_size=1, size=8):
        state, ys = layer.scan(state, xs, resets=starts)
        parts.append(ys)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)


WRONG = {
    "no column": (
        lambda: nr.data.streams(batch_size=1, size=1),
        ValueError,
        "there are no columns",
    ),
    "too short": (
        lambda: nr.data.streams(np.arange(10), batch_size=2, size=5),
        ValueError,
        "have 9 steps with a target; expected at least 10",
    ),
    "columns of two lengths": (
        lambda: nr.data.streams(np.arange(10), np.arange(9), batch_size=2, size=2),
        ValueError,
        "column 1 has series of 9 steps, column 0 of 10; expected equal lengths",
    ),
    "a horizon of no target": (
        lambda: nr.data.streams(np.arange(10), np.arange(10), batch_size=2, size=2, horizon=2),
        ValueError,
        r"horizon=2\): there are 2 columns, which are used as they are",
    ),
    "no horizon": (
        lambda: nr.data.streams(np.arange(10), batch_size=2, size=2, horizon=[]),
        ValueError,
        r"horizon=\[\]\): expected a whole number of at least 1, or several",
    ),
    "half a horizon": (
        lambda: nr.data.streams(np.arange(10), batch_size=2, size=2, horizon=0.5),
        ValueError,
        "horizon 0 is 0.5; expected a whole number",
    ),
    "text": (
        lambda: nr.data.streams(np.array(["a", "b"]), batch_size=1, size=1),
        TypeError,
        "streams, column 0: sequence 0 is an array of <U1; expected numbers",
    ),
    "a seed": (
        lambda: nr.data.streams(np.arange(10), batch_size=1, size=1, key=3),
        TypeError,
        "streams: key is a int; expected one JAX random key",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_have_their_message(name):
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        call()
