"""Losses against NumPy, and averages over what is valid."""

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
LABELS = jnp.asarray(np.random.default_rng(2).integers(0, 4, (3, 5)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def huber(p, t):
    e = np.abs(p - t)
    return np.where(e <= 1, e**2 / 2, e - 0.5)


ELEMENTWISE: dict[str, Any] = {
    "mse": (nr.mse, lambda p, t: (p - t) ** 2, P, T),
    "mae": (nr.mae, lambda p, t: np.abs(p - t), P, T),
    "huber": (nr.huber, huber, P, T),
    "bce": (
        nr.binary_cross_entropy,
        lambda p, t: np.log1p(np.exp(p)) - t * p,
        P,
        jnp.asarray(np.random.default_rng(3).uniform(size=P.shape)),
    ),
    "integers": (
        nr.cross_entropy,
        lambda p, t: -np.log(np.take_along_axis(softmax(p), t[..., None], -1)[..., 0]),
        P,
        LABELS,
    ),
    "one-hot": (
        nr.cross_entropy,
        lambda p, t: -(t * np.log(softmax(p))).sum(-1),
        P,
        jax.nn.one_hot(LABELS, 4),
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_against_numpy_whole_with_lengths_and_with_a_mask(name):
    loss, formula, p, t = ELEMENTWISE[name]
    expected = formula(np.asarray(p), np.asarray(t))
    np.testing.assert_allclose(loss(p, t), expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(loss(p, t, lengths=LENGTHS), expected[VALID].mean(), rtol=1e-12)
    np.testing.assert_allclose(
        loss(p, t, mask=jnp.asarray(VALID)), expected[VALID].mean(), rtol=1e-12
    )
    np.testing.assert_allclose(
        loss(p, t, mask=jnp.array([True, False, True])), expected[[0, 2]].mean(), rtol=1e-12
    )
    np.testing.assert_allclose(loss(p[0], t[0], lengths=3), expected[0, :3].mean(), rtol=1e-12)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_padding_may_hold_anything(name):
    """NaN and classes out of range past the end change neither value nor gradient."""
    loss, _, p, t = ELEMENTWISE[name]
    inside = VALID[..., None]
    clean, gradient = jax.value_and_grad(lambda p: loss(p, t, lengths=LENGTHS))(p)
    garbage = jnp.where(inside, t, jnp.nan) if t.ndim == 3 else jnp.where(VALID, t, 99)
    dirty, gradient_ = jax.value_and_grad(lambda p: loss(p, garbage, lengths=LENGTHS))(
        jnp.where(inside, p, jnp.nan)
    )
    assert clean == dirty
    assert_close(gradient, gradient_, 0)
    assert not np.asarray(gradient)[~VALID].any()
    nothing, gradient = jax.value_and_grad(lambda p: loss(p, t, lengths=jnp.zeros(3, int)))(
        jnp.full_like(p, jnp.nan)
    )
    assert nothing == 0
    assert not np.asarray(gradient).any()


def test_extreme_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    value, gradient = jax.value_and_grad(lambda l: nr.cross_entropy(l, jnp.array([1, 1])))(logits)
    assert value == 1e4
    assert np.isfinite(gradient).all()
    assert np.isfinite(nr.binary_cross_entropy(logits, jnp.ones((2, 2))))


def test_a_class_out_of_range_is_nan_under_jit():
    value = jax.jit(lambda t: nr.cross_entropy(jnp.zeros((2, 3)), t))(jnp.array([0, 3]))
    assert np.isnan(value)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_many_places_in_16_bits(dtype):
    """Neither the sum nor the count fits into 16 bits."""
    p = jnp.ones((300, 300), dtype)
    value = nr.mse(p, jnp.zeros_like(p), lengths=jnp.full(300, 299))
    assert value == 1
    assert value.dtype == dtype


def test_lengths_and_mask_work_under_jit_and_vmap():
    expected = nr.mse(P, T, lengths=LENGTHS)
    assert_close(jax.jit(lambda n: nr.mse(P, T, lengths=n))(LENGTHS), expected, 1e-14)
    each = jax.vmap(lambda p, t, n: nr.mse(p, t, lengths=n))(P, T, LENGTHS)
    assert_close(each[0], nr.mse(P[0], T[0]), 1e-14)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_classes_of_any_integer_type(dtype):
    """There are more classes than an int8 can count; 2**32 + 1 is none, and not 1."""
    logits = random(4, 2, 300)
    expected = nr.cross_entropy(logits, np.array([7, 100]))
    assert_close(nr.cross_entropy(logits, np.array([7, 100], dtype)), expected, 1e-12)
    assert_close(jax.jit(nr.cross_entropy)(logits, np.array([7, 100], dtype)), expected, 1e-12)
    if dtype == np.int64:
        assert np.isnan(jax.jit(nr.cross_entropy)(logits, np.array([7, 2**32 + 1])))


def test_lengths_of_a_loss_may_be_a_list():
    assert_close(nr.mse(P, T, lengths=[5, 0, 2]), nr.mse(P, T, lengths=LENGTHS), 0)
    assert_close(
        jax.jit(lambda n: nr.mse(P, T, lengths=[n, 0, 2]))(5), nr.mse(P, T, lengths=LENGTHS), 1e-14
    )
