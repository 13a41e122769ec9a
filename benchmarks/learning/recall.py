"""Tasks of memory: adding, copying, associative recall."""

import math

import jax
import jax.numpy as jnp
from task import Batch, Key, Task

ADDING, COPIED, GAP = 200, 10, 100
PATTERN, BITS, SILENCE = 10, 7, 7
PAIRS, LETTERS = 12, 16


def adding(key: Key, rows: int) -> Batch:
    """The sum of two marked numbers, one in each half; the target counts at the end."""
    k1, k2, k3 = jax.random.split(key, 3)
    numbers = jax.random.uniform(k1, (rows, ADDING))
    half = ADDING // 2
    places = jnp.stack(
        [jax.random.randint(k2, (rows,), 0, half), jax.random.randint(k3, (rows,), half, ADDING)], 1
    )
    marks = jax.nn.one_hot(places, ADDING).sum(1)
    total = jnp.broadcast_to(jnp.sum(numbers * marks, 1)[:, None, None], (rows, ADDING, 1))
    last = jnp.zeros((rows, ADDING)).at[:, -1].set(1.0)
    return Batch(jnp.stack([numbers, marks], -1), total, last)


def copying(key: Key, rows: int) -> Batch:
    """Ten symbols of eight, blanks, a sign, and then the symbols again; blanks are targets too."""
    symbols = jax.random.randint(key, (rows, COPIED), 1, 9)
    time = GAP + 2 * COPIED
    word = jnp.zeros((rows, time), jnp.int32).at[:, :COPIED].set(symbols)
    word = word.at[:, GAP + COPIED - 1].set(9)
    targets = jnp.zeros((rows, time), jnp.int32).at[:, -COPIED:].set(symbols)
    return Batch(jax.nn.one_hot(word, 10), targets, jnp.ones((rows, time)))


def patterns(key: Key, rows: int) -> Batch:
    """Ten vectors of seven bits, a pause, and the same bits again; numbers are the targets."""
    bits = jax.random.bernoulli(key, 0.5, (rows, PATTERN, BITS)).astype(jnp.float32)
    time = 2 * PATTERN + SILENCE
    xs = jnp.zeros((rows, time, BITS + 1)).at[:, :PATTERN, :BITS].set(bits)
    xs = xs.at[:, PATTERN + SILENCE - 1, BITS].set(1.0)
    classes = jnp.zeros((rows, time, BITS)).at[:, -PATTERN:].set(2 * bits - 1)
    weights = jnp.zeros((rows, time)).at[:, -PATTERN:].set(1.0)
    return Batch(xs, classes, weights)


def associations(key: Key, rows: int) -> Batch:
    """Pairs of a key and a value, each in one step, then the keys in another order.

    Half of the keys come twice with another value, and the later value counts.
    """
    k1, k2, k3 = jax.random.split(key, 3)
    chosen = jax.vmap(lambda k: jax.random.permutation(k, LETTERS)[: PAIRS // 2])(
        jax.random.split(k1, rows)
    )
    order = jnp.concatenate([chosen, chosen[:, : PAIRS // 2]], 1)
    values = jax.random.randint(k2, order.shape, 0, LETTERS)
    asked = jax.vmap(jax.random.permutation)(
        jax.random.split(k3, rows), jnp.broadcast_to(jnp.arange(PAIRS // 2), chosen.shape)
    )
    questions = jnp.take_along_axis(chosen, asked, 1)
    answers = jnp.take_along_axis(values[:, PAIRS // 2 :], asked, 1)
    letter = jax.nn.one_hot
    told = jnp.concatenate([letter(order, LETTERS), letter(values, LETTERS)], -1)
    question = jnp.concatenate(
        [letter(questions, LETTERS), jnp.zeros((*questions.shape, LETTERS))], -1
    )
    targets = jnp.concatenate([jnp.zeros_like(order), answers], 1)
    weights = jnp.concatenate([jnp.zeros(order.shape), jnp.ones(answers.shape)], 1)
    return Batch(jnp.concatenate([told, question], 1), targets, weights)


RECURRENT = ("rnn", "irnn", "gru", "lstm", "cornn", "lem", "lru", "min_gru")
GUESS = COPIED * math.log(8) / (GAP + 2 * COPIED)

TASKS = [
    Task(
        "adding",
        "Adding problem",
        f"The sum of two marked numbers among {ADDING}. The published lengths are 600 and more.",
        2,
        1,
        adding,
        lambda key: adding(key, 1000),
        "mse",
        (*RECURRENT, "lstm_forget", "mamba"),
        "Bai et al. 2018, table 1, 600 steps, about 70,000 parameters",
        1 / 6,
        {"rnn": "0.177", "gru": "0.00005", "lstm": "0.164"},
        steps=3000,
    ),
    Task(
        "copying",
        "Copy memory",
        f"Ten symbols of eight, to be repeated after {GAP} blanks. Guessing them costs "
        f"10 ln 8 / {GAP + 2 * COPIED} nats in a step.",
        10,
        9,
        copying,
        lambda key: copying(key, 500),
        "cross entropy",
        ("rnn", "gru", "lstm", "exprnn", "lem", "lmu", "lru", "mamba", "gated_deltanet"),
        "Bai et al. 2018, table 1, 1000 blanks, where a constant guess has 0.0204",
        GUESS,
        {"rnn": "0.0202", "gru": "0.0197", "lstm": "0.0204"},
        steps=3000,
    ),
    Task(
        "patterns",
        "Repeating a pattern",
        f"{PATTERN} vectors of {BITS} bits, to be repeated after {SILENCE} steps.",
        BITS + 1,
        BITS,
        patterns,
        lambda key: patterns(key, 500),
        "bits right",
        ("rnn", "gru", "lstm", "exprnn", "lmu", "lru", "mamba", "min_gru", "gated_deltanet"),
        "minimal-LRU's README, two or more layers, 100,000 sequences, up to 4 epochs",
        0.5,
        {"lru": "1.00"},
        steps=4000,
        depth=2,
    ),
    Task(
        "recall",
        "Associative recall",
        f"{PAIRS} pairs of a key and a value, then each key is asked once. Every key comes twice, "
        "and the later value counts.",
        2 * LETTERS,
        LETTERS,
        associations,
        lambda key: associations(key, 500),
        "accuracy",
        (
            "linear_attention",
            "retnet",
            "gla",
            "mamba2",
            "mlstm",
            "deltanet",
            "gated_deltanet",
            "rwkv7",
            "gru",
            "lstm",
        ),
        "nothing at this size; the task is a form of multi-query associative recall, Arora et al. "
        "2023, arXiv 2312.04927",
        1 / LETTERS,
        steps=3000,
    ),
]
