"""What a task is: batches to train on, held-out batches, a score, and the published numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Key = jax.Array


class Batch(NamedTuple):
    """Sequences with their targets.

    Attributes:
        xs: inputs ``(rows, time, features)``.
        targets: classes ``(rows, time)``, or numbers ``(rows, time, outputs)``.
        weights: ``(rows, time)``, 1 where a target counts, else 0.
    """

    xs: jax.Array
    targets: jax.Array
    weights: jax.Array


@dataclass(frozen=True)
class Task:
    """A task and the settings that all cells share in it.

    Attributes:
        name: its name on the command line.
        title: its name on the page.
        about: what has to be learned, and how this differs from the published task.
        inputs: features of the input.
        outputs: classes, or numbers.
        draw: ``(key, rows)`` gives a batch to train on.
        held_out: ``(key)`` gives the batch of the score.
        score: one of `SCORES`.
        cells: names in `noria cells`, or of the cells of `noria`.
        published: a published score for some of the cells, and where it stands.
        source: the paper of the task and of the published scores.
        chance: the score of the best constant guess.
        width: units of each cell.
        depth: cells one after another, with norms and skip connections if more than one.
        rows: sequences in a batch.
        steps: training steps.
        rate: the learning rate.
        rectified: whether a ReLU is between the cell and the read-out, for one layer.
    """

    name: str
    title: str
    about: str
    inputs: int
    outputs: int
    draw: Callable[[Key, int], Batch]
    held_out: Callable[[Key], Batch]
    score: str
    cells: tuple[str, ...]
    source: str
    chance: float
    published: Mapping[str, str] = field(default_factory=dict)
    width: int = 64
    depth: int = 1
    rows: int = 64
    steps: int = 3000
    rate: float = 3e-3
    rectified: bool = False


def accuracy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The share of right classes, each sequence counting the same."""
    right = (jnp.argmax(outputs, -1) == batch.targets) * batch.weights
    return jnp.mean(jnp.sum(right, 1) / jnp.sum(batch.weights, 1))


def bits(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Bits per target."""
    return cross_entropy(outputs, batch) / jnp.log(2.0)


def cross_entropy(outputs: jax.Array, batch: Batch) -> jax.Array:
    logs = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch.targets[..., None], -1)[..., 0]
    return -jnp.sum(logs * batch.weights) / jnp.sum(batch.weights)


def bits_right(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The share of numbers of the right sign."""
    right = jnp.mean(outputs * batch.targets > 0, -1) * batch.weights
    return jnp.sum(right) / jnp.sum(batch.weights)


def mse(outputs: jax.Array, batch: Batch) -> jax.Array:
    errors = jnp.mean((outputs - batch.targets) ** 2, -1) * batch.weights
    return jnp.sum(errors) / jnp.sum(batch.weights)


def nrmse(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Root mean squared error as a percentage of the root mean square of the targets."""
    power = jnp.mean(batch.targets**2, -1) * batch.weights
    return 100 * jnp.sqrt(mse(outputs, batch) * jnp.sum(batch.weights) / jnp.sum(power))


class Score(NamedTuple):
    """How a score is called and computed, and whether more is better."""

    title: str
    measure: Callable[[jax.Array, Batch], jax.Array]
    more_is_better: bool
    digits: str


SCORES: dict[str, Score] = {
    "accuracy": Score("accuracy", accuracy, True, ".3f"),
    "bits": Score("bits per character", bits, False, ".3f"),
    "cross entropy": Score("cross entropy in nats", cross_entropy, False, ".4f"),
    "bits right": Score("share of right bits", bits_right, True, ".3f"),
    "mse": Score("mean squared error", mse, False, ".5f"),
    "nrmse": Score("error in % of the scale", nrmse, False, ".2f"),
}


def loss(task: Task, outputs: jax.Array, batch: Batch) -> jax.Array:
    """Mean squared error for numbers, and cross entropy for classes."""
    measure: Any = mse if task.score in ("mse", "nrmse", "bits right") else cross_entropy
    return measure(outputs, batch)
