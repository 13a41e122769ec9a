"""Weights, smoothing, quantiles and alignments of labels, against NumPy."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import assert_close, random

import noria as nr

P, T = random(0, 3, 5, 4), random(1, 3, 5, 4)
LENGTHS = jnp.array([5, 0, 2])
VALID = np.arange(5) < np.asarray(LENGTHS)[:, None]
RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, 4, (3, 5))
SHARES = RNG.dirichlet(np.ones(4), (3, 5))
WEIGHTS = RNG.uniform(0.5, 2, (3, 5))


def entropies(p):
    p = np.asarray(p, np.float64)
    return np.log(np.exp(p).sum(-1, keepdims=True)) - p


# --- weights ------------------------------------------------------------------------------------


def test_weights_of_examples_steps_and_places():
    squares = np.square(np.asarray(P) - np.asarray(T))
    for weights in (WEIGHTS[:, 0], WEIGHTS, np.asarray(jnp.abs(P)), np.arange(15).reshape(3, 5)):
        full = np.broadcast_to(weights.reshape(weights.shape + (1,) * (3 - weights.ndim)), P.shape)
        assert_close(nr.mse(P, T, weights=weights), np.average(squares, weights=full), 1e-12)
        expected = np.average(squares[VALID], weights=full[VALID])
        assert_close(nr.mse(P, T, weights=weights, lengths=LENGTHS), expected, 1e-12)
        assert_close(nr.mse(P, T, weights=weights, mask=jnp.asarray(VALID)), expected, 1e-12)


def test_weights_of_one_change_nothing_and_a_weight_of_zero_leaves_out():
    """Even NaN, in value and gradient."""
    assert_close(nr.mse(P, T, weights=np.ones(3)), nr.mse(P, T), 1e-15)
    weights = np.array([1.0, 0.0, 2.0])
    bad = P.at[1].set(jnp.nan)
    value, gradient = jax.value_and_grad(lambda p: nr.mae(p, T, weights=weights))(bad)
    each = np.abs(np.asarray(P) - np.asarray(T)).mean((1, 2))
    assert_close(value, np.average(each, weights=weights), 1e-12)
    assert not np.asarray(gradient[1]).any()
    assert np.isfinite(gradient).all()
    assert nr.mse(P, T, weights=np.zeros(3)) == 0


def test_weights_of_all_losses_work_under_jit():
    losses = [
        lambda w: nr.mse(P, T, weights=w),
        lambda w: nr.huber(P, T, weights=w),
        lambda w: nr.binary_cross_entropy(P, jax.nn.sigmoid(T), weights=w),
        lambda w: nr.cross_entropy(P, LABELS, weights=w),
        lambda w: nr.pinball(P, T[..., 0], quantiles=[0.1, 0.2, 0.3, 0.4], weights=w),
    ]
    for loss in losses:
        whole = loss(jnp.array([0.0, 1.0, 0.0]))
        assert_close(jax.jit(loss)(jnp.array([0.0, 3.0, 0.0])), whole, 1e-12)
        assert abs(whole - loss(jnp.ones(3))) > 1e-6


# --- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_and_smoothing(smoothing, weighted):
    w = np.array([1.0, 0.0, 2.5, 0.5]) if weighted else np.ones(4)
    options: dict[str, Any] = {
        "label_smoothing": smoothing,
        "class_weights": w if weighted else None,
    }
    for target, dense in ((LABELS, np.eye(4)[LABELS]), (jnp.asarray(SHARES), SHARES)):
        smooth = (1 - smoothing) * dense + smoothing / 4
        losses, counts = (w * smooth * entropies(P)).sum(-1), (w * dense).sum(-1)
        assert_close(nr.cross_entropy(P, target, **options), losses.sum() / counts.sum(), 1e-12)
        expected = (losses * WEIGHTS)[VALID].sum() / (counts * WEIGHTS)[VALID].sum()
        value = nr.cross_entropy(P, target, lengths=LENGTHS, weights=WEIGHTS, **options)
        assert_close(value, expected, 1e-12)


def test_class_weights_and_smoothing_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    logits, labels = torch.tensor(np.asarray(P)).reshape(15, 4), torch.tensor(LABELS).reshape(15)
    w = np.array([1.0, 0.3, 2.5, 0.5])
    expected = torch.nn.CrossEntropyLoss(torch.tensor(w), label_smoothing=0.2)(logits, labels)
    ours = nr.cross_entropy(P, LABELS, class_weights=w, label_smoothing=0.2)
    assert_close(ours, expected.numpy(), 1e-12)


def test_smoothing_of_two_classes():
    p, t = np.asarray(P), RNG.integers(0, 2, P.shape).astype(np.float64)
    smooth = 0.8 * t + 0.1
    expected = (np.log1p(np.exp(p)) - smooth * p).mean()
    assert_close(nr.binary_cross_entropy(P, jnp.asarray(t), label_smoothing=0.2), expected, 1e-12)


def test_a_class_out_of_range_is_nan_under_jit_with_weights():
    options: dict[str, Any] = {"class_weights": np.ones(3), "label_smoothing": 0.1}
    value = jax.jit(lambda t: nr.cross_entropy(jnp.zeros((2, 3)), t, **options))(jnp.array([0, 3]))
    assert np.isnan(value)


# --- quantiles ----------------------------------------------------------------------------------


def test_pinball_is_least_at_the_quantile():
    """Over constants; the median gives half of the mean absolute error."""
    target = jnp.asarray(RNG.normal(size=1001))
    for q in (0.1, 0.5, 0.9):
        losses = [
            float(nr.pinball(jnp.full(1001, c), target, quantiles=q))
            for c in np.linspace(-3, 3, 601)
        ]
        assert abs(np.linspace(-3, 3, 601)[np.argmin(losses)] - np.quantile(target, q)) < 0.02
    assert_close(nr.pinball(P, T, quantiles=0.5), nr.mae(P, T) / 2, 1e-14)


def test_pinball_over_valid_places_and_several_quantiles():
    levels, target = np.array([0.1, 0.3, 0.5, 0.9]), np.asarray(T[..., 0])
    error = target[..., None] - np.asarray(P)
    each = np.where(error > 0, levels * error, (levels - 1) * error)
    quantiles = levels.tolist()
    assert_close(nr.pinball(P, T[..., 0], quantiles=quantiles), each.mean(), 1e-13)
    nan = jnp.where(VALID, T[..., 0], jnp.nan)
    value, gradient = jax.value_and_grad(
        lambda p: nr.pinball(p, nan, quantiles=quantiles, lengths=LENGTHS)
    )(P)
    assert_close(value, each[VALID].mean(), 1e-13)
    assert not np.asarray(gradient)[~VALID].any()
    assert np.isfinite(gradient).all()


# --- alignments ---------------------------------------------------------------------------------


def paths_of(labels, time, classes, blank):
    """All sequences of classes that collapse to ``labels``."""
    for path in itertools.product(range(classes), repeat=time):
        merged = [c for n, c in enumerate(path) if n == 0 or c != path[n - 1]]
        if [c for c in merged if c != blank] == labels:
            yield path


def ctc_by_hand(logits, labels, blank):
    logs = -entropies(logits)
    time, classes = logs.shape
    total = sum(
        np.exp(sum(logs[t, c] for t, c in enumerate(path)))
        for path in paths_of(labels, time, classes, blank)
    )
    return -np.log(total)


@pytest.mark.usefixtures("ordinary_promotion")
@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_is_the_sum_over_all_paths(blank):
    a, b = [c for c in range(3) if c != blank]
    logits, examples = random(5, 4, 5, 3), [[a, b], [a, a], [b], []]
    steps = [5, 4, 1, 3]
    labels, label_lengths = nr.data.pad([np.array(one, int) for one in examples])
    losses = [
        ctc_by_hand(np.asarray(l)[:t], one, blank)
        for l, t, one in zip(logits, steps, examples, strict=True)
    ]
    options: dict[str, Any] = {
        "lengths": np.array(steps),
        "label_lengths": label_lengths,
        "blank": blank,
    }
    assert_close(nr.ctc(logits, labels, **options), np.mean(losses), 1e-9)
    weights = np.array([1.0, 0.0, 2.0, 3.0])
    expected = np.average(losses, weights=weights)
    assert_close(nr.ctc(logits, labels, weights=weights, **options), expected, 1e-9)
    assert_close(jax.jit(lambda l: nr.ctc(l, labels, **options))(logits), np.mean(losses), 1e-9)


@pytest.mark.usefixtures("ordinary_promotion")
def test_ctc_ignores_padding_and_is_infinite_where_no_path_fits():
    logits, labels = random(5, 2, 4, 3), np.array([[1, 1, 0], [2, 7, -1]])
    options: dict[str, Any] = {"label_lengths": np.array([2, 1]), "lengths": np.array([3, 2])}
    value, gradient = jax.value_and_grad(lambda l: nr.ctc(l, labels, **options))(
        logits.at[0, 3:].set(jnp.nan).at[1, 2:].set(jnp.nan)
    )
    assert np.isfinite(value)
    assert not np.asarray(gradient[1, 2:]).any()
    assert np.isfinite(gradient).all()
    options["lengths"] = np.array([2, 2])  # 1, blank, 1 needs three steps
    assert np.isinf(nr.ctc(logits, labels, **options))
    wrong = jax.jit(lambda l: nr.ctc(logits, l, **options))(np.array([[1, 0, 0], [2, 0, 0]]))
    assert np.isnan(wrong)
    assert nr.ctc(logits, labels, weights=np.array([0, 1.0]), **options) < 10


# --- messages -----------------------------------------------------------------------------------

WRONG = {
    "weights of another shape": (
        lambda: nr.mse(P, T, weights=np.ones(5)),
        ValueError,
        r"mse: weights has shape \(5,\); expected the leading axes of \(3, 5, 4\)",
    ),
    "negative weights": (
        lambda: nr.cross_entropy(P, LABELS, weights=[1, -2, 0]),
        ValueError,
        "cross_entropy: weights holds -2; expected numbers of at least 0",
    ),
    "weights of text": (
        lambda: nr.mse(P, T, weights=["a", "b", "c"]),
        TypeError,
        "weights is an array of <U1; expected numbers",
    ),
    "class weights of another shape": (
        lambda: nr.cross_entropy(P, LABELS, class_weights=np.ones(3)),
        ValueError,
        r"class_weights has shape \(3,\); expected \(4,\), one for each class",
    ),
    "negative class weights": (
        lambda: nr.cross_entropy(P, LABELS, class_weights=[1, 1, 1, -1]),
        ValueError,
        "class_weights holds -1; expected numbers of at least 0",
    ),
    "too much smoothing": (
        lambda: nr.cross_entropy(P, LABELS, label_smoothing=2),
        ValueError,
        r"cross_entropy\(label_smoothing=2\): expected a share from 0 to 1",
    ),
    "negative smoothing": (
        lambda: nr.binary_cross_entropy(P, T, label_smoothing=-0.1),
        ValueError,
        r"binary_cross_entropy\(label_smoothing=-0.1\)",
    ),
    "a quantile of 100": (
        lambda: nr.pinball(P, T, quantiles=100),
        ValueError,
        r"pinball\(quantiles=100\): expected numbers between 0 and 1",
    ),
    "no axis of quantiles": (
        lambda: nr.pinball(P, T, quantiles=[0.5]),
        ValueError,
        r"expected the prediction to be \(3, 5, 4, 1\), with an axis of quantiles at the end",
    ),
    "a pinball of two dtypes": (
        lambda: nr.pinball(P, T.astype(jnp.float32), quantiles=0.5),
        TypeError,
        r"expected one dtype: target.astype\('float64'\)",
    ),
    "integer logits": (
        lambda: nr.ctc(LABELS[None], LABELS),
        TypeError,
        "ctc: logits are int64; expected floats",
    ),
    "labels with a fraction": (
        lambda: nr.ctc(P, WEIGHTS),
        TypeError,
        "ctc: labels are float64; expected whole numbers",
    ),
    "one example": (
        lambda: nr.ctc(P[0], LABELS),
        ValueError,
        r"ctc: logits have shape \(5, 4\), labels \(3, 5\); expected \(batch, time, classes\)",
    ),
    "no step": (
        lambda: nr.ctc(P[:, :0], LABELS),
        ValueError,
        r"\(3, 0, 4\), .* with at least one step",
    ),
    "a blank that is no class": (
        lambda: nr.ctc(P, LABELS, blank=4),
        ValueError,
        r"ctc\(blank=4\): expected a class from 0 to 3",
    ),
    "a blank among the labels": (
        lambda: nr.ctc(P, np.zeros((3, 2), int)),
        ValueError,
        "ctc: the labels go from 0 to 0; expected 0 to 3 without the blank, 0",
    ),
    "more labels than there are": (
        lambda: nr.ctc(P, LABELS, label_lengths=[1, 2, 6]),
        ValueError,
        "ctc, label_lengths: lengths holds 6; expected 0 to 5",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_have_their_message(name):
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        call()
