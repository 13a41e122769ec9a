"""`fit`: compilation, stopping, results, forms of data, and errors."""

import warnings
from collections import UserDict
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import noria as nr

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(24, 6, 2))
YS = XS.cumsum(axis=1)

pytestmark = pytest.mark.usefixtures("ordinary_promotion")


def make(p=0.0):
    return nr.Chain(nr.GRU(2, 8, key=KEY), nr.Dropout(p), nr.Dense(8, 2, key=KEY))


def loss(model, xs, ys, key):
    return nr.mse(model(xs, key=key), ys)


def fit(model, loss, data, **options):
    return nr.fit(
        model, loss, data, **{"optimiser": optax.adam(0.01), "epochs": 3, "key": KEY, **options}
    )


@pytest.mark.versions
def test_it_learns_and_traces_once():
    traces = []

    def counted(model, xs, ys, key):
        traces.append(xs.shape)
        return loss(model, xs, ys, key)

    data = nr.data.batches(XS, YS, batch_size=8, key=KEY)
    _model, history = fit(make(), counted, data, epochs=30)
    assert traces == [(8, 6, 2)]
    assert len(history.loss) == 30
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert history.stopped is None


def test_the_same_keys_give_the_same_model():
    data = nr.data.batches(XS, YS, batch_size=8, key=KEY)
    first, second = (fit(make(0.3), loss, data)[0] for _ in range(2))
    for a, b in zip(jtu.tree_leaves(first), jtu.tree_leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_is_grad_and_update():
    model, optimiser = make(), optax.adam(0.01)
    fitted, _ = fit(model, lambda m, x, y: nr.mse(m(x, key=KEY), y), (XS, YS), epochs=2)
    opt_state = nr.setup(optimiser, model)
    for _ in range(2):
        gradient = nr.grad(lambda m: nr.mse(m(XS, key=KEY), YS))(model)
        model, opt_state = nr.update(opt_state, model, gradient)
    for a, b in zip(jtu.tree_leaves(fitted), jtu.tree_leaves(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_clipping_is_by_the_global_norm():
    model = make()
    fitted, _ = fit(model, loss, (XS, 1e6 * YS), epochs=1, optimiser=optax.sgd(1.0), clip_norm=0.5)
    moved = [a - b for a, b in zip(jtu.tree_leaves(fitted), jtu.tree_leaves(model), strict=True)]
    np.testing.assert_allclose(optax.tree.norm(moved), 0.5, rtol=1e-6)


def test_patience_returns_the_best_model():
    """The learning rate turns negative, so the validation loss falls and then rises."""
    seen = []
    model, history = fit(
        make(),
        loss,
        (XS, YS),
        valid=(XS[:4], YS[:4]),
        epochs=60,
        patience=3,
        optimiser=optax.sgd(lambda n: jnp.where(n < 5, 0.05, -0.02)),
        on_epoch=lambda model, history: seen.append(model),
    )
    assert len(history.loss) < 60
    assert (
        history.stopped
        == f"no lower validation loss for 3 epochs, best in epoch {history.best_epoch}"
    )
    assert history.best_epoch == int(np.argmin(history.valid))
    assert len(history.valid) == history.best_epoch + 4
    best = float(loss(nr.inference(model), XS[:4], YS[:4], None))
    np.testing.assert_allclose(best, min(history.valid), rtol=1e-12)
    np.testing.assert_array_equal(model[0].cell.U, seen[history.best_epoch][0].cell.U)


def test_without_patience_validation_only_reports():
    model, history = fit(make(), loss, (XS, YS), valid=(XS, YS), optimiser=optax.sgd(-0.01))
    assert history.best_epoch == 0
    assert history.valid == sorted(history.valid)
    np.testing.assert_allclose(
        float(loss(nr.inference(model), XS, YS, None)), history.valid[-1], rtol=1e-12
    )


def test_training_drops_and_validation_does_not_and_the_mode_stays():
    model, history = fit(
        nr.inference(make(0.9)), loss, (XS, YS), valid=(XS, YS), optimiser=optax.sgd(1e-12)
    )
    assert history.loss[0] > 1.01 * history.valid[0]
    assert model[1].inference is True


def test_metrics_are_reported_and_averaged_over_examples():
    def with_metrics(model, xs, ys):
        return nr.mse(model(xs, key=KEY), ys), {"size": jnp.asarray(float(len(xs)))}

    data = nr.data.batches(XS[:10], YS[:10], batch_size=8)
    _, history = fit(make(), with_metrics, data, valid=(XS, YS))
    np.testing.assert_allclose(history.metrics["size"], (8 * 8 + 2 * 2) / 10)
    np.testing.assert_allclose(history.metrics["valid_size"], 24)


def test_a_bad_batch_stops_with_step_loss_and_parameter_and_the_last_good_model():
    bad = YS.copy()
    bad[9] = np.nan
    batches = [(XS[:8], YS[:8]), (XS[8:16], bad[8:16]), (XS[16:], YS[16:])]
    with pytest.warns(
        RuntimeWarning, match=r"fit stopped: step 1 \(epoch 0\): the loss is nan; first offending"
    ):
        model, history = fit(make(), loss, batches)
    assert history.stopped.endswith(
        "first offending parameter: layers[0].cell.W, by its gradient or update"
    )
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(model))
    assert history.loss == []


def test_an_exploding_model_returns_the_last_one_with_a_finite_loss():
    """The step is so large that the next loss overflows."""
    with pytest.warns(RuntimeWarning, match="first offending parameter"):
        model, _history = fit(make(), loss, (XS, YS), optimiser=optax.sgd(1e200), epochs=5)
    assert np.isfinite(loss(nr.inference(model), XS, YS, None))


def test_a_parameter_that_is_not_finite_is_named():
    model = make()
    object.__setattr__(model[2], "b", jnp.array([0.0, jnp.nan]))
    with pytest.warns(RuntimeWarning, match=r"layers\[2\].b, which is not finite itself"):
        fit(model, loss, (XS, YS))


def test_an_update_that_overflows_is_not_returned():
    with pytest.warns(RuntimeWarning, match="by its gradient or update"):
        model, history = fit(make(), loss, (XS, 1e10 * YS), optimiser=optax.sgd(1e307), epochs=1)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(model))
    assert history.stopped is not None


def test_a_validation_loss_that_is_not_finite_stops():
    with pytest.warns(
        RuntimeWarning, match="fit stopped: after epoch 0: the validation loss is nan"
    ):
        _, history = fit(make(), loss, (XS, YS), valid=(XS, np.nan * YS))
    assert history.stopped == "after epoch 0: the validation loss is nan"


def test_forms_of_data():
    """Data as one batch, or as a list of tuples, lists, arrays or dicts."""
    one = nr.mse
    for data, function in (
        ((XS, YS), lambda m, x, y: one(m(x, key=KEY), y)),
        ([(XS, YS)], lambda m, x, y: one(m(x, key=KEY), y)),
        ([[XS, YS]], lambda m, x, y: one(m(x, key=KEY), y)),
        ([XS], lambda m, x: one(m(x, key=KEY), x)),
        ([{"x": XS, "y": YS}], lambda m, b: one(m(b["x"], key=KEY), b["y"])),
        (({"x": XS}, YS), lambda m, b, y: one(m(b["x"], key=KEY), y)),
    ):
        assert len(fit(make(), function, data, epochs=1)[1].loss) == 1
    seen = []
    fixed = nr.data.batches(np.arange(6.0), batch_size=2)
    fit(
        make(),
        lambda m, x: m[2].b.sum() * x.sum(),
        fixed,
        epochs=1,
        on_epoch=lambda m, h: seen.append(h.loss),
    )
    assert [b[0].tolist() for b in fixed] == [[0, 1], [2, 3], [4, 5]]


def test_on_epoch_may_stop_the_run():
    _, history = fit(
        make(), loss, (XS, YS), epochs=50, on_epoch=lambda model, history: len(history.loss) == 2
    )
    assert (len(history.loss), history.stopped) == (2, "on_epoch asked to stop after epoch 1")


def test_frozen_parts_stay():
    model = nr.freeze(make(), lambda m: m[0])
    fitted, _ = fit(model, loss, (XS, YS), optimiser=optax.adamw(0.1, weight_decay=0.1))
    np.testing.assert_array_equal(fitted[0].cell.U, model[0].cell.U)
    assert not np.allclose(fitted[2].W, model[2].W)


def test_ragged_batches_compile_no_more_than_their_shapes():
    sequences = [RNG.normal(size=(t, 2)) for t in RNG.integers(1, 30, 40)]
    labels, traces = np.arange(40) % 2, []

    def classify(model, xs, labels, lengths):
        traces.append(xs.shape)
        return nr.cross_entropy(nr.last(model(xs, lengths=lengths, key=KEY), lengths), labels)

    data = nr.data.batches(sequences, labels, batch_size=8, key=KEY, buckets=3)
    fit(make(), classify, data, epochs=6)
    assert len(traces) == len(set(traces)) <= 4


def test_progress_is_shown_on_request_only(capsys):
    with warnings.catch_warnings():
        fit(make(), loss, (XS, YS), progress=True)
    assert "epoch 3/3" in capsys.readouterr().err
    fit(make(), loss, (XS, YS))
    assert capsys.readouterr() == ("", "")


class Fails:
    """An iterable that raises an error in the middle of an epoch, after ``epochs`` whole ones."""

    def __init__(self, error, epochs=2):
        self.error, self.left = error, epochs

    def __iter__(self):
        yield XS, YS
        if not self.left:
            raise self.error
        self.left -= 1


def once(model, xs, ys):
    return nr.mse(model(xs, key=KEY), ys)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "epochs_done", "epoch"),
    [
        ({"data": Fails(KeyboardInterrupt())}, 2, 2),
        ({"valid": Fails(KeyboardInterrupt(), 1)}, 1, 1),
        ({"on_epoch": interrupt}, 1, 0),
    ],
)
def test_an_interrupt_ends_the_run_like_early_stopping(options, epochs_done, epoch):
    model, history = fit(
        make(), once, options.pop("data", (XS, YS)), epochs=9, progress=True, **options
    )
    assert (len(history.loss), history.stopped) == (epochs_done, f"interrupted in epoch {epoch}")
    assert not np.array_equal(model[2].W, make()[2].W)


