"""``check`` names the layer, the step and the place where a model leaves its original."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import random

import noria as nr

XS = random(2, 4, 6, 2)


@functools.cache
def gru() -> nr.Layer:
    return nr.GRU(2, 3, key=jax.random.key(0))


@functools.cache
def dense(seed: int = 1) -> nr.Layer:
    return nr.Dense(3, 1, key=jax.random.key(seed))


def model() -> nr.Layer:
    return nr.Chain(gru(), dense())


def test_equal_models_agree():
    found = nr.check(model(), model(), XS)
    assert found.agrees
    assert (found.largest, found.layer) == (0, 0)
    assert str(found).startswith("agrees: the largest difference is 0 of ")


def test_a_difference_has_a_place_and_a_first_step():
    def reference(xs):
        ys = np.array(gru()(jnp.asarray(xs)))
        ys[:, 3:] += 1e-3
        ys[2, 4, 1] += 1
        return ys

    found = nr.check(gru(), reference, XS)
    assert (found.agrees, found.place, found.step) == (False, (2, 4, 1), 3)
    assert found.largest == pytest.approx(1.001)
    assert str(found).endswith("at [2, 4, 1], the first one in step 3")
    assert nr.check(gru(), reference, XS, tolerance=2.0).agrees


def test_the_first_layer_that_differs_is_at_fault():
    """Each layer gets what the reference gave, so an error does not spread."""
    wrong = [lambda xs: gru()(jnp.asarray(xs)) + 1, lambda ys: dense()(jnp.asarray(ys))]
    found = nr.check(model(), wrong, XS)
    assert (found.agrees, found.layer) == (False, 0)
    assert "layer 0, GRU(in_size=2): the largest difference is 1 of" in str(found)
    found = nr.check(model(), nr.Chain(gru(), dense(3)), XS)
    assert (found.agrees, found.layer) == (False, 1)
    with pytest.raises(ValueError, match="the reference has 1 parts; expected 2, one for each"):
        nr.check(model(), [gru()], XS)


def test_outputs_of_another_kind():
    found = nr.check(gru(), lambda xs: (np.zeros((4, 6, 2)), None), XS)
    assert not found.agrees
    assert "outputs have shape (4, 6, 3); those of the reference (4, 6, 2)" in str(found)

    def nan(xs):
        return np.full((4, 6, 3), np.nan)

    assert nr.check(nan, nan, XS).agrees
    assert nr.check(gru(), nan, XS).largest == np.inf
    assert nr.check(lambda xs: np.zeros((0, 3)), lambda xs: np.zeros((0, 3)), XS).agrees


def test_one_step_has_no_first_step():
    found = nr.check(lambda x: x, lambda x: x + 1, jnp.ones(3))
    assert (found.agrees, found.step, found.place) == (False, None, (0,))
