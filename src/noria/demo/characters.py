"""What comes next? An LSTM on the characters of Python's own documentation, with carried state.

The text is part of every Python: the topics of ``help()``, in `pydoc_data.topics`.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import noria as nr

TASK = "characters"
FEATURES, HIDDEN, LEARNING_RATE, EPOCHS = 32, 256, 5e-3, 10
BATCH_SIZE, SIZE, TEST_SHARE, ORDER = 16, 64, 0.05, 5


def text() -> str:
    """The topics of Python's help, one after another; a paragraph of several topics counts once."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    return "\n\n".join(dict.fromkeys(whole.split("\n\n")))


def model_of(characters: int, key: jax.Array) -> nr.Chain:
    """Reads the numbers of characters, and gives the logits of the next one."""
    k1, k2, k3 = jax.random.split(key, 3)
    return nr.Chain(
        nr.Embedding(characters, FEATURES, key=k1),
        nr.LSTM(FEATURES, HIDDEN, key=k2, forget_bias=1.0),
        nr.Dense(HIDDEN, characters, key=k3),
    )


def loss(model: nr.Chain, carry: Any, xs: Any, ys: Any, starts: Any) -> Any:
    """Mean entropy of the next character, and the state after the window."""
    carry, logits = model.scan(carry, xs, resets=starts)
    value = nr.cross_entropy(logits, ys)
    return (value, {"bits": value / jnp.log(2.0)}), carry


@dataclass
class Result:
    """A trained model, its characters, and bits per character on the held-out text."""

    model: nr.Chain
    history: nr.History
    characters: str
    bits: dict[str, float]
    sample: str


def train(
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    progress: bool | None = None,
    whole: str | None = None,
    checkpoint: Path | None = None,
) -> Result:
    """Train on the beginning of the text, and compare on the rest of it with counts.

    A run that was stopped continues from the folder ``checkpoint``, if there is one.
    """
    whole = text() if whole is None else whole
    characters = "".join(sorted(set(whole)))
    numbers = encode(whole, characters)
    past, _, test = nr.data.split(numbers, test=TEST_SHARE)
    init_key, data_key, fit_key, sample_key = jax.random.split(jax.random.key(seed), 4)
    windows = nr.data.streams(past, batch_size=BATCH_SIZE, size=SIZE, key=data_key)
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, epochs * len(windows))
    model, history = nr.fit(
        model_of(len(characters), init_key),
        loss,
        windows,
        optimiser=optax.adam(schedule),
        epochs=epochs,
        key=fit_key,
        clip_norm=1.0,
        carry=True,
        checkpoint=checkpoint,
        progress=progress,
    )
    bits = {
        "LSTM": bits_of_model(model, test),
        f"counts of {ORDER} characters": bits_of_counts(past, test, len(characters), ORDER),
        "counts of 1 character": bits_of_counts(past, test, len(characters), 1),
        "all characters alike": float(np.log2(len(characters))),
    }
    start = whole[-len(test) :][:40]
    sample = generate(model, characters, start, 300, key=sample_key)
    return Result(model, history, characters, bits, sample)


def encode(string: str, characters: str) -> np.ndarray:
    """The number of each character.

    Raises:
        ValueError: for a character that is none of ``characters``.
    """
    places = {character: n for n, character in enumerate(characters)}
    if unknown := [character for character in string if character not in places]:
        raise ValueError(
            f"the text has the character {unknown[0]!r}, which the model has never read; expected "
            f"some of {characters!r}."
        )
    return np.array([places[character] for character in string], np.int32)


def bits_of_model(model: nr.Chain, numbers: np.ndarray) -> float:
    """Bits per character, in one pass from an empty state."""
    logits = jax.jit(lambda model, xs: model(xs))(model, numbers[:-1])
    return float(nr.cross_entropy(logits, numbers[1:]) / np.log(2))


def bits_of_counts(past: np.ndarray, test: np.ndarray, characters: int, order: int) -> float:
    """Bits per character of counts after the last ``order`` characters.

    Each order is interpolated with the next shorter one, as Witten and Bell proposed::

        p(c | context) = (count(c) + kinds * p(c | shorter context)) / (total + kinds)

    where ``kinds`` is the number of different characters that followed the context.
    """
    p = np.full(len(test) - order, 1 / characters)
    for length in range(order + 1):
        seen, totals, kinds = Counter[bytes](), Counter[bytes](), Counter[bytes]()
        pieces = np.lib.stride_tricks.sliding_window_view(past.astype(np.uint16), length + 1)
        for piece in map(np.ndarray.tobytes, pieces):
            kinds[piece[:-2]] += piece not in seen
            seen[piece] += 1
            totals[piece[:-2]] += 1
        pieces = np.lib.stride_tricks.sliding_window_view(test.astype(np.uint16), length + 1)
        for n, piece in enumerate(map(np.ndarray.tobytes, pieces[order - length :])):
            context = piece[:-2]
            if totals[context]:
                share = seen[piece] + kinds[context] * p[n]
                p[n] = share / (totals[context] + kinds[context])
    return float(-np.log2(p).mean())


def generate(
    model: nr.Chain,
    characters: str,
    start: str,
    count: int,
    *,
    key: jax.Array,
    temperature: float = 0.7,
) -> str:
    """``start``, and ``count`` characters that the model adds to it."""
    numbers = encode(start, characters)
    state = None
    if len(numbers) > 1:
        state, _ = model.scan(None, numbers[:-1])
    sample = nr.Categorical(temperature=temperature)
    _, ys = nr.generate(model, state, numbers[-1], count, sample=sample, key=key)
    return start + "".join(characters[n] for n in np.asarray(ys))


def save(result: Result, folder: Path) -> list[Path]:
    """Write the model, its learning curve, a plot of the bits and the sample."""
    from noria import plot

    folder.mkdir(parents=True, exist_ok=True)
    names = "model.safetensors", "learning_curve.png", "bits.png", "sample.txt"
    files = [folder / name for name in names]
    nr.save(files[0], result.model, extra={"task": TASK, "characters": result.characters})
    plot.learning_curve(result.history, files[1], title="Python's documentation, LSTM")
    draw(result, files[2])
    files[3].write_text(result.sample, encoding="utf-8")
    return files


def draw(result: Result, path: Path) -> None:
    """Write a PNG of the bits per character of the model and of counts."""
    from noria.train.curve import new_figure

    figure = new_figure(7, 2.5)
    axes = figure.subplots()
    names = list(result.bits)[::-1]
    bars = axes.barh(names, [result.bits[name] for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlabel("bits per character on held-out text")
    axes.margins(x=0.1)
    figure.savefig(path)


def load(path: Path) -> tuple[nr.Chain, str]:
    """The model that `save` wrote, and its characters."""
    extra = nr.describe(path)["extra"]
    return nr.load(path, model_of(len(extra["characters"]), jax.random.key(0))), extra["characters"]
