"""Tables with times, missing values, and scaling that travels with the model."""

import contextlib
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import assert_close

import noria as nr

KEY = jax.random.key(0)
HOUR = np.timedelta64(1, "h")
TIMES = np.datetime64("2026-03-28T22:00") + np.arange(6) * HOUR
LOAD = np.array([1.0, np.nan, 3.0, 4.0, 5.0, 6.0])


def tables():
    """The same table, of NumPy, pandas and Polars, as far as they are installed."""
    columns = {"time": TIMES.astype("datetime64[ms]"), "load": LOAD, "holiday": LOAD > 3}
    yield columns, "time"
    with contextlib.suppress(ImportError):
        pd = importlib.import_module("pandas")
        yield pd.DataFrame(columns), "time"
        yield pd.DataFrame(columns).set_index("time"), None
        index = pd.DatetimeIndex(TIMES).tz_localize("UTC").tz_convert("Europe/Berlin")
        yield pd.DataFrame({"load": LOAD, "holiday": LOAD > 3}, index=index), None
    with contextlib.suppress(ImportError):
        pl = importlib.import_module("polars")
        yield pl.DataFrame(columns | {"load": [1.0, None, 3.0, 4.0, 5.0, 6.0]}), "time"


def test_tables_of_each_library_give_the_same_series():
    for table, time in tables():
        series = nr.data.from_frame(table, time=time)
        assert series.names == ["load", "holiday"]
        assert series.values.dtype == np.float32
        np.testing.assert_array_equal(series["load"][:, 0], LOAD.astype(np.float32))
        np.testing.assert_array_equal(series["holiday", "load"][:, 0], LOAD > 3)
        np.testing.assert_array_equal(series.times.astype("datetime64[m]"), TIMES)
        assert "8.3% missing" in repr(series)


def test_missing_rows_become_nan():
    rows = np.array([0, 1, 4])
    series = nr.data.from_frame({"t": TIMES[rows], "x": np.ones(3)}, time="t", every=HOUR)
    assert np.isnan(series.values[:, 0]).tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(series.times, TIMES[:5])
    months = np.array(["2026-01-31", "2026-02-28", "2026-04-30"], "datetime64[D]")
    series = nr.data.from_frame(
        {"t": months, "x": [1, 2, 4]}, time="t", every=np.timedelta64(1, "M")
    )
    assert np.isnan(series.values[:, 0]).tolist() == [False, False, True, False]


def test_the_calendar_has_its_periods():
    hours = np.datetime64("2026-01-01") + np.arange(24 * 14) * HOUR
    found = nr.data.calendar(hours, "day", "week", dtype=np.float64)
    assert found.shape == (24 * 14, 4)
    np.testing.assert_allclose(found[:-24, :2], found[24:, :2], atol=1e-9)
    np.testing.assert_allclose(found[:-168], found[168:], atol=1e-9)
    np.testing.assert_allclose((found[:, :2] ** 2).sum(1), 1)


# --- scaling ------------------------------------------------------------------------------------

DATA = np.random.default_rng(0).normal(5, 3, (50, 2))


def test_statistics_leave_out_what_is_missing():
    holes = np.where(np.random.default_rng(1).random(DATA.shape) < 0.3, np.nan, DATA)
    scale = nr.Standardise.of(holes)
    assert scale.missing
    assert_close(scale.mean, np.nanmean(holes, 0), 1e-6)
    assert_close(scale.deviation, np.nanstd(holes, 0), 1e-6)
    ys = np.asarray(scale(jnp.asarray(holes, scale.mean.dtype)))
    assert ys.shape == (50, 4)
    np.testing.assert_array_equal(ys[:, 2:], np.isnan(holes))
    assert not ys[:, :2][np.isnan(holes)].any()
    assert_close(ys[:, :2].std(0), np.sqrt((~np.isnan(holes)).mean(0)), 0.05)
    assert nr.Standardise.of(np.ones((3, 1))).deviation.tolist() == [1]
    assert not nr.Standardise.of(DATA).missing


def model_of(values):
    scale = nr.Standardise.of(values, dtype=jnp.float32)
    k1, k2 = jax.random.split(KEY)
    layers = nr.GRU(2, 4, key=k1, dtype=jnp.float32), nr.Dense(4, 2, key=k2, dtype=jnp.float32)
    return nr.Chain(scale, *layers, scale.inverse)


@pytest.mark.usefixtures("plain_jax")
def test_scaling_is_saved_with_the_model_and_not_trained(tmp_path):
    model = model_of(DATA)
    trained = nr.count_parameters(model, trainable=True)
    assert nr.count_parameters(model) == trained + 8
    xs = jnp.asarray(DATA, jnp.float32)
    loss = lambda model, xs, ys: nr.mse(model(xs), ys)  # noqa: E731
    fitted, _ = nr.fit(
        model, loss, (xs[None, :-1], xs[None, 1:]), optimiser=optax.adam(0.1), epochs=2, key=KEY
    )
    np.testing.assert_array_equal(fitted.layers[0].mean, model.layers[0].mean)
    nr.save(tmp_path / "m.safetensors", fitted)
    again = nr.load(tmp_path / "m.safetensors", model_of(np.zeros((1, 2))))
    np.testing.assert_array_equal(again(xs), fitted(xs))
    assert_close(np.asarray(nr.grad(lambda m: m(xs).sum())(model).layers[0].mean is None), True, 0)


