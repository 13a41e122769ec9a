"""Options of `fit`: accumulated gradients, compute dtype, callbacks; data of other libraries."""

import sys
import types
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
XS = RNG.normal(size=(24, 4, 2)).astype(np.float32)
BATCHES = [(XS[n : n + 6],) for n in range(0, 24, 6)]

pytestmark = pytest.mark.usefixtures("plain_jax")


def make() -> nr.Chain:
    return nr.Chain(nr.GRU(2, 4, key=KEY), nr.Dense(4, 2, key=KEY))


def loss(model: Any, xs: Any) -> Any:
    return nr.mse(model(xs), xs)


def fit(data: Any = BATCHES, loss: Any = loss, **options: Any) -> Any:
    given = {"optimiser": optax.sgd(0.1), "epochs": 2, "key": KEY, **options}
    return nr.fit(make(), loss, data, **given)


def assert_close(a: Any, b: Any, rtol: float = 1e-5) -> None:
    for one, other in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol / 10)


def test_accumulated_gradients_are_those_of_a_larger_batch():
    """The norm of the mean is clipped, and the loss of each batch is reported."""
    options = {"clip_norm": 0.05}
    larger, _ = fit([(XS[:12],), (XS[12:],)], **options)
    model, _ = fit(accumulate=2, **options)
    assert_close(model, larger)
    alone = [float(loss(make(), xs)) for (xs,) in BATCHES[:2]]
    steps: list[float] = []
    fit(accumulate=2, on_step=lambda model, step, numbers: steps.append(numbers["loss"]))
    np.testing.assert_allclose(steps[:2], alone, rtol=1e-6)
    with pytest.raises(ValueError, match="fit: accumulate is 0; expected a whole number"):
        fit(accumulate=0)


def test_accumulated_batches_count_equally_and_over_epochs():
    """Batches of 10, 2 and 12 rows, two for an update: the last one waits for the next epoch."""
    a, b, c = batches = [(XS[:10],), (XS[10:12],), (XS[12:],)]
    model, optimiser = make(), optax.sgd(0.1)
    opt_state = nr.setup(optimiser, model)
    for pair in ((a, b), (c, a), (b, c)):
        gradients = [nr.grad(loss)(model, *batch) for batch in pair]
        mean = jtu.tree_map(lambda one, other: (one + other) / 2, *gradients)
        model, opt_state = nr.update(opt_state, model, mean)
    assert_close(fit(batches, accumulate=2)[0], model)
    with pytest.raises(
        ValueError,
        match=r"fit\(accumulate=9\): the run has 8 batches, so nothing would be updated",
    ):
        fit(accumulate=9)


def test_a_model_computes_in_another_dtype_and_is_trained_in_its_own():
    seen = []

    def narrow(model: Any, xs: Any) -> Any:
        out = model(xs.astype(jnp.bfloat16))
        seen.append((model[1].W.dtype, out.dtype))
        return nr.mse(out.astype(jnp.float32), xs)

    model, history = fit(loss=narrow, compute_dtype=jnp.bfloat16, valid=BATCHES)
    assert set(seen) == {(jnp.dtype(jnp.bfloat16),) * 2}
    assert {leaf.dtype for leaf in jtu.tree_leaves(model) if hasattr(leaf, "dtype")} == {
        jnp.dtype(jnp.float32)
    }
    expected, exact = fit(valid=BATCHES)
    np.testing.assert_allclose(history.loss, exact.loss, rtol=1e-2)
    moved = [jtu.tree_map(jnp.subtract, tree, make()) for tree in (model, expected)]
    for a, b in zip(*map(jtu.tree_leaves, moved), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05 * float(jnp.abs(b).max()))


def test_a_callback_every_few_steps():
    seen: list[tuple[int, float]] = []

    def on_step(model: Any, step: int, numbers: dict[str, float]) -> bool:
        seen.append((step, numbers["loss"]))
        assert isinstance(model, nr.Chain)
        return step == 6

    _, history = fit(on_step=on_step, every=3, epochs=9)
    assert [step for step, _ in seen] == [3, 6]
    assert (history.stopped, len(history.loss)) == ("on_step asked to stop after step 6", 1)
    with pytest.raises(ValueError, match="fit: every is 0; expected a whole number"):
        fit(on_step=on_step, every=0)


def test_an_error_in_a_callback_carries_the_model():
    def on_step(model: Any, step: int, numbers: Any) -> None:
        if step == 3:
            raise LookupError

    with pytest.raises(LookupError) as caught:
        fit(on_step=on_step)
    error: Any = caught.value
    assert error.history.stopped == "LookupError in epoch 0"
    assert not np.array_equal(error.model[1].W, make()[1].W)


