"""Declared cells: shapes in words, the constructor, states, and errors."""

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import assert_agree
from models import random

import noria as nr
from noria import initializers
from noria.cells import DeclaredCell, VectorCell, array, matrix, size, state, vector
from noria.cells.declare import shape_of

KEY = jax.random.key(0)


class Leaky(VectorCell):
    """Two states, settings, and a fixed matrix."""

    heads: int = size(default=2)
    rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden", initializers.identity())
    b: jax.Array | None = vector("hidden", 0.25, when=lambda cell: cell.rate < 1)
    fixed: jax.Array = array("heads", "hidden // heads", initializer=0.5, trained=False)
    h: jax.Array = state("hidden")
    c: jax.Array = state("heads", "hidden // heads", initializer=2.0)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        b = 0.0 if self.b is None else self.b
        h = self.rate * h + self.activation(self.W @ x + self.U @ h + b)
        return self.State(h, self.fixed * c + h.reshape(c.shape))


def make(*sizes: int, **settings: Any) -> Any:
    return Leaky(*(sizes or (3, 4)), key=KEY, **settings)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("in", 3),
        ("hidden", 4),
        ("heads", 2),
        ("3 * hidden", 12),
        ("in + hidden - 1", 6),
        ("2 * (in + hidden)", 14),
        ("hidden // heads", 2),
        (7, 7),
    ],
)
def test_words_of_a_shape(axis, expected):
    assert shape_of((axis,), {"in_size": 3, "hidden_size": 4, "heads": 2}) == (expected,)


def test_parameters_states_and_settings():
    cell = make()
    assert (cell.W.shape, cell.U.shape, cell.fixed.shape) == ((4, 3), (4, 4), (2, 2))
    np.testing.assert_array_equal(cell.U, np.eye(4))
    np.testing.assert_array_equal(cell.b, 0.25)
    assert make(rate=1.0).b is None
    start = cell.initial_state()
    assert start._fields == ("h", "c")
    np.testing.assert_array_equal(start.c, np.full((2, 2), 2.0))
    assert (cell.in_size, cell.hidden_size, cell.heads, cell.rate) == (3, 4, 2, 0.5)
    assert str(inspect.signature(Leaky)).startswith(
        "(in_size, hidden_size, *, heads=2, rate=0.5, activation="
    )


def test_settings_are_static_and_functions_are_pytrees():
    leaves = jtu.tree_leaves(make(activation=nr.Dense(4, 4, key=KEY)))
    assert {leaf.shape for leaf in leaves} == {(4, 3), (4, 4), (4,), (2, 2)}
    assert jax.jit(lambda cell: cell.rate > 0)(make()) is not None


def test_a_fixed_parameter_has_no_gradient():
    layer = nr.Recurrence(make())
    found = nr.grad(lambda layer: layer(random(0, 5, 3)).sum())(layer).cell
    assert found.fixed is None
    assert found.W is not None
    assert nr.count_parameters(layer, trainable=False) == 4


def test_initialisers_of_one_cell():
    cell = make(init={"W": initializers.ones, "b": 3.0}, dtype=jnp.bfloat16)
    assert cell.dtype == jnp.bfloat16
    np.testing.assert_array_equal(cell.W, 1)
    np.testing.assert_array_equal(cell.b, 3)


def test_it_runs_as_any_other_cell():
    layer = nr.Recurrence(make(dtype=jnp.float64))
    xs = random(0, 2, 6, 3)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, tolerance=1e-11)
    assert layer.label == "Leaky(in_size=3)"


def test_a_state_is_pickled():
    state = make().initial_state()
    again = pickle.loads(pickle.dumps(state))
    assert type(again) is type(state) is Leaky.State


class Child(Leaky):
    """A declared cell of another one has its declarations, and more."""

    V: jax.Array = matrix("hidden", "in")

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        return state.h + self.V @ x


