"""Models in the hands of pickle, cloudpickle, copy and Orbax."""

import copy
import functools
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import noria as nr
from noria._functions import Function
from noria.module import partition

KEY = jax.random.key(0)
XS = jnp.linspace(-1, 1, 6, dtype=jnp.float32).reshape(2, 3)
F32 = {"dtype": jnp.float32}


def leaky(h, x):
    return 0.5 * h + x


class Cell(nr.Cell):
    """Holds functions as its user wrote them, one of them static."""

    U: jax.Array
    inner: Any
    outer: Any = eqx.field(static=True)

    def __call__(self, h, x):
        return self.outer(self.inner(h @ self.U + x))

    def initial_state(self):
        return jnp.zeros(3, jnp.float32)


slope = functools.partial(jax.nn.leaky_relu, negative_slope=0.25)

#: What makes each layer.
LAYERS: dict[str, Callable[[], nr.Layer]] = {
    "RNN": lambda: nr.RNN(3, 3, key=KEY, **F32),
    "RNN with relu": lambda: nr.RNN(3, 3, jax.nn.relu, key=KEY, **F32),
    "LSTM": lambda: nr.LSTM(3, 3, key=KEY, learn_initial_state=True, **F32),
    "GRU": lambda: nr.freeze(nr.GRU(3, 3, key=KEY, **F32)),
    "GRUv3": lambda: nr.GRUv3(3, 3, key=KEY, **F32),
    "function": lambda: nr.Recurrence(leaky, jnp.zeros(3, jnp.float32)),
    "cell of a user": lambda: nr.Recurrence(
        Cell(jnp.eye(3, dtype=jnp.float32), jax.nn.relu, jnp.tanh)
    ),
    "Dense": lambda: nr.Dense(3, 2, key=KEY, **F32),
    "Dense with silu": lambda: nr.Dense(3, 2, jax.nn.silu, key=KEY, **F32),
    "Dense with a partial": lambda: nr.Dense(3, 2, slope, key=KEY, **F32),
    "Dense with arrays": lambda: nr.Dense(
        3, 3, jtu.Partial(leaky, jnp.ones(3, jnp.float32)), key=KEY, **F32
    ),
    "Bidirectional": lambda: nr.Bidirectional(
        nr.RNN(3, 2, key=KEY, **F32), nr.RNN(3, 2, jax.nn.relu, key=KEY, **F32)
    ),
    "Residual": lambda: nr.Residual(nr.Dense(3, 3, jnp.tanh, key=KEY, **F32)),
    "Chain": lambda: nr.Chain(
        jnp.tanh, jax.nn.softmax, jax.nn.gelu, nr.inference(nr.Dropout(0.5)), jnp.exp
    ),
    "norms": lambda: nr.Chain(nr.LayerNorm(3, **F32), nr.RMSNorm(3, **F32)),
    "an Equinox module": lambda: nr.PerStep(eqx.nn.MLP(3, 2, 4, 1, key=KEY, **F32)),
}


@functools.cache
def layer_of(name: str) -> nr.Layer:
    """With plain loops, since only numbers are compared here: nothing is compiled for a layer."""
    return nr.with_backend(LAYERS[name](), "reference")


def same(a, b):
    one: Any = jtu.tree_structure(a)
    assert one == jtu.tree_structure(b)
    for x, y in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_pickled_and_copied(name):
    layer = layer_of(name)
    for again in (pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)):
        same(again, layer)
        np.testing.assert_array_equal(again(XS), layer(XS))


def test_an_embedding_is_pickled():
    layer = nr.Embedding(4, 2, key=KEY)
    same(pickle.loads(pickle.dumps(layer)), layer)


FRESH = """
import pickle, sys
import jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, sys.argv[1])
layers, xs = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps({name: layer(xs) for name, layer in layers.items()}))
"""


def test_pickled_layers_give_the_same_numbers_in_a_fresh_process():
    layers = {name: layer_of(name) for name in LAYERS if name not in ("cell of a user", "norms")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(__file__).rpartition("/")[0]],
        input=pickle.dumps((layers, XS)),
        capture_output=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr.decode()
    for name, ys in pickle.loads(done.stdout).items():
        np.testing.assert_array_equal(ys, layers[name](XS), err_msg=name)


def test_functions_that_have_no_name_to_be_found_by():
    layer = nr.Dense(3, 2, lambda x: 2 * x, key=KEY, **F32)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(layer)
    np.testing.assert_array_equal(copy.deepcopy(layer)(XS), layer(XS))
    cloudpickle = pytest.importorskip("cloudpickle")
    for function in (lambda x: 2 * x, jax.jit(lambda x: 2 * x), functools.partial(jnp.multiply, 2)):
        layer = nr.Dense(3, 2, function, key=KEY, **F32)
        np.testing.assert_array_equal(pickle.loads(cloudpickle.dumps(layer))(XS), layer(XS))


def test_a_model_with_its_optimiser_state(ordinary_promotion):
    cloudpickle = pytest.importorskip("cloudpickle")
    model = nr.Chain(layer_of("GRUv3"), layer_of("Dense"))
    state = nr.setup(optax.sgd(0.5, momentum=0.5), model)
    gradient, _ = partition(model)
    expected, _ = nr.update(state, model, gradient)
    for again in (pickle.loads(cloudpickle.dumps((model, state))), copy.deepcopy((model, state))):
        same(again[0], model)
        same(nr.update(again[1], again[0], gradient)[0], expected)
    same(pickle.loads(pickle.dumps(state.state)), state.state)


def test_functions_in_models():
    assert Function(jnp.tanh) == Function(jnp.tanh) != Function(jnp.sin)
    assert hash(Function(slope)) == hash(
        Function(functools.partial(jax.nn.leaky_relu, negative_slope=0.25))
    )
    assert Function(functools.partial(leaky, 1)) != Function(functools.partial(leaky, 1.0))
    arrays = functools.partial(leaky, jnp.ones(2))
    assert Function(arrays) == Function(arrays) != Function(functools.partial(leaky, jnp.ones(2)))
    assert jtu.tree_leaves(Function(jnp.tanh)) == []
    assert [*inspect.signature(Function(leaky)).parameters] == ["h", "x"]
    assert repr(Function(leaky)).startswith("Function(<function leaky")


def test_equal_functions_share_a_compiled_program():
    traced = []

    @jax.jit
    def run(layer, xs):
        traced.append(layer)
        return layer(xs)

    run(layer_of("Dense with a partial"), XS)
    run(pickle.loads(pickle.dumps(layer_of("Dense with a partial"))), XS)
    assert len(traced) == 1


def test_orbax(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    model = {
        name: layer_of(name)
        for name in LAYERS
        if name not in ("Dense with arrays", "cell of a user", "an Equinox module")
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", model)
        checkpointer.wait_until_finished()
        same(checkpointer.restore(tmp_path / "model", model), model)
