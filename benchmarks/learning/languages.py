"""Regular languages, trained on short words and tested on long ones.

Source: Delétang et al. 2023, Neural Networks and the Chomsky Hierarchy, arXiv 2207.02098. There
one layer of 256 units, with a ReLU before the read-out, is trained on batches of one length. Here
each word of a batch has its own length, and the answer is read at the end of the word.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from task import Batch, Key, Task

TRAINED, TESTED = 40, 500
CELLS = (
    "rnn",
    "rnn_relu",
    "lstm",
    "gru",
    "slstm",
    "mlstm",
    "min_gru",
    "lru",
    "mamba",
    "deltanet",
    "deltaproduct",
)
SOURCE = "Delétang et al. 2023, table 1: best of 10 seeds, trained up to 40, tested from 41 to 500"

Words = Callable[[Key, int, int], tuple[jax.Array, jax.Array]]


def answered(words: Words, symbols: int, key: Key, rows: int, least: int, most: int) -> Batch:
    """Words of random lengths; the answer is the state of a machine after the last symbol."""
    k1, k2 = jax.random.split(key)
    lengths = jax.random.randint(k1, (rows, 1), least, most + 1)
    symbols_, answers = words(k2, rows, most)
    position = jnp.arange(most)
    xs = jnp.where((position < lengths)[..., None], jax.nn.one_hot(symbols_, symbols), 0.0)
    weights = (position == lengths - 1).astype(jnp.float32)
    return Batch(xs, answers, weights)


def parity(key: Key, rows: int, time: int) -> tuple[jax.Array, jax.Array]:
    word = jax.random.randint(key, (rows, time), 0, 2)
    return word, jnp.cumsum(word, 1) % 2


def even_pairs(key: Key, rows: int, time: int) -> tuple[jax.Array, jax.Array]:
    word = jax.random.randint(key, (rows, time), 0, 2)
    return word, (word != word[:, :1]).astype(jnp.int32)


def cycle_navigation(key: Key, rows: int, time: int) -> tuple[jax.Array, jax.Array]:
    word = jax.random.randint(key, (rows, time), 0, 3)
    return word, jnp.cumsum(word - 1, 1) % 5


def modular_arithmetic(key: Key, rows: int, time: int) -> tuple[jax.Array, jax.Array]:
    """Digits 0 to 4 and the signs +, - and * (5 to 7) in turns; the value modulo 5.

    A product binds closer than a sum. The value after a sign is that of the word before it.
    """
    k1, k2 = jax.random.split(key)
    digits = jax.random.randint(k1, (rows, time), 0, 5)
    signs = jax.random.randint(k2, (rows, time), 5, 8)
    is_digit = jnp.arange(time) % 2 == 0
    word = jnp.where(is_digit, digits, signs)

    def read(state, symbol):
        total, product, sign = state  # the value is total + product
        summed = (total + product) % 5, jnp.where(sign == 6, -symbol, symbol) % 5
        multiplied = total, (product * symbol) % 5
        after_digit = jax.tree.map(lambda a, b: jnp.where(sign == 7, b, a), summed, multiplied)
        digit = symbol < 5
        total = jnp.where(digit, after_digit[0], total)
        product = jnp.where(digit, after_digit[1], product)
        return (total, product, jnp.where(digit, sign, symbol)), (total + product) % 5

    zero = jnp.zeros_like(word[:, 0])
    _, values = jax.lax.scan(read, (zero, zero, zero + 5), word.T)
    return word, values.T


def language(
    name: str,
    title: str,
    words: Words,
    symbols: int,
    answers: int,
    about: str,
    published: dict[str, str],
    most: int = TRAINED,
) -> Task:
    def draw(key: Key, rows: int) -> Batch:
        return answered(words, symbols, key, rows, 1, most)

    def held_out(key: Key) -> Batch:
        return answered(words, symbols, key, 256, most + 1, TESTED)

    return Task(
        name,
        title,
        about,
        symbols,
        answers,
        draw,
        held_out,
        "accuracy",
        CELLS,
        SOURCE,
        1 / answers,
        published,
        steps=4000,
    )


TASKS = [
    language(
        "parity",
        "Parity",
        parity,
        2,
        2,
        "Is the number of ones in a word of two symbols odd? This needs a state that a symbol "
        "negates.",
        {
            "rnn_relu": "1.00",
            "lstm": "1.00",
            "slstm": "1.0 (xLSTM, appendix B)",
            "mlstm": "about 0.5 (the same)",
            "mamba": "about 0.5 (the same)",
        },
    ),
    language(
        "even_pairs",
        "Even pairs",
        even_pairs,
        2,
        2,
        "Are the first and the last symbol of a word equal?",
        {"rnn_relu": "1.00", "lstm": "1.00"},
    ),
    language(
        "cycle",
        "Cycle navigation",
        cycle_navigation,
        3,
        5,
        "A position on a cycle of five after steps of -1, 0 and 1.",
        {"rnn_relu": "1.00", "lstm": "1.00"},
    ),
    language(
        "arithmetic",
        "Modular arithmetic",
        modular_arithmetic,
        8,
        5,
        "The value modulo 5 of a sum of products without brackets.",
        {"rnn_relu": "1.00", "lstm": "1.00"},
    ),
]