def test_what_has_another_type_is_named():
    mse = nr.mse
    for options, message in (
        ({"loss": "mse"}, r"fit: loss is a str; expected a function of the model and the columns"),
        ({"optimiser": optax.adam, "clip_norm": 1.0}, r"fit: optimiser is a function; expected an"),
        ({"optimiser": "adam", "accumulate": 2}, r"fit: optimiser is a str; expected an Optax"),
        ({"compute_dtype": "bf16"}, r"fit: compute_dtype is 'bf16'; expected a floating dtype"),
        ({"compute_dtype": jnp.int32}, r"fit: compute_dtype is .*int32.*; expected a floating dty"),
        ({"mesh": 4}, r"fit: mesh is a int; expected devices, from jax.make_mesh"),
        ({"checkpoint": 4}, r"Checkpoint: folder is a int; expected the path of a folder"),
        ({"loss": lambda model, xs: None}, r"fit: loss returned NoneType; expected a number as"),
        ({"loss": lambda model, xs: 1.0}, r"fit: loss returned float; expected a number as JAX"),
        (
            {"loss": lambda model, xs: (mse(xs, xs), {"a": "b"})},
            r"fit: loss returned tuple\(float32\[\], {'a': 'str'}\); expected a number as JAX",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            fit(**options)


# --- batches --------------------------------------------------------------------------------------


def test_numbers_of_batches_are_arguments_of_one_program():
    traces = []

    def weighted(model: Any, xs: Any, weight: Any) -> Any:
        traces.append(weight)
        return weight * loss(model, xs)

    batches = [(xs, 0.5 * n) for n, (xs,) in enumerate(BATCHES)]
    arrays = [(xs, jnp.float32(weight)) for xs, weight in batches]
    assert fit(batches, weighted)[1].loss == fit(arrays, weighted)[1].loss
    assert len(traces) == 2


def test_numbers_in_the_byte_order_of_another_machine():
    assert fit([(xs.astype(">f4"),) for (xs,) in BATCHES])[1].loss == fit()[1].loss


@pytest.mark.parametrize("value", ["a", object(), b"a"])
def test_what_is_no_number_is_refused(value: Any):
    with pytest.raises(TypeError, match=f"a batch holds a {type(value).__name__}; expected arrays"):
        fit([(XS, {"name": value})], lambda model, xs, names: loss(model, xs))


def test_a_generator_that_is_prefetched_loses_no_batch(tmp_path: Any):
    """A checkpoint looks at the first batch, if that does not use it up."""
    steps: list[int] = []
    ahead = nr.data.prefetch(batch for batch in BATCHES)
    fit(ahead, epochs=1, checkpoint=tmp_path, on_step=lambda model, step, _: steps.append(step))
    assert steps == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="data is a generator, which can be gone through once"):
        fit(nr.data.prefetch(batch for batch in BATCHES), epochs=2)


# --- data of other libraries ----------------------------------------------------------------------


class TfData:
    """As a dataset of TensorFlow."""

    def as_numpy_iterator(self) -> Any:
        return iter(BATCHES)

    def __iter__(self) -> Any:
        raise AssertionError("this iterator has tensors")


def test_a_dataset_with_a_numpy_iterator():
    assert fit(TfData())[1].loss == fit()[1].loss


def named(module: str, name: str, *bases: type) -> Any:
    """An object of a class of another library."""
    return type(name, bases, {"__module__": module, "__getitem__": lambda self, n: XS[n]})()


def test_objects_without_batches_are_refused_by_name():
    base = type("Dataset", (), {"__module__": "torch.utils.data.dataset"})
    for data, message in (
        (named("pandas.core.frame", "DataFrame"), "DataFrame of pandas; a table does not say"),
        (named("polars.dataframe.frame", "DataFrame"), "DataFrame of polars; a table does not say"),
        (named("torch.utils.data.dataset", "TensorDataset", base), "of torch; it has single exam"),
        (named("datasets.arrow_dataset", "Dataset"), "Dataset of datasets; it has single exampl"),
    ):
        with pytest.raises(TypeError, match="fit: data is a .*" + message):
            fit(data)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_a_table(library: str):
    """Each as an array of one batch."""
    table = pytest.importorskip(library)
    frame = table.DataFrame({"a": XS[:, 0, 0], "b": XS[:, 0, 1]})

    def of_columns(model: Any, xs: Any, ys: Any) -> Any:
        return nr.mse(model(xs[:, None, :])[:, 0, :1], ys[:, None])

    found = fit((frame[["a", "b"]], frame["a"]), of_columns)[1].loss
    assert found == fit((XS[:, 0, :], XS[:, 0, 0]), of_columns)[1].loss


def test_a_loader_of_pytorch():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(XS))
    loader = torch.utils.data.DataLoader(data, batch_size=6)
    assert fit(loader)[1].loss == fit()[1].loss
    with pytest.raises(TypeError, match="data is a TensorDataset of torch; it has single examples"):
        fit(data)


def test_a_dataset_of_grain(tmp_path: Any):
    grain = pytest.importorskip("grain")

    def dataset() -> Any:
        return grain.MapDataset.source(list(XS)).shuffle(seed=1).batch(6).to_iter_dataset()

    def stop(model: Any, step: int, numbers: Any) -> None:
        if step == 6:
            raise LookupError

    whole, _ = fit(dataset())
    with pytest.raises(LookupError):
        fit(dataset(), checkpoint=tmp_path, on_step=stop)
    resumed, _ = fit(dataset(), checkpoint=tmp_path)
    assert_close(resumed, whole, rtol=0)


def test_orbax(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    """A run in its folder continues bit for bit, and another model is refused."""
    pytest.importorskip("orbax.checkpoint")
    from noria.train import checkpoint, orbax

    monkeypatch.setattr(checkpoint, "Files", orbax.OrbaxFolder)

    def stop(model: Any, step: int, numbers: Any) -> None:
        if step == 6:
            raise LookupError

    options = {"optimiser": optax.adam(0.1), "valid": BATCHES, "patience": 5}
    where = nr.Checkpoint(tmp_path, every=5)
    with pytest.raises(LookupError):
        fit(checkpoint=where, on_step=stop, **options)
    resumed, _ = fit(checkpoint=where, **options)
    assert_close(resumed, fit(**options)[0], rtol=0)
    with pytest.raises(ValueError, match="the run there has another model or optimiser"):
        fit(checkpoint=where, **{**options, "optimiser": optax.sgd(0.1)})


def test_without_orbax_a_remote_folder_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "orbax", types.ModuleType("orbax"))
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"remote folders, need Orbax; install it with: pip"):
        fit(checkpoint="gs://bucket/run")