@pytest.mark.usefixtures("plain_jax")
def test_missing_inputs_and_targets_leave_the_gradient_finite():
    holes = jnp.asarray(np.where(DATA > 6, np.nan, DATA), jnp.float32)
    scale = nr.Standardise.of(holes)
    model = nr.Chain(scale, nr.GRU(4, 3, key=KEY), nr.Dense(3, 2, key=KEY))

    def loss(model, xs):
        return nr.mse(model(xs)[:-1], xs[1:], mask=~jnp.isnan(xs[1:]))

    value, gradient = nr.value_and_grad(loss)(model, holes)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(jax.grad(lambda xs: model(xs).sum())(holes)).all()


WRONG = {
    "no times": (
        lambda: nr.data.from_frame({"x": LOAD}),
        TypeError,
        "from_frame: the dict has no index of times; expected time=, the name of a column",
    ),
    "no such column": (
        lambda: nr.data.from_frame({"x": LOAD}, time="t"),
        KeyError,
        "the table has no column 't'",
    ),
    "times that are numbers": (
        lambda: nr.data.from_frame({"t": LOAD, "x": LOAD}, time="t"),
        TypeError,
        "the times are float64; expected datetime64. Convert with pandas.to_datetime",
    ),
    "a missing time": (
        lambda: nr.data.from_frame(
            {"t": np.array(["2026-01-01", "NaT"], "datetime64[D]"), "x": [1, 2]}, time="t"
        ),
        ValueError,
        "row 1 has no time; expected one in each row",
    ),
    "times in no order": (
        lambda: nr.data.from_frame({"t": TIMES[::-1], "x": LOAD}, time="t"),
        ValueError,
        "row 1 is at 2026-03-29T02:00, after 2026-03-29T03:00; expected times that increase",
    ),
    "times off the grid": (
        lambda: nr.data.from_frame(
            {"t": TIMES[0] + np.arange(3) * np.timedelta64(40, "m"), "x": LOAD[:3]},
            time="t",
            every=HOUR,
        ),
        ValueError,
        r"from_frame\(every=1 hours\): row 1 is at .*; expected a whole number of steps",
    ),
    "no distance": (
        lambda: nr.data.from_frame({"t": TIMES, "x": LOAD}, time="t", every=0 * HOUR),
        ValueError,
        "expected a distance above 0, such as np.timedelta64",
    ),
    "a distance without a unit": (
        lambda: nr.data.from_frame({"t": TIMES, "x": LOAD}, time="t", every=np.timedelta64(1)),
        ValueError,
        r"from_frame\(every=np.timedelta64\(1\)\): expected a distance above 0, such as",
    ),
    "text": (
        lambda: nr.data.from_frame({"t": TIMES, "x": list("abcdef")}, time="t"),
        TypeError,
        "column 'x' is <U1; expected numbers. Leave it out with columns=",
    ),
    "only times": (
        lambda: nr.data.from_frame({"t": TIMES}, time="t"),
        ValueError,
        "there is no column besides the times",
    ),
    "other rows": (
        lambda: nr.data.from_frame({"t": TIMES, "x": LOAD[:2]}, time="t"),
        ValueError,
        "there are 6 times and 2 rows",
    ),
    "another name": (
        lambda: nr.data.TimeSeries(np.ones((1, 1)), TIMES[:1], ["x"])["y"],
        KeyError,
        r"there is no 'y'; the columns are \['x'\]",
    ),
    "an unknown period": (
        lambda: nr.data.calendar(TIMES, "month"),
        ValueError,
        "the period is 'month'; expected some of hour, day, week, year",
    ),
    "no period": (
        lambda: nr.data.calendar(TIMES),
        ValueError,
        "the period is ''; expected some of",
    ),
    "hours as numbers": (
        lambda: nr.data.calendar(LOAD, "day"),
        TypeError,
        "calendar: times is float64; expected datetime64",
    ),
    "statistics of two sizes": (
        lambda: nr.Standardise([1.0], [1.0, 2.0]),
        ValueError,
        r"mean has shape \(1,\), deviation \(2,\); expected \(in,\) for both",
    ),
    "a deviation of zero": (
        lambda: nr.Standardise([1.0], [0.0]),
        ValueError,
        "deviation holds 0.0; expected numbers above 0",
    ),
    "no value": (
        lambda: nr.Standardise.of(np.full((3, 2), np.nan)),
        ValueError,
        "feature 0 has no value; expected at least one number",
    ),
    "other features": (
        lambda: nr.Standardise([1.0], [2.0])(jnp.ones((3, 2))),
        ValueError,
        r"Standardise\(in_size=1\): x has shape \(3, 2\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_have_their_message(name):
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        call()