def test_an_interrupt_with_patience_returns_the_best_model():
    """The learning rate turns negative, so the first epoch is the best."""
    seen = []
    options = {"valid": (XS, YS), "patience": 9, "on_epoch": lambda model, _: seen.append(model)}
    model, history = fit(
        make(),
        once,
        Fails(KeyboardInterrupt(), 3),
        epochs=9,
        optimiser=optax.sgd(lambda n: 0.01 - 0.02 * n),
        **options,
    )
    assert (history.best_epoch, len(seen)) == (0, 3)
    np.testing.assert_array_equal(model[2].W, seen[0][2].W)


@pytest.mark.parametrize("error", [OSError("the disk is gone"), SystemExit(1)])
def test_an_error_carries_what_was_learnt(error):
    with pytest.raises(type(error)) as caught:
        fit(make(), once, Fails(error), epochs=9)
    assert caught.value is error
    assert (len(error.history.loss), error.history.stopped) == (
        2,
        f"{type(error).__name__} in epoch 2",
    )
    assert not np.array_equal(error.model[2].W, make()[2].W)
    assert error.__notes__ == [
        "noria.fit: this error carries the model and the history so far, "
        "as error.model and error.history."
    ]


def test_an_error_in_validation_in_on_epoch_or_in_the_loss_carries_it_too():
    def broken(model, history):
        raise LookupError

    def none(model, xs, ys):
        raise LookupError

    for options, epochs_done in (
        ({"valid": Fails(LookupError(), 1)}, 1),
        ({"on_epoch": broken}, 1),
        ({"loss": none}, 0),
    ):
        with pytest.raises(LookupError) as caught:
            fit(make(), options.pop("loss", once), (XS, YS), **options)
        error: Any = caught.value
        assert len(error.history.loss) == epochs_done
        assert isinstance(error.model, nr.Chain)


