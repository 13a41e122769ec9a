"""How much CO2 next year? A GRU on the monthly series of Mauna Loa, tested on held-out years."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import noria as nr

TASK = "forecast"
NAMES = ["ppm"]
WINDOW, HORIZON, YEAR = 36, 12, 12
TEST_MONTHS, VALID_MONTHS = 60, 60
HIDDEN, LEARNING_RATE, EPOCHS, PATIENCE, BATCH_SIZE = 32, 1e-2, 200, 40, 64


class ForecastModel(nr.Module, trainable=("rnn", "head")):
    """Reads the standardised changes from month to month and predicts the next ones."""

    mean: jax.Array
    deviation: jax.Array
    rnn: nr.Recurrence
    head: nr.Dense

    def __init__(self, mean: Any, deviation: Any, *, key: jax.Array):
        k1, k2 = jax.random.split(key)
        self.mean, self.deviation = jnp.asarray(mean), jnp.asarray(deviation)
        self.rnn = nr.GRU(1, HIDDEN, key=k1)
        self.head = nr.Dense(HIDDEN, HORIZON, key=k2)

    def __call__(self, past: Any) -> jax.Array:
        """The values of the next ``HORIZON`` months, ``(batch, HORIZON)``.

        Args:
            past: ``(batch, WINDOW + 1)``, the values of the months before.
        """
        changes = (jnp.diff(past, axis=-1) - self.mean) / self.deviation
        last = nr.last(self.rnn(changes[..., None]))
        changes = self.head(last) * self.deviation + self.mean
        values: jax.Array = past[..., -1:] + jnp.cumsum(changes, axis=-1)
        return values


def loss(model: ForecastModel, past: Any, future: Any) -> jax.Array:
    return nr.mse(model(past), future)


@dataclass
class Result:
    """A trained model, its forecasts for the held-out years, and its errors and naive ones."""

    model: ForecastModel
    history: nr.History
    errors: dict[str, float]
    months: np.ndarray
    measured: np.ndarray
    forecasts: np.ndarray


def train(*, seed: int = 0, epochs: int = EPOCHS, progress: bool | None = None) -> Result:
    """Train on the past, stop by the validation years, and forecast from each month of the test."""
    series = nr.data.co2()
    past, valid, _ = nr.data.split(series.values, valid=VALID_MONTHS, test=TEST_MONTHS)
    before_valid, before_test = len(past), len(past) + len(valid)
    train_data = nr.data.windows(past, WINDOW + 1, HORIZON)
    # A held-out window may contain earlier years, as in use; its targets are held out.
    valid_data = nr.data.windows(
        series.values[before_valid - WINDOW - 1 : before_test], WINDOW + 1, HORIZON
    )
    test_past, test_future = nr.data.windows(
        series.values[before_test - WINDOW - 1 :], WINDOW + 1, HORIZON
    )

    init_key, data_key, fit_key = jax.random.split(jax.random.key(seed), 3)
    changes = np.diff(past)
    model = ForecastModel(changes.mean(), changes.std(), key=init_key)
    batches = nr.data.batches(*train_data, batch_size=BATCH_SIZE, key=data_key)
    model, history = nr.fit(
        model,
        loss,
        batches,
        valid=valid_data,
        patience=PATIENCE,
        optimiser=optax.adam(LEARNING_RATE),
        epochs=epochs,
        key=fit_key,
        clip_norm=1.0,
        progress=progress,
    )
    forecasts = predict(model, test_past)
    seasonal = test_past[:, -YEAR:]
    errors = {
        "GRU": forecasts,
        "naive: the last value": np.repeat(test_past[:, -1:], HORIZON, axis=1),
        "seasonal naive: a year before": seasonal,
        "seasonal naive and last year's growth": seasonal
        + test_past[:, -1:]
        - test_past[:, -1 - YEAR, None],
    }
    measured = {name: float(np.abs(guess - test_future).mean()) for name, guess in errors.items()}
    return Result(
        model,
        history,
        measured,
        series.months[before_test:],
        series.values[before_test:],
        forecasts,
    )


def predict(model: ForecastModel, past: np.ndarray) -> np.ndarray:
    """The next ``HORIZON`` values after each row of ``past``."""
    return np.asarray(eqx.filter_jit(model)(np.asarray(past[:, -WINDOW - 1 :], np.float32)))


def save(result: Result, folder: Path) -> list[Path]:
    """Write the model, the pictures, and a series for ``noria predict`` to continue."""
    from noria import plot

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("model.safetensors", "learning_curve.png", "forecast.png")]
    nr.save(files[0], result.model, extra={"task": TASK, "channels": NAMES})
    plot.learning_curve(result.history, files[1], title="CO2 at Mauna Loa, GRU")
    draw(result, files[2])
    series = folder / "new_series.csv"
    rows = zip(result.months, result.measured, strict=True)
    series.write_text("month,ppm\n" + "".join(f"{month},{value:.3f}\n" for month, value in rows))
    return [*files, series]


def draw(result: Result, path: Path) -> None:
    """Write a PNG of the held-out years, with a new forecast each January."""
    from noria import plot

    seasonal = result.measured[:-YEAR]  # the value of the year before; none for the first year
    plot.forecast(
        result.months,
        result.measured,
        {
            "GRU, each January for the year": (result.months, result.forecasts[::YEAR].ravel()),
            "seasonal naive": (result.months[YEAR:], seasonal),
        },
        path,
        unit="CO2 in ppm",
        title=f"Five held-out years, mean error {result.errors['GRU']:.2f} ppm",
    )


def load(path: Path) -> ForecastModel:
    """The model that `save` wrote."""
    return nr.load(path, ForecastModel(jnp.zeros(()), jnp.ones(()), key=jax.random.key(0)))
