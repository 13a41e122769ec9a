"""Who is speaking? A bidirectional GRU on Japanese Vowels, utterances of 7 to 29 steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import noria as nr

TASK = "vowels"
CHANNELS, SPEAKERS = 12, 9
NAMES = [f"c{n + 1}" for n in range(CHANNELS)]
HIDDEN, DROPOUT, LEARNING_RATE, EPOCHS, BATCH_SIZE = 64, 0.3, 5e-3, 40, 30


class SpeakerModel(nr.Module, trainable=("rnn", "head")):
    """Standardise, read in both directions, and predict the speaker from the two final states."""

    mean: jax.Array
    deviation: jax.Array
    rnn: nr.Bidirectional
    dropout: nr.Dropout
    head: nr.Dense

    def __init__(self, mean: Any, deviation: Any, *, key: jax.Array):
        k1, k2, k3 = jax.random.split(key, 3)
        self.mean, self.deviation = jnp.asarray(mean), jnp.asarray(deviation)
        self.rnn = nr.Bidirectional(
            nr.GRU(CHANNELS, HIDDEN, key=k1), nr.GRU(CHANNELS, HIDDEN, key=k2)
        )
        self.dropout = nr.Dropout(DROPOUT)
        self.head = nr.Dense(2 * HIDDEN, SPEAKERS, key=k3)

    def __call__(self, xs: Any, lengths: Any, *, key: jax.Array | None = None) -> jax.Array:
        """Logits ``(batch, speakers)`` of padded utterances ``(batch, time, channels)``."""
        (forward, backward), _ = self.rnn.scan(
            None, (xs - self.mean) / self.deviation, lengths=lengths
        )
        features = jnp.concatenate([forward, backward], axis=-1)
        logits: jax.Array = self.head(self.dropout(features, key=key))
        return logits


def loss(model: SpeakerModel, xs: Any, speakers: Any, lengths: Any, key: jax.Array) -> Any:
    """Cross-entropy, and the accuracy beside it."""
    logits = model(xs, lengths, key=key)
    return nr.cross_entropy(logits, speakers), {"accuracy": jnp.mean(logits.argmax(-1) == speakers)}


@dataclass
class Result:
    """A trained model and how it did on the test utterances."""

    model: SpeakerModel
    history: nr.History
    accuracy: float
    majority: float
    truth: np.ndarray
    predicted: np.ndarray


def train(
    *, seed: int = 0, epochs: int = EPOCHS, progress: bool | None = None, data: Any = None
) -> Result:
    """Train on the training utterances and test on the others, or on the two parts of ``data``."""
    training, test = nr.data.japanese_vowels() if data is None else data
    init_key, data_key, fit_key = jax.random.split(jax.random.key(seed), 3)
    steps = np.concatenate(training.sequences)
    model = SpeakerModel(steps.mean(0), steps.std(0), key=init_key)
    batches = nr.data.batches(
        training.sequences, training.speakers, batch_size=BATCH_SIZE, key=data_key
    )
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, epochs * len(batches))
    optimiser = optax.adamw(schedule, weight_decay=1e-3)
    model, history = nr.fit(
        model,
        loss,
        batches,
        optimiser=optimiser,
        epochs=epochs,
        key=fit_key,
        clip_norm=1.0,
        progress=progress,
    )
    predicted = probabilities(model, test.sequences).argmax(-1)
    majority = np.bincount(test.speakers).max() / len(test.speakers)
    return Result(
        model,
        history,
        np.mean(predicted == test.speakers).item(),
        majority,
        test.speakers,
        predicted,
    )


def probabilities(model: SpeakerModel, sequences: list[np.ndarray]) -> np.ndarray:
    """The probability of each speaker, ``(sequences, speakers)``."""
    xs, lengths = nr.data.pad(sequences)
    return np.asarray(jax.nn.softmax(eqx.filter_jit(nr.inference(model))(xs, lengths)))


def save(result: Result, folder: Path) -> list[Path]:
    """Write the model, the pictures, and some test utterances for ``noria predict`` to try."""
    from noria import plot

    folder.mkdir(parents=True, exist_ok=True)
    files = [
        folder / name
        for name in ("model.safetensors", "learning_curve.png", "confusion_matrix.png")
    ]
    nr.save(files[0], result.model, extra={"task": TASK, "channels": NAMES})
    plot.learning_curve(result.history, files[1], title="Japanese Vowels, bidirectional GRU")
    draw(result, files[2])
    return [*files, _write_examples(folder / "new_utterances.csv")]


def draw(result: Result, path: Path) -> None:
    """Write the confusion matrix to the PNG file ``path``."""
    from noria import plot

    names = [str(speaker + 1) for speaker in range(SPEAKERS)]
    title = f"Speakers of the test utterances, {result.accuracy:.1%} right"
    plot.confusion_matrix(result.truth, result.predicted, path, names=names, title=title)


def _write_examples(path: Path, count: int = 5) -> Path:
    _, test = nr.data.japanese_vowels()
    chosen = np.linspace(0, len(test.sequences) - 1, count).astype(int)
    header = ",".join(["sequence", *NAMES])
    lines = [
        f"{n},{','.join(f'{value:.6f}' for value in step)}"
        for n in chosen
        for step in test.sequences[n]
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def load(path: Path) -> SpeakerModel:
    """The model that `save` wrote."""
    empty = SpeakerModel(jnp.zeros(CHANNELS), jnp.ones(CHANNELS), key=jax.random.key(0))
    return nr.load(path, empty)