def test_declarations_are_inherited():
    cell = Child(3, 4, key=KEY)
    assert [*cell._parameters] == ["W", "U", "b", "fixed", "V"]
    assert Child.State is Leaky.State
    assert nr.Recurrence(cell)(jnp.ones((5, 3), cell.dtype)).shape == (5, 4)


def test_an_init_by_hand():
    class ByHand(VectorCell):
        W: jax.Array = matrix("hidden", "in")
        h: jax.Array = state("hidden")

        def __init__(self, W: jax.Array):
            self.hidden_size, self.in_size = W.shape
            self.W = W

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            return h + self.W @ x

    assert nr.Recurrence(ByHand(jnp.ones((4, 3))))(jnp.ones((5, 3))).shape == (5, 4)


class Gated(VectorCell):
    W: jax.Array = matrix("2 * hidden", "in")
    c: jax.Array = state("hidden")

    def __call__(self, c: jax.Array, x: jax.Array) -> Any:
        z, o = jnp.split(self.W @ x, 2)
        c = jnp.tanh(c + z)
        return c, jax.nn.sigmoid(o) * c


class Both(Gated):
    def output(self, state: Any, x: jax.Array) -> jax.Array:
        return state


def test_a_step_that_returns_its_output():
    layer, xs = nr.Recurrence(Gated(3, 4, key=KEY, dtype=jnp.float64)), random(0, 2, 6, 3)
    definition = nr.with_backend(layer, "reference")
    for backend in ("auto", "scan", "plain"):
        assert_agree(nr.with_backend(layer, backend), definition, xs, tolerance=1e-11)
    state, y = layer.step(None, xs[:, 0])
    np.testing.assert_allclose(y, definition(xs)[:, 0], rtol=1e-12)
    assert state.shape == (2, 4)
    with pytest.raises(TypeError, match=r"returns \(state, y\), and it defines output"):
        nr.Recurrence(Both(3, 4, key=KEY, dtype=jnp.float64))(xs)


ANY: Any = Leaky
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no key": (lambda: ANY(3, 4), TypeError, r"Leaky\(in_size=3, .*\): key is None"),
    "a size is missing": (
        lambda: ANY(3, key=KEY),
        TypeError,
        "argument: 'hidden_size'; expected",
    ),
    "a size of zero": (lambda: make(3, 0), ValueError, "hidden_size is 0; expected a whole"),
    "another setting": (lambda: make(rates=1), TypeError, "unexpected keyword argument 'rates'"),
    "an initialiser of nothing": (
        lambda: make(init={"Q": 1.0}),
        TypeError,
        "init names 'Q'; expected one of the parameters W, U, b, fixed",
    ),
    "a state of another shape": (
        lambda: make()((jnp.ones(3), jnp.ones((2, 2))), jnp.ones(3)),
        ValueError,
        r"the state is .*; expected h \(4,\), c \(2, 2\), of one example",
    ),
    "the input before the state": (
        lambda: make()(jnp.ones(3), make().initial_state()),
        ValueError,
        r"the state comes first, cell\(state, x\)",
    ),
    "a batch": (
        lambda: make()(make().initial_state(), jnp.ones((2, 3))),
        ValueError,
        r"x is float.*\[2, 3\]; expected \(3,\), one step of one example",
    ),
    "another dtype": (
        lambda: make(dtype=jnp.float32)(
            make(dtype=jnp.float32).initial_state(), jnp.ones(3, jnp.float16)
        ),
        TypeError,
        "x is float16, but the parameters are float32",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_says_what_is_wrong(name):
    call, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        call()


def test_a_word_that_is_no_field():
    with pytest.raises(TypeError, match=r"class Wrong: W has an axis 'hiden'; expected a word for"):

        class Wrong(VectorCell):
            W: jax.Array = matrix("hiden", "in")


def test_a_cell_without_parameters_has_the_default_dtype():
    class Sum(DeclaredCell):
        h: jax.Array = state(3)

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            return h + x

    assert nr.Recurrence(Sum())(jnp.ones((5, 3))).shape == (5, 3)
