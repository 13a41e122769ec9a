"""Tasks of series: Mackey-Glass, rows of pixels, and English text. All data are on the machine."""

import functools
import pydoc_data.topics

import jax
import jax.numpy as jnp
import numpy as np
from recall import RECURRENT
from task import Batch, Key, Task

TIME, AHEAD, WASHOUT = 400, 15, 100
WINDOW = 128


@functools.cache
def mackey_glass(rows: int = 96, time: int = TIME) -> np.ndarray:
    """``tanh(x - 1)`` of the series with a delay of 17, centred, one step of Euler in ten parts."""
    delay, parts = 17, 10
    rng = np.random.default_rng(0)
    history = 1.2 + 0.2 * (rng.random((delay * parts, rows)) - 0.5)
    found = list(history)
    for _ in range((time + 200) * parts):
        x, past = found[-1], found[-delay * parts]
        found.append(x + (0.2 * past / (1 + past**10) - 0.1 * x) / parts)
    series = np.tanh(np.array(found[-time * parts :: parts]).T - 1)
    return (series - series.mean()).astype(np.float32)


def _ahead(rows: np.ndarray) -> Batch:
    series = mackey_glass()[rows]
    xs, targets = series[:, :-AHEAD, None], series[:, AHEAD:, None]
    weights = np.broadcast_to(np.arange(xs.shape[1]) >= WASHOUT, xs.shape[:2])
    return Batch(*map(jnp.asarray, (xs, targets, weights.astype(np.float32))))


def _chosen(batch: Batch, key: Key, rows: int) -> Batch:
    some = jax.random.randint(key, (rows,), 0, len(batch.xs))
    return jax.tree.map(lambda a: jnp.asarray(a)[some], batch)


@functools.cache
def digits(permuted: bool) -> tuple[Batch, Batch]:
    """Images of 8 x 8 pixels of scikit-learn, a pixel in each step; every fifth is held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = data.data.astype(np.float32)[..., None] / 16
    if permuted:
        pixels = pixels[:, np.random.default_rng(0).permutation(64)]
    targets = np.broadcast_to(data.target[:, None], pixels.shape[:2])
    weights = np.broadcast_to(np.arange(64) == 63, pixels.shape[:2]).astype(np.float32)
    held_out = np.arange(len(pixels)) % 5 == 4
    both = [[a[part] for a in (pixels, targets, weights)] for part in (~held_out, held_out)]
    return Batch(*both[0]), Batch(*both[1])


@functools.cache
def text() -> tuple[np.ndarray, int]:
    """Python's help topics as classes of characters, and the number of classes."""
    characters = "\n".join(
        pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)
    )
    kinds, classes = np.unique(list(characters), return_inverse=True)
    return classes.astype(np.int32), len(kinds)


def windows(starts: jax.Array, part: slice) -> Batch:
    classes, kinds = text()
    found = jnp.asarray(classes[part])[starts[:, None] + jnp.arange(WINDOW + 1)]
    weights = jnp.ones(found[:, 1:].shape)
    return Batch(jax.nn.one_hot(found[:, :-1], kinds), found[:, 1:], weights)


def _trained_part() -> int:
    return int(0.9 * len(text()[0]))


def characters(key: Key, rows: int) -> Batch:
    starts = jax.random.randint(key, (rows,), 0, _trained_part() - WINDOW - 1)
    return windows(starts, slice(_trained_part()))


def held_out_characters(key: Key) -> Batch:
    """Windows one after another; the first half of each only makes the state."""
    del key
    part = slice(_trained_part(), None)
    starts = jnp.arange(0, len(text()[0]) - _trained_part() - WINDOW - 1, WINDOW // 2)
    batch = windows(starts, part)
    return batch._replace(weights=batch.weights.at[:, : WINDOW // 2].set(0.0))


def _entropy() -> float:
    shares = np.bincount(text()[0]) / len(text()[0])
    return float(-np.sum(shares * np.log2(np.maximum(shares, 1e-12))))


def _digits(name: str, title: str, permuted: bool, about: str, published: dict[str, str]) -> Task:
    return Task(
        name,
        title,
        about,
        1,
        10,
        lambda key, rows: _chosen(digits(permuted)[0], key, rows),
        lambda key: jax.tree.map(jnp.asarray, digits(permuted)[1]),
        "accuracy",
        RECURRENT if permuted else (*RECURRENT, "mamba"),
        "Bai et al. 2018, table 1, and the logs of LEM and coRNN: on MNIST, 784 steps",
        0.1,
        published,
        steps=2500,
    )


def tasks() -> list[Task]:
    """The tasks; the text is read here."""
    return [
        Task(
            "mackey_glass",
            "Mackey-Glass",
            f"A chaotic series, {AHEAD} steps ahead. Published: 4 layers, 5000 steps, 500 epochs. "
            f"Here: one layer, {TIME} steps.",
            1,
            1,
            lambda key, rows: _chosen(_ahead(np.arange(64)), key, rows),
            lambda key: _ahead(np.arange(64, 96)),
            "nrmse",
            ("rnn", "gru", "lstm", "lmu", "lem", "cornn", "lru", "min_gru"),
            "Voelker et al. 2019, the authors' code after its correction of January 2020",
            100.0,
            {"lstm": "5.87", "lmu": "4.87"},
            rows=32,
            steps=2000,
        ),
        _digits(
            "digits",
            "Sequential digits",
            False,
            "Which digit is it, a pixel at a time?",
            {"rnn": "0.215", "gru": "0.962", "lstm": "0.872", "lem": "0.995", "cornn": "0.994"},
        ),
        _digits(
            "permuted_digits",
            "Permuted digits",
            True,
            "The same pixels in another order, the same for all images.",
            {"rnn": "0.253", "gru": "0.873", "lstm": "0.857", "lem": "0.966", "cornn": "0.973"},
        ),
        Task(
            "characters",
            "Characters",
            "The next character of Python's help topics, 0.46 million characters, of which the "
            "last tenth is held out.",
            text()[1],
            text()[1],
            characters,
            held_out_characters,
            "bits",
            (
                "rnn",
                "mgu",
                "gru",
                "lstm",
                "lstm_forget",
                "slstm",
                "min_gru",
                "hgrn",
                "mamba",
                "gated_deltanet",
            ),
            "nothing for this text",
            _entropy(),
            width=128,
            rows=32,
            steps=1500,
        ),
    ]