def test_an_error_that_takes_no_attributes_is_raised_as_it_is():
    class Immutable(Exception):
        def __setattr__(self, name, value):
            raise RuntimeError("immutable")

    error = Immutable()
    with pytest.raises(Immutable) as caught:
        fit(make(), once, Fails(error))
    assert caught.value is error
    assert not hasattr(error, "model")


def test_an_iterator_is_refused_before_the_first_step():
    steps = []

    def batches():
        for n in range(9):
            steps.append(n)
            yield XS, YS

    with pytest.raises(
        ValueError, match="data is a generator, which can be gone through once, and epochs is 2"
    ):
        fit(make(), once, batches(), epochs=2)
    assert steps == []
    assert len(fit(make(), once, iter([(XS, YS)]), epochs=1)[1].loss) == 1


class Loader:
    """An iterator that restarts in ``__iter__`` if ``anew``."""

    def __init__(self, anew):
        self.anew, self.batches = anew, iter([(XS, YS)])

    def __iter__(self):
        self.batches = iter([(XS, YS)]) if self.anew else self.batches
        return self

    def __next__(self):
        return next(self.batches)


def test_an_iterator_that_begins_anew_is_taken():
    assert len(fit(make(), once, Loader(anew=True), epochs=3)[1].loss) == 3
    with pytest.raises(
        ValueError, match=r"epoch 1 found no batch in data.*used up by the epoch before"
    ) as caught:
        fit(make(), once, Loader(anew=False), epochs=3)
    error: Any = caught.value
    assert len(error.history.loss) == 1


