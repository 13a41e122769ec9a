"""What is trainable, gradients and updates, freezing, modes, counts, the table."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from models import assert_close, random

import noria as nr
from noria.module import named_leaves, trainable_mask

KEY = jax.random.key(0)


class Model(nr.Module, trainable=("rnn", "head")):
    h0: jax.Array
    rnn: nr.Recurrence
    head: nr.Dense
    steps: int = 3

    def __init__(self):
        self.h0 = jnp.ones(4)
        self.rnn = nr.GRU(2, 4, key=KEY)
        self.head = nr.Dense(4, 1, key=KEY)

    def __call__(self, xs):
        return self.head(self.rnn(self.h0, xs))


def loss(model, xs):
    return (model(xs) ** 2).mean()


XS = random(0, 3, 5, 2)


def trained(model):
    names = [name for name, _ in named_leaves(model)]
    return [
        name
        for name, flag in zip(names, jtu.tree_leaves(trainable_mask(model)), strict=True)
        if flag
    ]


ALL = ["rnn.cell.W", "rnn.cell.U", "rnn.cell.b", "head.W", "head.b"]


def test_the_class_line_names_what_is_trained():
    assert trained(Model()) == ALL

    class Whole(Model):
        __init__ = Model.__init__

    class Other(Model, trainable=("h0",)):
        __init__ = Model.__init__

    assert trained(Whole()) == ALL
    assert trained(Other()) == ["h0"]


def test_numpy_arrays_are_trained_and_numbers_are_not():
    class Mixed(nr.Module):
        a: np.ndarray
        count: jax.Array
        rate: float
        name: str

    model = Mixed(np.ones(2), jnp.arange(2), 0.5, "x")
    assert trained(model) == ["a"]
    gradient = nr.grad(lambda m: jnp.sum(m.rate * m.a))(model)
    assert gradient.a.tolist() == [0.5, 0.5]
    assert (gradient.count, gradient.rate, gradient.name) == (None, None, None)


def test_gradient_is_none_where_nothing_is_trained():
    model = Model()
    value, gradient = nr.value_and_grad(loss)(model, XS)
    assert gradient.h0 is None
    assert_close(value, loss(model, XS), 1e-14)
    full = jax.grad(lambda rnn, head: (head(rnn(model.h0, XS)) ** 2).mean(), argnums=(0, 1))(
        model.rnn, model.head
    )
    assert_close(jtu.tree_leaves(gradient), jtu.tree_leaves(full), 1e-14)


def test_auxiliary_outputs_as_in_jax():
    def with_aux(model, xs):
        return loss(model, xs), {"ys": model(xs)}

    (_value, aux), gradient = nr.value_and_grad(with_aux, has_aux=True)(Model(), XS)
    gradient_, aux_ = nr.grad(with_aux, has_aux=True)(Model(), XS)
    assert_close(aux, aux_, 0)
    assert_close(jtu.tree_leaves(gradient), jtu.tree_leaves(gradient_), 0)


def test_several_models_at_once(ordinary_promotion):
    pair = (Model(), {"other": nr.Dense(1, 1, key=KEY)})
    gradient = nr.grad(lambda pair: pair[1]["other"](pair[0](XS)).sum())(pair)
    assert gradient[0].h0 is None
    opt_state = nr.setup(optax.sgd(0.1), pair)
    new, _ = nr.update(opt_state, pair, gradient)
    assert_close(new[1]["other"].b, pair[1]["other"].b - 0.1 * gradient[1]["other"].b, 1e-14)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "optimiser", [optax.adamw(0.01), optax.sgd(0.1, momentum=0.9), optax.lbfgs(linesearch=None)]
)
def test_update_is_what_optax_does(optimiser, ordinary_promotion):
    model = Model()
    opt_state = nr.setup(optimiser, model)
    params, static = eqx.partition((model.rnn, model.head), eqx.is_inexact_array)
    state = optimiser.init(params)
    for _ in range(3):
        model, opt_state = nr.update(opt_state, model, nr.grad(loss)(model, XS))

        def plain(params):
            rnn, head = eqx.combine(params, static)
            return (head(rnn(jnp.ones(4), XS)) ** 2).mean()

        updates, state = optimiser.update(jax.grad(plain)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(jtu.tree_leaves((model.rnn, model.head)), jtu.tree_leaves(params), 1e-12)
    assert jnp.all(model.h0 == 1)


def test_update_works_under_jit_and_traces_once(ordinary_promotion):
    model, traces = Model(), []
    opt_state = nr.setup(optax.adam(0.01), model)

    @eqx.filter_jit
    def step(model, opt_state):
        traces.append(1)
        value, gradient = nr.value_and_grad(loss)(model, XS)
        return (*nr.update(opt_state, model, gradient), value)

    values = []
    for _ in range(10):
        model, opt_state, value = step(model, opt_state)
        values.append(float(value))
    assert len(traces) == 1
    assert values[-1] < values[0]


def test_update_passes_extra_arguments_on(ordinary_promotion):
    """A transformation that looks at the loss halves the step when the loss stays."""
    model = Model()
    optimiser = optax.chain(
        optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    )
    opt_state = nr.setup(optimiser, model)
    gradient = nr.grad(loss)(model, XS)
    moves = []
    for _ in range(4):
        new, opt_state = nr.update(opt_state, model, gradient, value=jnp.asarray(1.0))
        moves.append(float(jnp.linalg.norm(new.head.W - model.head.W)))
    assert moves[-1] < 0.6 * moves[0]


def test_freeze_stops_gradient_update_and_decay_and_travels(ordinary_promotion):
    model = nr.freeze(Model(), lambda m: m.rnn)
    assert trained(model) == ["head.W", "head.b"]
    gradient = nr.grad(loss)(model, XS)
    assert gradient.rnn.cell.U is None
    new, _ = nr.update(nr.setup(optax.adamw(0.1, weight_decay=0.5), model), model, gradient)
    assert_close(new.rnn, model.rnn, 0)
    assert not np.allclose(new.head.W, model.head.W)
    moved = nr.Chain(model.rnn, nr.Dense(4, 1, key=KEY))
    assert trained(moved) == ["layers[1].W", "layers[1].b"]


def test_freeze_and_thaw_single_arrays_several_parts_and_everything():
    model = Model()
    assert trained(nr.freeze(model, lambda m: m.rnn.cell.W)) == [
        name for name in ALL if name != "rnn.cell.W"
    ]
    assert trained(nr.freeze(model, lambda m: (m.head, m.rnn.cell.b))) == [
        "rnn.cell.W",
        "rnn.cell.U",
    ]
    assert trained(nr.freeze(model)) == []
    assert trained(nr.thaw(nr.freeze(model))) == ["h0", *ALL]
    assert trained(nr.thaw(nr.freeze(model), lambda m: m.head)) == ["head.W", "head.b"]
    assert trained(nr.thaw(model, lambda m: m.h0)) == ["h0", *ALL]
    assert trained(nr.freeze(nr.thaw(model, lambda m: m.h0), lambda m: m.h0)) == ALL


def test_freeze_and_thaw_undo_each_other_exactly():
    model = Model()
    again = nr.thaw(nr.freeze(model, lambda m: m.rnn), lambda m: m.rnn)
    assert str(jtu.tree_structure(again)) == str(jtu.tree_structure(model))
    again = nr.freeze(nr.thaw(model, lambda m: m.h0), lambda m: m.h0)
    assert str(jtu.tree_structure(again)) == str(jtu.tree_structure(model))


def test_modes_reach_every_layer_equinox_ones_too_and_fit_an_optimiser_made_before(
    ordinary_promotion,
):
    net = nr.Chain(
        nr.Dropout(0.5), eqx.nn.Dropout(0.5), nr.Residual(nr.Dropout(0.5)), nr.Dense(3, 3, key=KEY)
    )
    used = nr.inference(net)
    assert (used[0].inference, used[1].function.inference, used[2].layer.inference) == (
        True,
        True,
        True,
    )
    used(jnp.ones((4, 3)))
    assert nr.training(used)[1].function.inference is False
    opt_state = nr.setup(optax.sgd(0.1), used)
    gradient = nr.grad(lambda m: m(jnp.ones((4, 3)), key=KEY).sum())(net)
    nr.update(opt_state, net, gradient)


def test_counts_and_the_table():
    model = Model()
    assert nr.count_parameters(model) == 93
    assert nr.count_parameters(model, trainable=True) == 89
    assert nr.count_parameters(model, trainable=False) == 4
    table = nr.summary(model)
    assert (table.trainable, table.frozen, table.bytes) == (89, 4, 8 * 93)
    assert table.rows[1] == ("GRU(in_size=2)", "rnn.cell.W", (12, 2), "float64", 24, True)
    text = str(table)
    for words in ("h0", "no", "12 × 2", "GRU(in_size=2)", "89 trainable, 4 not, 744 bytes"):
        assert words in text


def test_cast_changes_floats_alone():
    model = nr.cast(Model(), jnp.bfloat16)
    assert {str(leaf.dtype) for leaf in jtu.tree_leaves(model) if eqx.is_array(leaf)} == {
        "bfloat16"
    }
    assert model(XS.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    state = nr.cast((jnp.arange(3), jnp.ones(2, jnp.complex64)), jnp.float32)
    assert [leaf.dtype.name for leaf in state] == ["int64", "complex64"]


def test_an_activation_with_parameters_is_trained():
    class Scale(nr.Module):
        a: jax.Array

        def __call__(self, x):
            return jnp.tanh(self.a * x)

    cell = nr.RNNCell(2, 3, Scale(jnp.array(0.5)), key=KEY)
    assert nr.grad(lambda c: nr.Recurrence(c)(XS).sum())(cell).activation.a != 0


def test_with_backend_reaches_every_recurrence():
    net = nr.Chain(
        nr.GRU(2, 3, key=KEY), nr.Bidirectional(nr.GRU(3, 2, key=KEY), nr.GRU(3, 2, key=KEY))
    )
    slow = nr.with_backend(net, "reference")
    assert (slow[0].backend, slow[1].forward.backend, slow[1].backward.backend) == (
        "reference",
    ) * 3
    assert_close(slow(XS), net(XS), 1e-12)


def test_bound_methods_are_those_of_equinox():
    """They are made in another way, which is faster."""
    layer = nr.GRU(2, 3, key=jax.random.key(0))
    found, want = layer.step, eqx.Module.__getattribute__(layer, "step")
    assert type(found) is type(want)
    assert vars(found) == vars(want)
    structures: list[Any] = [jax.tree.structure(bound) for bound in (found, want)]
    assert structures[0] == structures[1]
