"""Padding, batches, windows, splits, and the samples that ship."""

import jax
import numpy as np
import pytest

import noria as nr


def test_pad_keeps_dtype_and_shape_of_features():
    xs, lengths = nr.data.pad(
        [np.ones((2, 3, 4), np.int16), np.ones((0, 3, 4), np.int16)], time=5, value=-1
    )
    assert xs.shape == (2, 5, 3, 4)
    assert [xs.dtype.name, lengths.dtype.name] == ["int16", "int32"]
    assert lengths.tolist() == [2, 0]
    assert (xs[0, 2:] == -1).all()
    assert (xs[1] == -1).all()


def test_batches_pad_little_and_compile_few_shapes():
    """The promise of the issue: little padding is wasted, few shapes compile."""
    train, _ = nr.data.japanese_vowels()
    lengths = np.array([len(s) for s in train.sequences])
    data = nr.data.batches(train.sequences, train.speakers, batch_size=30, key=jax.random.key(0))
    shapes, steps = set(), 0
    for xs, _speakers, _lengths in data:
        shapes.add(xs.shape)
        steps += xs.shape[0] * xs.shape[1]
    assert len(shapes) <= 5
    assert steps < 1.25 * lengths.sum() < lengths.max() * len(lengths)


def test_a_batch_may_be_larger_than_the_data_and_sequences_may_be_empty():
    (column,) = next(iter(nr.data.batches(np.arange(3), batch_size=10)))
    assert column.tolist() == [0, 1, 2]
    lists = [np.ones((n, 2)) for n in (0, 3, 1)]
    for column in (lists, nr.data.Ragged(np.ones((4, 2)), [0, 0, 3, 4])):
        data = nr.data.batches(column, batch_size=10)
        ((xs, lengths),) = list(data)
        assert (len(data), xs.sum(axis=(1, 2)).tolist()) == (1, [0, 2, 6])
        assert lengths.tolist() == [0, 1, 3]


def test_an_epoch_is_shuffled_by_its_key_and_only_by_it():
    data = nr.data.batches(np.arange(20), batch_size=6, key=jax.random.key(0))
    first, second = ([batch[0].tolist() for batch in data] for _ in range(2))
    assert first != second
    assert sorted(n for batch in first for n in batch) == list(range(20))
    again = nr.data.batches(np.arange(20), batch_size=6, key=jax.random.key(0))
    assert [batch[0].tolist() for batch in again] == first
    fixed = nr.data.batches(np.arange(20), batch_size=6)
    assert [batch[0].tolist() for batch in fixed] == [batch[0].tolist() for batch in fixed]
    assert next(iter(fixed))[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_two_lists_share_their_lengths():
    inputs = [np.ones((t, 2)) for t in (3, 1, 2)]
    targets = [np.full(t, t) for t in (3, 1, 2)]
    for xs, ys, lengths in nr.data.batches(inputs, targets, batch_size=3):
        assert xs.shape == (3, 3, 2)
        assert ys.shape == (3, 3)
        assert ys[:, 0].tolist() == lengths.tolist()


@pytest.mark.parametrize(
    ("size", "horizon", "stride"), [(3, 1, 1), (4, 0, 2), (2, 5, 3), (10, 0, 1)]
)
def test_windows_are_complete_and_in_order(size, horizon, stride):
    series = np.stack([np.arange(10), -np.arange(10)], 1)
    xs, ys = nr.data.windows(series, size, horizon, stride)
    assert xs.shape[1:] == (size, 2)
    assert ys.shape[1:] == (horizon, 2)
    starts = range(0, 10 - size - horizon + 1, stride)
    assert xs[:, 0, 0].tolist() == list(starts)
    for start, x, y in zip(starts, xs, ys, strict=True):
        np.testing.assert_array_equal(
            np.concatenate([x, y]), series[start : start + size + horizon]
        )


def test_splits_are_in_order_of_time_and_keep_their_distance():
    train, valid, test = nr.data.split(np.arange(100), valid=0.2, test=10, gap=3)
    assert (train[-1], valid[0], valid[-1], test[0], test[-1]) == (63, 67, 86, 90, 99)
    train, valid, test = nr.data.split(np.arange(10), test=0.2)
    assert (len(train), len(valid), len(test)) == (8, 0, 2)


def test_folds_validate_what_follows_their_training():
    for train, valid in nr.data.folds(50, k=4, gap=2, train_size=15):
        assert train[-1] + 3 == valid[0]
        assert len(train) <= 15
    assert valid[-1] == 49


def test_samples_are_what_their_sources_say():
    train, test = nr.data.japanese_vowels()
    lengths = [len(s) for s in (*train.sequences, *test.sequences)]
    assert (len(train.sequences), len(test.sequences), min(lengths), max(lengths)) == (
        270,
        370,
        7,
        29,
    )
    assert np.bincount(train.speakers).tolist() == [30] * 9
    assert np.bincount(test.speakers).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    np.testing.assert_allclose(train.sequences[0][0, :2], [1.860936, -0.207383])
    assert {s.dtype for s in train.sequences} == {np.dtype(np.float32)}
    series = nr.data.co2()
    np.testing.assert_allclose(series.values[0], np.mean([316.1]), rtol=1e-6)
    np.testing.assert_allclose(
        series.values[-1], np.mean([370.3, 370.8, 371.2, 371.3, 371.5]), atol=0.3
    )
    assert np.isfinite(series.values).all()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int64, 0.5),
        (np.int64, np.nan),
        (np.int8, 300),
        (np.uint8, -1),
        (np.bool_, -1),
        (np.float16, 1e6),
        (np.float32, None),
        (np.float32, 1j),
        (np.float32, "0"),
        (np.float32, [1, 2]),
    ],
)
def test_padding_never_becomes_another_value(dtype, value):
    with pytest.raises(
        TypeError, match=r"pad\(value=.*\): the sequences are .*, which cannot hold it"
    ):
        nr.data.pad([np.ones(2, dtype), np.ones(1, dtype)], value=value)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int8, 3.0),
        (np.bool_, 1),
        (np.float16, 0.1),
        (np.float32, np.inf),
        (np.complex64, 1j),
        (jax.numpy.bfloat16, 0.5),
    ],
)
def test_padding_may_be_rounded(dtype, value):
    xs, _ = nr.data.pad([np.ones(2, dtype), np.ones(1, dtype)], value=value)
    assert xs.dtype == dtype
    assert xs[1, 1] == np.asarray(value).astype(dtype)
    assert np.isnan(nr.data.pad([np.ones(2), np.ones(1)], value=np.nan)[0][1, 1])


def test_an_array_of_objects_is_a_list_of_sequences():
    sequences = [np.full((t, 2), t, np.float32) for t in (3, 1, 2)]
    objects = np.empty(3, object)
    objects[:] = sequences
    batches = [
        list(nr.data.batches(column, np.arange(3), batch_size=2)) for column in (sequences, objects)
    ]
    for expected, got in zip(*batches, strict=True):
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)


class Labelled:
    """As in pandas with float labels: slices go by label, ends included; ``iloc`` by position."""

    def __init__(self, values):
        self.iloc = values

    def __len__(self):
        return len(self.iloc)

    def __getitem__(self, labels):
        raise AssertionError("sliced by label")


def test_a_split_is_by_position():
    assert nr.data.split(Labelled(list(range(10))), valid=2, test=0.3) == (
        [0, 1, 2, 3, 4],
        [5, 6],
        [7, 8, 9],
    )