@pytest.mark.parametrize("answer", [np.bool_(True), jnp.array(True), 1])
def test_on_epoch_stops_by_anything_true(answer):
    assert len(fit(make(), once, (XS, YS), on_epoch=lambda model, history: answer)[1].loss) == 1


class Tensor:
    """Like a tensor of PyTorch: converted by ``__array__``, compared element by element."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __eq__(self, other):
        return self.values == other.values

    def __hash__(self):
        return id(self)


class OnlyDlpack:
    """Like a tensor with a dtype that NumPy lacks."""

    def __init__(self, values):
        self.values: Any = jnp.asarray(values)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("unsupported type")

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.parametrize("kind", [Tensor, OnlyDlpack])
def test_batches_of_other_libraries(kind):
    """Tensors in lists and mappings train like the same NumPy arrays, with one trace."""
    traces = []

    def mapped(model, batch):
        traces.append(batch["xs"].shape)
        return once(model, batch["xs"], batch["ys"])

    _, expected = fit(make(), once, [(XS[:8], YS[:8]), (XS[8:16], YS[8:16])])
    parts = [(kind(XS[:8]), kind(YS[:8])), (kind(XS[8:16]), kind(YS[8:16]))]
    np.testing.assert_allclose(
        fit(make(), once, [list(part) for part in parts])[1].loss, expected.loss, rtol=1e-12
    )
    mappings = [UserDict(zip(("xs", "ys"), part, strict=True)) for part in parts]
    np.testing.assert_allclose(fit(make(), mapped, mappings)[1].loss, expected.loss, rtol=1e-12)
    assert traces == [(8, 6, 2)]


def test_a_tensor_that_cannot_be_read_is_named():
    class Unreadable(Tensor):
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("it requires grad.")

    with pytest.raises(
        TypeError,
        match=r"fit: a batch holds a Unreadable that cannot be read as an array: it requires",
    ):
        fit(make(), once, [(Unreadable(XS), YS)])


def test_gradients_may_be_gathered_over_several_steps():
    """Two half batches with `optax.MultiSteps` equal one step on the whole batch.

    `optax.MultiSteps` averages in float32 and is no `optax.GradientTransformation`.
    """
    halves = [(XS[:12], YS[:12]), (XS[12:], YS[12:])]
    gathered, _ = fit(make(), once, halves, optimiser=optax.MultiSteps(optax.sgd(0.1), 2), epochs=1)
    whole, _ = fit(make(), once, (XS, YS), optimiser=optax.sgd(0.1), epochs=1)
    for a, b in zip(jtu.tree_leaves(gathered), jtu.tree_leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_a_line_search_sees_the_loss():
    dense, ys = nr.Dense(2, 1, key=KEY), XS[:, 0] @ np.array([[1.0], [2.0]])
    _, history = fit(
        dense, lambda m, x, y: nr.mse(m(x), y), (XS[:, 0], ys), optimiser=optax.lbfgs(), epochs=9
    )
    assert history.loss[-1] < 1e-9 * history.loss[0]


def test_an_error_of_the_optimiser_tells_what_it_was_given():
    model, optimiser = nr.Dense(2, 1, key=KEY), optax.polyak_sgd()
    with pytest.raises(TypeError) as caught:
        nr.update(nr.setup(optimiser, model), model, model)
    note = (
        "noria.update: this came from the update of the optimiser, "
        "which was given gradient, state, parameters."
    )
    assert note in caught.value.__notes__
