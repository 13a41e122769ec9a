"""Cells of images: shapes, settings, errors, and what they have in common with cells of vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import cell_of
from models import assert_close, noise, random

import noria as nr
from noria.cells import SpatialCell, array, state
from noria.cells.catalogue import catalogue, class_of

KEY = jax.random.key(0)
ConvLSTMCell = class_of(catalogue()["conv_lstm"])


class Sum(SpatialCell):
    """A sum of the state and of a convolution of the input."""

    W: jax.Array = array("taps", "features", "hidden", initializer=0.1)
    h: jax.Array = state("space", "hidden")

    def __call__(self, h, x):
        return h + self.convolved(x, self.W)


def shape_of(in_shape: tuple[int, ...], **settings: Any) -> tuple[int, ...]:
    return Sum(in_shape, 4, key=KEY, **settings).initial_state().shape


def test_the_space_of_the_state_follows_from_the_settings():
    assert shape_of((7, 2)) == (7, 4)
    assert shape_of((7, 8, 2), strides=2) == (4, 4, 4)
    assert shape_of((7, 8, 2), padding="valid") == (5, 6, 4)
    assert shape_of((7, 8, 9, 2), padding="valid", strides=(1, 2, 3)) == (5, 3, 3, 4)
    assert shape_of((7, 8, 2), padding="valid", dilation=(1, 3)) == (5, 2, 4)
    assert shape_of((7, 8, 2), padding="valid", kernel_size=(7, 1)) == (1, 8, 4)


@pytest.mark.parametrize(
    ("in_shape", "settings", "error", "message"),
    [
        (5, {}, TypeError, r"Sum\(in_shape=5.*in_shape is 5; expected a tuple of sizes"),
        ((4, 0, 1), {}, ValueError, r"in_shape\[1\] is 0; expected a whole number"),
        ((4,), {}, ValueError, r"expected in_shape=\(\*space, features\) with one to three"),
        ((4, 4, 4, 4, 1), {}, ValueError, r"expected in_shape=\(\*space, features\) with one to"),
        ((4, 4, 1), {"padding": "full"}, ValueError, "padding is 'full'; expected one of 'same'"),
        ((4, 4, 1), {"kernel_size": 0}, ValueError, "kernel_size is 0; expected a whole number"),
        ((4, 4, 1), {"kernel_size": True}, ValueError, "kernel_size is True; expected a whole"),
        ((4, 4, 1), {"strides": (1, 2, 3)}, ValueError, r"strides is \(1, 2, 3\).* or 2, one for"),
        ((4, 4, 1), {"dilation": 1.5}, ValueError, "dilation is 1.5; expected a whole number"),
        ((4, 2, 1), {"padding": "valid"}, ValueError, "kernel_size=3 with dilation=1 is larger"),
    ],
)
def test_wrong_settings_are_named(in_shape, settings, error, message):
    with pytest.raises(error, match=message):
        Sum(in_shape, 4, key=KEY, **settings)


def test_wrong_inputs_are_named():
    cell = Sum((4, 5, 2), 3, key=KEY)
    with pytest.raises(
        ValueError, match=r"x is float32\[2, 4, 5\]; expected \(4, 5, 2\), one step"
    ):
        cell(cell.initial_state(), jnp.ones((2, 4, 5), jnp.float32))
    with pytest.raises(ValueError, match=r"expected h \(4, 5, 3\), of one example"):
        cell(jnp.zeros((4, 5), jnp.float32), jnp.ones((4, 5, 2), jnp.float32))
    with pytest.raises(ValueError, match=r"expected the cell's in_shape=\(4, 5, 2\), after"):
        nr.Recurrence(cell)(jnp.ones((3, 7, 5, 4, 2), jnp.float32))


def test_a_trajectory_needs_two_dimensions_and_the_same_space():
    cls = class_of(catalogue()["traj_gru"])
    for in_shape, padding in (((5, 2), "same"), ((5, 5, 2), "valid")):
        with pytest.raises(ValueError, match=r"expected in_shape=\(rows, columns, features\)"):
            cls(in_shape, 2, padding=padding, key=KEY)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 2, 3)])
def test_a_kernel_of_one_tap_is_an_lstm_at_each_point(shape):
    """Without peepholes each point has a sequence of its own."""
    cell = cell_of(ConvLSTMCell, in_shape=(*shape, 3), kernel_size=1, peepholes=False)
    plain = nr.LSTMCell(3, 2, key=KEY, dtype=jnp.float64)
    for name in "WU":
        matrix = getattr(cell, name).reshape(-1, 8).T
        object.__setattr__(plain, name, matrix)
    object.__setattr__(plain, "b", cell.b)
    xs = random(1, 4, *shape, 3)
    found = nr.Recurrence(cell)(xs)
    points = jnp.moveaxis(xs.reshape(4, -1, 3), 1, 0)
    expected = jnp.moveaxis(nr.Recurrence(plain)(points), 0, 1)
    assert_close(found.reshape(4, -1, 2), expected, 1e-12)


@pytest.mark.parametrize("key", ["conv_rnn", "conv_gru", "conv_lstm", "phy_cell"])
def test_a_shift_of_the_images_shifts_the_states(key):
    """Where the border is far away; peepholes belong to points, so there are none."""
    settings = {"peepholes": False} if key == "conv_lstm" else {}
    cell = cell_of(class_of(catalogue()[key]), in_shape=(24, 1), **settings)
    near = np.zeros((2, 24, 1))
    near[:, 9:12] = random(1, 2, 3, 1)
    layer = nr.Recurrence(cell, backend="reference")
    before, after = layer(jnp.asarray(near)), layer(jnp.asarray(np.roll(near, 2, 1)))
    assert_close(after[:, 8:18], before[:, 6:16], 1e-12)
    assert np.abs(after[:, 8:18] - before[:, 8:18]).max() > 1e-3


@pytest.mark.full
def test_a_stack_of_images_in_layers_and_with_zoneout():
    """Layers of images are chained, wrapped and run in both directions."""
    first = cell_of(ConvLSTMCell, in_shape=(4, 4, 1), strides=2)
    second = cell_of(class_of(catalogue()["conv_gru"]), in_shape=(2, 2, 2))
    model = nr.Chain(
        nr.Recurrence(nr.cells.Zoneout(first, 0.1)), nr.Recurrence(second), nr.Dense(2, 3, key=KEY)
    )
    model = noise(nr.inference(model), 1, 0.5)
    xs = random(2, 3, 5, 4, 4, 1)
    found = model(xs)
    assert found.shape == (3, 5, 2, 2, 3)
    assert_close(found, nr.with_backend(model, "reference")(xs), 1e-10)
    third = nr.Recurrence(cell_of(type(second), in_shape=(4, 2)))
    both = nr.Bidirectional(third, third)
    assert both(random(3, 5, 4, 2)).shape == (5, 4, 4)
